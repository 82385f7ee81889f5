"""Scale-invariant physics on the linear chain: the SIP curve of the Physics-based Deep Learning book.

The simulator is inverted by Gauss-Newton, sample by sample, and Adam teaches the network the controls found.
"""

from hig.runs.cli import submit

SEED = 1
BATCH_SIZE = 256
LEARNING_RATE = 1e-3     # η, of Adam
TRUNCATION = 1e-5        # of the simulator's Jacobian ∂y/∂u, relative to its largest singular value
MAX_TIME = 100.0         # seconds of training

if __name__ == "__main__":
    submit("Linear_Chain", "SIP", __doc__, seed=SEED, batch_size=BATCH_SIZE, learning_rate=LEARNING_RATE,
           truncation=TRUNCATION, max_time=MAX_TIME)
