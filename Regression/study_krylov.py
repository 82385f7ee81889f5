"""Question: which batch size, number k of products with J and η suit HIG on the two regressions?

The validation loss after 20 epochs decides, from a seed that no comparison uses. Batches of 32
have 32 rows, and a k below that. Larger batches have fewer updates in the 20 epochs.
"""

from hig.runs.study import study
from Regression import TASKS

TRIALS = ((32, 8, 0.16), (32, 16, 0.16), (100, 32, 0.16), (100, 32, 0.5), (500, 64, 0.5), (500, 64, 1.0))
SEEDS = (15,)            # a fourth draw of the data
MAX_TIME = 3600.0        # seconds of training of each run; its 20 epochs end before

if __name__ == "__main__":
    study("Regression", "krylov", __doc__,
          [("HIG_Krylov", {"task": task, "batch_size": size, "krylov": steps, "learning_rate": rate})
           for task in TASKS for size, steps, rate in TRIALS], seeds=SEEDS, max_time=MAX_TIME)
