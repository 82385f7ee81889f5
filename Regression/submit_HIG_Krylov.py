"""Half-inverse gradients on two small regressions, from a few products with the Jacobian.

Batch size, k and η had the lowest validation loss of each task in the trials of study_krylov.py.
"""

from hig.runs.cli import submit
from Regression import flags

SEED = 0                 # 0 to 14: three draws of data with five draws of weights each
BATCH_SIZE = 32
LEARNING_RATE = 0.16     # η of toy_1d
TRUNCATION = 1e-6        # τ, relative to the largest singular value found
KRYLOV = 16              # k, products with J and with Jᵀ of each update, of toy_1d
POLYNOMIAL = {"batch_size": 500, "learning_rate": 1.0, "krylov": 64}
MAX_TIME = 3600.0        # seconds of training; the 20 epochs end before

if __name__ == "__main__":
    submit("Regression", "HIG_Krylov", __doc__, seed=SEED, batch_size=BATCH_SIZE,
           learning_rate=LEARNING_RATE, truncation=TRUNCATION, krylov=KRYLOV, max_time=MAX_TIME,
           flags=flags(**POLYNOMIAL))
