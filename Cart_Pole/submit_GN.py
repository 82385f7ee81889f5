"""Gauss-Newton on the cart poles.

η and τ are those of the lowest validation loss in study_settings.py.
"""

from hig.runs.cli import submit
from Cart_Pole import flags

SEED = 0
BATCH_SIZE = 32
LEARNING_RATE = 0.5      # η
TRUNCATION = 1e-5        # τ, relative to the largest singular value
MAX_TIME = 60.0          # seconds of training

if __name__ == "__main__":
    submit("Cart_Pole", "GN", __doc__, seed=SEED, batch_size=BATCH_SIZE, learning_rate=LEARNING_RATE,
           truncation=TRUNCATION, max_time=MAX_TIME, flags=flags)
