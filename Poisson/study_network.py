"""Claim: half-inverse gradients are ahead of Adam per update, and behind per second, with both networks.

The networks have the hidden layers of the published code (64, 128, 64: 24,896 weights) and of the paper's
text (64, 256, 64: 41,408 weights).
"""

from hig.runs.study import study

NETWORKS = ("64,128,64", "64,256,64")
SEEDS = (0,)
MAX_TIME = 100.0         # seconds of training of each run

if __name__ == "__main__":
    study("Poisson", "network", __doc__,
          [(optimizer, {"hidden": widths}) for optimizer in ("HIG", "Adam") for widths in NETWORKS],
          seeds=SEEDS, max_time=MAX_TIME)
