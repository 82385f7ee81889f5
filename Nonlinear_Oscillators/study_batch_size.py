"""Claim: on the oscillators Gauss-Newton and half-inverse gradients gain from larger batches, Adam does not.
"""

from hig.runs.study import study

BATCH_SIZES = (32, 64, 128, 256)
ADAM_BATCH_SIZES = (32, 128, 512, 2048)
SEEDS = (1, 2, 3)
MAX_TIME = 30.0          # seconds of training of each run

if __name__ == "__main__":
    study("Nonlinear_Oscillators", "batch_size", __doc__,
          [(optimizer, {"batch_size": size}) for optimizer in ("HIG", "GN") for size in BATCH_SIZES]
          + [("Adam", {"batch_size": size}) for size in ADAM_BATCH_SIZES], seeds=SEEDS, max_time=MAX_TIME)
