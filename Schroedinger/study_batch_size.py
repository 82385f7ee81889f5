"""Claim: on the quantum dipole half-inverse gradients are ahead of Adam at every batch size."""

from hig.runs.study import study

BATCH_SIZES = (8, 16, 32, 64, 128, 256)
SEEDS = (1, 2)
MAX_TIME = 60.0          # seconds of training of each run

if __name__ == "__main__":
    study("Schroedinger", "batch_size", __doc__,
          [("HIG", {"batch_size": size}) for size in BATCH_SIZES if size <= 64]
          + [("Adam", {"batch_size": size}) for size in BATCH_SIZES], seeds=SEEDS, max_time=MAX_TIME)
