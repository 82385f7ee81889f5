"""Adam on the cart poles.

Batch size and η are those of the paper from which the task is. study_peers.py has those that were chosen by
study_settings.py.
"""

from hig.runs.cli import submit
from Cart_Pole import adam_flags

SEED = 0
BATCH_SIZE = 8
LEARNING_RATE = 1e-3     # η
MAX_TIME = 60.0          # seconds of training

if __name__ == "__main__":
    submit("Cart_Pole", "Adam", __doc__, seed=SEED, batch_size=BATCH_SIZE, learning_rate=LEARNING_RATE,
           max_time=MAX_TIME, flags=adam_flags)
