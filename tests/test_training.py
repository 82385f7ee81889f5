"""hig.training and the submit scripts as processes: curves, budgets, signals, resuming, diverging."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from hig.results import load_results

EPOCHS = {"Adam": 400, "GN": 6, "HIG": 6}           # a few seconds each: long enough to be killed in the middle
ROOT = Path(__file__).resolve().parents[1]


def submit(script, folder, *flags):
    command = [sys.executable, ROOT / "Nonlinear_Oscillators" / f"submit_{script}.py", "--output", folder, *flags]
    return subprocess.Popen([str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                            cwd=folder)


def outcome(process):
    """(exit code, standard error) of a process that should end by itself."""
    _, errors = process.communicate(timeout=120)
    return process.returncode, errors


def wait_for_epoch(path, epoch):
    """Until the curve at `path` has that epoch."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if path.exists() and len(load_results(path)["epochs"]) > epoch:
            return
        time.sleep(0.02)
    raise AssertionError(f"{path.name} did not reach epoch {epoch}")


def losses(path):
    results = load_results(path)
    return np.stack([results["train_loss"], results["test_loss"]])


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """Short runs: name of the optimizer → folder."""
    folders = {}
    for name in EPOCHS:
        folders[name] = tmp_path_factory.mktemp(name)
        assert outcome(submit(name, folders[name], "--epochs", EPOCHS[name], "--quiet")) == (0, "")
    return folders


@pytest.mark.parametrize("name", EPOCHS)
def test_curve_in_the_published_schema(uninterrupted, name):
    results = load_results(uninterrupted[name] / f"NLO_{name}_RESULTS.pickle")
    assert results["epochs"].tolist() == list(range(EPOCHS[name] + 1))
    assert results["simulation_time"][0] == 0 and np.all(np.diff(results["simulation_time"]) > 0)
    np.testing.assert_allclose(results["epoch_time"], np.diff(results["simulation_time"]), rtol=1e-12)
    assert results["test_loss"][-1] < results["test_loss"][0]
    provenance = results["provenance"]
    assert provenance["state"] == "finished" and provenance["tensorflow"].startswith("2.")
    assert ("rank" in provenance) == (name != "Adam")
    if name != "Adam":
        assert len(provenance["rank"]) == 6 and np.all(provenance["rank"] <= 512)
        assert np.all(provenance["sigma_min"] >= 1e-6 * provenance["sigma_max"])
    parameters = (uninterrupted[name] / f"NLO_{name}_PARAMETERS.txt").read_text().splitlines()
    assert parameters == [f"{key}: {value}" for key, value in results["sim_par"].items()]


@pytest.mark.parametrize("name", EPOCHS)
def test_killed_and_resumed_equals_uninterrupted(uninterrupted, tmp_path, name):
    """kill -9 after the second epoch; the resumed run has the same losses bit for bit, and its time goes on."""
    results = tmp_path / f"NLO_{name}_RESULTS.pickle"
    process = submit(name, tmp_path, "--epochs", "100000", "--quiet")
    wait_for_epoch(results, 2)
    process.kill()
    process.communicate()
    killed = load_results(results)
    assert 2 < len(killed["epochs"]) <= EPOCHS[name]
    assert outcome(submit(name, tmp_path, "--epochs", EPOCHS[name], "--quiet", "--resume")) == (0, "")
    np.testing.assert_array_equal(losses(results), losses(uninterrupted[name] / results.name))
    np.testing.assert_array_equal(load_results(results)["simulation_time"][:3], killed["simulation_time"][:3])


@pytest.mark.parametrize("number, code, word", [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 0, "terminated")])
def test_signals_keep_the_curve(uninterrupted, tmp_path, number, code, word):
    results = tmp_path / "NLO_HIG_RESULTS.pickle"
    process = submit("HIG", tmp_path)
    wait_for_epoch(results, 1)
    process.send_signal(number)
    exit_code, errors = outcome(process)
    assert exit_code == code
    assert word in errors and str(results) in errors and "--resume" in errors
    curve, expected = losses(results), losses(uninterrupted["HIG"] / results.name)
    epochs = min(curve.shape[1], 7)
    np.testing.assert_array_equal(curve[:, :epochs], expected[:, :epochs])
    assert load_results(results)["provenance"]["state"] == "interrupted"


