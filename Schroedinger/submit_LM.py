"""Levenberg-Marquardt on the quantum dipole, with adaptive damping: what one would use today.

Seed and batch size are those of HIG; the damping at the start is that of the lowest validation loss in
study_settings.py.
"""

from hig.runs.cli import submit

SEED = 1
BATCH_SIZE = 16
LEARNING_RATE = 1.0      # η, the full Gauss-Newton step where |y − y*|² is the loss
DAMPING = 0.1            # μ at the start, in units of the mean eigenvalue of J Jᵀ
MAX_TIME = 5400.0        # seconds of training

if __name__ == "__main__":
    submit("Schroedinger", "LM", __doc__, seed=SEED, batch_size=BATCH_SIZE, learning_rate=LEARNING_RATE,
           damping=DAMPING, max_time=MAX_TIME)
