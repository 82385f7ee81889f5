"""Half-inverse gradients on the quantum dipole, with adaptive steps.

The settings are those of HIG; η has the lowest validation loss in study_settings.py, too.
"""

from hig.runs.cli import submit

SEED = 1
BATCH_SIZE = 16
LEARNING_RATE = 0.5      # η at the start
TRUNCATION = 1e-5        # τ, relative to the largest singular value
MAX_TIME = 5400.0        # seconds of training

if __name__ == "__main__":
    submit("Schroedinger", "HIG_adaptive", __doc__, seed=SEED, batch_size=BATCH_SIZE,
           learning_rate=LEARNING_RATE, truncation=TRUNCATION, max_time=MAX_TIME)
