"""hig.jacobian and hig.routes against one backward pass per output, in float64 and float32."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import hig
from hig.jacobian import FactoredJacobian, PenalizedJacobian, RowsJacobian, unflatten
from tests.reference import flat, jacobian_by_rows

pytestmark = pytest.mark.filterwarnings("ignore:The Jacobian takes the route")   # said on purpose

B, FEATURES, CONTROLS, D = 5, 6, 4, 3
# a few hundred rounded operations per entry, entries of order one
TOLERANCE = {"float64": 1e-13, "float32": 1e-5}


def simulator(x, u):
    """Three outputs of a few controls and the state, nonlinear in both."""
    return tf.stack([tf.sin(u[:, 0]) * x[:, 0], u[:, 1] * u[:, 2] ** 2, tf.reduce_sum(u**3, axis=1) + x[:,
        1]], axis=1)


def dense(units, dtype, activation=None, **options):
    return keras.layers.Dense(units, activation=activation, dtype=dtype, bias_initializer="glorot_normal",
                              **options)


def sequence(dtype, *layers):
    return keras.Sequential([keras.Input((FEATURES,), dtype=dtype), *layers, dense(CONTROLS, dtype)])


def stack(dtype):
    return sequence(dtype, dense(7, dtype, "tanh"), dense(5, dtype, "relu"))


def skips_and_reshapes(dtype):
    inputs = keras.Input((FEATURES,), dtype=dtype)
    hidden = dense(6, dtype, "softplus")(inputs)
    hidden = keras.layers.Add(dtype=dtype)([hidden, inputs])
    hidden = keras.layers.Reshape((2, 3), dtype=dtype)(hidden)
    hidden = keras.layers.Flatten(dtype=dtype)(keras.layers.Activation("tanh", dtype=dtype)(hidden))
    hidden = keras.layers.Concatenate(dtype=dtype)([hidden, inputs])
    return keras.Model(inputs, dense(CONTROLS, dtype)(hidden))


def partly_frozen(dtype):
    network = sequence(dtype, dense(7, dtype, "gelu", use_bias=False), dense(5, dtype, "relu"))
    network.layers[1].trainable = False
    return network


def shared_layer(dtype):
    inputs = keras.Input((FEATURES,), dtype=dtype)
    layer = dense(FEATURES, dtype, "tanh")
    return keras.Model(inputs, dense(CONTROLS, dtype)(layer(layer(inputs))))


def convolution(dtype):
    return sequence(dtype, keras.layers.Reshape((FEATURES, 1), dtype=dtype),
                    keras.layers.Conv1D(3, 3, activation="tanh", dtype=dtype),
                    keras.layers.Flatten(dtype=dtype), keras.layers.LayerNormalization(dtype=dtype))


FACTORED = [stack, skips_and_reshapes, partly_frozen]
EXPLICIT = [shared_layer, convolution]


def compiled(network, simulator, **options):
    """A PhysicsModel ready for a Jacobian, with the loss Σ (y − y*)² of each sample."""
    model = hig.PhysicsModel(network, simulator, **options)
    model.compile(hig.HIG(1.0, truncation=1e-6), lambda target, y: tf.reduce_sum((y - target) ** 2, axis=-1))
    return model


def both(build, dtype):
    """The Jacobian of a model and the reference's matrix."""
    keras.utils.set_random_seed(3)
    network = build(dtype)
    x = tf.constant(np.random.default_rng(0).normal(size=(B, FEATURES)), dtype)
    model = compiled(network, simulator, dtype=dtype)
    y = tf.zeros((B, D), dtype)
    loss, outcome, gradient, jacobian = model.derivatives_for(x, y, None).linearise(x, y, None)
    np.testing.assert_allclose(outcome, simulator(x, network(x)), rtol=1e3 * TOLERANCE[dtype])
    np.testing.assert_allclose(gradient, np.ravel(2 * outcome / B), rtol=1e-5)
    np.testing.assert_allclose(loss, tf.reduce_sum(outcome**2) / B, rtol=1e-5)
    reference = jacobian_by_rows(lambda: simulator(x, network(x)),
                                 [v.value for v in network.trainable_variables])
    return jacobian, reference


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("build", FACTORED + EXPLICIT, ids=lambda build: build.__name__)
def test_products_equal_those_of_the_matrix(build, dtype):
    jacobian, reference = both(build, dtype)
    assert isinstance(jacobian, FactoredJacobian if build in FACTORED else RowsJacobian)
    assert jacobian.shape == reference.shape == (B * D, reference.shape[1])
    close = {"rtol": 0, "atol": TOLERANCE[dtype] * max(1, np.abs(reference).max()) ** 2 * reference.shape[1]}
    np.testing.assert_allclose(jacobian.gram(), reference @ reference.T, **close)
    v = np.random.default_rng(1).normal(size=B * D)
    np.testing.assert_allclose(flat(jacobian.pullback(v)), reference.T @ v, **close)
    for found, expected in zip(jacobian.normal(v), (reference.T @ reference, reference.T @ v), strict=True):
        np.testing.assert_allclose(found, expected, **close)


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_the_tolerance_notices_a_missing_bias(dtype):
    jacobian, reference = both(stack, dtype)
    jacobian.biases[1] = None
    error = np.abs(jacobian.gram() - reference @ reference.T).max()
    assert error > 100 * TOLERANCE[dtype] * max(1, np.abs(reference).max()) ** 2 * reference.shape[1]


