"""Levenberg-Marquardt on the linear chain, with adaptive damping.

Seed and batch size are those of HIG; the damping at the start is the default.
"""

from hig.runs.cli import submit

SEED = 1
BATCH_SIZE = 32
LEARNING_RATE = 1.0      # η, the full Gauss-Newton step
DAMPING = 1.0            # μ at the start, in units of the mean eigenvalue of J Jᵀ
MAX_TIME = 100.0         # seconds of training

if __name__ == "__main__":
    submit("Linear_Chain", "LM", __doc__, seed=SEED, batch_size=BATCH_SIZE, learning_rate=LEARNING_RATE,
           damping=DAMPING, max_time=MAX_TIME)
