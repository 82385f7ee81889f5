"""Half-inverse gradients on two small regressions, with adaptive steps."""

from hig.runs.cli import submit
from Regression import flags

SEED = 0                             # 0 to 14: three draws of data with five draws of weights each
BATCH_SIZE = 32
LEARNING_RATE = 0.05                 # η at the start
TRUNCATION = 1e-6                    # τ of toy_1d, relative to the largest singular value
POLYNOMIAL = {"truncation": 1e-8}
MAX_TIME = 3600.0                    # seconds of training; the published 20 epochs end before

if __name__ == "__main__":
    submit("Regression", "HIG_adaptive", __doc__, seed=SEED, batch_size=BATCH_SIZE,
           learning_rate=LEARNING_RATE, truncation=TRUNCATION, max_time=MAX_TIME, flags=flags(**POLYNOMIAL))
