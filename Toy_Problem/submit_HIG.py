"""Half-inverse gradients on the toy problem, with a curve for λ = 1 (well conditioned) and λ = 0.01 (badly).

No settings are published beyond the problem and the 20 seconds: seed, batch size, learning rate and
truncation are ours.
"""

from hig.runs.cli import submit
from Toy_Problem import flags

SEED = 0
BATCH_SIZE = 32
LEARNING_RATE = 1.0      # η
TRUNCATION = 1e-6        # τ, relative to the largest singular value
MAX_TIME = 20.0          # seconds of training for each λ

if __name__ == "__main__":
    submit("Toy_Problem", "HIG", __doc__, seed=SEED, batch_size=BATCH_SIZE, learning_rate=LEARNING_RATE,
           truncation=TRUNCATION, max_time=MAX_TIME, flags=flags)
