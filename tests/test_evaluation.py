"""--evaluate-every N: the same run with fewer measurements, here of the toy problem, whose dicts have six
curves.
"""

import numpy as np

from hig.runs.cli import parse
from hig.runs.results import load_results
from Toy_Problem import experiment, flags

EVERY = 3


def curve(folder, *arguments, batch_size=256):
    """Trains by Adam with λ = 1; returns what is in the pickle."""
    settings = parse("Toy_Problem", "Adam", "", seed=0, batch_size=batch_size, learning_rate=3e-3,
                     max_time=1000.0, flags=flags,
                     arguments=["--output", str(folder), "--quiet", "--lambda", "1", *map(str, arguments)])
    experiment.run(settings)
    return load_results(next(folder.glob("*_RESULTS.pickle")))


def test_the_same_run_with_fewer_measurements(tmp_path):
    """Measured epochs have the values of a run that measures all, bit for bit; the others NaN.

    The training loss is that of the batch before its update: with one batch of all samples, that after the
        epoch before.
    """
    full = curve(tmp_path / "full", "--epochs", 7)
    some = curve(tmp_path / "some", "--epochs", 7, "--evaluate-every", EVERY)
    assert some["sim_par"]["evaluate_every"] == EVERY and "evaluate_every" not in full["sim_par"]
    measured = np.arange(8) % EVERY == 0
    for key in ("test_loss", "activation_mean", "activation_std", "path_y1", "path_y2"):
        np.testing.assert_array_equal(some[key], np.where(measured, full[key], np.nan))
    before = np.r_[full["train_loss"][0], full["train_loss"][:-1]]
    np.testing.assert_allclose(some["train_loss"], before, rtol=1e-6)  # float32: another order of summation
    assert not np.allclose(some["train_loss"][1:], full["train_loss"][1:], rtol=1e-4)


def test_a_run_that_dies_between_two_measurements_is_stopped(tmp_path):
    """The training loss of every epoch tells."""
    died = curve(tmp_path, "--epochs", 50, "--evaluate-every", 1000, "--learning-rate", 1e30)
    assert died["provenance"]["state"] == "diverged" and died["epochs"][-1] < 50
