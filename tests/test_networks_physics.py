"""Simulators, structures, losses, penalties and batches against a float64 SVD of the Jacobian taken row by
row.

One case alone:  python -m pytest tests/test_networks_physics.py -k batch_mean
"""

import keras
import numpy as np
import pytest
import tensorflow as tf

import hig
from hig.jacobian import unflatten
from tests.networks import (ETA, FEATURES, Case, Net, assert_same_step, convolution, dense, derivatives,
                            held_to_the_svd, hig_model, hold_to_the_svd, moved, rows, simulator, squares,
                            stack, targets, weights_of)
from tests.reference import power_by_svd

pytestmark = pytest.mark.filterwarnings("ignore:The Jacobian takes the route")   # said on purpose


# --- simulators ---------------------------------------------------------------------------------------------

def linear_system(x, u):
    """The solution of (2 + u uᵀ) y = x for every sample."""
    matrix = 2 * tf.eye(2, dtype=u.dtype) + u[:, :, None] * u[:, None, :]
    return tf.linalg.solve(matrix, x[:, :2, None])[:, :, 0]


def fourier(x, u):
    spectrum = tf.signal.rfft(u * x)
    return tf.concat([tf.math.real(spectrum), tf.math.imag(spectrum)[:, 1:]], axis=1)


def sparse_product(x, u):
    """XLA has no sparse matrices."""
    matrix = tf.sparse.from_dense(np.array([[1.0, 0.0], [0.0, 2.0], [0.5, 0.0]]))
    return tf.transpose(tf.sparse.sparse_dense_matmul(matrix, tf.transpose(u**2)))


@tf.custom_gradient
def numpy_sine(u):
    """Known to the tape by its gradient alone; XLA cannot call numpy."""
    def call(function):
        return tf.ensure_shape(tf.numpy_function(function, [u], u.dtype), u.shape)
    return call(np.sin), lambda upstream: upstream * call(np.cos)


def steps_in_time(x, u):
    """Explicit Euler steps of an oscillator whose stiffness and damping are the controls."""
    def step(i, position, speed):
        force = u[:, 0] ** 2 * position + tf.tanh(u[:, 1]) * speed
        return i + 1, position + 0.1 * speed, speed - 0.1 * force
    return tf.stack(tf.while_loop(lambda i, *_: i < 5, step, (0, x[:, 0], x[:, 1]), maximum_iterations=5)[1:],
                    axis=1)


def steps_in_a_python_loop(x, u):
    state = x[:, :2]
    for _ in range(10):
        state = state + 0.1 * tf.sin(u * state[:, ::-1])
    return state


class Linearized:
    """A simulator that knows its derivatives by the controls."""

    def __call__(self, x, u):
        return tf.stack([u[:, 0] * u[:, 1], x[:, 0] * u[:, 1]], axis=1)

    def linearize(self, x, u):
        by_first = tf.stack([u[:, 1], tf.zeros_like(u[:, 1])], axis=1)
        return self(x, u), tf.stack([by_first, tf.stack([u[:, 0], x[:, 0]], axis=1)], axis=2)


SIMULATORS = {
    "linear_system": linear_system,
    "fourier": lambda x, u: fourier(x[:, :2], u),
    "sparse_product": sparse_product,
    "numpy_function": lambda x, u: numpy_sine(u) * x[:, :2],
    "steps_in_time": steps_in_time,
    "steps_in_a_python_loop": steps_in_a_python_loop,
    "tf_function": tf.function(lambda x, u: simulator(x, u)),
    "cumulated": lambda x, u: tf.cumsum(tf.concat([u, x], axis=1), axis=1),
    "linearized": Linearized(),
    "scalar_outcome": lambda x, u: tf.reduce_sum(u**2 * x[:, :2], axis=1),
    "image": lambda x, u: tf.reshape(
        u[:, :, None, None] * tf.reshape(x[:, :2], [-1, 1, 2, 1]), [-1, 2, 2, 1]),
    "outcome_that_is_never_moved": lambda x, u: tf.concat([simulator(x, u), x], axis=1),
    # samples that know of each other
    "array_of_the_batch_as_outcome": lambda x, u: tf.concat([tf.constant(rows(2, seed=5)) + u, u**2], axis=1),
    "batch_mean": lambda x, u: simulator(x, u) - tf.reduce_mean(simulator(x, u), axis=0),
    "batch_maximum": lambda x, u: u / tf.reduce_max(tf.abs(u)),
    "neighbours": lambda x, u: u - 0.3 * tf.roll(u, 1, axis=0),
    "samples_in_another_order": lambda x, u: tf.reverse(u**2, [0]),
}
COUPLED = ["batch_mean", "batch_maximum", "neighbours", "samples_in_another_order"]


