"""hig.runs.training, and the submit scripts: curves, budgets, signals, resuming, diverging."""

import hashlib
import os
import pty
import signal
from concurrent.futures import ThreadPoolExecutor
import sys
from contextlib import suppress

import keras
import numpy as np
import pytest

from hig.runs import results as curves
from hig.runs.cli import SettingsError
from hig.runs.results import load_results, pickled
from hig.runs.training import entries_to_keep
from hig.runs.weights import load_weights, save_weights
from tests import tiny
from tests.slurm import wait_for

SCRIPT, RESULTS = "Nonlinear_Oscillators/submit_HIG.py", "NLO_HIG_RESULTS.pickle"
EPOCHS = 6                 # some seconds: long enough to be killed in the middle


def wait_for_epoch(path, epoch):
    """Until the curve at `path` has that epoch."""
    wait_for(lambda: path.exists() and len(load_results(path)["epochs"]) > epoch)


def losses(path):
    results = load_results(path)
    return np.stack([results["train_loss"], results["test_loss"]])


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """The pickle of a short run in this process, compiled by XLA: `as_graphs` comes after it."""
    folder = tmp_path_factory.mktemp("HIG")
    assert tiny.submit(SCRIPT, "--output", folder, "--epochs", EPOCHS, "--quiet") == 0
    return folder / RESULTS


def test_curve_in_the_published_schema(uninterrupted):
    results = load_results(uninterrupted)
    assert results["epochs"].tolist() == list(range(EPOCHS + 1))
    assert results["simulation_time"][0] == 0 and np.all(np.diff(results["simulation_time"]) > 0)
    np.testing.assert_allclose(results["epoch_time"], np.diff(results["simulation_time"]), rtol=1e-12)
    assert results["test_loss"][-1] < results["test_loss"][0]
    provenance = results["provenance"]
    assert provenance["state"] == "finished" and provenance["tensorflow"].startswith("2.")
    assert len(provenance["rank"]) == EPOCHS and np.all(provenance["rank"] <= 512)
    assert np.all(provenance["sigma_min"] >= 1e-6 * provenance["sigma_max"])
    parameters = (uninterrupted.parent / "NLO_HIG_PARAMETERS.txt").read_text().splitlines()
    assert parameters == [f"{key}: {value}" for key, value in results["sim_par"].items()]


def test_killed_and_resumed_equals_uninterrupted(uninterrupted, tmp_path, capsys):
    """kill -9 after the second epoch; the resumed run prints nothing, not even TensorFlow's lines. It has the
    losses of a run in another process, bit for bit, and its time goes on. Before the kill, another run into
    the same folder is refused.
    """
    results, words = tmp_path / RESULTS, ["--output", tmp_path, "--quiet", "--epochs"]
    process = tiny.process(SCRIPT, *words, 100_000)
    wait_for(results.exists)
    assert tiny.submit(SCRIPT, *words, 1) == 2
    refusal, = capsys.readouterr().err.splitlines()
    assert f"process {process.pid} on " in refusal and f"is writing NLO_HIG in {tmp_path}" in refusal
    wait_for_epoch(results, 2)
    process.kill()
    process.communicate()
    assert (tmp_path / ".NLO_HIG.lock").exists()
    killed = load_results(results)
    assert 2 < len(killed["epochs"]) <= EPOCHS
    resumed = tiny.process(SCRIPT, *words, EPOCHS, "--resume")
    assert (*resumed.communicate(timeout=600), resumed.returncode) == ("", "", 0)
    assert not list(tmp_path.glob(".*"))
    np.testing.assert_array_equal(losses(results), losses(uninterrupted))
    np.testing.assert_array_equal(load_results(results)["simulation_time"][:3], killed["simulation_time"][:3])


@pytest.mark.parametrize("number, presses, state, epochs", [
    (signal.SIGINT, 1, "interrupted", 3), (signal.SIGINT, 2, "interrupted", 2),
    (signal.SIGTERM, 1, "terminated", 3)])
@pytest.mark.parametrize("eager", [True, False])
def test_a_run_that_is_stopped_in_an_update_keeps_its_epochs(tmp_path, monkeypatch, capsys, eager, number,
                                                             presses, state, epochs):
    """A signal in the third update of two an epoch: the epoch is finished, or given up after a second Ctrl-C.
    Resumed, the run ends as if nothing had been.
    """
    def press():
        for _ in range(presses):
            os.kill(os.getpid(), number)
    stopped, straight = tmp_path / "stopped", tmp_path / "straight"
    with monkeypatch.context() as patch:
        tiny.before_update(patch, 3, press)
        assert tiny.run(stopped, eager=eager, quiet=False) == state
    said = capsys.readouterr().err
    assert f"HIG: interrupted after {epochs - 1} epochs" in said and "continue with --resume" in said
    assert f"curve in {tiny.pickle_of(stopped)}" in said
    results = load_results(tiny.pickle_of(stopped))
    assert len(results["epochs"]) == epochs and results["provenance"]["state"] == "interrupted"
    assert tiny.run(stopped, eager=eager, resume=True) == tiny.run(straight, eager=eager) == "finished"
    np.testing.assert_array_equal(tiny.losses(stopped), tiny.losses(straight))


