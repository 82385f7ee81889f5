"""Claim: on the oscillators Gauss-Newton is unstable, half-inverse gradients are not, over η, τ and seeds."""

from hig.runs.study import study

TRUNCATIONS = (1e-3, 1e-5, 1e-6, 1e-7)           # τ
LEARNING_RATES = (0.1, 0.3, 1.0)                 # η
SEEDS = (1, 2, 3)
MAX_TIME = 15.0          # seconds of training of each run

if __name__ == "__main__":
    study("Nonlinear_Oscillators", "truncation_and_learning_rate", __doc__,
          [(optimizer, {"truncation": truncation, "learning_rate": rate}) for optimizer in ("HIG", "GN")
           for truncation in TRUNCATIONS for rate in LEARNING_RATES], seeds=SEEDS, max_time=MAX_TIME)
