"""Question: what would one use today on the Poisson problem, where every update gets fresh fields?

Adam, half-inverse gradients and Levenberg-Marquardt train from scratch, and the last two also after a
pretraining by Adam. Settings are those of the submit scripts, with a shorter pretraining.
"""

from hig.runs.study import study

PRETRAIN_TIME = 45.0     # seconds of training by Adam, the first part of MAX_TIME
SEEDS = (0,)
MAX_TIME = 90.0          # seconds of training of each run

if __name__ == "__main__":
    study("Poisson", "peers", __doc__,
          [("Adam", {}), ("HIG", {}), ("LM", {}), ("Adam_then_HIG", {"pretrain_time": PRETRAIN_TIME}),
           ("Adam_then_LM", {"pretrain_time": PRETRAIN_TIME})], seeds=SEEDS, max_time=MAX_TIME)
