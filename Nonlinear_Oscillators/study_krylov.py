"""Question: how many products with the Jacobian does an update of the oscillators need at a batch size?

The exact method is beside it.
"""

from hig.runs.study import study

STEPS = (16, 48, 128)
BATCH_SIZES = (128, 512)
SEEDS = (1, 2)
MAX_TIME = 60.0          # seconds of training of each run

if __name__ == "__main__":
    study("Nonlinear_Oscillators", "krylov", __doc__,
          [("HIG_Krylov", {"krylov": steps, "batch_size": size}) for size in BATCH_SIZES for steps in STEPS]
          + [("HIG", {"batch_size": size}) for size in BATCH_SIZES], seeds=SEEDS, max_time=MAX_TIME)
