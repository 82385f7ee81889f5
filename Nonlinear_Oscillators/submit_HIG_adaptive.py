"""Half-inverse gradients on the nonlinear oscillators, with adaptive steps.

Batch size and τ are those of HIG; η is that of the lowest validation loss in study_settings.py.
"""

from hig.runs.cli import submit
from Nonlinear_Oscillators import flags

SEED = 22
BATCH_SIZE = 128
LEARNING_RATE = 2.0      # η at the start
TRUNCATION = 1e-6        # τ, relative to the largest singular value
MAX_TIME = 3600.0        # seconds of training

if __name__ == "__main__":
    submit("Nonlinear_Oscillators", "HIG_adaptive", __doc__, seed=SEED, batch_size=BATCH_SIZE,
           learning_rate=LEARNING_RATE, truncation=TRUNCATION, max_time=MAX_TIME, flags=flags)
