"""Half-inverse gradients on the quantum dipole: the purple curve of the paper's figure of the dipole."""

from hig.runs.cli import submit

SEED = 1
BATCH_SIZE = 16
LEARNING_RATE = 0.5      # η
TRUNCATION = 1e-5        # τ, relative to the largest singular value
MAX_TIME = 5400.0        # seconds of training

if __name__ == "__main__":
    submit("Schroedinger", "HIG", __doc__, seed=SEED, batch_size=BATCH_SIZE, learning_rate=LEARNING_RATE,
           truncation=TRUNCATION, max_time=MAX_TIME)