@pytest.mark.parametrize("opened", [os.pipe, pty.openpty])
def test_a_run_that_nobody_reads_any_more_keeps_its_epochs(tmp_path, monkeypatch, opened):
    """Ctrl-C also ends a `tee` behind the run; the terminal of a run in the background may be closed."""
    def close_and_press():
        os.close(reader)
        os.kill(os.getpid(), signal.SIGINT)
    reader, writer = opened()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", os.fdopen(writer, "w", 1))
        tiny.before_update(patch, 3, close_and_press)
        assert tiny.run(tmp_path, quiet=False) == "interrupted"
        with pytest.raises(OSError):                        # what a message would have raised
            print("more", file=sys.stderr)
        with suppress(OSError):
            sys.stderr.close()
    assert len(load_results(tiny.pickle_of(tmp_path))["epochs"]) == 3


def test_time_budget(tmp_path):
    """The run ends with the first epoch that goes beyond the budget."""
    assert tiny.run(tmp_path, epochs=None, max_time=0.5) == "finished"
    times = load_results(tiny.pickle_of(tmp_path))["simulation_time"]
    assert times[-2] < 0.5 <= times[-1]


def test_what_is_moved_is_said_and_a_finished_run_leaves_no_dated_checkpoint(tmp_path, capsys):
    """Of an interrupted run the checkpoint is kept beside its curve."""
    tiny.run(tmp_path, seed=3)
    tiny.run(tmp_path, seed=4, quiet=False)
    moved, = tmp_path.glob("TINY_HIG_RESULTS_*.pickle")
    assert f"HIG: earlier results moved to {moved.name}\n" in capsys.readouterr().err
    assert load_results(moved)["sim_par"]["seed"] == 3
    assert not list(tmp_path.glob("TINY_HIG_CHECKPOINT_*"))
    results = tiny.pickle_of(tmp_path)
    content = load_results(results)
    content["provenance"]["state"] = "interrupted"
    results.write_bytes(pickled(content))
    tiny.run(tmp_path, seed=5)
    assert capsys.readouterr().err == ""
    assert len(list(tmp_path.glob("TINY_HIG_RESULTS_*.pickle"))) == 2
    assert len(list(tmp_path.glob("TINY_HIG_CHECKPOINT_*.npz"))) == 1


@pytest.mark.parametrize("missing, words", [(True, "no interrupted run"), (False, "seed is 2 but was 1")])
def test_what_cannot_be_resumed(tmp_path, missing, words):
    """Damaged checkpoints: test_faults.py."""
    tiny.run(tmp_path, optimizer="Adam")
    if missing:
        (tmp_path / "TINY_Adam_CHECKPOINT.npz").unlink()
    before = tiny.contents(tmp_path)
    with pytest.raises(SettingsError, match=words) as error:
        tiny.run(tmp_path, optimizer="Adam", resume=True, seed=1 if missing else 2)
    assert "\n" not in str(error.value) and tiny.contents(tmp_path) == before


def test_a_long_curve_is_thinned_where_it_is_dense(tmp_path, monkeypatch):
    """Its file keeps to what a reader takes; both ends stay, as measured, and the run can be resumed."""
    thinned, whole = tmp_path / "thinned", tmp_path / "whole"
    for folder, epochs, resume in ((whole, 30, False), (thinned, 25, False), (thinned, 30, True)):
        if folder == thinned:                                           # 8 numbers for each entry
            size = tiny.pickle_of(whole).stat().st_size
            monkeypatch.setattr(curves, "MAX_BYTES", size - 8 * 8 * 14)
        assert tiny.run(folder, epochs=epochs, resume=resume, eager=False) == "finished"
    assert tiny.pickle_of(thinned).stat().st_size <= curves.MAX_BYTES
    monkeypatch.undo()
    thinned, whole = (load_results(tiny.pickle_of(folder)) for folder in (thinned, whole))
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
    last = tiny.losses(tmp_path, "Adam")[-1]
    np.testing.assert_allclose(np.mean(np.square(model(tiny.STATES))), last, rtol=1e-6)


def test_loaded_weights_are_on_record_and_a_run_from_others_is_not_resumed(tmp_path):
    """Name and hash go into sim_par and PARAMETERS; a run without --load-weights has no such entry."""
    for seed in (2, 3):
        save_weights(tiny.build_model(seed).network, tmp_path / f"{seed}.weights.h5")
    tiny.run(tmp_path, load_weights=tmp_path / "2.weights.h5", epochs=1)
    results = tiny.pickle_of(tmp_path)
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
    adam = load_results(tiny.pickle_of(tmp_path, "Adam"))
    assert "load_weights" not in adam["sim_par"] and "rank" not in adam["provenance"]
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
    with ThreadPoolExecutor(1) as threads:
        assert threads.submit(tiny.run, tmp_path / "thread").result() == "finished"
    tiny.run(tmp_path)
    np.testing.assert_array_equal(*map(tiny.losses, (tmp_path, tmp_path / "thread")))
