"""Question: does this package give what others have measured with HIG, and what do adaptive steps add?

Settings are those of the submit scripts: the published ones for HIG and Adam. Seeds 0 to 14 are three draws
of data with five draws of weights each.
"""

from hig.runs.study import study
from Regression import TASKS

OPTIMIZERS = ("HIG", "HIG_adaptive", "LM", "Adam")
SEEDS = range(15)
MAX_TIME = 3600.0        # seconds of training of each run; its 20 epochs end before

if __name__ == "__main__":
    study("Regression", "independent", __doc__,
          [(optimizer, {"task": task}) for task in TASKS for optimizer in OPTIMIZERS],
          seeds=SEEDS, max_time=MAX_TIME)
