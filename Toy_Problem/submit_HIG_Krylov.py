"""Half-inverse gradients on the toy problem from a few products with the Jacobian, for λ = 1 and λ = 0.01.

η and τ are those of HIG; k is the first value tried.
"""

from hig.runs.cli import submit
from Toy_Problem import flags

SEED = 0
BATCH_SIZE = 32
LEARNING_RATE = 1.0      # η
TRUNCATION = 1e-6        # τ, relative to the largest singular value found
KRYLOV = 30              # k, products with J and with Jᵀ of each update
MAX_TIME = 20.0          # seconds of training for each λ

if __name__ == "__main__":
    submit("Toy_Problem", "HIG_Krylov", __doc__, seed=SEED, batch_size=BATCH_SIZE,
           learning_rate=LEARNING_RATE, truncation=TRUNCATION, krylov=KRYLOV, max_time=MAX_TIME, flags=flags)
