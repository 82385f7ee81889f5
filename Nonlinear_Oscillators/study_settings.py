"""Question: which settings suit each method on the oscillators, by the validation loss?

Each method has five trials of some ten seconds, from a seed that no comparison uses, with the batch size of
its submit script. `study_peers.py` and `study_optimizers.py` compare the methods on other seeds.
"""

from hig.runs.study import study

TRIALS = {               # method: epochs of a trial; the setting that varies, and its values
    "LBFGS": (300, "memory", (5, 10, 20, 50, 100)),
    "LM": (12, "damping", (0.01, 0.03, 0.1, 1.0, 10.0)),
    "Adam": (300, "learning_rate", (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)),
    "Muon": (300, "learning_rate", (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)),
    "GN": (12, "learning_rate", (0.1, 0.3, 0.5, 0.7, 1.0)),
    "HIG": (12, "learning_rate", (0.1, 0.3, 1.0, 2.0, 3.0)),
    "HIG_adaptive": (12, "learning_rate", (0.1, 0.3, 1.0, 2.0, 3.0)),
    "HIG_Krylov": (50, "learning_rate", (0.3, 1.0, 2.0, 3.0, 5.0)),
    "SGD": (300, "learning_rate", (3e-3, 1e-2, 3e-2, 1e-1, 3e-1)),
    "Adagrad": (300, "learning_rate", (1e-2, 3e-2, 1e-1, 3e-1, 1.0)),
    "Adadelta": (300, "learning_rate", (1e-2, 1e-1, 1.0, 3.0, 10.0)),
    "RMSprop": (300, "learning_rate", (3e-5, 1e-4, 3e-4, 1e-3, 3e-3)),
}
SEEDS = (0,)
MAX_TIME = 3600.0        # seconds of training of each run; its epochs end before

if __name__ == "__main__":
    study("Nonlinear_Oscillators", "settings", __doc__,
          [(name, {setting: value, "epochs": epochs, "evaluate_every": epochs})
           for name, (epochs, setting, values) in TRIALS.items() for value in values],
          seeds=SEEDS, max_time=MAX_TIME)
