"""Question: do adaptive steps keep up with the best fixed η if a batch does not determine the weights?

The task is the random polynomial, where batches of 32 outputs say little about the 673 weights. Half-inverse
gradients run with fixed learning rates around the best one and with adaptive steps, and Levenberg-Marquardt
runs beside them. The seeds are three draws of the data with three draws of the weights each.
"""

from hig.runs.study import study

TASK = "polynomial"
LEARNING_RATES = (1.6, 2.3, 3.2, 4.5)    # η; 3.2 is the published setting, 0.1 for the sum over a batch of 32
SEEDS = (0, 1, 2, 5, 6, 7, 10, 11, 12)
MAX_TIME = 3600.0                        # seconds of training of each run; its 20 epochs end before

if __name__ == "__main__":
    study("Regression", "control", __doc__,
          [*(("HIG", {"task": TASK, "learning_rate": rate}) for rate in LEARNING_RATES),
           ("HIG_adaptive", {"task": TASK}), ("LM", {"task": TASK})],
          seeds=SEEDS, max_time=MAX_TIME)
