"""What the studies vary besides the published settings: κ and the widths of the hidden layers."""

import numpy as np
import pytest

from hig.optimizers import JacobianPower
from hig.runs.cli import parse
from hig.runs.experiments import make_optimizer
from hig.runs.results import load_results
from Nonlinear_Oscillators import experiment, flags, power_flags
from Poisson.network import build_network


def settings(optimizer, folder, *arguments, add=flags):
    return parse("Nonlinear_Oscillators", optimizer, "", seed=1, batch_size=512, learning_rate=1.0, truncation=1e-6, max_time=100.0,
                 flags=add, arguments=["--quiet", "--output", str(folder), *arguments])


def test_the_network_of_the_papers_text_has_41408_parameters():
    assert build_network(8, (64, 256, 64)).count_params() == 41408
    assert build_network(8).count_params() == 24896


def test_the_power_minus_one_half_is_that_of_half_inverse_gradients(tmp_path, monkeypatch):
    """One epoch each, the same numbers; κ goes into the pickle of the one alone, and so does the number of threads into both."""
    monkeypatch.setenv("TF_NUM_INTRAOP_THREADS", "1")               # as a study sets it for its processes
    curves = {}
    for optimizer, add in (("HIG", flags), ("Power", power_flags)):
        assert experiment.run(settings(optimizer, tmp_path, "--epochs", "1", "--hidden", "6,5", add=add)) == "finished"
        curves[optimizer] = load_results(tmp_path / f"NLO_{optimizer}_RESULTS.pickle")
    np.testing.assert_array_equal(curves["HIG"]["train_loss"], curves["Power"]["train_loss"])
    assert curves["Power"]["sim_par"]["kappa"] == -0.5 and "kappa" not in curves["HIG"]["sim_par"]
    assert curves["HIG"]["sim_par"]["hidden"] == "6,5" and curves["HIG"]["provenance"]["tensorflow_threads"] == 1


def test_kappa_goes_into_the_optimizer_and_published_widths_into_no_pickle(tmp_path):
    chosen = settings("Power", tmp_path, "--kappa=0.25", add=power_flags)
    optimizer = make_optimizer(chosen)
    assert type(optimizer) is JacobianPower and optimizer.kappa == 0.25 and chosen.hidden is None


@pytest.mark.parametrize("words", ["--kappa=2", "--kappa=nan", "--kappa=half", "--hidden=20,,20", "--hidden=0", "--hidden="])
def test_bad_input(tmp_path, words, capsys):
    with pytest.raises(SystemExit, match="2"):
        settings("Power", tmp_path, words, add=power_flags)
    assert len(capsys.readouterr().err.splitlines()) == 1
