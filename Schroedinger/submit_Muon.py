"""Muon on the quantum dipole: what one would try today in place of Adam.

Seed and batch size are those of Adam. The learning rate is the best of a short scan, 3e-3, 1e-2 and 3e-2 for
12 epochs (`python Schroedinger/submit_Muon.py --epochs 12 --learning-rate …`: test loss 0.92, 0.56, 0.49;
0.36 with the last after 20).
"""

from hig.runs.cli import submit

SEED = 1
BATCH_SIZE = 256
LEARNING_RATE = 3e-2     # η, from the scan
MAX_TIME = 5400.0        # seconds of training

if __name__ == "__main__":
    submit("Schroedinger", "Muon", __doc__, seed=SEED, batch_size=BATCH_SIZE, learning_rate=LEARNING_RATE,
           max_time=MAX_TIME)
