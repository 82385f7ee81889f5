"""Half-inverse gradients on the toy problem, with adaptive steps, for λ = 1 and λ = 0.01.

The settings are those of HIG; η is the first value tried.
"""

from hig.runs.cli import submit
from Toy_Problem import flags

SEED = 0
BATCH_SIZE = 32
LEARNING_RATE = 1.0      # η at the start
TRUNCATION = 1e-6        # τ, relative to the largest singular value
MAX_TIME = 20.0          # seconds of training for each λ

if __name__ == "__main__":
    submit("Toy_Problem", "HIG_adaptive", __doc__, seed=SEED, batch_size=BATCH_SIZE,
           learning_rate=LEARNING_RATE, truncation=TRUNCATION, max_time=MAX_TIME, flags=flags)
