"""Question: do methods that invert J swing up cart poles sooner than Adam, with a network in the loop?

Each method runs with the settings of the lowest validation loss among its four trials in `study_settings.py`,
with one pole and another seed. Adam also runs with clipped gradients, as in the paper from which the task is.
"""

from hig.runs.study import study

METHODS = (("Adam", {"learning_rate": 3e-3, "batch_size": 32}),
           ("Adam", {"learning_rate": 3e-3, "batch_size": 8, "clip_norm": 0.1}),
           *((optimizer, {}) for optimizer in ("GN", "HIG", "HIG_adaptive", "LM")))
POLES = (1, 2, 3, 4)
SEEDS = (1, 2, 3)
MAX_TIME = 60.0          # seconds of training of each run

if __name__ == "__main__":
    study("Cart_Pole", "peers", __doc__,
          [(optimizer, {**settings, "poles": poles})
           for poles in POLES for optimizer, settings in METHODS],
          seeds=SEEDS, max_time=MAX_TIME)
