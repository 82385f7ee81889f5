"""Levenberg-Marquardt on the cart poles, with adaptive damping.

Batch size and μ are those of the lowest validation loss in study_settings.py.
"""

from hig.runs.cli import submit
from Cart_Pole import flags

SEED = 0
BATCH_SIZE = 32
LEARNING_RATE = 1.0      # η, the full Gauss-Newton step
DAMPING = 1.0            # μ at the start, in units of the mean eigenvalue of J Jᵀ
MAX_TIME = 60.0          # seconds of training

if __name__ == "__main__":
    submit("Cart_Pole", "LM", __doc__, seed=SEED, batch_size=BATCH_SIZE, learning_rate=LEARNING_RATE,
           damping=DAMPING, max_time=MAX_TIME, flags=flags)
