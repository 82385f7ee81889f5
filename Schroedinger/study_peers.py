"""Question: what would one use today for the quantum dipole?

Adam and half-inverse gradients run with the published settings, and with those of the lowest validation loss
in study_settings.py; Adam also runs with the batch size with which it is fastest (study_batch_size.py). No
settings are published for the other methods. They run with those of the lowest validation loss, and
Gauss-Newton also with those of half-inverse gradients.
"""

from hig.runs.study import study

METHODS = (("Adam", {}), ("Adam", {"batch_size": 16}), ("Adam", {"learning_rate": 1e-2}),
           ("Muon", {}), ("LBFGS", {}), ("GN", {}), ("GN", {"learning_rate": 1.0}),
           ("HIG", {}), ("HIG", {"learning_rate": 2.0}),
           ("HIG_adaptive", {}), ("LM", {}))
SEEDS = (1, 2, 3, 4, 5)
MAX_TIME = 40.0          # seconds of training of each run

if __name__ == "__main__":
    study("Schroedinger", "peers", __doc__, METHODS, seeds=SEEDS, max_time=MAX_TIME)
