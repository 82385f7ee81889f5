"""Question: what would one use today for the oscillators?

Adam, Muon, L-BFGS, Gauss-Newton and half-inverse gradients as published, and the last two with steps that
control themselves: Levenberg-Marquardt and adaptive half-inverse gradients. Settings are those of the submit
scripts, the published ones where there are such. Adam also has the batch size with which it is fastest
(study_batch_size.py).
"""

from hig.runs.study import study

OPTIMIZERS = ("Adam", "Muon", "LBFGS", "GN", "HIG", "HIG_adaptive", "LM")
ADAM_BATCH_SIZE = 128
SEEDS = (1, 2, 3, 4, 5)
MAX_TIME = 30.0          # seconds of training of each run

if __name__ == "__main__":
    study("Nonlinear_Oscillators", "peers", __doc__,
          [(optimizer, {}) for optimizer in OPTIMIZERS] + [("Adam", {"batch_size": ADAM_BATCH_SIZE})],
          seeds=SEEDS, max_time=MAX_TIME)
