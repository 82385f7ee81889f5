"""Where XLA is off, cannot compile, or computes something else than TensorFlow: training goes on, and is
right.
"""

import contextlib
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

import hig
from hig.backend import share_gpus
from hig.compiled import Compiler, full_precision
from tests.networks import (ETA, FEATURES, Case, assert_right_step, assert_same_step, compiled, derivatives,
                            moved, one_step, rows, squares, stack, targets, weights_of)
from tests.reference import flat
from tests.test_networks_layers import LAYERS, of

# --- float32 without XLA: TensorFlow's own kernels ----------------------------------------------------------

pytestmark = pytest.mark.xla

SERIES = {
    "lstm_then_dense": lambda: series(keras.layers.LSTM(8, return_sequences=True)),
    "gru_then_dense": lambda: series(keras.layers.GRU(8, return_sequences=True)),
    "convolution_then_dense": lambda: series(keras.layers.Conv1D(8, 3, padding="same"),
                                             keras.layers.Dense(4, "tanh")),
    "dense_on_series": lambda: series(keras.layers.Dense(8, "tanh"), keras.layers.Dense(4)),
    "one_step_series": lambda: series(keras.layers.Dense(8, "tanh"), keras.layers.Dense(1), steps=1)}


def series(*layers, steps=6):
    return of((steps, 2), *layers)


def step_in_float32(build):
    """One update at κ = 1 by the route by rows, in float32 without XLA, against Jᵀg from TensorFlow's tape.

    Tolerance: 24 bits in each of a few tens of terms.
    """
    case = build()
    model = compiled(case, hig.JacobianPower(1.0, kappa=1.0, truncation=0.0), jit_compile=False)
    y = targets(case, model)
    jacobian, gradient, penalty = derivatives(case, model, case.x, y)
    assert_same_step(one_step(case, model, y), moved(model, jacobian.T @ gradient + penalty, eta=1.0),
                     weights_of(model), 1e-4)


if __name__ == "__main__":
    for name, build in {**LAYERS, **SERIES}.items():
        print(name, flush=True)
        step_in_float32(build)


@pytest.mark.slow
def test_float32_without_xla_does_not_end_the_process():
    """In a process of its own: products of rank 4 with an axis of size 1 end it in TensorFlow 2.21 with
    oneDNN.
    """
    run = subprocess.run([sys.executable, "-m", "tests.test_without_xla"], cwd=Path(__file__).parents[1],
                         capture_output=True, text=True)
    assert run.returncode == 0, f"after {run.stdout.split()[-1:]}: {run.stderr[-1000:]}"


# --- XLA computes something else ----------------------------------------------------------------------------

def masked_distances(x, u):
    """Distances of three points in the plane; TensorFlow's gradient of the masked diagonal is 0, XLA's not a
    number.
    """
    points = tf.reshape(u, [-1, 3, 2])
    distances = tf.norm(points[:, :, None] - points[:, None], axis=-1)
    return tf.reduce_sum(tf.where(tf.eye(3, dtype=tf.bool), tf.zeros_like(distances), distances), axis=2)


def singular_values(x, u):
    """XLA's are accurate to 2e-8 in float64."""
    return tf.linalg.svd(tf.reshape(u, [-1, 3, 2]) + tf.constant([[3.0, 0], [0, 2], [0, 0]], u.dtype),
                         compute_uv=False)


PHYSICS = {"masked_distances": masked_distances, "singular_values": singular_values}


@pytest.mark.parametrize("optimizer", [lambda: keras.optimizers.SGD(ETA),
                                       lambda: hig.JacobianPower(ETA, kappa=1.0, truncation=0.0)],
                         ids=["gradient descent", "power"])
@pytest.mark.parametrize("name", PHYSICS)
def test_what_xla_computes_otherwise_runs_without_it(float64, name, optimizer):
    case = Case(stack(5, 6), PHYSICS[name])
    model = compiled(case, optimizer())
    assert_right_step(case, model, 1.0)
    assert name == "singular_values" or any("without XLA" in said for said in model.compiler.said)


@pytest.mark.parametrize("optimizer", [lambda: hig.HIG(ETA, truncation=1e-3),
                                       lambda: hig.HIG(ETA, truncation=1e-3, adaptive=True),
                                       lambda: hig.HIG(ETA, truncation=1e-3, krylov=2)],
                         ids=["fixed", "adaptive", "krylov"])
def test_a_masked_zero_that_comes_later(float64, optimizer):
    """The first batch has none, so that XLA is right for it; the second update equals one without XLA."""
    def masked_length(x, u):
        length = tf.norm(u * x[:, :2], axis=1, keepdims=True)
        return tf.where(x[:, 2:] > 0, length, 0.0 * x[:, 2:]) + 0.1 * u
    steps, padded = [], rows(FEATURES)
    padded[0] = [0, 0, -1]
    for jit_compile in ("auto", False):
        keras.utils.set_random_seed(3)
        model = hig.PhysicsModel(stack(5, 2), masked_length)
        model.compile(optimizer(), squares, jit_compile=jit_compile)
        model.train_on_batch(rows(FEATURES), rows(2))
        with pytest.warns(UserWarning, match="without XLA") if jit_compile else contextlib.nullcontext():
            model.train_on_batch(padded, rows(2))
        steps.append(flat(model.get_weights()))
    assert_same_step(*steps, np.zeros_like(steps[0]), 1e-9)


