"""Adam on two small regressions, as the authors of Sven have run it."""

from hig.runs.cli import submit
from Regression import flags

SEED = 0                             # 0 to 14: three draws of data with five draws of weights each
BATCH_SIZE = 32
LEARNING_RATE = 1e-3                 # η
MAX_TIME = 3600.0                    # seconds of training; the published 20 epochs end before

if __name__ == "__main__":
    submit("Regression", "Adam", __doc__, seed=SEED, batch_size=BATCH_SIZE, learning_rate=LEARNING_RATE,
           max_time=MAX_TIME, flags=flags())