def test_time_budget(tmp_path):
    """The run ends with the first epoch that goes beyond the budget."""
    assert outcome(submit("Adam", tmp_path, "--max-time", "0.5", "--quiet"))[0] == 0
    times = load_results(tmp_path / "NLO_Adam_RESULTS.pickle")["simulation_time"]
    assert times[-2] < 0.5 <= times[-1]


def test_an_earlier_curve_is_kept(tmp_path):
    for seed in ("3", "4"):
        assert outcome(submit("Adam", tmp_path, "--epochs", "1", "--seed", seed, "--quiet"))[0] == 0
    curves = {load_results(path)["sim_par"]["seed"] for path in tmp_path.glob("*.pickle")}
    assert curves == {3, 4}


def test_diverging_run(tmp_path):
    """SGD with an absurd learning rate: exit code 3, one sentence, and the curve up to the non-finite loss."""
    code, errors = outcome(submit("SGD", tmp_path, "--learning-rate", "1e6", "--quiet"))
    results = tmp_path / "NLO_SGD_RESULTS.pickle"
    assert code == 3
    assert len(errors.splitlines()) == 1 and "diverged" in errors and str(results) in errors
    curve = load_results(results)
    assert np.isfinite(curve["train_loss"][0]) and not np.isfinite(curve["train_loss"][-1])
    assert curve["provenance"]["state"] == "diverged"


@pytest.mark.parametrize("damage, words", [
    (lambda folder: (folder / "NLO_Adam_CHECKPOINT.npz").unlink(), "no interrupted run to resume"),
    (lambda folder: (folder / "NLO_Adam_RESULTS.pickle").unlink(), "no interrupted run to resume"),
    (lambda folder: (folder / "NLO_Adam_CHECKPOINT.npz").write_bytes(b"PK\x03\x04 damaged"), "cannot resume"),
    (lambda folder: (folder / "NLO_Adam_RESULTS.pickle").write_bytes(b"damaged"), "cannot resume"),
    (lambda folder: None, "learning_rate is 0.1 but was 0.0003"),
])
def test_what_cannot_be_resumed(uninterrupted, tmp_path, damage, words):
    for path in uninterrupted["Adam"].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    damage(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    flags = ["--learning-rate", "0.1"] if "learning_rate" in words else []
    code, errors = outcome(submit("Adam", tmp_path, "--resume", *flags))
    assert code == 2
    assert words in errors and len(errors.splitlines()) == 1
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_finished_run_can_be_prolonged(uninterrupted, tmp_path):
    for path in uninterrupted["Adam"].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    assert outcome(submit("Adam", tmp_path, "--resume", "--epochs", "402", "--quiet"))[0] == 0
    prolonged = losses(tmp_path / "NLO_Adam_RESULTS.pickle")
    assert prolonged.shape == (2, 403)
    np.testing.assert_array_equal(prolonged[:, :401], losses(uninterrupted["Adam"] / "NLO_Adam_RESULTS.pickle"))


def test_saved_weights_are_those_of_the_last_epoch(tmp_path):
    from hig.training import load_weights, mean_losses
    from Nonlinear_Oscillators import experiment
    weights = tmp_path / "adam.weights.h5"
    assert outcome(submit("Adam", tmp_path, "--epochs", "2", "--quiet", "--save-weights", weights))[0] == 0
    model = experiment.build_model(7)
    load_weights(model.network, weights)
    model.compile(optimizer="sgd", loss=experiment.loss)
    train, test = experiment.draw_data(1)
    loss = mean_losses(model, (train, train), (test, test))(0, None)["test_loss"]
    np.testing.assert_allclose(loss, load_results(tmp_path / "NLO_Adam_RESULTS.pickle")["test_loss"][-1], rtol=1e-6)
