"""Gauss-Newton on the toy problem, well (λ = 1) and badly (λ = 0.01) conditioned: one curve for each.

No settings are published beyond the problem and the 20 seconds: seed, batch size, learning rate and
truncation are ours. The truncation is that of HIG, and the outcome depends on it: with 1e-5 to 1e-3
Gauss-Newton, too, learns λ = 0.01 from most of the seeds tried (training loss 2e-3 to 5e-2 after 5 to 8 s).
With η = 1 the hidden units saturate for λ = 1, too (seed 0).
"""

from hig.runs.cli import submit
from Toy_Problem import flags

SEED = 0
BATCH_SIZE = 32
LEARNING_RATE = 0.1      # η
TRUNCATION = 1e-6        # τ, relative to the largest singular value
MAX_TIME = 20.0          # seconds of training for each λ

if __name__ == "__main__":
    submit("Toy_Problem", "GN", __doc__, seed=SEED, batch_size=BATCH_SIZE, learning_rate=LEARNING_RATE,
           truncation=TRUNCATION, max_time=MAX_TIME, flags=flags)
