"""SGD on the nonlinear oscillators, one of the first-order methods the paper compares with.

No settings are published. Seed and batch size are those of Adam; the learning rate is the best of a scan over
3e-3 … 3e-1 with 300 epochs each (`python benchmarks/learning_rates.py`; test loss then 8.3e-03).
"""

from hig.runs.cli import submit
from Nonlinear_Oscillators import flags

SEED = 1
BATCH_SIZE = 512
LEARNING_RATE = 3e-2     # η, from the scan
MAX_TIME = 3600.0        # seconds of training

if __name__ == "__main__":
    submit("Nonlinear_Oscillators", "SGD", __doc__, seed=SEED, batch_size=BATCH_SIZE,
           learning_rate=LEARNING_RATE,
           max_time=MAX_TIME, flags=flags)
