"""Half-inverse gradients on the Poisson problem, with steps that control themselves.

The settings are those of HIG, η the first one tried. Steps are judged on the fields that
they were made from, and every update gets fresh ones: control is meant for fixed data.
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
