"""Question: which settings suit each method on the quantum dipole, by the validation loss?

Each method has five trials of some twenty seconds, from a seed that no comparison uses, with the batch size
of its submit script. `study_peers.py` compares the methods on other seeds.
"""

from hig.runs.study import study

RATES = {"HIG": (0.1, 0.25, 0.5, 1.0, 2.0), "HIG_Krylov": (0.1, 0.25, 0.5, 1.0, 2.0),
         "Adam": (1e-4, 3e-4, 1e-3, 3e-3, 1e-2), "GN": (0.05, 0.1, 0.25, 0.5, 1.0),
         "HIG_adaptive": (0.1, 0.25, 0.5, 1.0, 2.0), "Muon": (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)}
TRIALS = [(name, {"learning_rate": rate}) for name, rates in RATES.items() for rate in rates]
TRIALS += [("LM", {"damping": damping}) for damping in (0.01, 0.1, 1.0, 10.0, 100.0)]
TRIALS += [("LBFGS", {"memory": memory}) for memory in (5, 10, 20, 50, 100)]
EPOCHS = {name: 100 for name in ("Adam", "Muon", "LBFGS")}              # in some twenty seconds
FEWER_EPOCHS = 12                                                       # of the others
SEEDS = (0,)
MAX_TIME = 3600.0        # seconds of training of each run; its epochs end before

if __name__ == "__main__":
    epochs = [EPOCHS.get(name, FEWER_EPOCHS) for name, _ in TRIALS]
    study("Schroedinger", "settings", __doc__,
          [(name, {**settings, "epochs": n, "evaluate_every": n})
           for (name, settings), n in zip(TRIALS, epochs)],
          seeds=SEEDS, max_time=MAX_TIME)
