"""Question: with the network in the loop, who swings cart poles up, Adam or methods that invert the Jacobian?

Settings are those of the lowest validation loss among the four trials that each method has in
`study_settings.py`, with one pole. The seeds are others than there. With two and three poles the methods are
Adam with clipped gradients, as in the paper whose task this is, and half-inverse gradients.
"""

from hig.runs.study import study

CLIPPED = ("Adam", {"learning_rate": 3e-3, "batch_size": 8, "clip_norm": 0.1})
METHODS = (("Adam", {"learning_rate": 3e-3, "batch_size": 32}), CLIPPED,
           *((optimizer, {}) for optimizer in ("GN", "HIG", "HIG_adaptive", "LM")))
TWO = (CLIPPED, ("HIG", {}))
METHODS_OF = {1: METHODS, 4: METHODS, 2: TWO, 3: TWO}     # poles: methods
SEEDS = (1, 2, 3)
MAX_TIME = 60.0          # seconds of training of each run

if __name__ == "__main__":
    study("Cart_Pole", "peers", __doc__,
          [(optimizer, {**settings, "poles": poles})
           for poles, methods in METHODS_OF.items() for optimizer, settings in methods],
          seeds=SEEDS, max_time=MAX_TIME)
