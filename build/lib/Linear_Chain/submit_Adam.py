"""Adam on the linear chain: the Adam curve of the Physics-based Deep Learning book."""

from hig.runs.cli import submit

SEED = 1
BATCH_SIZE = 256
LEARNING_RATE = 1e-3     # η
MAX_TIME = 100.0         # seconds of training

if __name__ == "__main__":
    submit("Linear_Chain", "Adam", __doc__, seed=SEED, batch_size=BATCH_SIZE, learning_rate=LEARNING_RATE,
           max_time=MAX_TIME)
