"""Half-inverse gradients from a few products with the Jacobian, on the oscillators in larger batches.

η has the lowest validation loss of five values, and is the largest of them (study_settings.py).
study_krylov.py compares batch sizes and k. τ is that of HIG.
"""

from hig.runs.cli import submit
from Nonlinear_Oscillators import flags

SEED = 22
BATCH_SIZE = 512
LEARNING_RATE = 5.0      # η
TRUNCATION = 1e-6        # τ, relative to the largest singular value found
KRYLOV = 64              # k, products with J and with Jᵀ of each update
MAX_TIME = 3600.0        # seconds of training

if __name__ == "__main__":
    submit("Nonlinear_Oscillators", "HIG_Krylov", __doc__, seed=SEED, batch_size=BATCH_SIZE,
           learning_rate=LEARNING_RATE, truncation=TRUNCATION, krylov=KRYLOV, max_time=MAX_TIME, flags=flags)
