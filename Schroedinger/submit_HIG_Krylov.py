"""Half-inverse gradients on the quantum dipole from a few products with the Jacobian, in larger batches.

η has the lowest validation loss of five values, and is the largest of them (study_settings.py). τ is that of
HIG.
"""

from hig.runs.cli import submit

SEED = 1
BATCH_SIZE = 64
LEARNING_RATE = 2.0      # η
TRUNCATION = 1e-5        # τ, relative to the largest singular value found
KRYLOV = 64              # k, products with J and with Jᵀ of each update
MAX_TIME = 5400.0        # seconds of training

if __name__ == "__main__":
    submit("Schroedinger", "HIG_Krylov", __doc__, seed=SEED, batch_size=BATCH_SIZE,
           learning_rate=LEARNING_RATE, truncation=TRUNCATION, krylov=KRYLOV, max_time=MAX_TIME)
