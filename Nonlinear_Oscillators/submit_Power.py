"""Any power κ of the Jacobian on the oscillators, from gradient descent (κ = 1) to Gauss-Newton (κ = −1).

The settings are those of half-inverse gradients (κ = −1/2).
"""

from hig.runs.cli import submit
from Nonlinear_Oscillators import power_flags

SEED = 22
BATCH_SIZE = 128
LEARNING_RATE = 1.0      # η
TRUNCATION = 1e-6        # τ, relative to the largest singular value
MAX_TIME = 3600.0        # seconds of training

if __name__ == "__main__":
    submit("Nonlinear_Oscillators", "Power", __doc__, seed=SEED, batch_size=BATCH_SIZE,
           learning_rate=LEARNING_RATE, truncation=TRUNCATION, max_time=MAX_TIME, flags=power_flags)
