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

from tests.networks import B, FEATURES, Case, Net, dense, hold_to_the_svd, rows, simulator, stack

pytestmark = pytest.mark.filterwarnings("ignore:The Jacobian takes the route")   # said on purpose


# --- a kernel that acts elsewhere too -----------------------------------------------------------------------

def derivative_as_control():
    """A network that hands out u and ∂u/∂x."""
    def body(self, x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            u = self.last(self.first(x))
        return tf.concat([u, tape.gradient(u, x)], axis=1)
    return Case(Net(body, first=dense(4, FEATURES, "tanh"), last=dense(1, 4)))


def second_derivative_as_control():
    def body(self, x):
        with tf.GradientTape() as outer:
            outer.watch(x)
            with tf.GradientTape() as inner:
                inner.watch(x)
                u = self.last(self.first(x))
            slope = inner.gradient(u, x)
        return tf.concat([slope[:, :1], outer.gradient(slope, x)[:, 1:2]], axis=1)
    return Case(Net(body, first=dense(4, FEATURES, "tanh"), last=dense(1, 4)))


def jacobian_as_control():
    """∂u/∂x of every sample by `batch_jacobian`."""
    def body(self, x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            u = self.last(self.first(x))
        return tf.reshape(tape.batch_jacobian(u, x), [-1, 2 * FEATURES])
    return Case(Net(body, first=dense(4, FEATURES, "tanh"), last=dense(2, 4)))


def equation_residual():
    """A physics-informed network: the outcome is u'' + u, the simulator differentiates the network itself."""
    network = stack(5, 1, features=1)

    def residual(x, u):
        with tf.GradientTape() as outer:
            outer.watch(x)
            with tf.GradientTape() as inner:
                inner.watch(x)
                value = network(x)
            slope = inner.gradient(value, x)
        return outer.gradient(slope, x) + value
    return Case(network, residual, x=rows(1))


def residual_and_value():
    """The same with u in use as well: part of J comes through the controls, part past them."""
    network = stack(5, 1, features=1)

    def outcome(x, u):
        with tf.GradientTape() as tape:
            tape.watch(x)
            value = network(x)
        return tf.concat([tape.gradient(value, x) - u**2, u], axis=1)
    return Case(network, outcome, x=rows(1))


def tied_weights():
    return Case(Net(lambda self, x: self.encoder(x) @ tf.transpose(self.encoder.kernel),
                    encoder=dense(4, FEATURES, "tanh")))


def tied_weights_in_front():
    """The kernel acts before the layer's own call."""
    return Case(Net(lambda self, x: self.layer(tf.tanh(x @ self.layer.kernel)),
                    layer=dense(FEATURES, FEATURES)))


def shared_bias():
    return Case(Net(lambda self, x: self.last(self.first(x)) * self.first.bias[:2],
                    first=dense(4, FEATURES, "tanh"), last=dense(2, 4)))


def norm_of_a_kernel():
    return Case(Net(lambda self, x: self.last(self.first(x)) / tf.norm(self.first.kernel),
                    first=dense(4, FEATURES, "tanh"), last=dense(2, 4)))


def own_spectral_norm():
    """The largest singular value of the kernel by two power iterations."""
    def body(self, x):
        v = tf.ones((FEATURES, 1), x.dtype)
        for _ in range(2):
            v = tf.math.l2_normalize(self.first.kernel @ (tf.transpose(self.first.kernel) @ v))
        return self.last(tf.tanh(self.first(x) / tf.norm(tf.transpose(self.first.kernel) @ v)))
    return Case(Net(body, first=dense(4, FEATURES), last=dense(2, 4)))


def kernel_by_matmul():
    """The kernel alone is used, the layer is never called."""
    return Case(Net(lambda self, x: self.last(keras.ops.tanh(keras.ops.matmul(x, self.first.kernel))),
                    first=dense(4, FEATURES, use_bias=False), last=dense(2, 4)))


def low_rank_adaptation():
    network = stack(4, 2)
    network.layers[0].enable_lora(2)
    return Case(network)


def weight_constraint():
    return Case(stack(4, 2, kernel_constraint=keras.constraints.UnitNorm(axis=0)))


def layer_in_cond():
    return Case(Net(lambda self, x: self.last(tf.cond(x[0, 0] < 1e3, lambda: self.first(x),
                                                      lambda: self.other(x))),
                    first=dense(4, FEATURES, "tanh"), other=dense(4, FEATURES), last=dense(2, 4)))


def cond_on_the_whole_batch():
    """Which layer is taken depends on all samples: no sample knows it alone."""
    x = rows(FEATURES)
    x[:, 0] = [5.0, -1.0, -1.0, -1.0, -1.0]

    def body(self, x):
        return self.last(tf.cond(tf.reduce_sum(x[:, 0]) > 0, lambda: self.first(x), lambda: self.other(x)))
    return Case(Net(body, first=dense(4, FEATURES, "tanh"), other=dense(4, FEATURES), last=dense(2, 4)), x=x)


def recompute_grad():
    return Case(Net(lambda self, x: self.last(tf.recompute_grad(lambda h: self.first(h))(x)),
                    first=dense(4, FEATURES, "tanh"), last=dense(2, 4)))


def remat_scope():
    with keras.RematScope(mode="full"):
        return Case(stack(4, 2))


def while_loop():
    def body(self, x):
        _, h = tf.while_loop(lambda i, h: i < 3, lambda i, h: (i + 1, self.first(h)), (0, x),
                             maximum_iterations=3)
        return self.last(h)
    return Case(Net(body, first=dense(FEATURES, FEATURES, "tanh"), last=dense(2, FEATURES)))


def while_loop_of_one_turn():
    """One call per sample, as the count of calls has it, but on an inner graph."""
    def body(self, x):
        _, h = tf.while_loop(lambda i, h: i < 1, lambda i, h: (i + 1, self.first(h)), (0, x),
                             maximum_iterations=1)
        return self.last(h)
    return Case(Net(body, first=dense(FEATURES, FEATURES, "tanh"), last=dense(2, FEATURES)))


def map_fn():
    return Case(Net(lambda self, x: self.last(tf.map_fn(lambda row: self.first(row[None])[0], x)),
                    first=dense(4, FEATURES, "tanh"), last=dense(2, 4)))


def vectorized_map():
    return Case(Net(lambda self, x: self.last(tf.vectorized_map(lambda row: self.first(row[None])[0], x)),
                    first=dense(4, FEATURES, "tanh"), last=dense(2, 4)))


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


def loop_in_tf_range():
    return Case(RangeLoop())


class DecoratedCall(keras.Model):
    def __init__(self):
        super().__init__()
        self.first, self.last = dense(4, FEATURES, "tanh"), dense(2, 4)

    @tf.function
    def call(self, x):
        return self.last(self.first(x))


def call_under_tf_function():
    return Case(DecoratedCall())


def layer_under_tf_function():
    network = Net(lambda self, x: self.last(self.inner(x)), first=dense(4, FEATURES, "tanh"),
                  last=dense(2, 4))
    network.inner = tf.function(lambda x: network.first(x))
    return Case(network)


def layer_called_twice():
    return Case(Net(lambda self, x: self.last(self.first(self.first(x))),
                    first=dense(FEATURES, FEATURES, "tanh"), last=dense(2, FEATURES)))


def layer_called_on_two_inputs():
    return Case(Net(lambda self, x: self.last(self.first(x) * self.first(tf.sin(x))),
                    first=dense(4, FEATURES, "tanh"), last=dense(2, 4)))


def operator_network():
    """A branch on the samples and a trunk on grid points, whose number is that of all outcomes, B·d = 10."""
    grid = np.linspace(0, 1, 2 * B)[:, None]
    network = Net(lambda self, x: self.branch(x) @ tf.transpose(self.trunk(tf.constant(grid))),
                  branch=dense(4, FEATURES), trunk=dense(4, 1, "tanh"))
    return Case(network, lambda x, u: tf.stack([tf.reduce_mean(u, 1), tf.reduce_mean(u**2, 1)], axis=1))


def operator_network_on_as_many_points_as_samples():
    grid = np.linspace(0, 1, B)[:, None]
    network = Net(lambda self, x: self.branch(x) @ tf.transpose(self.trunk(tf.constant(grid))),
                  branch=dense(4, FEATURES), trunk=dense(4, 1, "tanh"))
    return Case(network, lambda x, u: u)


def dense_on_samples_times_steps():
    """(B, T, F) as (B·T, F)."""
    network = Net(lambda self, x: self.last(tf.reshape(self.first(tf.reshape(x, [-1, FEATURES])), [-1, 8])),
                  first=dense(4, FEATURES, "tanh"), last=dense(2, 8))
    return Case(network, lambda x, u: simulator(x[:, 0], u), x=rows(2, FEATURES))


def dense_on_steps_times_samples():
    """(B, T, F) as (T·B, F): a sample's rows are not neighbours."""
    def body(self, x):
        h = self.first(tf.reshape(tf.transpose(x, [1, 0, 2]), [-1, FEATURES]))
        return self.last(tf.reshape(tf.transpose(tf.reshape(h, [2, -1, 4]), [1, 0, 2]), [-1, 8]))
    return Case(Net(body, first=dense(4, FEATURES, "tanh"), last=dense(2, 8)), lambda x,
                u: simulator(x[:, 0], u), x=rows(2, FEATURES))


def rows_in_another_order():
    """One call on B rows, as it should be, but row b holds sample B − 1 − b."""
    return Case(Net(lambda self, x: tf.reverse(self.last(tf.reverse(self.first(x), [0])), [0]),
                    first=dense(4, FEATURES, "tanh"), last=dense(2, 4)))


def pairs_side_by_side():
    """One call on 2B rows, a sample and its mirror image."""
    return Case(Net(lambda self, x: self.last(tf.add_n(tf.split(self.first(tf.concat([x, -x**2], 0)), 2))),
                    first=dense(4, FEATURES, "tanh"), last=dense(2, 4)))


class Doubled(keras.layers.Dense):
    def call(self, inputs, training=None):
        return super().call(super().call(inputs))


def dense_with_a_call_of_its_own():
    layer = Doubled(FEATURES, "tanh")
    layer.build((None, FEATURES))
    return Case(Net(lambda self, x: self.last(self.first(x)), first=layer, last=dense(2, FEATURES)))


def straight_through_rounding():
    """An activation with a gradient of its own: J is what the tape says."""
    @tf.custom_gradient
    def rounded(z):
        return tf.round(4 * z) / 4, lambda upstream: upstream * (1 + z**2)
    return Case(Net(lambda self, x: self.last(self.first(x)), first=dense(4, FEATURES, rounded), last=dense(2,
        4)))


def stopped_gradient():
    return Case(Net(lambda self, x: self.last(tf.stop_gradient(self.first(x)) + self.other(x)),
                    first=dense(4, FEATURES, "tanh"), other=dense(4, FEATURES), last=dense(2, 4)))


ELSEWHERE = [derivative_as_control, second_derivative_as_control, jacobian_as_control, equation_residual,
             residual_and_value, tied_weights, tied_weights_in_front, shared_bias, norm_of_a_kernel,
             own_spectral_norm, kernel_by_matmul, low_rank_adaptation, weight_constraint, layer_in_cond,
             cond_on_the_whole_batch, recompute_grad, remat_scope, while_loop, while_loop_of_one_turn, map_fn,
             vectorized_map, loop_in_tf_range, call_under_tf_function, layer_under_tf_function,
             layer_called_twice, layer_called_on_two_inputs, operator_network,
             operator_network_on_as_many_points_as_samples, dense_on_samples_times_steps,
             dense_on_steps_times_samples, rows_in_another_order, pairs_side_by_side,
             dense_with_a_call_of_its_own, straight_through_rounding, stopped_gradient]


@pytest.mark.parametrize("build", ELSEWHERE, ids=lambda build: build.__name__)
def test_weights_that_act_elsewhere_too(float64, jit_compile, build):
    hold_to_the_svd(build(), jit_compile)
