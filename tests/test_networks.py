"""Networks × simulators against a float64 SVD of the Jacobian taken row by row: where and how the weights
act.

The tables' siblings: test_networks_layers.py (kinds of layers), test_networks_physics.py (simulators,
structures, losses, penalties, batches), test_networks_proof.py (precisions, what is refused, negative
controls).
One case alone:  python -m pytest tests/test_networks.py -k tied_weights
"""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.networks import (B, FEATURES, Case, Net, dense, held_to_the_svd, in_the_simulator, rows, simulator,
                            slope, stack)

pytestmark = pytest.mark.filterwarnings("ignore:The Jacobian takes the route")   # said on purpose


def two_layers(body, hidden=4, controls=2, other=None, **options):
    """A case whose network has the layers `first` and `last`, perhaps `other` beside `first`, and body."""
    parts = {"other": dense(other, FEATURES)} if other else {}
    return Case(Net(body, first=dense(hidden, FEATURES, "tanh"), last=dense(controls, hidden), **parts),
                **options)


def both(self):
    return lambda x: self.last(self.first(x))


# --- branches, loops, and functions within functions --------------------------------------------------------

def cond_on_the_whole_batch():
    """Which layer is taken depends on all samples: no sample knows it alone."""
    x = rows(FEATURES)
    x[:, 0] = [5.0, -1.0, -1.0, -1.0, -1.0]
    return two_layers(lambda self, x: self.last(tf.cond(
        tf.reduce_sum(x[:, 0]) > 0, lambda: self.first(x), lambda: self.other(x))), other=4, x=x)


def while_loop(self, x):
    return self.last(tf.while_loop(lambda i, h: i < 3, lambda i, h: (i + 1, self.first(h)), (0, x),
                                   maximum_iterations=3)[1])


class RangeLoop(keras.Model):
    """A loop that AutoGraph turns into a graph, in a call that is a tf.function."""

    def __init__(self):
        super().__init__()
        self.first, self.last = dense(FEATURES, FEATURES, "tanh"), dense(2, FEATURES)

    @tf.function
    def call(self, x):
        for _ in tf.range(3):
            x = self.first(x)
        return self.last(x)


# --- layers on other rows than the samples ------------------------------------------------------------------

def operator_network(points, physics=lambda x, u: u):
    """A branch on the samples and a trunk on grid points."""
    grid = np.linspace(0, 1, points)[:, None]
    network = Net(lambda self, x: self.branch(x) @ tf.transpose(self.trunk(tf.constant(grid))),
                  branch=dense(4, FEATURES), trunk=dense(4, 1, "tanh"))
    return Case(network, physics)


def two_means(x, u):
    return tf.stack([tf.reduce_mean(u, 1), tf.reduce_mean(u**2, 1)], axis=1)


def of_series(body):
    """A case of (B, 2, F) data and a network of two layers."""
    return Case(Net(body, first=dense(4, FEATURES, "tanh"), last=dense(2, 8)),
                lambda x, u: simulator(x[:, 0], u), x=rows(2, FEATURES))


def dense_on_steps_times_samples(self, x):
    """(B, T, F) as (T·B, F): a sample's rows are not neighbours."""
    h = self.first(tf.reshape(tf.transpose(x, [1, 0, 2]), [-1, FEATURES]))
    return self.last(tf.reshape(tf.transpose(tf.reshape(h, [2, -1, 4]), [1, 0, 2]), [-1, 8]))


class Doubled(keras.layers.Dense):
    """A Dense layer with a call of its own."""

    def call(self, inputs, training=None):
        return super().call(super().call(inputs))


@tf.custom_gradient
def rounded(z):
    """An activation with a gradient of its own: J is what the tape says."""
    return tf.round(4 * z) / 4, lambda upstream: upstream * (1 + z**2)


class Residual(keras.layers.Layer):
    """A user's own layer with Dense layers inside."""

    def build(self, shape):
        self.first, self.second = dense(7, shape[-1], "tanh"), dense(shape[-1], 7)

    def call(self, x):
        return x + self.second(self.first(x))


def low_rank_adaptation():
    network = stack(4, 2)
    network.layers[0].enable_lora(2)
    return Case(network)


