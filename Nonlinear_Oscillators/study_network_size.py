"""Claim: the cost of an update is linear in the number of weights (nonlinear oscillators).

The curves tell the time of an epoch. A network with hidden layers of w, w and w neurons has 2 w² + 103 w + 96
weights.
"""

from hig.runs.study import study

WIDTHS = (10, 20, 40, 80, 160)
SEEDS = (1,)
MAX_TIME = 20.0          # seconds of training of each run

if __name__ == "__main__":
    study("Nonlinear_Oscillators", "network_size", __doc__,
          [(optimizer, {"hidden": f"{width},{width},{width}"}) for optimizer in ("HIG", "Adam")
           for width in WIDTHS], seeds=SEEDS, max_time=MAX_TIME)
