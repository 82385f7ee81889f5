"""Half-inverse gradients on two small regressions, as the authors of Sven have run them.

Their learning rates, 0.005 and 0.1, belong to a loss that is the sum over a batch of 32. Here it is the mean.
"""

from hig.runs.cli import submit
from Regression import flags

SEED = 0                             # 0 to 14: three draws of data with five draws of weights each
BATCH_SIZE = 32
LEARNING_RATE = 0.005 * 32           # η of toy_1d
TRUNCATION = 1e-6                    # τ of toy_1d, relative to the largest singular value
POLYNOMIAL = {"learning_rate": 0.1 * 32, "truncation": 1e-8}
MAX_TIME = 3600.0                    # seconds of training; the published 20 epochs end before

if __name__ == "__main__":
    submit("Regression", "HIG", __doc__, seed=SEED, batch_size=BATCH_SIZE, learning_rate=LEARNING_RATE,
           truncation=TRUNCATION, max_time=MAX_TIME, flags=flags(**POLYNOMIAL))
