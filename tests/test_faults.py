"""Faults while a run writes: killed between any two file operations, full disks, two runs at once, LAPACK,
the clock.
"""

import errno
import fcntl
import gc
import math
import os
import signal
import time
from pathlib import Path
from unittest.mock import Mock

import keras
import numpy as np
import pytest
import tensorflow as tf

from hig import memory
from hig.runs import files, training
from hig.runs.locks import locked
from hig.runs.results import load_results
from hig.runs.training import SettingsError
from tests.tiny import EPOCHS, before_update, contents, losses, pickle_of, run


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The losses of an uninterrupted run: optimizer → array."""
    found = {}
    for optimizer in ("HIG", "Adam"):
        folder = tmp_path_factory.mktemp(optimizer)
        assert run(folder, optimizer=optimizer) == "finished"
        found[optimizer] = losses(folder, optimizer)
        assert len(found[optimizer]) == EPOCHS + 1 and found[optimizer][-1] < found[optimizer][0]
    return found


# ---------------------------------------------------------------------------------------- killed in between

class Killed(BaseException):
    """What a killed process does from then on: nothing, not even its clean-up."""


class Disk:
    """Counts the file operations of hig's modules; from number `last` on, none is carried out. A process that
    is killed in fsync leaves half of the file's content. On a full disk, files can still be removed.
    """

    def __init__(self, monkeypatch, fault, last=math.inf):
        self.fault, self.last, self.count = fault, last, 0
        for owner, name in ((files, "open"), (os, "fsync"), (os, "replace"),
                            *[(Path, "unlink")] * (fault is Killed)):
            monkeypatch.setattr(owner, name, self._counted(getattr(owner, name, open), name), raising=False)

    def _counted(self, operation, name):
        def counted(*arguments, **options):
            self.count += 1
            if self.count > self.last:
                if name == "fsync":
                    os.ftruncate(arguments[0], os.fstat(arguments[0]).st_size // 2)
                raise self.fault(errno.ENOSPC, "No space left on device")
            return operation(*arguments, **options)
        return counted


@pytest.mark.parametrize("fault, optimizer, every", [
    (Killed, "Adam", 5), (OSError, "Adam", 4), *(pytest.param(*row, marks=pytest.mark.slow) for row in (
        (Killed, "Adam", 1), (OSError, "Adam", 1), (Killed, "HIG", 4)))])
def test_killed_or_without_space_at_any_file_operation(tmp_path, monkeypatch, whole, fault, optimizer, every):
    """A run over an earlier one's results ends at each operation in turn, or at some of them. Resumed, its
    losses are bit for bit those of an uninterrupted run, and the earlier curve is not lost. That the disk is
    full is told in one sentence, and then nothing is left half written.
    """
    monkeypatch.setattr(training, "SAVING_SHARE", math.inf)             # write every epoch
    trial = tmp_path / "trial"
    run(trial, seed=2, epochs=1, optimizer=optimizer)
    before = contents(trial)
    with pytest.MonkeyPatch.context() as patch:
        disk = Disk(patch, fault)
        run(trial, optimizer=optimizer)
    # open, fsync, replace: of the parameters, and of two files for each entry; then what makes room for them
    assert disk.count > 3 * (1 + 2 * (EPOCHS + 1))
    outcomes = []
    for last in range(0, disk.count, every):
        folder = tmp_path / str(last)
        folder.mkdir()
        for name, content in before.items():
            (folder / name).write_bytes(content)
        earlier = pickle_of(folder, optimizer).read_bytes()
        with pytest.MonkeyPatch.context() as patch, pytest.raises(fault) as raised:
            Disk(patch, fault, last)
            run(folder, optimizer=optimizer)
        if fault is OSError:
            assert str(raised.value) == (f"cannot write to the folder {folder}: No space left on device; "
                                         "what was saved before is intact")
            assert not list(folder.glob(".*"))
        del raised
        gc.collect()  # the system closes the files of a killed process, and thus gives up its lock
        assert earlier in contents(folder).values()
        try:
            state = run(folder, optimizer=optimizer, resume=True)
            outcomes.append("resumed")
        except SettingsError as error:  # the new run had not saved anything yet
            assert "no interrupted run to resume" in str(error) or "seed is 1 but was 2" in str(error)
            state = run(folder, optimizer=optimizer)
            outcomes.append("anew")
        assert state == "finished"
        np.testing.assert_array_equal(losses(folder, optimizer), whole[optimizer])
        assert earlier in contents(folder).values()
        assert not list(folder.glob(".*"))
        for path in folder.glob("*.pickle"):
            load_results(path)
    # "anew" at the start only
    assert outcomes == sorted(outcomes) and outcomes.count("resumed") >= len(outcomes) / 2


# ---------------------------------------------------------------------------------------- full disks

def test_weights_that_cannot_be_written(tmp_path, monkeypatch):
    target = tmp_path / "tiny.weights.h5"
    target.write_bytes(b"earlier")

    def fail(self, path, **options):
        Path(path).write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr(keras.Sequential, "save_weights", fail)
    with pytest.raises(OSError, match="No space left on device; what was saved before is intact"):
        run(tmp_path, save_weights=target)
    assert target.read_bytes() == b"earlier" and not list(tmp_path.glob(".*"))
    assert len(losses(tmp_path)) == EPOCHS + 1


# ---------------------------------------------------------------------------------------- two runs at once

def test_the_lock_is_exclusive_and_given_up(tmp_path):
    with locked(tmp_path / "TINY_HIG"):
        before = contents(tmp_path)
        with pytest.raises(BlockingIOError,
                           match=rf"process {os.getpid()} on .* is writing TINY_HIG in {tmp_path}"):
            run(tmp_path)
        assert contents(tmp_path) == before
        assert run(tmp_path, optimizer="Adam") == "finished"            # other results of the same folder
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("number", [errno.EIO, errno.EPERM, errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK])
def test_a_file_system_that_does_not_lock_is_named_or_used_without(tmp_path, monkeypatch, number):
    def refuse(*_):
        raise OSError(number, os.strerror(number))
    monkeypatch.setattr(fcntl, "flock", refuse)
    if number in (errno.EIO, errno.EPERM):
        with pytest.raises(OSError) as error:
            run(tmp_path)
        assert str(error.value) == f"cannot lock TINY_HIG in the folder {tmp_path}: {os.strerror(number)}"
    else:
        assert run(tmp_path) == "finished"


def test_what_a_killed_process_left_is_removed_and_nothing_else(tmp_path):
    """Files half written, and a lock, which holds nothing even if a living process has its number by now."""
    leftovers = [f".TINY_HIG_{name}.tmp" for name in ("RESULTS.pickle", "CHECKPOINT.npz", "PARAMETERS.txt")]
    others = [".TINY_HIG_2_RESULTS.pickle.tmp", ".TINY_Adam_RESULTS.pickle.tmp", "notes.tmp"]
    for name in leftovers + others:
        (tmp_path / name).write_bytes(b"half")
    (tmp_path / ".TINY_HIG.lock").write_text(f"process {os.getpid()} on here")
    run(tmp_path)
    assert sorted(contents(tmp_path)) == sorted([
        *others, "TINY_HIG_RESULTS.pickle", "TINY_HIG_CHECKPOINT.npz", "TINY_HIG_PARAMETERS.txt"])


# ---------------------------------------------------------------------------------------- damaged files

def damaged(content, cut, alter):
    """What can happen to a file: cut off at every `cut`-th byte, and every `alter`-th byte altered."""
    for length in range(0, len(content), cut):
        yield content[:length]
    for place in range(0, len(content), alter):
        yield content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1:]


@pytest.mark.parametrize("cut, alter", [(1500, 600), pytest.param(150, 60, marks=pytest.mark.slow)])
def test_a_damaged_checkpoint_is_refused_or_harmless(tmp_path, whole, cut, alter):
    run(tmp_path, optimizer="Adam", epochs=2)
    name, before, refused = "TINY_Adam_CHECKPOINT.npz", contents(tmp_path), 0
    for content in damaged(before[name], cut, alter):
        (tmp_path / name).write_bytes(content)
        try:
            run(tmp_path, optimizer="Adam", resume=True, epochs=2)      # of which nothing is left to train
        except SettingsError as error:
            assert "\n" not in str(error) and str(tmp_path) in str(error) and "cannot resume" in str(error)
            assert contents(tmp_path) == {**before, name: content}
            refused += 1
        else:
            assert len(content) == len(before[name])                    # altered, not cut off
            np.testing.assert_array_equal(losses(tmp_path, "Adam"), whole["Adam"][:3])
        for path, whole_content in before.items():
            (tmp_path / path).write_bytes(whole_content)
    assert refused > 5


@pytest.mark.parametrize("found", [None, b"", b"damaged", "of another run"])
def test_a_resumed_run_has_its_curve_from_the_checkpoint(tmp_path, whole, found):
    """Another pickle beside it is kept under a dated name, readable or not."""
    run(tmp_path / "other", simulator=lambda x, u: x + 2.0 * u)
    run(tmp_path, epochs=2)
    if found == "of another run":
        found = pickle_of(tmp_path / "other").read_bytes()
    pickle_of(tmp_path).unlink()
    if found is not None:
        pickle_of(tmp_path).write_bytes(found)
    assert run(tmp_path, resume=True) == "finished"
    np.testing.assert_array_equal(losses(tmp_path), whole["HIG"])
    assert [path.read_bytes() for path in tmp_path.glob("*_RESULTS_*")] == [found] * (found is not None)


# ---------------------------------------------------------------------------------------- in the update

@pytest.mark.parametrize("eager", [True, False])
def test_lapack_that_never_converges_ends_the_run_with_a_sentence(tmp_path, monkeypatch, capsys, eager):
    assert run(tmp_path / "whole", eager=eager) == "finished"
    whole, results = losses(tmp_path / "whole"), pickle_of(tmp_path)
    reason = "K (8, 8): no LAPACK eigendecomposition (evd, evr) converged"
    with monkeypatch.context() as patch:                                # in the middle of the second epoch
        before_update(patch, 4, Mock(side_effect=np.linalg.LinAlgError(reason)))
        assert run(tmp_path, eager=eager) == "failed"
    assert capsys.readouterr().err == (
        f"HIG stopped in epoch 2: {reason}; the curve up to there is in {results}\n")
    np.testing.assert_array_equal(losses(tmp_path), whole[:2])
    found = load_results(results)["provenance"]
    assert (found["state"], found["reason"]) == ("failed", reason)
    assert run(tmp_path, resume=True, eager=eager) == "finished"        # from the end of an epoch
    np.testing.assert_array_equal(losses(tmp_path), whole)


@pytest.mark.parametrize("error, state", [(MemoryError, "failed"), (ZeroDivisionError, None)])
def test_other_errors_of_an_update(tmp_path, monkeypatch, capsys, error, state):
    """No memory is the user's affair; anything else shows its traceback."""
    before_update(monkeypatch, 1, Mock(side_effect=error))
    if state:
        assert run(tmp_path, eager=False) == state
        assert "memory does not suffice" in capsys.readouterr().err
    else:
        with pytest.raises((error, tf.errors.UnknownError)):
            run(tmp_path, eager=False)
    assert len(losses(tmp_path)) == 1
    assert not list(tmp_path.glob(".*"))


