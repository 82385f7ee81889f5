"""L-BFGS by SciPy on the oscillators: the whole training set, one entry of the curve for each iteration.

The seed is Adam's. The memory is the better of 10 and 50 after 300 iterations
(`python Nonlinear_Oscillators/submit_LBFGS.py --epochs 300 --memory …`: test loss 7.7e-04 and 3.6e-04).
--resume goes on from the weights, without what SciPy remembered of earlier steps.
"""

from hig.runs.cli import submit
from Nonlinear_Oscillators import flags

SEED = 1
MEMORY = 50              # steps remembered, from the scan
MAX_TIME = 3600.0        # seconds of training

if __name__ == "__main__":
    submit("Nonlinear_Oscillators", "LBFGS", __doc__, seed=SEED, memory=MEMORY, max_time=MAX_TIME,
           flags=flags)
