"""hig.jacobian and hig.routes against one backward pass per output, in float64 and float32."""

import numpy as np
import pytest
import tensorflow as tf

from hig.backend import keras
from hig.jacobian import FactoredJacobian, PenalizedJacobian, RowsJacobian, unflatten
from tests.networks import B, FEATURES, Case, assert_right_rows, compiled, rows, stack
from tests.reference import flat
from tests.test_networks import ELSEWHERE
from tests.test_networks_layers import FROZEN, LAYERS

pytestmark = pytest.mark.filterwarnings("ignore:The Jacobian takes the route")   # said on purpose

# a few hundred rounded operations per entry, entries of order one
TOLERANCE = {"float64": 1e-13, "float32": 1e-5}
BUILT = {"dense": LAYERS["dense"], "partly_frozen": FROZEN["layer"], "skips": LAYERS["skip_connections"],
         "layer_called_twice": ELSEWHERE["layer_called_twice"], "normalized": LAYERS["layer_normalization"]}


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("build", BUILT.values(), ids=BUILT)
def test_rows_to_the_precision_of_the_dtype(request, build, dtype):
    if dtype == "float64":
        request.getfixturevalue("float64")
    keras.utils.set_random_seed(3)
    case = build()
    assert_right_rows(case, compiled(case), TOLERANCE[dtype])


@pytest.mark.parametrize("batch", [1, 37, 150])
def test_gram_in_stripes_of_any_size(batch):
    """Batches below, above and no multiple of the stripes; the explicit J has no stripes."""
    rng = np.random.default_rng(batch)
    d, widths = 5, [4, 3, 6]
    inputs = [rng.normal(size=(batch, k)) for k in widths[:-1]]
    cotangents = [rng.normal(size=(batch * d, k)) for k in widths[1:]]
    jacobian = FactoredJacobian(inputs, cotangents, [0, 2], [1, None])
    every = [np.concatenate([np.outer(np.append(inputs[0][r // d], 1), cotangents[0][r]).ravel(),
                            np.outer(inputs[1][r // d], cotangents[1][r]).ravel()]) for r in range(batch * d)]
    expected = np.array(every) @ np.array(every).T
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

    x = tf.ones((B, FEATURES))
    model = compiled(Case(stack(4, 2), lambda x, u: counted(u)))
    passes.clear()
    derivatives = model.derivatives_for(x, x[:, :2], None)
    assert passes == [(B, 2), (B * 2, 2)]                               # the first is that of the proof
    derivatives.linearise(2 * x, x[:, :2], None)
    assert len(passes) == 2


@pytest.mark.parametrize("build", [LAYERS["dense"], ELSEWHERE["layer_called_twice"]], ids=["once", "twice"])
def test_the_network_is_left_as_it_was(build):
    case, call = build(), keras.layers.Dense.call
    model = compiled(case)
    before = model(case.x)
    model.derivatives_for(tf.constant(case.x), rows(3), None)
    assert keras.layers.Dense.call is call and all("call" not in vars(layer) for layer in case.network.layers)
    np.testing.assert_array_equal(model(case.x), before)


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