def test_an_update_that_does_not_fit_the_memory_ends_the_run_with_its_size(tmp_path, monkeypatch, capsys):
    """Of fixed data: n, p and bytes, on stderr and in the pickle."""
    monkeypatch.setattr(memory, "available_memory", lambda: 0)
    assert run(tmp_path, eager=False) == "failed"
    sentence = ("a Jacobian of n = 8 rows and p = 17 columns takes 0.0 GiB of memory for each update, and "
                "0.0 GiB are free")
    assert sentence in capsys.readouterr().err
    assert load_results(pickle_of(tmp_path))["provenance"]["reason"].startswith(sentence)


@pytest.mark.parametrize("optimizer", ["HIG", "Adam"])
def test_not_a_number_in_the_first_update(tmp_path, capsys, optimizer):
    calls = iter(range(100))

    def simulator(x, u):  # finite when evaluated untrained, NaN from then on
        return x + u * (1.0 if next(calls) == 0 else math.nan)
    assert run(tmp_path, optimizer=optimizer, simulator=simulator) == "diverged"
    errors, results = capsys.readouterr().err, load_results(pickle_of(tmp_path, optimizer))
    assert len(errors.splitlines()) == 1 and str(pickle_of(tmp_path, optimizer)) in errors
    assert "diverged" in errors and "after epoch 1" in errors
    assert np.isfinite(results["train_loss"]).tolist() == [True, False]
    assert results["provenance"]["state"] == "diverged"


