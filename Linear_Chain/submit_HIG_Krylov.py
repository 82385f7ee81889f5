"""Half-inverse gradients on the linear chain from a few products with the Jacobian."""

from hig.runs.cli import submit

SEED = 1
BATCH_SIZE = 128
LEARNING_RATE = 1.0      # η
TRUNCATION = 1e-6        # τ, relative to the largest singular value found; below that float32 products find rounding
KRYLOV = 32              # k, products with J and with Jᵀ of each update
MAX_TIME = 100.0         # seconds of training

if __name__ == "__main__":
    submit("Linear_Chain", "HIG_Krylov", __doc__, seed=SEED, batch_size=BATCH_SIZE, learning_rate=LEARNING_RATE,
           truncation=TRUNCATION, krylov=KRYLOV, max_time=MAX_TIME)
