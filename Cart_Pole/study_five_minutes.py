"""Question: who is ahead on the cart poles after five minutes, Adam with clipped gradients or HIG?

The settings are those of `study_peers.py`, whose runs of a minute leave this open. An epoch of Adam takes
less time than its evaluation; therefore only every tenth epoch is evaluated.
"""

from hig.runs.study import study

METHODS = (("Adam", {"learning_rate": 3e-3, "batch_size": 8, "clip_norm": 0.1, "evaluate_every": 10}),
           ("HIG", {}))
POLES = (1, 2, 3, 4)
SEEDS = (1, 2, 3)
MAX_TIME = 300.0         # seconds of training of each run

if __name__ == "__main__":
    study("Cart_Pole", "five_minutes", __doc__,
          [(optimizer, {**settings, "poles": poles})
           for poles in POLES for optimizer, settings in METHODS],
          seeds=SEEDS, max_time=MAX_TIME)
