"""The Poisson problem: PhiFlow's operator and noise, the published order of random numbers, whole runs."""

import itertools
import json
import re

import numpy as np
import pytest
import tensorflow as tf
from phi import math
from phi.tf.flow import CenteredGrid, Noise, batch, extrapolation, field

import Poisson
from hig.optimizers import HIG
from hig.runs.locks import locked
from hig.runs.results import load_results
from hig.runs.training import SettingsError
from Poisson import experiment
from Poisson.fields import held_out_fields, training_fields
from Poisson.simulator import Laplace
from tests import tiny
from tests.reference import flat


def stencil(n):
    """The matrix of Δ on n × n cells of size 1 with zero outside, written cell by cell."""
    matrix = np.zeros((n * n, n * n))
    for i, j in itertools.product(range(n), repeat=2):
        matrix[i * n + j, i * n + j] = -4
        for k, l in ((i + 1, j), (i - 1, j), (i, j + 1), (i, j - 1)):
            if 0 <= k < n and 0 <= l < n:
                matrix[i * n + j, k * n + l] = 1
    return matrix


# -------------------------------------------------------------------------------------------------- simulator

@pytest.mark.parametrize("resolution", [2, 5, 8])
def test_simulator_is_the_5_point_stencil(resolution):
    """Compiled, as in training. Float32: values up to 4·8, rounding 1e-7 of that."""
    x = np.random.default_rng(0).normal(size=(3, resolution**2)).astype(np.float32)
    laplace = Laplace(resolution)
    y = tf.function(lambda x: laplace(None, x), jit_compile=True)(x)
    np.testing.assert_allclose(y, x @ stencil(resolution), atol=1e-5)


def test_eigenfunction():
    """Δ sin(πj·2/9) sin(πk·3/9) = −4 (sin²(π/9) + sin²(3π/18)) times itself: manufactured solution."""
    j = np.arange(1, 9)
    x = np.outer(np.sin(np.pi * j * 2 / 9), np.sin(np.pi * j * 3 / 9)).reshape(1, 64).astype(np.float32)
    eigenvalue = -4 * (np.sin(np.pi / 9)**2 + np.sin(np.pi / 6)**2)
    np.testing.assert_allclose(Laplace()(None, tf.constant(x)), eigenvalue * x, atol=2e-6)         # float32


def test_inverse():
    """Against a dense solve in float64; with its condition of 32, 1e-13 is safe."""
    y = np.random.default_rng(1).normal(size=(3, 64))
    np.testing.assert_allclose(Laplace().inverse(tf.constant(y)), np.linalg.solve(stencil(8), y.T).T,
                               atol=1e-13)


# ---------------------------------------------------------------------------------------------------- data

@pytest.mark.parametrize("seed,batch_size,resolution,first",
                         [(0, 64, 8, 0), (2**32 - 1, 3, 5, 0), (7, 2, 4, 14)])
def test_fields_are_those_of_phiflow(seed, batch_size, resolution, first):
    """As drawn eagerly after `math.seed`, update by update, across a border of the pipeline's blocks.

    Up to rounding of float32 values of order 10: the pipeline folds constants.
    """
    pipeline = iter(training_fields(seed, batch_size, resolution, first))
    math.seed(seed)
    for update in range(first + 3):
        grid = CenteredGrid(Noise(batch(batch=batch_size)), extrapolation.ZERO, x=resolution, y=resolution)
        if update >= first:
            for ours, theirs in zip(next(pipeline), (grid, field.laplace(grid))):
                expected = np.reshape(theirs.values.native("batch,x,y"), (batch_size, -1))
                np.testing.assert_allclose(ours, expected, atol=1e-5)


def test_first_published_batch():
    """A summary of the 64 fields after `math.seed(0)`, from PhiFlow 3.4; 2.1 gives the same to 5e-7."""
    x, y = (np.reshape(f, (64, 8, 8)).astype(float) for f in next(iter(training_fields(0, 64, 8))))
    np.testing.assert_allclose(x.mean(axis=(1, 2)), 0, atol=1e-6)  # each field is normalised
    np.testing.assert_allclose(x.std(axis=(1, 2)), 1, atol=1e-5)
    np.testing.assert_allclose([x[:, 0, 0].mean(), x[:, 0, 0].std()], [0.0558144, 1.0015741], atol=1e-5)
    np.testing.assert_allclose(x[0, 0, :3], [0.3884199, 1.1227139, 1.8449583], atol=1e-5)
    np.testing.assert_allclose([y.mean(), y.std()], [0.0018446, 1.8790026], atol=1e-5)
    power = np.mean(np.abs(np.fft.fft2(x))**2, axis=0) / 64**2
    np.testing.assert_allclose(power[:3, :3], [[0, 0.1420619, 0.0126163], [0.1535935, 0.0615470, 0.0099377],
                                               [0.0120288, 0.0088744, 0.0030288]], atol=1e-6)


