"""Half-inverse gradients on the linear chain: the HIG curve of the Physics-based Deep Learning book."""

from hig.runs.cli import submit

SEED = 1
BATCH_SIZE = 32
LEARNING_RATE = 1.0      # η
TRUNCATION = 1e-10       # τ, relative to the largest singular value
MAX_TIME = 100.0         # seconds of training

if __name__ == "__main__":
    submit("Linear_Chain", "HIG", __doc__, seed=SEED, batch_size=BATCH_SIZE, learning_rate=LEARNING_RATE,
           truncation=TRUNCATION, max_time=MAX_TIME)
