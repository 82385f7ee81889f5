"""hig.runs.training, and the submit scripts as processes: curves, budgets, signals, resuming, diverging."""

import functools
import hashlib
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import keras
import numpy as np
import pytest

from hig import optimizers, powers
from hig.runs import results as curves
from hig.runs.cli import SettingsError
from hig.runs.results import load_results, save_results
from hig.runs.training import entries_to_keep
from hig.runs.weights import load_weights, save_weights
from tests import tiny

EPOCHS = {"Adam": 120, "HIG": 6}  # a few seconds each: long enough to be killed in the middle
NAMES = pytest.param("Adam", marks=pytest.mark.slow), "HIG"
ROOT = Path(__file__).resolve().parents[1]


def submit(script, folder, *flags):
    command = [sys.executable, ROOT / f"Nonlinear_Oscillators/submit_{script}.py", "--output", folder, *flags]
    return subprocess.Popen([str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            text=True, cwd=folder)


def outcome(process):
    """(exit code, standard error) of a process that should end by itself."""
    _, errors = process.communicate(timeout=600)
    return process.returncode, errors


def wait_for_epoch(path, epoch):
    """Until the curve at `path` has that epoch."""
    deadline = time.monotonic() + 600
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
    """Short runs: function of the optimizer's name → folder."""
    @functools.cache
    def folder_of(name):
        folder = tmp_path_factory.mktemp(name)
        assert outcome(submit(name, folder, "--epochs", EPOCHS[name], "--quiet")) == (0, "")
        return folder
    return folder_of


@pytest.mark.parametrize("name", NAMES)
def test_curve_in_the_published_schema(uninterrupted, name):
    results = load_results(uninterrupted(name) / f"NLO_{name}_RESULTS.pickle")
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
    parameters = (uninterrupted(name) / f"NLO_{name}_PARAMETERS.txt").read_text().splitlines()
    assert parameters == [f"{key}: {value}" for key, value in results["sim_par"].items()]


@pytest.mark.parametrize("name", NAMES)
def test_killed_and_resumed_equals_uninterrupted(uninterrupted, tmp_path, name):
    """kill -9 after the second epoch; the resumed run has the same losses bit for bit, and its time goes on.
    """
    results = tmp_path / f"NLO_{name}_RESULTS.pickle"
    process = submit(name, tmp_path, "--epochs", "100000", "--quiet")
    wait_for_epoch(results, 2)
    process.kill()
    process.communicate()
    killed = load_results(results)
    assert 2 < len(killed["epochs"]) <= EPOCHS[name]
    assert outcome(submit(name, tmp_path, "--epochs", EPOCHS[name], "--quiet", "--resume")) == (0, "")
    np.testing.assert_array_equal(losses(results), losses(uninterrupted(name) / results.name))
    np.testing.assert_array_equal(load_results(results)["simulation_time"][:3], killed["simulation_time"][:3])


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_signals_keep_the_curve(uninterrupted, tmp_path, number, code):
    results = tmp_path / "NLO_HIG_RESULTS.pickle"
    process = submit("HIG", tmp_path)
    wait_for_epoch(results, 1)
    process.send_signal(number)
    exit_code, errors = outcome(process)
    assert exit_code == code
    assert "interrupted" in errors and str(results) in errors and "--resume" in errors
    curve, expected = losses(results), losses(uninterrupted("HIG") / results.name)
    epochs = min(curve.shape[1], 7)
    np.testing.assert_array_equal(curve[:, :epochs], expected[:, :epochs])
    assert load_results(results)["provenance"]["state"] == "interrupted"


@pytest.mark.parametrize("presses, epochs", [(1, [0, 1, 2]), (2, [0, 1])])
def test_a_run_that_is_stopped_in_an_update_keeps_its_epochs(tmp_path, monkeypatch, presses, epochs):
    """Ctrl-C in the third update of two an epoch: once, the epoch is finished; twice, it is given up.
    Resumed, the run ends as if nothing had been.
    """
    (tmp_path / "straight").mkdir()
    assert tiny.run(tmp_path / "straight") == "finished"
    calls = []

    def stopped(*arguments, **options):
        calls.append(1)
        for _ in range(presses if len(calls) == 3 else 0):
            os.kill(os.getpid(), signal.SIGINT)
        return powers.gram_coefficients(*arguments, **options)

    monkeypatch.setattr(optimizers, "gram_coefficients", stopped)
    (tmp_path / "stopped").mkdir()
    assert tiny.run(tmp_path / "stopped") == "interrupted"
    curve = tmp_path / "stopped" / "TINY_HIG_RESULTS.pickle"
    assert list(load_results(curve)["epochs"]) == epochs
    monkeypatch.undo()
    assert tiny.run(tmp_path / "stopped", resume=True) == "finished"
    np.testing.assert_array_equal(tiny.losses(curve),
                                  tiny.losses(tmp_path / "straight" / "TINY_HIG_RESULTS.pickle"))


def test_time_budget(tmp_path):
    """The run ends with the first epoch that goes beyond the budget."""
    assert tiny.run(tmp_path, epochs=None, max_time=0.5) == "finished"
    times = load_results(tmp_path / "TINY_HIG_RESULTS.pickle")["simulation_time"]
    assert times[-2] < 0.5 <= times[-1]


def test_what_is_moved_is_said_and_a_finished_run_leaves_no_dated_checkpoint(tmp_path, capsys):
    """Of an interrupted run the checkpoint is kept beside its curve."""
    tiny.run(tmp_path, seed=3)
    tiny.run(tmp_path, seed=4, quiet=False)
    moved, = tmp_path.glob("TINY_HIG_RESULTS_*.pickle")
    assert f"HIG: earlier results moved to {moved.name}\n" in capsys.readouterr().err
    assert load_results(moved)["sim_par"]["seed"] == 3
    assert not list(tmp_path.glob("TINY_HIG_CHECKPOINT_*"))
    results = tmp_path / "TINY_HIG_RESULTS.pickle"
    content = load_results(results)
    content["provenance"]["state"] = "interrupted"
    save_results(results, content)
    tiny.run(tmp_path, seed=5)
    assert capsys.readouterr().err == ""
    assert len(list(tmp_path.glob("TINY_HIG_RESULTS_*.pickle"))) == 2
    assert len(list(tmp_path.glob("TINY_HIG_CHECKPOINT_*.npz"))) == 1


def test_diverging_run(tmp_path, capsys):
    """SGD with an absurd learning rate: exit code 3, one sentence, and the curve up to the non-finite loss.
    """
    code = tiny.submit("Nonlinear_Oscillators/submit_SGD.py", "--output", tmp_path, "--learning-rate", "1e6",
                       "--quiet")
    errors = capsys.readouterr().err
    results = tmp_path / "NLO_SGD_RESULTS.pickle"
    assert code == 3
    assert len(errors.splitlines()) == 1 and "diverged" in errors and str(results) in errors
    curve = load_results(results)
    assert np.isfinite(curve["train_loss"][0]) and not np.isfinite(curve["train_loss"][-1])
    assert curve["provenance"]["state"] == "diverged"


@pytest.mark.parametrize("content, words", [
    (None, "no interrupted run"), (b"PK\x03\x04 damage", "cannot resume"), (b"whole", "seed is 2 but was 1")])
def test_what_cannot_be_resumed(tmp_path, content, words):
    tiny.run(tmp_path, optimizer="Adam")
    checkpoint = tmp_path / "TINY_Adam_CHECKPOINT.npz"
    if content is None:
        checkpoint.unlink()
    elif content != b"whole":
        checkpoint.write_bytes(content)
    before = tiny.contents(tmp_path)
    with pytest.raises(SettingsError, match=words) as error:
        tiny.run(tmp_path, optimizer="Adam", resume=True, seed=2 if content == b"whole" else 1)
    assert "\n" not in str(error.value)
    assert tiny.contents(tmp_path) == before


@pytest.mark.parametrize("optimizer", ["HIG", "Adam"])
def test_a_finished_run_can_be_prolonged(tmp_path, optimizer):
    whole, prolonged = tmp_path / "whole", tmp_path / "prolonged"
    for folder, epochs, resume in ((whole, 5, False), (prolonged, 3, False), (prolonged, 5, True)):
        folder.mkdir(exist_ok=True)
        assert tiny.run(folder, optimizer=optimizer, epochs=epochs, resume=resume) == "finished"
    name = f"TINY_{optimizer}_RESULTS.pickle"
    assert len(tiny.losses(whole / name)) == 6
    np.testing.assert_array_equal(tiny.losses(prolonged / name), tiny.losses(whole / name))


def test_a_long_curve_is_thinned_where_it_is_dense(tmp_path, monkeypatch):
    """Its file keeps to what a reader takes; both ends stay, what stays is what was measured, and the run can
    be resumed.
    """
    thinned, whole = tmp_path / "thinned", tmp_path / "whole"
    for folder, epochs, resume in ((whole, 30, False), (thinned, 25, False), (thinned, 30, True)):
        folder.mkdir(exist_ok=True)
        if folder == thinned:                                           # 8 numbers for each entry
            size = (whole / "TINY_HIG_RESULTS.pickle").stat().st_size
            monkeypatch.setattr(curves, "MAX_BYTES", size - 8 * 8 * 14)
        assert tiny.run(folder, epochs=epochs, resume=resume, eager=False) == "finished"
    assert (thinned / "TINY_HIG_RESULTS.pickle").stat().st_size <= curves.MAX_BYTES
    monkeypatch.undo()
    thinned, whole = (load_results(folder / "TINY_HIG_RESULTS.pickle") for folder in (thinned, whole))
    epochs = thinned["epochs"]
    assert 6 < len(epochs) < 18 and epochs[0] == 0 and epochs[-1] == 30 and np.all(np.diff(epochs) > 0)
    np.testing.assert_array_equal(thinned["train_loss"], whole["train_loss"][epochs])
    np.testing.assert_array_equal(thinned["provenance"]["sigma_max"],
                                  whole["provenance"]["sigma_max"][epochs[1:] - 1])
    assert np.all(thinned["epoch_time"] > 0)


def test_thinning_prefers_entries_with_a_test_loss():
    times, measured = np.arange(101.0), np.arange(101) % 10 == 3
    np.testing.assert_array_equal(entries_to_keep(times, measured, 10), [0, *range(3, 100, 10), 100])
    np.testing.assert_array_equal(entries_to_keep(times, measured, 5), [0, *range(13, 100, 20), 100])
    np.testing.assert_array_equal(entries_to_keep(times, measured & (times > 50), 5),
                                  [0, 19, 39, 53, 73, 93, 100])


def test_saved_weights_are_those_of_the_last_epoch(tmp_path):
    weights = tmp_path / "adam.weights.h5"
    tiny.run(tmp_path, optimizer="Adam", save_weights=weights)
    model = tiny.build_model(seed=7)
    load_weights(model.network, weights)
    last = tiny.losses(tmp_path / "TINY_Adam_RESULTS.pickle")[-1]
    np.testing.assert_allclose(np.mean(np.square(model(tiny.STATES))), last, rtol=1e-6)


def test_loaded_weights_are_on_record_and_a_run_from_others_is_not_resumed(tmp_path):
    """Name and hash go into sim_par and PARAMETERS; without --load-weights a run has no such entry, as ever.
    """
    for seed in (2, 3):
        save_weights(tiny.build_model(seed).network, tmp_path / f"{seed}.weights.h5")
    tiny.run(tmp_path, load_weights=tmp_path / "2.weights.h5", epochs=1)
    results = tmp_path / "TINY_HIG_RESULTS.pickle"
    digest = hashlib.sha256((tmp_path / "2.weights.h5").read_bytes()).hexdigest()[:16]
    record = f"2.weights.h5 (sha256 {digest})"
    assert load_results(results)["sim_par"]["load_weights"] == record
    assert f"load_weights: {record}\n" in (tmp_path / "TINY_HIG_PARAMETERS.txt").read_text()
    before = tiny.contents(tmp_path)
    with pytest.raises(SettingsError, match=r"load_weights is 3.weights.h5 .* but was 2.weights.h5"):
        tiny.run(tmp_path, load_weights=tmp_path / "3.weights.h5", resume=True)
    assert tiny.contents(tmp_path) == before
    for options in ({"load_weights": tmp_path / "2.weights.h5"}, {}):
        assert tiny.run(tmp_path, resume=True, epochs=2, **options) == "finished"
        assert load_results(results)["sim_par"]["load_weights"] == record
    tiny.run(tmp_path, optimizer="Adam", epochs=1)
    assert "load_weights" not in load_results(tmp_path / "TINY_Adam_RESULTS.pickle")["sim_par"]
    with pytest.raises(SettingsError, match="load_weights is 2.weights.h5 .* but was None"):
        tiny.run(tmp_path, optimizer="Adam", load_weights=tmp_path / "2.weights.h5", resume=True)


def test_wrong_weights_name_the_shapes_found_and_expected(tmp_path):
    path, network = tmp_path / "wrong.weights.h5", tiny.build_model(0).network
    before = [v.numpy() for v in network.variables]
    wrong = keras.Sequential([keras.Input((2,)), keras.layers.Dense(5), keras.layers.Dense(2)])
    wrong.save_weights(path)
    with pytest.raises(SettingsError) as error:
        load_weights(network, path)
    assert str(error.value) == (f"cannot load the weights {path}: it holds arrays of the shapes [(2,), (2, "
                                "5), (5,), (5, 2)], but the network has [(2,), (2, 3), (3,), (3, 2)]")
    for content in (b"", b"not an HDF5 file", path.read_bytes()[:1000]):
        path.write_bytes(content)
        with pytest.raises(SettingsError, match="cannot load the weights") as error:
            load_weights(network, path)
        assert "\n" not in str(error.value)
    for variable, value in zip(network.variables, before):
        np.testing.assert_array_equal(variable, value)


def test_outside_the_main_thread(tmp_path):
    """Where Python allows no signal handlers; the losses are those of the main thread."""
    (tmp_path / "thread").mkdir()
    with ThreadPoolExecutor(1) as threads:
        assert threads.submit(tiny.run, tmp_path / "thread").result() == "finished"
    tiny.run(tmp_path)
    np.testing.assert_array_equal(*(tiny.losses(folder / "TINY_HIG_RESULTS.pickle")
                                    for folder in (tmp_path, tmp_path / "thread")))
