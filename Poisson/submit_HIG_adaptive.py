"""Half-inverse gradients on the Poisson problem, with adaptive steps.

The settings are those of HIG; η is the first value tried. Adaptive steps are made for fixed training data.
Here every update gets fresh fields, and a step is judged mostly by those that it was made from.
"""

from hig.runs.cli import submit
from Poisson import flags

SEED = 0
BATCH_SIZE = 64
LEARNING_RATE = 0.01     # η at the start
TRUNCATION = 1e-5        # τ, relative to the largest singular value
MAX_TIME = 1200.0        # seconds of training

if __name__ == "__main__":
    submit("Poisson", "HIG_adaptive", __doc__, seed=SEED, batch_size=BATCH_SIZE, learning_rate=LEARNING_RATE,
           truncation=TRUNCATION, max_time=MAX_TIME, flags=flags)
