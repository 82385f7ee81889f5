"""What the tests of curves on disk share."""

import numpy as np
import pytest

from hig.runs.results import load_results


def curve(length=5, **more):
    """A small valid curve."""
    seconds = 0.5 * np.arange(length)
    return {"epochs": np.arange(length), "train_loss": np.exp(-seconds), "test_loss": 1.1 * np.exp(-seconds),
            "simulation_time": seconds, "epoch_time": np.diff(seconds),
            "sim_par": {"optimizer": "HIG", "learning_rate": 1.0, "batch_size": 128, "epochs": None}, **more}


@pytest.fixture
def file(tmp_path):
    return tmp_path / "NLO_HIG_RESULTS.pickle"


def read(file, data):
    file.write_bytes(data)
    return load_results(file)
