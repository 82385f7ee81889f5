"""What experiments share: optimizers by name, published initial weights, the settings that studies vary."""

from argparse import Namespace

import keras
import numpy as np
import pytest

from hig.optimizers import JacobianPower
from hig.runs.cli import SettingsError
from hig.runs.experiments import make_optimizer
from hig.runs.initialization import draw_published_weights
from hig.runs.results import load_results
from Cart_Pole.simulator import CartPoles, SwingUp
from Linear_Chain.simulator import LinearChain
from Nonlinear_Oscillators import experiment, flags, power_flags
from Nonlinear_Oscillators.simulator import Oscillators
from Poisson import experiment as poisson
from Poisson.fields import held_out_fields
from Poisson.network import build_network
from Poisson.simulator import Laplace
from Regression import experiment as regression
from Schroedinger.simulator import Dipole
from tests import tiny
from tests.reference import flat, jacobian_by_rows, power_by_svd
from Toy_Problem import experiment as toy_problem
from Toy_Problem.simulator import Scaling

L = keras.layers


# ---------------------------------------------------------------------------------------- initial weights

def test_dense_layers_within_models_are_drawn_in_their_order():
    """Nested or not, with a layer without weights in between, and the same for the same seed."""
    flat = keras.Sequential([keras.Input((3,)), L.Dense(4, "tanh"), L.Dropout(0.5),
                             L.Dense(5, use_bias=False), L.Dense(2)])
    nested = keras.Sequential([keras.Input((3,)), L.Dense(4, "tanh"),
                               keras.Sequential([L.Dense(5, use_bias=False), L.Dense(2)])])
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
    [L.Dense(3), L.PReLU()], [L.Dense(3, kernel_initializer="zeros")],
    [L.Dense(3, bias_initializer="ones")], [L.EinsumDense("abc,cd->abd", (4, 5))],
    [L.TimeDistributed(L.Dense(2))]], ids=lambda layers: type(layers[-1]).__name__)
def test_weights_without_published_values_are_refused_and_left_alone(layers):
    shape = (4,) if isinstance(layers[0], L.Embedding) else (4, 3)
    network = keras.Sequential([keras.Input(shape), *layers])
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


@pytest.mark.parametrize("name, lacks", [("HIG", "truncation"), ("GN_adaptive", "truncation"),
                                         ("Power", "kappa"), ("LM", "damping"), ("Adam", "learning_rate")])
def test_a_script_that_states_too_little_is_a_sentence(name, lacks):
    stated = {"learning_rate": 1.0, "truncation": 1e-6, "damping": 1.0, "kappa": 0.0, lacks: None}
    with pytest.raises(SettingsError, match=f"the optimizer {name} takes a {lacks}"):
        make_optimizer(Namespace(optimizer=name, **stated))


# ---------------------------------------------------------------------------------------- what studies vary

def settings(optimizer, folder, *arguments, add=flags):
    return tiny.settings("Nonlinear_Oscillators", optimizer, folder, *arguments, seed=1, batch_size=512,
                         truncation=1e-6, flags=add)


def test_the_network_of_the_papers_text_has_41408_parameters():
    assert build_network(8, (64, 256, 64)).count_params() == 41408
    assert build_network(8).count_params() == 24896


def test_the_power_minus_one_half_is_that_of_half_inverse_gradients(tmp_path, monkeypatch):
    """One epoch each, the same numbers; κ goes into the pickle of the one alone, the threads into both."""
    monkeypatch.setenv("TF_NUM_INTRAOP_THREADS", "1")               # as a study sets it for its processes
    monkeypatch.setattr(experiment, "N_STEPS", 8)
    monkeypatch.setattr(experiment, "TRAIN_SAMPLES", 1024)
    found = {}
    for optimizer, add in (("HIG", flags), ("Power", power_flags)):
        chosen = settings(optimizer, tmp_path, "--epochs", "1", "--hidden", "6,5", add=add)
        assert experiment.run(chosen) == "finished"
        found[optimizer] = load_results(tmp_path / f"NLO_{optimizer}_RESULTS.pickle")
    np.testing.assert_array_equal(found["HIG"]["train_loss"], found["Power"]["train_loss"])
    assert found["Power"]["sim_par"]["kappa"] == -0.5 and "kappa" not in found["HIG"]["sim_par"]
    assert found["HIG"]["sim_par"]["hidden"] == "6,5"
    assert {results["provenance"]["tensorflow_threads"] for results in found.values()} == {1}


