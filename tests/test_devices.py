"""Training with `krylov=` under TensorFlow's strategies for several devices and hosts, held to one device.

Processes of their own, because the devices of a process are fixed when TensorFlow starts (tests/devices.py).
All are in double precision, so that rounding is far below the tolerance.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

import hig
from tests import slurm
from tests.devices import BETWEEN_PROCESSES, CASES
from tests.networks import simulator, stack

ROOT = Path(__file__).resolve().parents[1]
PATIENCE = 900              # seconds for all processes of a test; a quiet machine takes 30
TOLERANCE = 1e-7            # of weights and logs: Keras keeps some of what it logs in single precision


def results(kind, folder, environments=({},)):
    """What processes of tests/devices.py have written, one for each environment; none outlives this call."""
    started = [subprocess.Popen([sys.executable, "-m", "tests.devices", kind, folder], cwd=ROOT, text=True,
                                stderr=subprocess.PIPE,
                                env={**os.environ, "WORKER": str(number), **environment})
               for number, environment in enumerate(environments)]
    try:
        for process in started:
            errors = process.communicate(timeout=PATIENCE)[1]
            assert process.returncode == 0, errors
    finally:
        for process in started:
            process.kill()
    return [np.load(folder / f"{kind}{number}.npz") for number in range(len(started))]


@pytest.fixture(scope="module")
def one_device(tmp_path_factory):
    return results("one", tmp_path_factory.mktemp("one"))[0]


def assert_same(found, expected, cases):
    assert {key.partition("/")[0] for key in found} == set(cases)
    for key in found:
        np.testing.assert_allclose(found[key], expected[key], rtol=TOLERANCE, atol=TOLERANCE, err_msg=key)


@pytest.mark.slow
def test_two_devices_of_one_process(one_device, tmp_path):
    """Weights, losses, metrics and spectrum after an epoch; its last batch is shared unevenly."""
    assert_same(results("mirrored", tmp_path)[0], one_device, CASES)


@pytest.mark.slow
def test_two_processes(one_device, tmp_path):
    """The same as workers on 127.0.0.1, which TF_CONFIG names: each ends with the same weights."""
    workers = [f"127.0.0.1:{slurm.free_port()}" for _ in range(2)]
    environments = [{"TF_CONFIG": json.dumps({"cluster": {"worker": workers},
                                              "task": {"type": "worker", "index": index}})}
                    for index in range(2)]
    for found in results("workers", tmp_path, environments):
        assert_same(found, one_device, BETWEEN_PROCESSES)


@pytest.mark.slow
@pytest.mark.skipif(bool(slurm.missing()), reason=slurm.missing())
def test_two_tasks_of_slurm(one_device, tmp_path):
    """The same where Slurm says which processes there are."""
    with slurm.running(tmp_path) as configuration:
        subprocess.run(["srun", "--ntasks=2", "--cpus-per-task=1", sys.executable, "-m", "tests.devices",
                        "slurm", tmp_path], cwd=ROOT, check=True, timeout=PATIENCE,
                       env={**os.environ, "SLURM_CONF": str(configuration), "PORT": str(slurm.free_port())})
    for number in range(2):
        assert_same(np.load(tmp_path / f"slurm{number}.npz"), one_device, BETWEEN_PROCESSES)


@pytest.mark.parametrize("options, loss, message", [
    ({}, "mse", "krylov=16"),
    ({"krylov": 4, "adaptive": True}, "mse", "adaptive=False"),
    ({"krylov": 4}, keras.losses.MeanSquaredError("mean_with_sample_weight"),
     r"reductions \['mean_with_sample_weight'\]"),
    ({"krylov": 4}, "mse", "were made for one")])
def test_what_several_devices_cannot_do_is_said(options, loss, message):
    """MirroredStrategy looks for its second device later only. The model is made outside its scope."""
    strategy = tf.distribute.MirroredStrategy(["cpu:0", "cpu:1"])
    model = hig.PhysicsModel(stack(2), simulator)
    with strategy.scope(), pytest.raises(ValueError, match=message):
        model.compile(hig.HIG(0.1, 1e-3, **options), loss)