SIMULATED = {name: lambda name=name: Case(
    stack(4, 2), SIMULATORS[name], route="whole batch" if name in COUPLED else None) for name in SIMULATORS}


test_simulators = held_to_the_svd(SIMULATED)


@pytest.mark.parametrize("name", ["batch_mean", "array_of_the_batch_as_outcome"])
def test_coupled_samples_and_a_convolution(float64, name):
    hold_to_the_svd(Case(convolution(), SIMULATORS[name], route="whole batch"))


# --- structures ---------------------------------------------------------------------------------------------

def two_heads(form, by_convolution=False):
    """A network that hands out two arrays in the given form: keep its names out of alphabetical order."""
    def body(self, x):
        h = tf.reshape(self.trunk(x[:, :, None] if by_convolution else x), [-1, 4])
        return form(self.first(h), self.last(h))
    trunk = keras.layers.Conv1D(2, 2, activation="tanh") if by_convolution else keras.layers.Dense(4, "tanh")
    trunk.build((None, FEATURES, 1) if by_convolution else (None, FEATURES))
    return Net(body, trunk=trunk, first=dense(2, 4), last=dense(1, 4))


def as_dict(first, last):
    return {"force": first, "drag": last}


def from_dict(x, u):
    return simulator(x, tf.concat([u["force"] * u["drag"], u["drag"]], axis=1))


def into(form):
    """A simulator with two outcomes, an image and one number per sample, in the given form."""
    return lambda x, u: form(u[:, :, None] * x[:, None, :2], tf.reduce_sum(u**2, axis=1))


def operator_network(first, second):
    """A network of functions, one for each sample, and of a grid that all samples share."""
    network = Net(lambda self, x: tf.einsum("bf,gf->bg", self.branch(x[first]), self.trunk(x[second])),
                  branch=stack(4, 3, features=6), trunk=stack(4, 3, features=1))
    return Case(network, lambda x, u: u, x={first: rows(6), second: np.linspace(0, 1, 9)[:, None]})


STRUCTURES = {
    "controls_in_a_dict": lambda: Case(two_heads(as_dict), from_dict, route="factored"),
    "controls_in_a_dict_behind_a_convolution": lambda: Case(two_heads(as_dict, True), from_dict),
    "controls_in_a_list": lambda: Case(two_heads(lambda *u: list(u)), lambda x, u: simulator(x, u[0] * u[1])),
    "control_that_is_not_used": lambda: Case(two_heads(as_dict), lambda x, u: u["force"] * x[:, :2]),
    "outcomes_in_a_dict": lambda: Case(stack(4, 2), into(lambda y, z: {"image": y, "energy": z}),
                                       route="factored"),
    "outcomes_in_a_list": lambda: Case(stack(4, 2), into(lambda y, z: [y, z])),
    "outcomes_in_a_dict_of_a_coupled_batch": lambda: Case(stack(4, 2), into(
        lambda y, z: {"image": y - tf.reduce_mean(y, axis=0), "energy": z}), route="whole batch"),
    "state_in_a_dict": lambda: Case(
        stack(4, 2, features=2), lambda x, u: simulator(x["state"], u), network_input=lambda x: x["target"],
        x={"state": rows(2), "target": rows(2, seed=1)}, route="factored"),
    "everything_in_dicts": lambda: Case(
        two_heads(as_dict, True), lambda x, u: {"z": from_dict(x["state"], u), "a": u["drag"]},
        network_input=lambda x: x["target"], x={"state": rows(2), "target": rows(FEATURES, seed=1)}),
    # whichever name comes first in the alphabet
    "data_and_a_grid": lambda: operator_network("functions", "grid"),
    "a_grid_and_data": lambda: operator_network("u", "grid"),
}


test_structures = held_to_the_svd(STRUCTURES)


# --- losses and penalties -----------------------------------------------------------------------------------

def both(x, u):
    return {"force": u * x[:, :2], "energy": tf.reduce_sum(u**2, axis=1, keepdims=True)}


