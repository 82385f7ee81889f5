"""hig.jacobian and hig.routes against one backward pass per output, in float64 and float32."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import hig
from hig.jacobian import FactoredJacobian, RowsJacobian, _gram_of, unflatten
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


def stack(dtype):
    return keras.Sequential([keras.Input((FEATURES,), dtype=dtype), dense(7, dtype, "tanh"),
                             dense(5, dtype, "relu"), dense(CONTROLS, dtype)])


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


def test_structured_input_and_the_choice_of_what_the_network_sees():
    network = stack("float64")
    rng = np.random.default_rng(2)
    x = {"state": tf.constant(rng.normal(size=(B, 2))), "target": tf.constant(rng.normal(size=(B, FEATURES)))}
    model = compiled(network, lambda x, u: simulator(x["state"], u), network_input=lambda x: x["target"],
                     dtype="float64")
    y = tf.zeros((B, D), "float64")
    *_, jacobian = model.derivatives_for(x, y, None).linearise(x, y, None)
    reference = jacobian_by_rows(lambda: simulator(x["state"], network(x["target"])),
                                 [v.value for v in network.trainable_variables])
    np.testing.assert_allclose(jacobian.rows(0, B), reference, atol=1e-13 * np.abs(reference).max())


@pytest.mark.parametrize("faulty, error, words", [
    (lambda x, u: tf.complex(u, u), TypeError, "real float tensor, not complex64"),
    (lambda x, u: tf.reduce_sum(u), ValueError, "one row per sample"),
    (lambda x, u: u[:-1], ValueError, "one row per sample"),
])
def test_simulators_that_cannot_be_differentiated(faulty, error, words):
    with pytest.raises(error, match=words):
        compiled(stack("float32"), faulty).derivatives_for(tf.ones((B, FEATURES)), tf.ones((B, D)), None)


def test_network_without_trainable_weights():
    network = stack("float32")
    network.trainable = False
    with pytest.raises(ValueError, match="no trainable weights"):
        compiled(network, simulator).derivatives_for(tf.ones((B, FEATURES)), tf.ones((B, D)), None)


def test_unflatten_is_the_inverse_of_flattening():
    arrays = [np.arange(6.0).reshape(2, 3), np.arange(6.0, 8.0), np.float64(8.0)]
    for array, again in zip(arrays, unflatten(np.arange(9.0), [np.shape(a) for a in arrays])):
        np.testing.assert_array_equal(again, array)


@pytest.mark.parametrize("frozen", ["kernels", "biases"])
def test_gram_without_kernels_or_biases(frozen):
    """A layer of which one part is frozen keeps the other's term, (A Aᵀ) ∘ (Δ Δᵀ) or Δ Δᵀ alone."""
    rng = np.random.default_rng(0)
    a, delta = rng.normal(size=(4, 3)), rng.normal(size=(8, 2))
    places = ([None], [0]) if frozen == "kernels" else ([0], [None])
    jacobian = FactoredJacobian([a], [delta], *places)
    repeated = np.repeat(a, 2, axis=0)
    rows = delta if frozen == "kernels" else np.einsum("ri,ro->rio", repeated, delta).reshape(8, -1)
    np.testing.assert_allclose(jacobian.gram(), rows @ rows.T, atol=1e-13)
    for found, expected in zip(jacobian.normal(np.arange(8.0)), (rows.T @ rows, rows.T @ np.arange(8.0)),
                               strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-12)
    np.testing.assert_allclose(flat(jacobian.pullback(np.arange(8.0))), rows.T @ np.arange(8.0), atol=1e-12)


@pytest.mark.parametrize("budget", [1, 8 * 12 * 8, 10**9], ids=["a weight at a time", "two groups", "held"])
def test_rows_that_do_not_fit_the_memory(budget):
    """K over groups of weights, JᵀJ over chunks of rows and Jᵀv by a backward pass equal those of the whole
    matrix.
    """
    rng = np.random.default_rng(1)
    shapes = [(2, 3), (), (4, 1)]
    matrix = rng.normal(size=(12, 11))
    blocks = [piece.reshape(12, *shape) for piece, shape in zip(np.split(matrix, [6, 7], axis=1), shapes)]
    jacobian = RowsJacobian(lambda group: ((slice(i, i + 4), [blocks[j][i:i + 4] for j in group])
                                           for i in range(0, 12, 4)),
                            shapes, 12, budget, lambda v: unflatten(matrix.T @ v, shapes))
    v = rng.normal(size=12)
    np.testing.assert_allclose(jacobian.gram(), matrix @ matrix.T, atol=1e-13)
    for found, expected in zip(jacobian.normal(v), (matrix.T @ matrix, matrix.T @ v), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-13)
    for pullback in (jacobian.pullback, jacobian.pullback_by_rows):
        np.testing.assert_allclose(flat(pullback(v)), matrix.T @ v, atol=1e-13)
    assert (jacobian.matrix is None) == (budget < 10**9)


def test_gram_of_more_rows_than_one_product_takes(monkeypatch):
    matrix = np.random.default_rng(2).normal(size=(11, 3))
    monkeypatch.setattr("hig.jacobian._LARGEST_PRODUCT", 4)
    np.testing.assert_allclose(_gram_of(matrix), matrix @ matrix.T, atol=1e-14)