def test_flags_go_into_the_optimizer_and_published_widths_into_no_pickle(tmp_path):
    """A truncation of 0 is allowed."""
    chosen = settings("Power", tmp_path, "--kappa=0.25", "--truncation=0", add=power_flags)
    chosen.damping = 0.5
    optimizer = make_optimizer(chosen)
    assert type(optimizer) is JacobianPower and chosen.hidden is None
    assert (optimizer.kappa, optimizer.truncation, optimizer.damping) == (0.25, 0, 0.5)


# ------------------------------------------------------------------------------------- what all systems share

@pytest.mark.parametrize("make, name", [
    *((lambda n=name, v=value: Oscillators(**{n: v}), name)
      for name, value in (("n_steps", 0), ("dt", 0.0), ("dt", -1.0))),
    *((lambda n=name, v=value: LinearChain(**{n: v}), name)
      for name, value in (("n_oscillators", 0), ("n_steps", 0), ("dt", 0.0))),
    *((lambda n=name, v=value: Dipole(**{n: v}), name)
      for name, value in (("n_points", 2), ("n_steps", 0), ("dt", 0.0), ("box", (1.0, 1.0)))),
    *((lambda v=value: Scaling(v), "factor") for value in (0.0, -1.0, float("nan"))),
    (lambda: Laplace(1), "resolution"), (lambda: CartPoles(0), "n_poles"), (lambda: CartPoles(1, 0.0), "dt"),
    (lambda: SwingUp(CartPoles(), None, 0, 1.0), "n_steps")])
def test_simulators_refuse_settings_that_make_no_sense(make, name):
    with pytest.raises(ValueError, match=name):
        make()


def of_poisson(optimizer):
    target = held_out_fields(2, 3)[1]
    return poisson.build_model(3, 0, optimizer), target, target, 1.0


def of_regression(optimizer, task):
    model = regression.build_model(task, 2)
    model.compile(optimizer=optimizer, loss=regression.loss)
    return model, *(array[:32] for array in regression.draw_data(task, 0)[0]), 2 / 32


def of_toy_problem(optimizer, factor):
    model = toy_problem.build_model(0, factor)
    model.compile(optimizer=optimizer, loss=toy_problem.loss)
    return model, *(array[:40] for array in toy_problem.draw_data(0)[0]), 1 / 40


@pytest.mark.parametrize("kappa", [-0.5, -1.0])
@pytest.mark.parametrize("system, choice, truncation", [
    (of_poisson, (), 1e-5), (of_regression, ("toy_1d",), 1e-3), (of_regression, ("polynomial",), 1e-3),
    (of_toy_problem, (1.0,), 1e-2), (of_toy_problem, (0.01,), 1e-2)])
def test_an_update_is_that_of_the_explicit_svd(system, choice, truncation, kappa):
    """Δθ = −η J^κ g by the SVD of J taken row by row, with g = c (y − y*) for the c of each system's loss.

    The toy problem has n = 80 rows and p = 30 columns, and the others have more columns than rows.

    τ is far above the rounding of float32 derivatives, 6e-8 σ_max, or all σ are; the tolerance is the one
    over the other, with room for sums over rows.
    """
    model, x, target, factor = system(JacobianPower(0.01, kappa, truncation), *choice)
    before, outcome = flat(model.trainable_variables), model(x).numpy().astype(float)
    jacobian = jacobian_by_rows(lambda: model(x), model.trainable_variables)
    sigma = np.linalg.svd(jacobian, compute_uv=False)
    assert np.abs(sigma / sigma[0] / truncation - 1).min() > 0.01                   # none sits on the cut
    gradient = factor * np.ravel(outcome - np.array(target))
    expected = -0.01 * power_by_svd(jacobian, kappa, truncation) @ gradient
    model.train_on_batch(x, target)
    step = flat(model.trainable_variables) - before
    assert np.linalg.norm(step - expected) < 1e-3 * np.linalg.norm(expected) and model.route == "factored"


