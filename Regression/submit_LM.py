"""Levenberg-Marquardt on two small regressions, with adaptive damping.

The damping at the start is the default.
"""

from hig.runs.cli import submit
from Regression import flags

SEED = 0                             # 0 to 14: three draws of data with five draws of weights each
BATCH_SIZE = 32
LEARNING_RATE = 1.0                  # η, the full Gauss-Newton step
DAMPING = 1.0                        # μ at the start, in units of the mean eigenvalue of J Jᵀ
MAX_TIME = 3600.0                    # seconds of training; the published 20 epochs end before

if __name__ == "__main__":
    submit("Regression", "LM", __doc__, seed=SEED, batch_size=BATCH_SIZE, learning_rate=LEARNING_RATE,
           damping=DAMPING, max_time=MAX_TIME, flags=flags())
