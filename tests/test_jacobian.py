"""hig.jacobian against one backward pass per output, in float64 and float32."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from hig.jacobian import ExplicitJacobian, FactoredJacobian, assemble, trace_jacobian, unflatten
from tests.reference import flat, jacobian_by_rows

B, FEATURES, CONTROLS, D = 5, 6, 4, 3
# a few hundred rounded operations per entry, entries of order one
TOLERANCE = {"float64": 1e-13, "float32": 1e-5}


def simulator(x, u):
    """Three outputs of a few controls and the state, nonlinear in both."""
    return tf.stack([tf.sin(u[:, 0]) * x[:, 0], u[:, 1] * u[:, 2] ** 2, tf.reduce_sum(u**3, axis=1) + x[:, 1]], axis=1)


def dense(units, dtype, activation=None, **options):
    return keras.layers.Dense(units, activation=activation, dtype=dtype, bias_initializer="glorot_normal", **options)


def stack(dtype):
    return keras.Sequential([keras.Input((FEATURES,), dtype=dtype), dense(7, dtype, "tanh"), dense(5, dtype, "relu"),
                             dense(CONTROLS, dtype)])


def without_bias(dtype):
    return keras.Sequential([keras.Input((FEATURES,), dtype=dtype), dense(7, dtype, "gelu", use_bias=False),
                             dense(CONTROLS, dtype)])


def skips_and_reshapes(dtype):
    inputs = keras.Input((FEATURES,), dtype=dtype)
    hidden = dense(6, dtype, "softplus")(inputs)
    hidden = keras.layers.Add(dtype=dtype)([hidden, inputs])
    hidden = keras.layers.Reshape((2, 3), dtype=dtype)(hidden)
    hidden = keras.layers.Flatten(dtype=dtype)(keras.layers.Activation("tanh", dtype=dtype)(hidden))
    hidden = keras.layers.Concatenate(dtype=dtype)([hidden, inputs])
    return keras.Model(inputs, dense(CONTROLS, dtype)(hidden))


def nested(dtype):
    inputs = keras.Input((FEATURES,), dtype=dtype)
    inner = keras.Sequential([keras.Input((FEATURES,), dtype=dtype), dense(5, dtype, "tanh")])
    return keras.Model(inputs, dense(CONTROLS, dtype)(inner(inputs)))


def partly_frozen(dtype):
    network = stack(dtype)
    network.layers[1].trainable = False
    return network


def shared_layer(dtype):
    inputs = keras.Input((FEATURES,), dtype=dtype)
    layer = dense(FEATURES, dtype, "tanh")
    return keras.Model(inputs, dense(CONTROLS, dtype)(layer(layer(inputs))))


def dense_over_time(dtype):
    inputs = keras.Input((FEATURES,), dtype=dtype)
    hidden = dense(4, dtype, "tanh")(keras.layers.Reshape((3, 2), dtype=dtype)(inputs))
    return keras.Model(inputs, dense(CONTROLS, dtype)(keras.layers.Flatten(dtype=dtype)(hidden)))


def convolution(dtype):
    return keras.Sequential([
        keras.Input((FEATURES,), dtype=dtype), keras.layers.Reshape((FEATURES, 1), dtype=dtype),
        keras.layers.Conv1D(3, 3, activation="tanh", dtype=dtype), keras.layers.Flatten(dtype=dtype),
        keras.layers.LayerNormalization(dtype=dtype), dense(CONTROLS, dtype)])


class Subclassed(keras.Model):
    """A network without a graph of layers: `call` is Python."""

    def __init__(self, dtype):
        super().__init__(dtype=dtype)
        self.first, self.second = dense(5, dtype, "tanh"), dense(CONTROLS, dtype)

    def call(self, x):
        return self.second(self.first(x))


def subclassed(dtype):
    network = Subclassed(dtype)
    network(tf.zeros((1, FEATURES), dtype))
    return network


FACTORED = [stack, without_bias, skips_and_reshapes, nested, partly_frozen, subclassed]
EXPLICIT = [shared_layer, dense_over_time, convolution]


def both(build, dtype):
    """The Jacobian of hig.jacobian and the reference's matrix."""
    keras.utils.set_random_seed(3)
    network = build(dtype)
    x = tf.constant(np.random.default_rng(0).normal(size=(B, FEATURES)), dtype)
    outcome, pieces = tf.function(lambda: trace_jacobian(network, simulator, x, lambda x: x), jit_compile=True)()
    np.testing.assert_allclose(outcome, simulator(x, network(x)), rtol=1e3 * TOLERANCE[dtype])
    reference = jacobian_by_rows(lambda: simulator(x, network(x)), [v.value for v in network.trainable_variables])
    return assemble(network, pieces), reference


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("build", FACTORED + EXPLICIT, ids=lambda build: build.__name__)
def test_products_equal_those_of_the_matrix(build, dtype):
    jacobian, reference = both(build, dtype)
    assert isinstance(jacobian, FactoredJacobian if build in FACTORED else ExplicitJacobian)
    assert jacobian.shape == reference.shape == (B * D, reference.shape[1])
    close = {"rtol": 0, "atol": TOLERANCE[dtype] * max(1, np.abs(reference).max()) ** 2 * reference.shape[1]}
    np.testing.assert_allclose(jacobian.dense(), reference, **close)
    np.testing.assert_allclose(jacobian.gram(), reference @ reference.T, **close)
    v = np.random.default_rng(1).normal(size=B * D)
    np.testing.assert_allclose(flat(jacobian.pullback(v)), reference.T @ v, **close)


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_the_tolerance_notices_a_missing_bias(dtype):
    jacobian, reference = both(stack, dtype)
    jacobian.biases[1] = False
    error = np.abs(jacobian.gram() - reference @ reference.T).max()
    assert error > 100 * TOLERANCE[dtype] * max(1, np.abs(reference).max()) ** 2 * reference.shape[1]


