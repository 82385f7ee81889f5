"""Half-inverse gradients on the nonlinear oscillators: the purple curve of the paper's figure 2b."""

from hig.runs.cli import submit
from Nonlinear_Oscillators import flags

SEED = 22
BATCH_SIZE = 128
LEARNING_RATE = 1.0      # η
TRUNCATION = 1e-6        # τ, relative to the largest singular value
MAX_TIME = 3600.0        # seconds of training

if __name__ == "__main__":
    submit("Nonlinear_Oscillators", "HIG", __doc__, seed=SEED, batch_size=BATCH_SIZE,
           learning_rate=LEARNING_RATE, truncation=TRUNCATION, max_time=MAX_TIME, flags=flags)
