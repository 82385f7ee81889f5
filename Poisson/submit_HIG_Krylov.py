"""Half-inverse gradients on the Poisson problem from a few products with the Jacobian, at every resolution.

k and η had the lowest training loss in the trials of study_krylov.py, where each batch has fresh fields.
Batches of 64 and 256 are level there. τ is that of HIG.
"""

from hig.runs.cli import submit
from Poisson import flags

SEED = 0
BATCH_SIZE = 64
LEARNING_RATE = 0.01     # η
TRUNCATION = 1e-5        # τ, relative to the largest singular value found
KRYLOV = 16              # k, products with J and with Jᵀ of each update
MAX_TIME = 1200.0        # seconds of training

if __name__ == "__main__":
    submit("Poisson", "HIG_Krylov", __doc__, seed=SEED, batch_size=BATCH_SIZE, learning_rate=LEARNING_RATE,
           truncation=TRUNCATION, krylov=KRYLOV, max_time=MAX_TIME, flags=flags)
