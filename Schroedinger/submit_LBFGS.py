"""L-BFGS on the quantum dipole: SciPy's, on the whole training set, one entry of the curve per iteration.

The seed is Adam's; the memory is that of the lowest validation loss in study_settings.py. --resume goes on
from the weights, without what SciPy remembered of earlier steps.
"""

from hig.runs.cli import submit

SEED = 1
MEMORY = 100             # steps remembered
MAX_TIME = 5400.0        # seconds of training

if __name__ == "__main__":
    submit("Schroedinger", "LBFGS", __doc__, seed=SEED, memory=MEMORY, max_time=MAX_TIME)
