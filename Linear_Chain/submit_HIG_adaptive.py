"""Half-inverse gradients on the linear chain, with adaptive steps.

The settings are those of HIG; η is the first value tried.
"""

from hig.runs.cli import submit

SEED = 1
BATCH_SIZE = 32
LEARNING_RATE = 1.0      # η at the start
TRUNCATION = 1e-10       # τ, relative to the largest singular value
MAX_TIME = 100.0         # seconds of training

if __name__ == "__main__":
    submit("Linear_Chain", "HIG_adaptive", __doc__, seed=SEED, batch_size=BATCH_SIZE,
           learning_rate=LEARNING_RATE, truncation=TRUNCATION, max_time=MAX_TIME)
