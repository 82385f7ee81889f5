"""Question: what would one use today on the Poisson problem, where every update gets fresh fields?

Adam, half-inverse gradients and Levenberg-Marquardt from scratch, and the last two after Adam. Settings are
those of the submit scripts, with a shorter pretraining.
"""

from hig.runs.study import study

PRETRAIN_TIME = 45.0     # seconds of training by Adam, the first part of MAX_TIME
SEEDS = (0,)
MAX_TIME = 90.0          # seconds of training of each run

if __name__ == "__main__":
    study("Poisson", "peers", __doc__,
          [(optimizer, {}) for optimizer in ("Adam", "HIG", "LM")]
          + [(optimizer, {"pretrain_time": PRETRAIN_TIME}) for optimizer in ("Adam_then_HIG",
                                                                             "Adam_then_LM")],
          seeds=SEEDS, max_time=MAX_TIME)
