"""Half-inverse gradients on the cart poles from a few products with the Jacobian, with all samples at once.

η and τ are those of HIG; batch size and k are first guesses.
"""

from hig.runs.cli import submit
from Cart_Pole import flags

SEED = 0
BATCH_SIZE = 256         # all training samples
LEARNING_RATE = 0.3      # η
TRUNCATION = 1e-5        # τ, relative to the largest singular value found
KRYLOV = 32              # k, products with J and with Jᵀ of each update
MAX_TIME = 60.0          # seconds of training

if __name__ == "__main__":
    submit("Cart_Pole", "HIG_Krylov", __doc__, seed=SEED, batch_size=BATCH_SIZE, learning_rate=LEARNING_RATE,
           truncation=TRUNCATION, krylov=KRYLOV, max_time=MAX_TIME, flags=flags)
