"""L-BFGS by SciPy on the quantum dipole, with the whole training set.

Each iteration gives an entry of the curve. The seed is Adam's; the memory is that of the lowest validation
loss in study_settings.py. --resume starts from the saved weights, without the earlier steps that SciPy
remembered.
"""

from hig.runs.cli import submit

SEED = 1
MEMORY = 100             # steps remembered
MAX_TIME = 5400.0        # seconds of training

if __name__ == "__main__":
    submit("Schroedinger", "LBFGS", __doc__, seed=SEED, memory=MEMORY, max_time=MAX_TIME)
