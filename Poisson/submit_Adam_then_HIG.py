"""Half-inverse gradients after a pretraining by Adam, on the Poisson problem: one curve.

Adam trains for PRETRAIN_TIME, then HIG goes on from its weights. The curve is that of both; its pickle holds
in provenance["switch_epoch"] the number of updates by Adam.
"""

from hig.runs.cli import submit
from Poisson import pretraining_flags

SEED = 0
BATCH_SIZE = 64
LEARNING_RATE = 0.01     # η
TRUNCATION = 1e-5        # τ, relative to the largest singular value
PRETRAIN_TIME = 300.0    # seconds of training by Adam, the first part of MAX_TIME
PRETRAIN_LEARNING_RATE = 3e-4    # η of Adam
MAX_TIME = 1200.0        # seconds of training

if __name__ == "__main__":
    submit("Poisson", "Adam_then_HIG", __doc__, seed=SEED, batch_size=BATCH_SIZE, learning_rate=LEARNING_RATE,
           truncation=TRUNCATION, max_time=MAX_TIME,
           flags=pretraining_flags(PRETRAIN_TIME, PRETRAIN_LEARNING_RATE))
