"""Question: how far do half-inverse gradients come with few products with J, for each batch size and grid?

The exact method on the published grid of the Poisson problem, and Adam with two learning rates, are run for
comparison. Settings are chosen by the training loss, which is measured on fresh fields before the network is
trained with them.
"""

from hig.runs.study import study

STEPS = (8, 16, 32)
BATCH_SIZES = (64, 256)
LEARNING_RATES = (0.003, 0.03, 0.1)      # η; that of the submit script is 0.01
RESOLUTIONS = (16, 32)   # cells along each axis, too many for the exact method
ADAM = (3e-4, 3e-3)      # η
SEEDS = (0,)
MAX_TIME = 80.0          # seconds of training of each run

if __name__ == "__main__":
    study("Poisson", "krylov", __doc__,
          [("HIG_Krylov", {"krylov": steps, "batch_size": size}) for size in BATCH_SIZES for steps in STEPS]
          + [("HIG_Krylov", {"batch_size": 256, "learning_rate": rate}) for rate in LEARNING_RATES]
          + [("HIG", {})] + [("HIG_Krylov", {"resolution": cells}) for cells in RESOLUTIONS]
          + [("Adam", {"learning_rate": rate, "resolution": cells}) for cells in (8, *RESOLUTIONS)
             for rate in ADAM], seeds=SEEDS, max_time=MAX_TIME)