ELSEWHERE = {
    "derivative_as_control": lambda: two_layers(
        lambda self, x: tf.concat([both(self)(x), slope(both(self), x)], axis=1), controls=1),
    "second_derivative_as_control": lambda: two_layers(lambda self, x: tf.concat(
        [slope(both(self), x)[:, :1], slope(lambda x: slope(both(self), x), x)[:, 1:2]], axis=1), controls=1),
    # physics-informed networks: the simulator differentiates the network itself, here for u'' + u
    "equation_residual": lambda: in_the_simulator(
        lambda network, x, u: slope(lambda x: slope(network, x), x) + network(x), 5, 1, features=1),
    # part of J comes through the controls, part past them
    "residual_and_value": lambda: in_the_simulator(
        lambda network, x, u: tf.concat([slope(network, x) - u**2, u], axis=1), 5, 1, features=1),
    "tied_weights": lambda: Case(Net(lambda self, x: self.encoder(x) @ tf.transpose(self.encoder.kernel),
                                     encoder=dense(4, FEATURES, "tanh"))),
    "shared_bias": lambda: two_layers(lambda self, x: self.last(self.first(x)) * self.first.bias[:2]),
    "norm_of_a_kernel": lambda: two_layers(
        lambda self, x: self.last(self.first(x)) / tf.norm(self.first.kernel)),
    "kernel_by_matmul": lambda: Case(Net(  # the layer is never called
        lambda self, x: self.last(keras.ops.tanh(keras.ops.matmul(x, self.first.kernel))),
        first=dense(4, FEATURES, use_bias=False), last=dense(2, 4))),
    "low_rank_adaptation": low_rank_adaptation,
    "weight_constraint": lambda: Case(stack(4, 2, kernel_constraint=keras.constraints.UnitNorm(axis=0))),
    "layer_in_cond": lambda: two_layers(lambda self, x: self.last(tf.cond(
        x[0, 0] < 1e3, lambda: self.first(x), lambda: self.other(x))), other=4),
    "cond_on_the_whole_batch": cond_on_the_whole_batch,
    "recompute_grad": lambda: two_layers(
        lambda self, x: self.last(tf.recompute_grad(lambda h: self.first(h))(x))),
    "while_loop": lambda: two_layers(while_loop, hidden=FEATURES),
    "map_fn": lambda: two_layers(
        lambda self, x: self.last(tf.map_fn(lambda row: self.first(row[None])[0], x))),
    "vectorized_map": lambda: two_layers(
        lambda self, x: self.last(tf.vectorized_map(lambda row: self.first(row[None])[0], x))),
    "loop_in_tf_range_in_a_call_under_tf_function": lambda: Case(RangeLoop()),
    "layer_under_tf_function": lambda: two_layers(
        lambda self, x: self.last(tf.function(lambda x: self.first(x))(x))),
    "layer_called_twice": lambda: two_layers(lambda self, x: self.last(self.first(self.first(x))),
                                             hidden=FEATURES),
    "layer_called_on_two_inputs": lambda: two_layers(
        lambda self, x: self.last(self.first(x) * self.first(tf.sin(x)))),
    # whose points are as many as all outcomes, B·d, or as the samples
    "operator_network": lambda: operator_network(2 * B, two_means),
    "operator_network_on_as_many_points_as_samples": lambda: operator_network(B),
    "dense_on_samples_times_steps": lambda: of_series(lambda self, x: self.last(
        tf.reshape(self.first(tf.reshape(x, [-1, FEATURES])), [-1, 8]))),
    "dense_on_steps_times_samples": lambda: of_series(dense_on_steps_times_samples),
    "rows_in_another_order": lambda: two_layers(
        lambda self, x: tf.reverse(self.last(tf.reverse(self.first(x), [0])), [0])),
    "pairs_side_by_side": lambda: two_layers(
        lambda self, x: self.last(tf.add_n(tf.split(self.first(tf.concat([x, -x**2], 0)), 2)))),
    "dense_with_a_call_of_its_own": lambda: Case(keras.Sequential([
        keras.Input((FEATURES,)), Doubled(FEATURES, "tanh"), keras.layers.Dense(2)])),
    "dense_layers_inside_a_users_own_layer": lambda: Case(keras.Sequential([
        keras.Input((FEATURES,)), Residual(), Residual(), keras.layers.Dense(2)]), route="factored"),
    "straight_through_rounding": lambda: Case(Net(
        lambda self, x: both(self)(x), first=dense(4, FEATURES, rounded), last=dense(2, 4))),
    "stopped_gradient": lambda: two_layers(
        lambda self, x: self.last(tf.stop_gradient(self.first(x)) + self.other(x)), other=4)}


test_weights_that_act_elsewhere_too = held_to_the_svd(ELSEWHERE)
