"""The toy problem: its definition, what a run records, one curve for each λ, what the conditioning does."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import hig
from hig.runs.results import load_results
from hig.runs.experiments import fixed_batches
from hig.runs.training import SettingsError, load_weights
from Toy_Problem import experiment, flags
from Toy_Problem.simulator import Scaling
from tests import tiny


def settings(folder, *arguments, optimizer="HIG"):
    return tiny.settings("Toy_Problem", optimizer, folder, *arguments, truncation=1e-6, flags=flags)


def weights_of(network):
    return [w.numpy().astype(float) for w in network.trainable_variables]


def forward(weights, x):
    """Hidden activations (B, 7) and outputs (B, 2) of the network in numpy, float64."""
    hidden = np.tanh(x @ weights[0] + weights[1])
    return hidden, hidden @ weights[2] + weights[3]


def test_the_loss_is_that_of_the_book():
    """½ (y₁ − sin 6x)² + ½ (λ y₂ − cos 9x)², sample by sample."""
    x, y = np.array([[-0.7], [0.0], [0.4]]), np.array([[0.3, -20.0], [1.0, 5.0], [-0.2, 80.0]])
    found = experiment.loss(experiment.truth(x), Scaling(0.01)(x, tf.constant(y)))
    expected = [((u - np.sin(6 * t)) ** 2 + (0.01 * v - np.cos(9 * t)) ** 2) / 2
                for (t,), (u, v) in zip(x, y)]
    np.testing.assert_allclose(found, expected, rtol=1e-14)                 # the same float64 operations


def test_data():
    (x, y), (x_test, y_test) = experiment.draw_data(3)
    assert x.shape == x_test.shape == (256, 1) and y.shape == y_test.shape == (256, 2)
    assert x.dtype == y.dtype == np.float32
    assert -1 <= x.min() < -0.95 and 0.95 < x.max() < 1  # 256 uniform points leave 5 % free with e⁻⁶
    np.testing.assert_allclose(y_test, np.hstack([np.sin(6 * x_test), np.cos(9 * x_test)]), atol=1e-6)
    assert not np.array_equal(x, x_test) and not np.array_equal(x, experiment.draw_data(4)[0][0])


def test_network_and_start():
    """30 weights, and the same start for every λ."""
    one, other = (weights_of(experiment.build_model(5, factor).network) for factor in (1.0, 0.01))
    assert sum(w.size for w in one) == 30
    for a, b in zip(one, other):
        np.testing.assert_array_equal(a, b)


def test_what_is_recorded(tmp_path):
    """Activations and path of the last epoch against the saved weights, in numpy; float32 gives 1e-5."""
    weights = tmp_path / "toy.weights.h5"
    chosen = settings(tmp_path, "--lambda", "0.01", "--epochs", "5", "--save-weights", weights)
    assert experiment.run(chosen) == "finished"
    results = load_results(tmp_path / "TOY_lambda_0.01_HIG_RESULTS.pickle")
    assert results["sim_par"]["lambda"] == 0.01 and results["provenance"]["updates_per_epoch"] == 8
    network = experiment.build_model(1, 1.0).network
    load_weights(network, weights)
    _, (x, y) = experiment.draw_data(0)
    hidden, outputs = forward(weights_of(network), x)
    residual = outputs * [1, 0.01] - y
    path = forward(weights_of(network), np.array([[results["sim_par"]["path_x"]]]))[1][0]
    expected = {"activation_mean": np.abs(hidden).mean(), "activation_std": np.abs(hidden).std(),
                "path_y1": path[0], "path_y2": path[1], "test_loss": (residual**2).sum() / 2 / len(x)}
    for key, value in expected.items():
        assert len(results[key]) == 6
        np.testing.assert_allclose(results[key][-1], value, rtol=1e-5, err_msg=key)
    assert (tmp_path / "TOY_lambda_0.01_HIG_RESULTS.pickle").stat().st_size < 6000      # 64 bytes an epoch


def test_one_curve_for_each_value_of_lambda_and_resuming(tmp_path):
    """An interrupted run has one of two curves: --resume prolongs that one and begins the other."""
    assert experiment.run(settings(tmp_path, "--lambda", "1", "--epochs", "2", optimizer="GN")) == "finished"
    assert experiment.run(settings(tmp_path, "--epochs", "3", "--resume", optimizer="GN")) == "finished"
    for factor in (1, 0.01):
        results = load_results(tmp_path / f"TOY_lambda_{factor}_GN_RESULTS.pickle")
        assert results["sim_par"]["lambda"] == factor and results["epochs"].tolist() == [0, 1, 2, 3]
    assert len(list(tmp_path.glob("*.pickle"))) == 2
    with pytest.raises(SettingsError, match="no interrupted run to resume"):
        experiment.run(settings(tmp_path, "--resume", optimizer="HIG"))


@pytest.mark.parametrize("states, expected", [
    ("finished finished", "finished"), ("diverged finished", "diverged"), ("finished diverged", "diverged"),
    ("interrupted", "interrupted"), ("diverged terminated", "terminated"), ("failed diverged", "failed")])
def test_how_a_run_of_two_curves_ended(tmp_path, monkeypatch, states, expected):
    left = states.split()
    monkeypatch.setattr(experiment, "run_one", lambda settings, factor: left.pop(0))
    assert experiment.run(settings(tmp_path)) == expected and not left


@pytest.mark.parametrize("values", [("1", "1"), ("0.01", "1e-2", "1"), ("1", "1.0000000001")])
def test_two_runs_cannot_write_one_curve(tmp_path, values):
    with pytest.raises(SettingsError, match="--lambda gives TOY_lambda_"):
        experiment.run(settings(tmp_path, "--lambda", *values))
    assert not list(tmp_path.iterdir())


def test_one_file_cannot_hold_two_networks(tmp_path):
    with pytest.raises(SettingsError, match="--lambda"):
        experiment.run(settings(tmp_path, "--save-weights", tmp_path / "a.weights.h5"))
    assert not list(tmp_path.iterdir())


def test_bad_conditioning_stops_adam_and_not_hig():
    """1200 updates with λ = 0.01: HIG has learnt both sines, Adam nothing of the second.

    The loss is ½⟨cos² 9x⟩ = 0.24 where the first sine is learnt and the second output is still zero. The
    bounds are wide: measured 2e-3 for HIG and 0.256 for Adam.
    """
    train_data, _ = experiment.draw_data(0)
    final = {}
    for optimizer in (hig.HIG(1.0, truncation=1e-6), keras.optimizers.Adam(1e-2)):
        model = experiment.build_model(0, 0.01)
        model.compile(optimizer=optimizer, loss=experiment.loss)
        batches, updates = fixed_batches(train_data, 32)
        model.fit(batches(0), steps_per_epoch=updates, epochs=150, verbose=0)
        outcome = forward(weights_of(model.network), train_data[0])[1] * [1, 0.01]
        final[optimizer.name] = ((outcome - train_data[1]) ** 2).sum(axis=1).mean() / 2
    second_missing = (train_data[1][:, 1] ** 2).mean() / 2
    assert final["hig"] < 0.1 * second_missing and final["adam"] > 0.9 * second_missing
