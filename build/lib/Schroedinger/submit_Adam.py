"""Adam on the quantum dipole: the blue curve of the paper's figure on the Schroedinger equation."""

from hig.runs.cli import submit

SEED = 1
BATCH_SIZE = 256
LEARNING_RATE = 5e-4     # η
MAX_TIME = 5400.0        # seconds of training

if __name__ == "__main__":
    submit("Schroedinger", "Adam", __doc__, seed=SEED, batch_size=BATCH_SIZE, learning_rate=LEARNING_RATE,
           max_time=MAX_TIME)
