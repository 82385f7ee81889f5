"""Levenberg-Marquardt on the nonlinear oscillators, with adaptive damping: what one would use today.

Seed and batch size are those of HIG. The damping at the start is that of the lowest validation loss in
study_settings.py.
"""

from hig.runs.cli import submit
from Nonlinear_Oscillators import flags

SEED = 22
BATCH_SIZE = 128
LEARNING_RATE = 1.0      # η, the full Gauss-Newton step
DAMPING = 10.0           # μ at the start, in units of the mean eigenvalue of J Jᵀ
MAX_TIME = 3600.0        # seconds of training

if __name__ == "__main__":
    submit("Nonlinear_Oscillators", "LM", __doc__, seed=SEED, batch_size=BATCH_SIZE,
           learning_rate=LEARNING_RATE, damping=DAMPING, max_time=MAX_TIME, flags=flags)
