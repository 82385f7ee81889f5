"""hig.interrupts: Ctrl-C during a long decomposition, and the LAPACK call that lets it through."""

import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from scipy.linalg import lapack

from hig.interrupts import dsytrd, interruptible
from hig.runs.results import load_results
from tests import tiny


def test_the_reduction_is_that_of_scipy():
    """The same routine through another door: equal to the bit."""
    A = np.random.default_rng(0).standard_normal((150, 150))
    A = np.array(A + A.T, order="F")
    for ours, theirs in zip(dsytrd(A.copy(order="F"), 16), lapack.dsytrd(A, lower=1, lwork=16 * 150)):
        np.testing.assert_array_equal(ours, theirs)


def test_results_and_errors_come_through():
    assert interruptible(lambda: 7) == 7
    with pytest.raises(np.linalg.LinAlgError, match="Singular"):
        interruptible(lambda: np.linalg.inv(np.zeros((2, 2))))


def test_a_wish_to_stop_is_granted_after_a_while(monkeypatch):
    """What takes longer than the patience is given up; what is done before is kept."""
    monkeypatch.setattr("hig.interrupts.PATIENCE", 0.2)
    done = threading.Event()
    with pytest.raises(KeyboardInterrupt):
        interruptible(lambda: done.wait(20), stop=lambda: True)
    done.set()
    assert interruptible(lambda: time.sleep(0.1) or "kept", stop=lambda: True) == "kept"


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_ctrl_c_ends_a_process_in_a_long_decomposition():
    """The reduction of 9000 rows takes more than half a minute; the signal must end it, the loop below it could not. On an
    idle machine that takes 0.3 s. One thread: on a busy machine several would wait for each other."""
    code = ("import numpy as np; from hig.interrupts import dsytrd, interruptible\n"
            "A = np.asfortranarray(np.eye(9000)) + 1e-3; print('begun', flush=True); interruptible(lambda: dsytrd(A, 32))")
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                               env={**os.environ, "OPENBLAS_NUM_THREADS": "1"})
    try:
        assert process.stdout.readline() == "begun\n"
        time.sleep(0.5)
        os.kill(process.pid, signal.SIGINT)
        assert "KeyboardInterrupt" in process.communicate(timeout=25)[1]
    finally:
        process.kill()


def test_a_run_that_is_stopped_in_a_decomposition_keeps_its_epochs(tmp_path, monkeypatch):
    """Ctrl-C in the fourth update of two an epoch: the curve has the first, and resumed it ends as if nothing had been."""
    (tmp_path / "straight").mkdir()
    assert tiny.run(tmp_path / "straight") == "finished"
    calls = []

    from hig import model, optimizers, powers

    def slow(*arguments, **options):
        calls.append(1)
        if len(calls) == 4:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5)
        return powers.gram_coefficients(*arguments, **options)

    monkeypatch.setattr(optimizers, "gram_coefficients", slow)
    monkeypatch.setattr(model, "LONG", 0)
    monkeypatch.setattr("hig.interrupts.PATIENCE", 0.1)
    (tmp_path / "stopped").mkdir()
    assert tiny.run(tmp_path / "stopped") == "interrupted"
    curve = tmp_path / "stopped" / "TINY_HIG_RESULTS.pickle"
    assert len(calls) == 4 and list(load_results(curve)["epochs"]) == [0, 1]
    monkeypatch.undo()
    assert tiny.run(tmp_path / "stopped", resume=True) == "finished"
    np.testing.assert_array_equal(tiny.losses(curve), tiny.losses(tmp_path / "straight" / "TINY_HIG_RESULTS.pickle"))
