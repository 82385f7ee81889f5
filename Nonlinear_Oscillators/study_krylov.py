"""Question: how many products with J does an update of the oscillators need, for each batch size?

The exact method is run with the same learning rate for comparison.
"""

from hig.runs.study import study

STEPS = (16, 48, 128)
BATCH_SIZES = (128, 512)
LEARNING_RATE = 1.0      # η, the published one
SEEDS = (1, 2)
MAX_TIME = 40.0          # seconds of training of each run

if __name__ == "__main__":
    study("Nonlinear_Oscillators", "krylov", __doc__,
          [(optimizer, {**steps, "batch_size": size, "learning_rate": LEARNING_RATE}) for size in BATCH_SIZES
           for optimizer, steps in (*(("HIG_Krylov", {"krylov": k}) for k in STEPS), ("HIG", {}))],
          seeds=SEEDS, max_time=MAX_TIME)
