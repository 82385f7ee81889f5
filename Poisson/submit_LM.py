"""Levenberg-Marquardt on the Poisson problem, with adaptive damping.

Adaptive damping is made for fixed training data. Here every update gets fresh fields, and a step is judged
mostly by those that it was made from.
"""

from hig.runs.cli import submit
from Poisson import flags

SEED = 0
BATCH_SIZE = 64
LEARNING_RATE = 1 / 32   # η, the full Gauss-Newton step for ½ Σ (y − y*)² over 64 fields
DAMPING = 1.0            # μ at the start, in units of the mean eigenvalue of J Jᵀ
MAX_TIME = 1200.0        # seconds of training

if __name__ == "__main__":
    submit("Poisson", "LM", __doc__, seed=SEED, batch_size=BATCH_SIZE, learning_rate=LEARNING_RATE,
           damping=DAMPING, max_time=MAX_TIME, flags=flags)