def test_the_sequence_goes_on_where_it_was_left():
    whole = list(training_fields(3, 2, 4).take(40))
    for first in (1, 16, 37):
        for left, right in zip(whole[first], next(iter(training_fields(3, 2, 4, first)))):
            np.testing.assert_array_equal(left, right)
    assert len({fields[1].numpy().tobytes() for fields in whole}) == 40                    # fresh every time


def test_held_out_fields():
    x, y = held_out_fields(256, 8)
    np.testing.assert_allclose(y, x.numpy() @ stencil(8), atol=1e-5)
    np.testing.assert_array_equal(x, held_out_fields(256, 8)[0])
    np.testing.assert_allclose(np.std(x, axis=1), 1, atol=1e-5)
    seen = np.concatenate([fields for fields, _ in training_fields(0, 64, 8).take(8)])
    assert np.abs(x[:, None] - seen[None]).max(axis=2).min() > 0.1  # no field is one of those


# ---------------------------------------------------------------------------------------------- network, loss

def test_initial_weights_depend_on_the_seed_alone():
    def weights(seed):
        return flat(experiment.build_model(4, seed, "adam").network.trainable_variables)
    first = weights(5)
    math.seed(0)
    tf.random.normal((3,))
    np.testing.assert_array_equal(first, weights(5))
    assert np.abs(first - weights(6)).max() > 0.1


def test_loss_and_error_of_the_solution():
    """½ Σ (y − y*)², of which Keras shows the sum over the batch; mean |x − x_gt| from the residual alone."""
    model = experiment.build_model(8, 0, "adam")
    x_gt, target = (fields[:7] for fields in held_out_fields(7, 8))
    logs = model.evaluate(target, target, batch_size=7, verbose=0, return_dict=True)
    solution = model.network(target).numpy().astype(float)
    residual = solution @ stencil(8) - target
    np.testing.assert_allclose(logs["loss"], np.sum(residual**2) / 2, rtol=1e-5)           # float32
    np.testing.assert_allclose(logs["x_distance_l1"], np.mean(np.abs(solution - x_gt)), rtol=1e-5)


def test_evaluation():
    model = experiment.build_model(4, 0, "adam")
    first = next(iter(training_fields(0, 3, 4)))
    evaluation = experiment.Evaluation(model, first, 3, every=10)
    untrained = evaluation(0, None)
    entry_1 = evaluation(1, model.train_on_batch(first[1], first[1], return_dict=True))
    assert np.isnan(entry_1["test_loss"])
    assert np.isfinite(evaluation(10, {"loss": 0, "x_distance_l1": 0})["test_loss"])
    for key in ("train_loss", "x_distance_l1"):  # both before any update
        np.testing.assert_allclose(untrained[key], entry_1[key], rtol=1e-5)
    example = evaluation.snapshot()
    difference = stencil(4) @ example["example_x"].ravel() - example["example_target"].ravel()
    np.testing.assert_allclose(example["example_residual"].ravel(), difference, atol=1e-5)
    np.testing.assert_allclose(stencil(4) @ example["example_x_ground_truth"].ravel(),
                               example["example_target"].ravel(), atol=1e-5)


# ------------------------------------------------------------------------------------------------------ flags

def settings(optimizer, folder, *flags, add=Poisson.flags):
    return tiny.settings("Poisson", optimizer, folder, "--resolution", 4, *flags, batch_size=2, flags=add,
                         learning_rate=0.01, truncation=None if optimizer == "Adam" else 1e-5)


def test_steps_are_epochs(tmp_path):
    assert [settings("HIG", tmp_path, flag, "7").epochs for flag in ("--steps", "--epochs")] == [7, 7]


def test_a_batch_beyond_the_memory_ends_with_one_sentence(tmp_path, capfd):
    assert tiny.submit("Poisson/submit_HIG.py", "--batch-size", 1000000, "--resolution", 100, "--output",
                       tmp_path) == 2
    errors = capfd.readouterr().err
    assert "GiB of memory" in errors and "reduce" in errors and errors.count("\n") == 1
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------------------------------------------- runs

def curve(folder, optimizer):
    return load_results(folder / f"POISSON_{optimizer}_RESULTS.pickle")