LOSSES = {name: lambda options=options: Case(stack(4, 2), **options) for name, options in {
    "mse": dict(loss="mse"),
    "huber": dict(loss=keras.losses.Huber(delta=0.5)),
    "sum": dict(loss=keras.losses.MeanSquaredError(reduction="sum")),
    "whole_batch": dict(loss=lambda t, y: tf.math.reduce_std(y - t)),
    "sample_weight": dict(sample_weight=np.array([0.0, 1.0, 2.0, 0.5, 1.0])),
    "dict": dict(simulator=both, loss={"force": "mse", "energy": "mae"}),
    "dict_with_weights": dict(simulator=both, loss={"force": "mse", "energy": "mae"},
                              compile={"loss_weights": {"force": 0.3, "energy": 2.0}}),
    "list": dict(simulator=lambda x, u: list(both(x, u).values()), loss=["mse", "mae"])}.items()}


test_losses = held_to_the_svd(LOSSES)


class PenalizedSimulator(keras.layers.Layer):
    def call(self, x, u):
        self.add_loss(0.1 * keras.ops.mean(u**2))
        return simulator(x, u)


PENALTIES = {
    "kernel_regularizer": lambda: Case(stack(4, 2, kernel_regularizer=keras.regularizers.L2(0.1))),
    "bias_regularizer_of_a_convolution": lambda: Case(convolution(
        bias_regularizer=keras.regularizers.L2(0.1))),
    "activity_regularizer": lambda: Case(stack(4, 2, activity_regularizer=keras.regularizers.L2(0.1))),
    "add_loss_in_the_simulator": lambda: Case(stack(4, 2), PenalizedSimulator()),
}


test_penalties = held_to_the_svd(PENALTIES)


# --- sizes and batches --------------------------------------------------------------------------------------

@pytest.mark.parametrize("network", [lambda units: stack(units, 2), convolution],
                         ids=["dense", "convolution"])
@pytest.mark.parametrize("samples, hidden", [(1, 4), (1, 1), (6, 8), (12, 1)],
                         ids=["one sample", "one of all", "n < p", "n > p"])
def test_sizes(float64, jit_compile, samples, hidden, network):
    """For κ in all of its range: what is compiled does not know it."""
    x = np.random.default_rng(0).normal(size=(samples, FEATURES))
    hold_to_the_svd(Case(network(hidden), lambda x, u: u * x[:, :2], x=x, route=(
        "per sample" if network is convolution else "factored")), jit_compile,
        kappas=(-1.0, -0.5, 0.0, 0.3, 1.0))


BATCHED = {
    "dense": lambda: stack(4, 2),
    "reshaped_dense": lambda: Net(lambda self, x: self.last(
        tf.reshape(self.first(tf.reshape(x, [-1, 1])), [-1, 6])),
                                  first=dense(2, 1, "tanh"), last=dense(2, 6)),
    "convolution": convolution,
}


@pytest.mark.parametrize("name, feed, coupled", [
    ("dense", "arrays", False), ("dense", "dataset", True), ("reshaped_dense", "arrays", True),
    ("reshaped_dense", "dataset", False), ("convolution", "arrays", False)])
def test_last_smaller_batch(float64, name, feed, coupled):
    """Ten samples in batches of 4, 4 and 2, of a size that the graph may not know: three steps, one after the
    other.
    """
    case = Case(BATCHED[name](), SIMULATORS["neighbours"] if coupled else lambda x, u: tf.sin(u) * x[:, :2],
                x=np.random.default_rng(2).normal(size=(10, FEATURES)))
    model = hig_model(case)
    y, before, start = targets(case, model), weights_of(model), model.get_weights()
    for first in (0, 4, 8):
        part = slice(first, first + 4)
        jacobian, gradient, _ = derivatives(case, model, case.x[part], y[part])
        after = moved(model, power_by_svd(jacobian, -0.5, 1e-6) @ gradient)
        model.set_weights(unflatten(after, [value.shape for value in start]))
    model.set_weights(start)
    model.compile(hig.HIG(ETA, truncation=1e-6), squares)
    if feed == "arrays":
        model.fit(case.x, y, batch_size=4, shuffle=False, verbose=0)
    else:
        model.fit(tf.data.Dataset.from_tensor_slices((case.x, y)).batch(4), verbose=0)
    assert_same_step(weights_of(model), after, before)
