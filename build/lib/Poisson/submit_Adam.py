"""Adam on the Poisson problem: the paper's blue curve."""

from hig.runs.cli import submit
from Poisson import flags

SEED = 0
BATCH_SIZE = 64
LEARNING_RATE = 3e-4     # η
MAX_TIME = 1200.0        # seconds of training

if __name__ == "__main__":
    submit("Poisson", "Adam", __doc__, seed=SEED, batch_size=BATCH_SIZE, learning_rate=LEARNING_RATE,
           max_time=MAX_TIME, flags=flags)