# ---------------------------------------------------------------------------------------- clock and signals

def test_a_clock_that_goes_backwards(tmp_path, monkeypatch, whole):
    """An hour earlier at each call: the times of the curve still ascend, and the losses are the same."""
    clock = iter(range(10**9, 0, -3600))
    monkeypatch.setattr(time, "time", lambda: float(next(clock)))
    assert run(tmp_path) == "finished"
    results = load_results(pickle_of(tmp_path))
    assert np.all(np.diff(results["simulation_time"]) > 0) and results["simulation_time"][-1] < 100
    np.testing.assert_array_equal(results["train_loss"], whole["HIG"])
    assert next(clock) >= 10**9 - 1000 * 3600                           # the patch did not run out


@pytest.mark.parametrize("when", ["resume", "_save"])
def test_a_signal_while_files_are_read_or_written(tmp_path, monkeypatch, whole, when):
    """SIGTERM outside of an epoch waits, too."""
    run(tmp_path, epochs=1)
    original = getattr(training.TrainingRun, when)

    def interrupted(self):
        os.kill(os.getpid(), signal.SIGTERM)
        original(self)
    with monkeypatch.context() as patch:
        patch.setattr(training.TrainingRun, when, interrupted)
        assert run(tmp_path, resume=True) in ("terminated", "finished")
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert run(tmp_path, resume=True) == "finished"
    np.testing.assert_array_equal(losses(tmp_path), whole["HIG"])
