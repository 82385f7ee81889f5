"""Muon on the quantum dipole: what one would try today in place of Adam.

Seed and batch size are those of Adam; the learning rate is that of the lowest validation loss in
study_settings.py.
"""

from hig.runs.cli import submit

SEED = 1
BATCH_SIZE = 256
LEARNING_RATE = 3e-2     # η
MAX_TIME = 5400.0        # seconds of training

if __name__ == "__main__":
    submit("Schroedinger", "Muon", __doc__, seed=SEED, batch_size=BATCH_SIZE, learning_rate=LEARNING_RATE,
           max_time=MAX_TIME)
