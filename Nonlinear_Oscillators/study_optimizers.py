"""Claim: first-order methods stagnate early, Gauss-Newton is unstable, half-inverse gradients go on.

Source: figure 2b of the paper. Settings are those of the submit scripts.
"""

from hig.runs.study import study

OPTIMIZERS = ("SGD", "Adagrad", "Adadelta", "RMSprop", "Adam", "GN", "HIG")
SEEDS = (1, 2, 3, 4, 5)
MAX_TIME = 60.0          # seconds of training of each run

if __name__ == "__main__":
    study("Nonlinear_Oscillators", "optimizers", __doc__, [(optimizer, {}) for optimizer in OPTIMIZERS],
          seeds=SEEDS, max_time=MAX_TIME)
