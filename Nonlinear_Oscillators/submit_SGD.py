"""SGD on the nonlinear oscillators, one of the first-order methods the paper compares with.

No settings are published. Seed and batch size are those of Adam; the learning rate is that of the lowest
validation loss in study_settings.py.
"""

from hig.runs.cli import submit
from Nonlinear_Oscillators import flags

SEED = 1
BATCH_SIZE = 512
LEARNING_RATE = 1e-1     # η
MAX_TIME = 3600.0        # seconds of training

if __name__ == "__main__":
    submit("Nonlinear_Oscillators", "SGD", __doc__, seed=SEED, batch_size=BATCH_SIZE,
           learning_rate=LEARNING_RATE, max_time=MAX_TIME, flags=flags)