RESUMED = [     # script, flags, epochs of both parts, curves beside the losses, arrays of the provenance
    ("Toy_Problem/submit_LM.py", "--lambda 0.01", (1, 2), (), ["damping"]),
    ("Toy_Problem/submit_HIG_adaptive.py", "--lambda 0.01", (1, 2), (), ["learning_rate"]),
    ("Toy_Problem/submit_Adam.py", "--lambda 1 --evaluate-every 3", (4, 7), ["path_y1"], ()),
    ("Regression/submit_Adam.py", "--batch-size 999", (4, 9), ["validation_loss"], ()),
    ("Poisson/submit_Adam.py", "--resolution 4", (17, 23), ["x_distance_l1", "example_x"], ()),
    ("Poisson/submit_HIG.py", "--resolution 4 --batch-size 2", (17, 23), ["x_distance_l1"], ["rank"]),
    pytest.param("Nonlinear_Oscillators/submit_Muon.py", "--hidden 6,5", (1, 2), (), (),
                 marks=pytest.mark.slow)]


@pytest.mark.parametrize("script, flags, epochs, curves, logged", RESUMED)
def test_a_run_in_two_parts_is_the_whole_run_bit_for_bit(tmp_path, script, flags, epochs, curves, logged):
    """Data, weights, state of the optimizer, what its step control has come to, and its curves."""
    for folder, *words in (["whole", epochs[1]], ["parts", epochs[0]], ["parts", epochs[1], "--resume"]):
        assert tiny.submit(script, *flags.split(), "--quiet", "--output", tmp_path / folder, "--epochs",
                           *words) == 0
    whole, parts = (load_results(next((tmp_path / folder).glob("*_RESULTS.pickle")))
                    for folder in ("whole", "parts"))
    assert whole["epochs"].tolist() == list(range(epochs[1] + 1))
    for key in ("epochs", "train_loss", "test_loss", *curves):
        np.testing.assert_array_equal(whole[key], parts[key])
    for key in logged:
        np.testing.assert_array_equal(whole["provenance"][key], parts["provenance"][key])
        assert key == "rank" or len(set(whole["provenance"][key])) == len(whole["provenance"][key])
    measured = whole["test_loss"][np.isfinite(whole["test_loss"])]
    assert np.isfinite(whole["train_loss"]).all() and measured[-1] < measured[0]


def evaluated(folder, *flags):
    """The curve of seven epochs of Adam on the toy problem with λ = 1, each a batch of all samples."""
    tiny.submit("Toy_Problem/submit_Adam.py", "--output", folder, "--quiet", "--lambda", 1, "--epochs", 7,
                "--batch-size", 256, *flags)
    return load_results(next(folder.glob("*_RESULTS.pickle")))


def test_the_same_run_with_fewer_measurements(tmp_path):
    """Measured epochs have the values of a run that measures all, bit for bit; the others NaN.

    The training loss is that of the batch before its update, here that after the epoch before; that of every
    epoch tells that a run has died.
    """
    full, some = evaluated(tmp_path / "full"), evaluated(tmp_path / "some", "--evaluate-every", 3)
    assert some["sim_par"]["evaluate_every"] == 3 and "evaluate_every" not in full["sim_par"]
    measured = np.arange(8) % 3 == 0
    for key in ("test_loss", "activation_mean", "activation_std", "path_y1", "path_y2"):
        np.testing.assert_array_equal(some[key], np.where(measured, full[key], np.nan))
    before = np.r_[full["train_loss"][0], full["train_loss"][:-1]]
    np.testing.assert_allclose(some["train_loss"], before, rtol=1e-6)  # float32: another order of summation
    assert not np.allclose(some["train_loss"][1:], full["train_loss"][1:], rtol=1e-4)
    died = evaluated(tmp_path / "died", "--evaluate-every", 1000, "--learning-rate", 1e30)
    assert died["provenance"]["state"] == "diverged" and died["epochs"][-1] < 7
