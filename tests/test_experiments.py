"""What the experiments share: optimizers by name, published initial weights, the settings that studies vary.
"""

from argparse import Namespace

import keras
import numpy as np
import pytest

from hig.optimizers import JacobianPower
from hig.runs.cli import SettingsError, parse
from hig.runs.experiments import make_optimizer
from hig.runs.initialization import draw_published_weights
from hig.runs.results import load_results
from Nonlinear_Oscillators import experiment, flags, power_flags
from Poisson.network import build_network

L = keras.layers


# ---------------------------------------------------------------------------------------- initial weights

def test_dense_layers_within_models_are_drawn_in_their_order():
    """Nested or not, with a layer without weights in between, and the same for the same seed."""
    flat = keras.Sequential([keras.Input((3,)), L.Dense(4, "tanh"), L.Dropout(0.5), L.Dense(5,
        use_bias=False), L.Dense(2)])
    nested = keras.Sequential([keras.Input((3,)), L.Dense(4, "tanh"), keras.Sequential([L.Dense(5,
        use_bias=False), L.Dense(2)])])
    draw_published_weights(flat, 7)
    draw_published_weights(nested, 7)
    for one, other in zip(flat.weights, nested.weights, strict=True):
        np.testing.assert_array_equal(one, other)
    limit = np.sqrt(6 / 9)
    kernel = np.array(flat.weights[2])
    assert kernel.shape == (4, 5) and 0.5 * limit < np.abs(kernel).max() < limit
    assert not np.any(flat.weights[1])


@pytest.mark.parametrize("layers", [
    [L.Conv1D(2, 3)], [L.LayerNormalization()], [L.BatchNormalization()], [L.Embedding(5, 2)], [L.GRU(3)],
    [L.Dense(3), L.PReLU()],
    [L.Dense(3, kernel_initializer="zeros")], [L.Dense(3, bias_initializer="ones")],
    [L.EinsumDense("abc,cd->abd", (4, 5))],
    [L.TimeDistributed(L.Dense(2))]], ids=lambda layers: type(layers[-1]).__name__)
def test_weights_without_published_values_are_refused_and_left_alone(layers):
    network = keras.Sequential([keras.Input((4,)) if isinstance(layers[0], L.Embedding) else keras.Input((4,
        3)), *layers])
    before = [np.array(weight) for weight in network.weights]
    with pytest.raises(ValueError,
                       match=r"the weight .+ is no kernel or bias of a Dense layer .*set_random_seed"):
        draw_published_weights(network, 1)
    for weight, value in zip(network.weights, before):
        np.testing.assert_array_equal(weight, value)


# ---------------------------------------------------------------------------------------- optimizers by name

@pytest.mark.parametrize("name", ["Adamm", "adam", "hig", "schedules", "Optimizer", "get", "LM_adaptive",
                                  "Adam_adaptive", "LossScaleOptimizer"])
def test_an_optimizer_that_does_not_exist_is_a_sentence(name):
    with pytest.raises(SettingsError, match=f"there is no optimizer '{name}'; there are HIG, .*Adam, .*SGD$"):
        make_optimizer(Namespace(optimizer=name, learning_rate=1.0, damping=1.0))


@pytest.mark.parametrize("name, lacks", [("HIG", "truncation"), ("GN_adaptive", "truncation"), ("Power",
    "kappa"), ("LM", "damping"),
                                         ("Adam", "learning_rate")])
def test_a_script_that_states_too_little_is_a_sentence(name, lacks):
    stated = {"learning_rate": 1.0, "truncation": 1e-6, "damping": 1.0, "kappa": 0.0, lacks: None}
    with pytest.raises(SettingsError, match=f"the optimizer {name} takes a {lacks}"):
        make_optimizer(Namespace(optimizer=name, **stated))


def test_a_misspelt_name_in_a_submit_script_ends_with_a_sentence(tmp_path):
    with pytest.raises(SettingsError, match="there is no optimizer 'Adamm'"):
        experiment.run(settings("Adamm", tmp_path, "--epochs", "1"))
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------------------------------- what studies vary

def settings(optimizer, folder, *arguments, add=flags):
    return parse("Nonlinear_Oscillators", optimizer, "", seed=1, batch_size=512, learning_rate=1.0,
                 truncation=1e-6, max_time=100.0,
                 flags=add, arguments=["--quiet", "--output", str(folder), *arguments])


def test_the_network_of_the_papers_text_has_41408_parameters():
    assert build_network(8, (64, 256, 64)).count_params() == 41408
    assert build_network(8).count_params() == 24896


def test_the_power_minus_one_half_is_that_of_half_inverse_gradients(tmp_path, monkeypatch):
    """One epoch each, the same numbers; κ goes into the pickle of the one alone, and so does the number of
    threads into both.
    """
    monkeypatch.setenv("TF_NUM_INTRAOP_THREADS", "1")               # as a study sets it for its processes
    found = {}
    for optimizer, add in (("HIG", flags), ("Power", power_flags)):
        assert experiment.run(settings(optimizer, tmp_path, "--epochs", "1", "--hidden", "6,5",
                                       add=add)) == "finished"
        found[optimizer] = load_results(tmp_path / f"NLO_{optimizer}_RESULTS.pickle")
    np.testing.assert_array_equal(found["HIG"]["train_loss"], found["Power"]["train_loss"])
    assert found["Power"]["sim_par"]["kappa"] == -0.5 and "kappa" not in found["HIG"]["sim_par"]
    assert found["HIG"]["sim_par"]["hidden"] == "6,5" and found["HIG"]["provenance"][
        "tensorflow_threads"] == 1


def test_kappa_goes_into_the_optimizer_and_published_widths_into_no_pickle(tmp_path):
    chosen = settings("Power", tmp_path, "--kappa=0.25", add=power_flags)
    optimizer = make_optimizer(chosen)
    assert type(optimizer) is JacobianPower and optimizer.kappa == 0.25 and chosen.hidden is None


def test_no_truncation_is_allowed(tmp_path):
    assert make_optimizer(settings("HIG", tmp_path, "--truncation", "0")).truncation == 0


@pytest.mark.parametrize("words", ["--kappa=2", "--kappa=nan", "--kappa=half", "--hidden=20,,20",
                                   "--hidden=0", "--hidden="])
def test_bad_input(tmp_path, words, capsys):
    with pytest.raises(SystemExit, match="2"):
        settings("Power", tmp_path, words, add=power_flags)
    assert len(capsys.readouterr().err.splitlines()) == 1
