"""Question: what would one use today for the oscillators?

Adam, Gauss-Newton and half-inverse gradients run with the published settings, and with those of the lowest
validation loss in study_settings.py; Adam also runs with the batch size with which it is fastest
(study_batch_size.py). No settings are published for Muon, L-BFGS, adaptive half-inverse gradients and
Levenberg-Marquardt. They run only with those of the lowest validation loss.
"""

from hig.runs.study import study

METHODS = (("Adam", {}), ("Adam", {"batch_size": 128}), ("Adam", {"learning_rate": 1e-2}),
           ("Muon", {}), ("LBFGS", {}),
           ("GN", {}), ("GN", {"learning_rate": 0.7}),
           ("HIG", {}), ("HIG", {"learning_rate": 3.0}),
           ("HIG_adaptive", {}), ("LM", {}))
SEEDS = (1, 2, 3, 4, 5)
MAX_TIME = 30.0          # seconds of training of each run

if __name__ == "__main__":
    study("Nonlinear_Oscillators", "peers", __doc__, METHODS, seeds=SEEDS, max_time=MAX_TIME)
