"""Question: which settings suit each method on the oscillators, by the validation loss?

Each method has five trials of some ten seconds, from a seed that no comparison uses, with the batch size of
its submit script. `study_peers.py` and `study_optimizers.py` compare the methods on other seeds.
"""

from hig.runs.study import study

RATES = {"Adam": (1e-4, 3e-4, 1e-3, 3e-3, 1e-2), "Muon": (3e-4, 1e-3, 3e-3, 1e-2, 3e-2),
         "GN": (0.1, 0.3, 0.5, 0.7, 1.0), "HIG": (0.1, 0.3, 1.0, 2.0, 3.0),
         "HIG_adaptive": (0.1, 0.3, 1.0, 2.0, 3.0), "HIG_Krylov": (0.3, 1.0, 2.0, 3.0, 5.0),
         "SGD": (3e-3, 1e-2, 3e-2, 1e-1, 3e-1),
         "Adagrad": (1e-2, 3e-2, 1e-1, 3e-1, 1.0), "Adadelta": (1e-2, 1e-1, 1.0, 3.0, 10.0),
         "RMSprop": (3e-5, 1e-4, 3e-4, 1e-3, 3e-3)}
TRIALS = [("LBFGS", {"memory": memory}) for memory in (5, 10, 20, 50, 100)]
TRIALS += [("LM", {"damping": damping}) for damping in (0.01, 0.03, 0.1, 1.0, 10.0)]
TRIALS += [(name, {"learning_rate": rate}) for name, rates in RATES.items() for rate in rates]
EPOCHS = {**{name: 12 for name in ("GN", "HIG", "HIG_adaptive", "LM")}, "HIG_Krylov": 50}
FIRST_ORDER_EPOCHS = 300 # of the others; all take some ten seconds
SEEDS = (0,)
MAX_TIME = 3600.0        # seconds of training of each run; its epochs end before

if __name__ == "__main__":
    epochs = [EPOCHS.get(name, FIRST_ORDER_EPOCHS) for name, _ in TRIALS]
    study("Nonlinear_Oscillators", "settings", __doc__,
          [(name, {**settings, "epochs": n, "evaluate_every": n})
           for (name, settings), n in zip(TRIALS, epochs)],
          seeds=SEEDS, max_time=MAX_TIME)
