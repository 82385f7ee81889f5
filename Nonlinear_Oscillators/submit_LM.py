"""Levenberg-Marquardt on the nonlinear oscillators, its damping controlled: what one would use today.

Seed and batch size are those of HIG. The damping at the start is the best of 0.1, 1 and 10 after 11 epochs
(`python Nonlinear_Oscillators/submit_LM.py --seed 1 --epochs 11 --damping …`).
"""

from hig.runs.cli import submit
from Nonlinear_Oscillators import flags

SEED = 22
BATCH_SIZE = 128
LEARNING_RATE = 1.0      # η, the full Gauss-Newton step
DAMPING = 0.1            # μ at the start, in units of the mean eigenvalue of J Jᵀ
MAX_TIME = 3600.0        # seconds of training

if __name__ == "__main__":
    submit("Nonlinear_Oscillators", "LM", __doc__, seed=SEED, batch_size=BATCH_SIZE,
           learning_rate=LEARNING_RATE, damping=DAMPING, max_time=MAX_TIME, flags=flags)