@pytest.mark.parametrize("batch", [1, 37, 150])
def test_gram_in_stripes_of_any_size(batch):
    """Batches below, above and no multiple of the stripes; the explicit J has no stripes."""
    rng = np.random.default_rng(batch)
    d, widths = 5, [4, 3, 6]
    inputs = [rng.normal(size=(batch, k)) for k in widths[:-1]]
    cotangents = [rng.normal(size=(batch * d, k)) for k in widths[1:]]
    jacobian = FactoredJacobian(inputs, cotangents, [True, False])
    rows = [np.concatenate([np.outer(np.append(inputs[0][r // d], 1), cotangents[0][r]).ravel(),
                            np.outer(inputs[1][r // d], cotangents[1][r]).ravel()]) for r in range(batch * d)]
    expected = np.array(rows) @ np.array(rows).T
    np.testing.assert_allclose(jacobian.gram(), expected, atol=1e-13 * np.abs(expected).max())
    assert np.array_equal(jacobian.gram(), jacobian.gram().T)


def test_one_backward_pass_through_the_simulator():
    """The simulator's gradient is traced once, for all B·d rows; so is the pass with which they were computed."""
    passes = []

    @tf.custom_gradient
    def counted(u):
        def gradient(cotangent):
            passes.append(cotangent.shape)
            return cotangent * tf.cos(u)
        return tf.sin(u), gradient

    network = stack("float32")
    x = tf.ones((B, FEATURES))
    trace = tf.function(lambda x: trace_jacobian(network, lambda x, u: counted(u)[:, :D], x, lambda x: x))
    trace.get_concrete_function(x)
    assert passes == [(B * D, CONTROLS)]


def test_the_network_is_left_as_it_was():
    network = stack("float32")
    before = network(tf.ones((2, FEATURES)))
    tf.function(lambda x: trace_jacobian(network, simulator, x, lambda x: x))(tf.ones((2, FEATURES)))
    assert all("call" not in vars(layer) for layer in network.layers)
    np.testing.assert_array_equal(network(tf.ones((2, FEATURES))), before)


def test_structured_input_and_the_choice_of_what_the_network_sees():
    network = stack("float64")
    rng = np.random.default_rng(2)
    x = {"state": tf.constant(rng.normal(size=(B, 2))), "target": tf.constant(rng.normal(size=(B, FEATURES)))}
    _, pieces = tf.function(lambda x: trace_jacobian(
        network, lambda x, u: simulator(x["state"], u), x, lambda x: x["target"]))(x)
    reference = jacobian_by_rows(lambda: simulator(x["state"], network(x["target"])),
                                 [v.value for v in network.trainable_variables])
    np.testing.assert_allclose(assemble(network, pieces).dense(), reference, atol=1e-13 * np.abs(reference).max())


@pytest.mark.parametrize("faulty, error, words", [
    (lambda x, u: tf.complex(u, u), TypeError, "real float tensor, not complex64"),
    (lambda x, u: tf.reduce_sum(u), ValueError, "one row per sample"),
    (lambda x, u: u[:-1], ValueError, "one row per sample"),
])
def test_simulators_that_cannot_be_differentiated(faulty, error, words):
    with pytest.raises(error, match=words):
        trace_jacobian(stack("float32"), faulty, tf.ones((B, FEATURES)), lambda x: x)


def test_network_without_trainable_weights():
    network = stack("float32")
    network.trainable = False
    with pytest.raises(ValueError, match="no trainable weights"):
        trace_jacobian(network, simulator, tf.ones((B, FEATURES)), lambda x: x)


def test_unflatten_is_the_inverse_of_flattening():
    arrays = [np.arange(6.0).reshape(2, 3), np.arange(6.0, 8.0), np.float64(8.0)]
    for array, again in zip(arrays, unflatten(np.arange(9.0), [np.shape(a) for a in arrays])):
        np.testing.assert_array_equal(again, array)