def test_pretraining_is_adam_and_then_hig(tmp_path):
    """A pretraining over after one update: HIG goes on from Adam's weights with the next batch."""
    flags = Poisson.pretraining_flags(1e-9, 3e-3)
    saved = str(tmp_path / "adam.weights.h5")
    experiment.run(settings("Adam", tmp_path, "--steps", "1", "--learning-rate", "3e-3", "--save-weights",
                            saved))
    experiment.run(settings("Adam_then_HIG", tmp_path, "--steps", "2", add=flags))
    experiment.run(settings("Adam_then_HIG", tmp_path, "--steps", "3", "--resume", add=flags))
    results = curve(tmp_path, "Adam_then_HIG")
    assert results["provenance"]["switch_epoch"] == 1
    np.testing.assert_array_equal(np.isnan(results["provenance"]["rank"]), [True, False, False])
    np.testing.assert_array_equal(results["train_loss"][:2], curve(tmp_path, "Adam")["train_loss"])

    model = experiment.build_model(4, 0, HIG(0.01, truncation=1e-5))
    model.network.load_weights(saved)
    for entry, (_, target) in zip((2, 3), training_fields(0, 2, 4, 1)):
        model.reset_metrics()
        loss = model.train_on_batch(target, target, return_dict=True)["loss"] / 2
        np.testing.assert_allclose(results["train_loss"][entry], loss, rtol=1e-5)


def test_saved_weights_are_where_another_run_starts(tmp_path):
    weights = str(tmp_path / "w.weights.h5")
    experiment.run(settings("Adam", tmp_path, "--steps", "10", "--save-weights", weights))
    last = curve(tmp_path, "Adam")["test_loss"][10]
    experiment.run(settings("HIG", tmp_path, "--steps", "1", "--load-weights", weights, "--scene",
                            str(tmp_path / "scenes")))
    results = curve(tmp_path, "HIG")
    np.testing.assert_allclose(results["test_loss"][0], last, rtol=1e-6)
    described = json.loads((tmp_path / "scenes" / "sim_000000" / "description.json").read_text())
    assert described["load_weights"] == results["sim_par"]["load_weights"]


def test_scene(tmp_path):
    """As in the pickle: the seconds count updates that have ended, the losses those done before."""
    experiment.run(settings("Adam", tmp_path, "--steps", "3", "--scene", str(tmp_path / "scenes")))
    scene, results = tmp_path / "scenes" / "sim_000000", curve(tmp_path, "Adam")
    times, losses = np.loadtxt(scene / "log_step_time.txt"), np.loadtxt(scene / "log_loss_Adam_0.txt")
    assert times[:, 0].tolist() == [1, 2, 3] and losses[:, 0].tolist() == [0, 1, 2]
    np.testing.assert_allclose(losses[:, 1], results["train_loss"][1:], rtol=1e-6)
    assert np.all((times[:, 1] > 0) & (times[:, 1] <= results["epoch_time"]))
    assert (scene / "description.json").exists()


def test_a_refused_run_creates_no_scene(tmp_path):
    with locked(tmp_path / "POISSON_Adam"), pytest.raises(BlockingIOError):
        experiment.run(settings("Adam", tmp_path, "--steps", "3", "--scene", str(tmp_path / "scenes")))
    assert not (tmp_path / "scenes").exists()


@pytest.mark.parametrize("folder", ["file", "file/inside", "odd"])
def test_a_bad_scene_is_refused_before_anything_is_moved(tmp_path, folder):
    (tmp_path / "file").write_text("in the way of a folder")
    (tmp_path / "odd" / "sim_old").mkdir(parents=True)
    experiment.run(settings("Adam", tmp_path, "--steps", "1"))
    before = sorted((path, path.stat().st_mtime_ns) for path in tmp_path.iterdir())
    with pytest.raises((SettingsError, OSError), match=re.escape(str(tmp_path / folder.split("/")[0]))):
        experiment.run(settings("Adam", tmp_path, "--steps", "1", "--scene", str(tmp_path / folder)))
    assert sorted((path, path.stat().st_mtime_ns) for path in tmp_path.iterdir()) == before


@pytest.mark.parametrize("seconds", [10, 11])
def test_a_pretraining_that_leaves_no_time_is_refused(tmp_path, seconds):
    with pytest.raises(SettingsError, match=rf"pretraining of {seconds} s .* of the 10 s"):
        experiment.run(settings("Adam_then_HIG", tmp_path, "--max-time", "10",
                                add=Poisson.pretraining_flags(seconds, 3e-3)))
    assert not list(tmp_path.iterdir())
