"""Levenberg-Marquardt on the toy problem, with adaptive damping, for λ = 1 and λ = 0.01.

The seed is that of HIG, the batch is the whole training set, and the damping at the start is the default.
"""

from hig.runs.cli import submit
from Toy_Problem import flags

SEED = 0
BATCH_SIZE = 256
LEARNING_RATE = 2.0      # η, the full Gauss-Newton step for ½ Σ (y − ŷ)²
DAMPING = 1.0            # μ at the start, in units of the mean eigenvalue of J Jᵀ
MAX_TIME = 20.0          # seconds of training for each λ

if __name__ == "__main__":
    submit("Toy_Problem", "LM", __doc__, seed=SEED, batch_size=BATCH_SIZE, learning_rate=LEARNING_RATE,
           damping=DAMPING, max_time=MAX_TIME, flags=flags)
