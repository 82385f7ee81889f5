"""Half-inverse gradients on the cart poles, with adaptive steps.

Batch size and τ are those of the lowest validation loss in study_settings.py.
"""

from hig.runs.cli import submit
from Cart_Pole import flags

SEED = 0
BATCH_SIZE = 32
LEARNING_RATE = 1.0      # η at the start
TRUNCATION = 1e-3        # τ, relative to the largest singular value
MAX_TIME = 60.0          # seconds of training

if __name__ == "__main__":
    submit("Cart_Pole", "HIG_adaptive", __doc__, seed=SEED, batch_size=BATCH_SIZE,
           learning_rate=LEARNING_RATE, truncation=TRUNCATION, max_time=MAX_TIME, flags=flags)
