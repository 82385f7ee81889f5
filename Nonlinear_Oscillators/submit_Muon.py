"""Muon on the nonlinear oscillators: what one would try today in place of Adam.

Seed and batch size are those of Adam. The learning rate is the best of 1e-3, 3e-3, 1e-2 and 3e-2 after 300
epochs (`python Nonlinear_Oscillators/submit_Muon.py --epochs 300 --learning-rate …`; test loss then 4.2e-04).
"""

from hig.runs.cli import submit
from Nonlinear_Oscillators import flags

SEED = 1
BATCH_SIZE = 512
LEARNING_RATE = 3e-3     # η, from the scan
MAX_TIME = 3600.0        # seconds of training

if __name__ == "__main__":
    submit("Nonlinear_Oscillators", "Muon", __doc__, seed=SEED, batch_size=BATCH_SIZE,
           learning_rate=LEARNING_RATE, max_time=MAX_TIME, flags=flags)