ROOT = (lambda x, u: tf.where(x[:, :1] > 0, u, tf.sqrt(tf.nn.relu(u - 100))))   # of zero
LOGARITHM = (lambda x, u: tf.where(u[:, :1] > -1e9, tf.where(x[:, :1] > 1e9, tf.math.log(0 * u[:, :1]), u),
                                   u[:, :1]))           # of a masked zero, times 0: the trap of tf.where


def test_a_derivative_that_stops_being_finite_is_named(float64):
    """The root of zero, met by the second batch: its loss is finite, and a warning names the weights."""
    model = compiled(Case(stack(5, 2), ROOT), jit_compile=False)
    model.train_on_batch(abs(rows(FEATURES)), rows(2))
    with pytest.warns(UserWarning, match="kernel.*not finite"):
        model.train_on_batch(rows(FEATURES), rows(2))


def test_a_derivative_that_is_not_finite_in_itself_is_named(float64):
    with pytest.raises(ValueError, match="kernel.*not finite.*tf.where"):
        compiled(Case(stack(5, 2), LOGARITHM)).train_on_batch(rows(FEATURES), rows(2))


# --- products with few digits -------------------------------------------------------------------------------

def with_ten_bits(tensor):
    """A float32 tensor cut to the mantissa of TF32, as GPUs from Ampere on multiply."""
    return tf.bitcast(tf.bitwise.bitwise_and(tf.bitcast(tensor, tf.int32), -1 << 13), tf.float32)


def test_the_proof_notices_products_of_ten_bits(monkeypatch):
    """Emulated in the factors of J: then no route by factors is right, and rows take over."""
    right = hig.jacobian.FactoredJacobian.__init__

    def coarse(self, inputs, cotangents, *places):
        right(self, [with_ten_bits(tf.constant(a)) for a in inputs],
              [with_ten_bits(tf.constant(c)) for c in cotangents], *places)
    keras.utils.set_random_seed(2)
    model = compiled(Case(stack(20, 20, 2), lambda x, u: u))
    monkeypatch.setattr(hig.jacobian.FactoredJacobian, "__init__", coarse)
    with pytest.warns(UserWarning):
        model.train_on_batch(rows(FEATURES), rows(2))
    assert model.route == "per sample"


def test_tf32_is_off_during_an_update_and_as_before_after_it():
    enabled, seen = tf.config.experimental.tensor_float_32_execution_enabled, []

    def physics(x, u):
        seen.append(enabled())
        return u
    before = enabled()
    model = compiled(Case(stack(5, 2), physics), run_eagerly=True)
    seen.clear()
    model.train_on_batch(rows(FEATURES), rows(2))
    assert seen and not any(seen)
    assert enabled() == before
    with pytest.raises(KeyError), full_precision():
        raise KeyError
    assert enabled() == before


def test_a_device_out_of_memory_is_not_a_matter_of_xla():
    calls = []

    def full(x):
        calls.append(tf.executing_eagerly())
        raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")
    with pytest.raises(tf.errors.ResourceExhaustedError, match="OOM"):
        Compiler().function(full, "The step")(tf.constant(1.0))
    assert len(calls) == 1


def test_what_xla_cannot_compile_only_in_training_runs_without_it():
    """The step is SGD's, by TensorFlow's own gradient. In inference the layer would leave x as it is."""
    class Halves(keras.layers.Layer):
        def call(self, x, training=False):
            halves = tf.numpy_function(lambda x: x / 2, [x], x.dtype)
            return tf.ensure_shape(halves, x.shape) if training else x

    network = keras.Sequential([keras.Input((FEATURES,)), Halves(), keras.layers.Dense(2)])
    model, x, y = compiled(Case(network, lambda x, u: u), keras.optimizers.SGD(ETA)), rows(FEATURES), rows(2)
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(model.loss(y, model(x, training=True)))
    expected = [w - ETA * g for w, g in zip(network.get_weights(), tape.gradient(loss, network.weights))]
    with pytest.warns(UserWarning, match="The step runs without XLA, which is slower: XLA cannot compile it"):
        model.train_on_batch(x, y)
    for weight, wanted in zip(network.get_weights(), expected):
        np.testing.assert_allclose(weight, wanted, rtol=1e-5)


def test_runs_share_a_card(monkeypatch):
    """By emulation, without a GPU: TensorFlow is asked to take memory as it needs it, for every card."""
    asked = []
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [f"{kind}:0", f"{kind}:1"])
    monkeypatch.setattr(tf.config.experimental, "set_memory_growth",
                        lambda *arguments: asked.append(arguments))
    share_gpus()
    assert asked == [("GPU:0", True), ("GPU:1", True)]


def test_the_evaluation_runs_without_xla_where_it_must():
    """Of the systems, on a simulator that XLA cannot compile."""
    from hig.runs.experiments import mean_losses
    model = compiled(Case(stack(5, 2), lambda x, u: u + tf.ensure_shape(
        tf.numpy_function(np.tanh, [u], u.dtype), u.shape)), "sgd")
    data = rows(FEATURES), rows(2)
    with pytest.warns(UserWarning, match="The evaluation runs without XLA"):
        losses = mean_losses(model, data, data)(0, None)
    u = model.network(data[0]).numpy()
    assert losses["test_loss"] == pytest.approx(np.mean(np.sum((u + np.tanh(u) - data[1]) ** 2, axis=1)),
                                                rel=1e-6)
