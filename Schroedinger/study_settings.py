"""Question: which settings suit each method on the quantum dipole, by the validation loss?

Each method has five trials of about a minute, from a seed that no comparison uses, with the batch size of its
submit script. `study_peers.py` compares the methods on other seeds.
"""

from hig.runs.study import study

TRIALS = {               # method: epochs of a trial; the setting that varies, and its values
    "HIG": (12, "learning_rate", (0.1, 0.25, 0.5, 1.0, 2.0)),
    "HIG_Krylov": (12, "learning_rate", (0.1, 0.25, 0.5, 1.0, 2.0)),
    "Adam": (100, "learning_rate", (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)),
    "GN": (12, "learning_rate", (0.05, 0.1, 0.25, 0.5, 1.0)),
    "HIG_adaptive": (12, "learning_rate", (0.1, 0.25, 0.5, 1.0, 2.0)),
    "Muon": (100, "learning_rate", (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)),
    "LM": (12, "damping", (0.01, 0.1, 1.0, 10.0, 100.0)),
    "LBFGS": (100, "memory", (5, 10, 20, 50, 100)),
}
SEEDS = (0,)
MAX_TIME = 3600.0        # seconds of training of each run; its epochs end before

if __name__ == "__main__":
    study("Schroedinger", "settings", __doc__,
          [(name, {setting: value, "epochs": epochs, "evaluate_every": epochs})
           for name, (epochs, setting, values) in TRIALS.items() for value in values],
          seeds=SEEDS, max_time=MAX_TIME)
