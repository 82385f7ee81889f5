"""Question: with the network in the loop, who swings cart poles up, Adam or methods that invert the Jacobian?

Settings are those of the submit scripts, and for Adam also clipped gradients. They are first guesses, since
the trials of `study_settings.py` that are to choose them have not been run. The seeds are others than there.
"""

from hig.runs.study import study

METHODS = (("Adam", {}), ("Adam", {"clip_norm": 1.0}),
           *((optimizer, {}) for optimizer in ("GN", "HIG", "HIG_adaptive", "LM")))
POLES = (1, 2, 3, 4)
SEEDS = (1, 2, 3)
MAX_TIME = 60.0          # seconds of training of each run

if __name__ == "__main__":
    study("Cart_Pole", "peers", __doc__,
          [(optimizer, {**settings, "poles": poles}) for poles in POLES for optimizer, settings in METHODS],
          seeds=SEEDS, max_time=MAX_TIME)
