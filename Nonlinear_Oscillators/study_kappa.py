"""Claim: κ = −1/2 is the right middle between gradient descent, κ = 1, and Gauss-Newton, κ = −1.

The system is that of the oscillators. Each κ has several learning rates, because the length of a step depends
on κ.
"""

from hig.runs.study import study

KAPPAS = (-1.0, -0.75, -0.5, -0.25, 0.0, 0.5, 1.0)
LEARNING_RATES = (0.1, 0.3, 1.0)     # η
SEEDS = (1, 2)
MAX_TIME = 20.0          # seconds of training of each run

if __name__ == "__main__":
    study("Nonlinear_Oscillators", "kappa", __doc__,
          [("Power", {"kappa": kappa, "learning_rate": rate}) for kappa in KAPPAS for rate in LEARNING_RATES],
          seeds=SEEDS, max_time=MAX_TIME)
