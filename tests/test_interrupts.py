"""Ctrl-C during a run: once, the epoch under way is finished; twice, it is given up. The curve is kept either
way.
"""

import os
import signal

import numpy as np
import pytest

from hig.runs.results import load_results
from tests import tiny


@pytest.mark.parametrize("presses, epochs", [(1, [0, 1, 2]), (2, [0, 1])])
def test_a_run_that_is_stopped_in_an_update_keeps_its_epochs(tmp_path, monkeypatch, presses, epochs):
    """Ctrl-C in the third update of two an epoch; resumed, the run ends as if nothing had been."""
    (tmp_path / "straight").mkdir()
    assert tiny.run(tmp_path / "straight") == "finished"
    calls = []

    from hig import optimizers, powers

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
