"""Question: what would one use today? Adam, Muon, L-BFGS, Gauss-Newton and half-inverse gradients as published, and the
last two with steps that control themselves: adaptive half-inverse gradients, Levenberg-Marquardt.

Settings are those of the submit scripts.
"""

from hig.runs.study import study

OPTIMIZERS = ("Adam", "Muon", "LBFGS", "GN", "HIG", "HIG_adaptive", "LM")
SEEDS = (1, 2, 3, 4, 5)
MAX_TIME = 30.0          # seconds of training of each run

if __name__ == "__main__":
    study("Nonlinear_Oscillators", "peers", __doc__, [(optimizer, {}) for optimizer in OPTIMIZERS],
          seeds=SEEDS, max_time=MAX_TIME)
