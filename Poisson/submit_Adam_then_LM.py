"""Levenberg-Marquardt after a pretraining by Adam, on the Poisson problem: one curve.

Adam trains for PRETRAIN_TIME, then Levenberg-Marquardt goes on from its weights. The curve is that of both;
its pickle holds in provenance["switch_epoch"] the number of updates by Adam.
"""

from hig.runs.cli import submit
from Poisson import pretraining_flags

SEED = 0
BATCH_SIZE = 64
LEARNING_RATE = 1 / 32   # η, the full Gauss-Newton step for ½ Σ (y − y*)² over 64 fields
DAMPING = 1.0            # μ at the start, in units of the mean eigenvalue of J Jᵀ
PRETRAIN_TIME = 300.0    # seconds of training by Adam, the first part of MAX_TIME
PRETRAIN_LEARNING_RATE = 3e-4    # η of Adam
MAX_TIME = 1200.0        # seconds of training

if __name__ == "__main__":
    submit("Poisson", "Adam_then_LM", __doc__, seed=SEED, batch_size=BATCH_SIZE, learning_rate=LEARNING_RATE,
           damping=DAMPING, max_time=MAX_TIME, flags=pretraining_flags(PRETRAIN_TIME, PRETRAIN_LEARNING_RATE))