@pytest.mark.parametrize("batch", [1, 37, 150])
def test_gram_in_stripes_of_any_size(batch):
    """Batches below, above and no multiple of the stripes; the explicit J has no stripes."""
    rng = np.random.default_rng(batch)
    d, widths = 5, [4, 3, 6]
    inputs = [rng.normal(size=(batch, k)) for k in widths[:-1]]
    cotangents = [rng.normal(size=(batch * d, k)) for k in widths[1:]]
    jacobian = FactoredJacobian(inputs, cotangents, [0, 2], [1, None])
    rows = [np.concatenate([np.outer(np.append(inputs[0][r // d], 1), cotangents[0][r]).ravel(),
                            np.outer(inputs[1][r // d], cotangents[1][r]).ravel()]) for r in range(batch * d)]
    expected = np.array(rows) @ np.array(rows).T
    np.testing.assert_allclose(jacobian.gram(), expected, atol=1e-13 * np.abs(expected).max())
    assert np.array_equal(jacobian.gram(), jacobian.gram().T)


def test_one_backward_pass_through_the_simulator():
    """The simulator's gradient is traced once, for all B·d rows; so is the pass with which they were
    computed.
    """
    passes = []

    @tf.custom_gradient
    def counted(u):
        def gradient(cotangent):
            passes.append(cotangent.shape)
            return cotangent * tf.cos(u)
        return tf.sin(u), gradient

    network = stack("float32")
    x = tf.ones((B, FEATURES))
    derivatives = compiled(network, lambda x, u: counted(u)[:, :D]).derivatives_for(x, x[:, :D], None)
    assert passes == [(B, CONTROLS), (B * D, CONTROLS)]                 # the first is that of the proof
    derivatives.linearise(2 * x, x[:, :D], None)
    assert len(passes) == 2


def test_the_network_is_left_as_it_was():
    network = stack("float32")
    before = network(tf.ones((2, FEATURES)))
    compiled(network, simulator).derivatives_for(tf.ones((2, FEATURES)), tf.ones((2, D)), None)
    assert all("call" not in vars(layer) for layer in network.layers)
    np.testing.assert_array_equal(network(tf.ones((2, FEATURES))), before)


def test_unflatten_is_the_inverse_of_flattening():
    arrays = [np.arange(6.0).reshape(2, 3), np.arange(6.0, 8.0), np.float64(8.0)]
    for array, again in zip(arrays, unflatten(np.arange(9.0), [np.shape(a) for a in arrays])):
        np.testing.assert_array_equal(again, array)


@pytest.mark.parametrize("kernels, biases", [
    ([1, 2], [0, None]), ([None, 1], [0, None]), ([0, None], [None, 1])],
                         ids=["one bias", "a frozen kernel", "only one kernel and one bias"])
@pytest.mark.parametrize("kind", [FactoredJacobian, RowsJacobian])
def test_products_with_and_without_further_rows(monkeypatch, kind, kernels, biases):
    """Of 4 samples × 2 outputs in two layers, of which parts are trained, and with rows as penalties give: K,
    JᵀJ, Jᵀv, J d and the squares of rows. Samples are taken one at a time, and products have three rows.
    """
    monkeypatch.setattr("hig.jacobian._LARGEST_PRODUCT", 3)
    monkeypatch.setattr("hig.jacobian._CHUNK_BYTES", 1)
    rng = np.random.default_rng(2)
    inputs, cotangents = rng.normal(size=(2, 4, 2)), [rng.normal(size=(8, 3)), rng.normal(size=(8, 2))]
    blocks = {}
    for a, delta, kernel, bias in zip(inputs, cotangents, kernels, biases):
        blocks.update({kernel: np.einsum("ri,ro->rio", np.repeat(a, 2, axis=0), delta), bias: delta})
    blocks = [blocks[index] for index in sorted(index for index in blocks if index is not None)]
    matrix = np.concatenate([block.reshape(8, -1) for block in blocks], axis=1)
    jacobian = (FactoredJacobian(inputs, cotangents, kernels, biases) if kind is FactoredJacobian
                else RowsJacobian(matrix, [block.shape[1:] for block in blocks]))
    columns, scales, p = np.array([0, 4, 5]), np.array([2.0, 0.1, 3.0]), matrix.shape[1]
    whole = np.vstack([matrix, np.zeros((3, p))])
    whole[8 + np.arange(3), columns] = scales
    np.testing.assert_allclose(jacobian.row_squares(), np.sum(matrix**2, axis=1), rtol=1e-12)
    for some, expected in ((jacobian, matrix), (PenalizedJacobian(jacobian, columns, scales), whole)):
        d, v = rng.normal(size=p), rng.normal(size=len(expected))
        assert some.shape == expected.shape
        for found, right in ((some.gram(), expected @ expected.T), (some.push(d), expected @ d),
                             (flat(some.pullback(v)), expected.T @ v),
                             (some.normal(v)[0], expected.T @ expected), (some.normal(v)[1], expected.T @ v)):
            np.testing.assert_allclose(found, right, atol=1e-12)
