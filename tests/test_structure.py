"""What changes after the first batch: steps are right at once, because routes are chosen by the structure of
the graph.

Every case trains one update, changes a number that the first batch hid behind a factor 0 or a loop of one
step, and compares the next update with the singular value decomposition of the whole batch's Jacobian, taken
row by row.
"""

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

import hig
from hig.sample_axes import SampleAxes
from hig.structure import layer_products
from tests.networks import B, ETA, FEATURES, assert_same_step, rows, squares, truncation_in_a_gap
from tests.reference import flat, jacobian_by_rows, power_by_svd

LAYERS = keras.layers


def number(value, dtype="float64"):
    return tf.Variable(value, trainable=False, dtype=dtype)


def hidden(units, *shape):
    return keras.Sequential([keras.Input(shape), LAYERS.Dense(5, "tanh"), LAYERS.Dense(units)])


def slope(network, x):
    """∂u/∂x summed over outputs, by a tape within the model."""
    with tf.GradientTape() as tape:
        tape.watch(x)
        u = network(x)
    return tape.gradient(u, x)


# --- each: (network, simulator, x before, x after, what changes) --------------------------------------------

def residual_weight():
    """A physics-informed residual whose weight λ is 0 at first."""
    factor, network = number(0.0), hidden(2, FEATURES)
    return network, lambda x, u: tf.concat([u, factor * (slope(network, x) + u[:, :1])],
                                           1), None, None, (factor, 1.0)


def residual_weight_of_a_convolution():
    factor = number(0.0)
    network = keras.Sequential([keras.Input((6, 1)), LAYERS.Conv1D(3, 3, activation="tanh"), LAYERS.Flatten(),
                                LAYERS.Dense(2)])
    return (network, lambda x, u: tf.concat([u, factor * slope(network, x)[:, :2, 0]], 1), rows(6, 1), None,
            (factor, 1.0))


def horizon_in_a_variable():
    """A closed loop of one step at first, then of four."""
    steps, network = number(1, "int32"), hidden(FEATURES, FEATURES)

    def loop(x, u):
        return tf.while_loop(lambda i, s: i < steps, lambda i, s: (i + 1, s + 0.3 * network(s)),
                             (0, x + 0.3 * u), maximum_iterations=8)[1]
    return network, loop, None, None, (steps, 4)


def horizon_in_a_factor():
    """All steps are made, but those beyond the horizon count by a factor that is 0 at first."""
    further, network = number(0.0), hidden(FEATURES, FEATURES)

    def steps(x, u):
        state = x + 0.3 * u
        return state + further * 0.3 * network(state)
    return network, steps, None, None, (further, 1.0)


def horizon_in_the_data():
    network = hidden(FEATURES, FEATURES)

    def loop(x, u):
        last = tf.reduce_max(x["steps"])
        return tf.while_loop(lambda i, s: i < last, lambda i, s: (i + 1, s + 0.3 * network(s)),
                             (0, x["state"] + 0.3 * u), maximum_iterations=8)[1]
    x = {"state": rows(FEATURES), "steps": np.zeros((B, 1), "int32")}
    return network, loop, x, {**x, "steps": np.full((B, 1), 4, "int32")}, None, lambda x: x["state"]


def two_kinds_of_batches():
    """Measurements first, then collocation points, told apart by a column of x."""
    network = hidden(2, FEATURES)

    def outcome(x, u):
        return u + x[:, :1] * slope(network, x)[:, :2]
    first, second = rows(FEATURES), rows(FEATURES, seed=1)
    first[:, 0] = 0
    return network, outcome, first, second, None


def coupled_samples():
    factor = number(0.0)
    return hidden(2, FEATURES), lambda x, u: u + factor * tf.reduce_mean(u, axis=0), None, None, (factor, 1.0)


def coupled_in_a_loop():
    factor = number(0.0)

    def loop(x, u):
        return tf.while_loop(lambda i, s: i < 3, lambda i, s: (i + 1, s + factor * tf.roll(s, 1, axis=0)),
                             (0, u), maximum_iterations=3)[1]
    return hidden(2, FEATURES), loop, None, None, (factor, 1.0)


def norm_of_a_kernel():
    factor, network = number(0.0), hidden(2, FEATURES)
    return network, lambda x, u: u + factor * tf.reduce_sum(network.layers[0].kernel ** 2), None, None, (
        factor, 1.0)


def norm_of_a_kernel_in_a_branch():
    switch, network = number(0.0), hidden(2, FEATURES)
    return (network, lambda x, u: tf.cond(switch > 0, lambda: u * network.layers[1].bias, lambda: u + 0.0),
            None, None, (switch, 1.0))


CHANGES = [residual_weight, residual_weight_of_a_convolution, horizon_in_a_variable, horizon_in_a_factor,
           horizon_in_the_data, two_kinds_of_batches, coupled_samples, coupled_in_a_loop, norm_of_a_kernel,
           norm_of_a_kernel_in_a_branch]


def step_and_reference(model, x, tau=None):
    """One update, and what the decomposition of the whole Jacobian says: (after, expected, before)."""
    rng = np.random.default_rng(3)
    outcome = model(tf.nest.map_structure(tf.constant, x))
    y = rng.normal(size=outcome.shape).astype(outcome.dtype.as_numpy_dtype)
    values = [weight.value for weight in model.trainable_variables]
    jacobian = jacobian_by_rows(lambda: model(tf.nest.map_structure(tf.constant, x)), values)
    gradient = flat(2 * (outcome - y) / len(y))
    model.optimizer.truncation = tau = truncation_in_a_gap(jacobian) if tau is None else tau
    before = flat([weight.numpy() for weight in model.trainable_variables])
    expected = before - ETA * power_by_svd(jacobian, -0.5, tau) @ gradient
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")                                  # of a slower route
        model.train_on_batch(x, y)
    return flat([weight.numpy() for weight in model.trainable_variables]), expected, before


@pytest.mark.parametrize("case", CHANGES, ids=lambda case: case.__name__)
def test_a_step_after_the_change_is_right(float64, case):
    network, simulator, x, later, change, *network_input = case()
    model = hig.PhysicsModel(network, simulator, *network_input)
    model.compile(hig.HIG(ETA, truncation=1e-3), squares)
    x = rows(FEATURES) if x is None else x
    assert_same_step(*step_and_reference(model, x))
    if change:
        change[0].assign(change[1])
    after, expected, before = step_and_reference(model, x if later is None else later)
    assert_same_step(after, expected, before)
    assert np.abs(expected - before).max() > 1e-6                        # the change does something


@pytest.mark.parametrize("dtype, scale", [("float32", 1e4), ("float64", 1e8)])
def test_small_rows_beside_large_ones(dtype, scale):
    """Outcomes {data: scale · u, residual: u″ + u}: the residual's rows are right to the dtype's rounding."""
    network = keras.Sequential([keras.Input((1,), dtype=dtype), LAYERS.Dense(8, "tanh", dtype=dtype),
                                LAYERS.Dense(1, dtype=dtype)])

    def physics(t, u):
        with tf.GradientTape() as outer:
            outer.watch(t)
            du = slope(network, t)
        return tf.concat([scale * u, outer.gradient(du, t) + u], 1)
    model = hig.PhysicsModel(network, physics, dtype=dtype)
    model.compile(hig.HIG(ETA, truncation=1e-6), squares)
    t = np.linspace(0, 3, 9).astype(dtype)[:, None]
    y = np.zeros((9, 2), dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        derivatives = model.derivatives_for(tf.constant(t), tf.constant(y), None)
    *_, jacobian = derivatives.linearise(tf.constant(t), tf.constant(y), None)
    reference = jacobian_by_rows(lambda: model(tf.constant(t)),
                                 [weight.value for weight in model.trainable_variables])
    residual, found = reference[1::2], jacobian.matrix[1::2]
    error = np.linalg.norm(found - residual, axis=1) / np.linalg.norm(residual, axis=1)
    assert error.max() < 100 * np.finfo(dtype).eps  # the sum of a few tens of rounded terms


# --- what the graph says ------------------------------------------------------------------------------------

def verdict(function, *shapes, batch=B, dtype=tf.float32):
    traced = tf.function(function, autograph=False).get_concrete_function(*(tf.TensorSpec(shape, dtype)
                                                                            for shape in shapes))
    return SampleAxes(traced, len(shapes), batch).verdict()


APART = {
    "elementwise": lambda x: tf.tanh(x) * x + 1.0,
    "reduced within": lambda x: tf.reduce_sum(x ** 2, axis=1, keepdims=True) * x,
    "transposed": lambda x: tf.transpose(tf.transpose(x) * tf.constant([[1.0], [2.0], [3.0]])),
    "reshaped": lambda x: tf.reshape(tf.reshape(tf.repeat(x, 4, axis=0), [-1, 1]), [B, -1]),
    "two blocks": lambda x: sum(tf.split(tf.concat([x, x ** 2], 0), 2)),
    "einsum": lambda x: tf.einsum("...i,ij->...j", x, tf.eye(3)),
    "einsum of dots": lambda x: tf.einsum("b...,b...->b...", x, x),
    "solve": lambda x: tf.linalg.solve(x[:, :, None] * x[:, None] + tf.eye(3), x[:, :, None])[..., 0],
    "rolled within": lambda x: tf.roll(x, 1, axis=1) + x[:, ::-1],
    "gathered within": lambda x: tf.gather(x, [2, 0, 0], axis=1),
    "vectorised": lambda x: tf.vectorized_map(lambda row: tf.reduce_sum(row) * row, x),
    "pairs of components": lambda x: tf.reduce_sum((x[:, :, None] - x[:, None]) ** 2, 2),
    "a loop over a list": lambda x: tf.transpose(tf.map_fn(lambda column: 2 * column, tf.transpose(x))),
    "Fourier": lambda x: tf.math.real(tf.signal.fft(tf.cast(x, tf.complex64))),
}
MIXED = {
    "mean": lambda x: x - tf.reduce_mean(x, axis=0),
    "mean of all": lambda x: x - tf.reduce_mean(x),
    "first sample": lambda x: x - x[:1],
    "neighbour": lambda x: x + tf.roll(x, 1, axis=0),
    "turned round": lambda x: x + x[::-1],
    "sum along the batch": lambda x: tf.cumsum(x),
    "product of samples": lambda x: tf.matmul(x, x, transpose_b=True),
    "normalised": lambda x: tf.linalg.normalize(x)[0],
    "reshaped": lambda x: tf.reshape(tf.transpose(x), [B, 3]),
    "pairs": lambda x: tf.reduce_sum(x[:, None] - x[None], axis=1),
    "as long as any": lambda x: tf.while_loop(lambda s: tf.reduce_any(s > 0), lambda s: [s - 1], [x])[0],
    "branch of any": lambda x: tf.cond(tf.reduce_any(x > 0), lambda: x, lambda: -x),
    "matrix from the left": lambda x: tf.matmul(tf.ones([B, B]), x),
    "hidden behind 0": lambda x: x + 0.0 * tf.reduce_sum(x),
}


@pytest.mark.parametrize("name", APART)
def test_samples_stay_apart(name):
    assert verdict(APART[name], (B, 3)) == ""


@pytest.mark.parametrize("name", MIXED)
def test_samples_are_mixed(name):
    assert verdict(MIXED[name], (B, 3)) != ""


def test_a_grid_with_as_many_points_as_samples_is_no_sample():
    def operator(functions, grid):
        return tf.einsum("bf,gf->bg", functions, grid)
    assert verdict(operator, (B, 3), (9, 3)) == ""
    assert verdict(operator, (B, 3), (B, 3)) != ""


def test_an_unknown_operation_is_no_certainty():
    found = verdict(lambda x: tf.ensure_shape(tf.numpy_function(np.tanh, [x], tf.float32), x.shape), (B, 3))
    assert not found.certain and found.operation == "PyFunc"


class Residual(keras.layers.Layer):
    """A user's own layer with Dense layers inside."""

    def build(self, shape):
        self.first, self.second = LAYERS.Dense(7, "tanh"), LAYERS.Dense(shape[-1])
        self.first.build(shape)
        self.second.build((None, 7))

    def call(self, x):
        return x + self.second(self.first(x))


def test_dense_layers_inside_a_users_own_layer_are_found(float64):
    network = keras.Sequential([keras.Input((FEATURES,)), Residual(), Residual(), LAYERS.Dense(2)])
    model = hig.PhysicsModel(network, lambda x, u: u)
    model.compile(hig.HIG(ETA, truncation=1e-3), squares)
    assert_same_step(*step_and_reference(model, rows(FEATURES)))
    assert model.route == "factored"


def test_where_weights_act():
    network = hidden(2, FEATURES)

    def products(function):
        traced = tf.function(function, autograph=False).get_concrete_function(tf.TensorSpec((B, FEATURES)))
        found, reason = layer_products(traced.graph, network.trainable_variables, traced.graph.outputs[0], B)
        return [product[2:] for product in found] if found else reason
    assert products(lambda x: tf.identity(network(x))) == [(0, 1), (2, 3)]
    assert "acts 2 times" in products(lambda x: network(x) + 0.0 * tf.reduce_sum(network.layers[0].kernel))
    assert "While" in products(lambda x: tf.while_loop(lambda s: True, lambda s: [s * network(x)[:, :1]], [x],
                                                       maximum_iterations=2)[0])


def test_where_the_graph_leaves_it_open_the_proof_is_repeated(float64):
    """An operation that is not known, hidden behind a factor that is 0 at first: found at the next proof, and
    told.
    """
    factor = number(0.0)
    model = hig.PhysicsModel(hidden(2, FEATURES), lambda x, u: u + factor * tf.math.unsorted_segment_sum(
        u, tf.zeros_like(u[:, 0], "int32"), 1))
    model.compile(hig.HIG(ETA, truncation=1e-3), squares)
    assert_same_step(*step_and_reference(model, rows(FEATURES)))
    assert model.route == "factored"
    x, y = rows(FEATURES), rows(2)
    for _ in range(20):  # past the proofs at updates 2, 4, 8 and 16
        model.train_on_batch(x, y)
    factor.assign(1.0)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.train_on_batch(x, y)
    assert any("Steps may have been wrong since update 17; this is update 22" in str(warning.message)
               for warning in caught)
    assert_same_step(*step_and_reference(model, rows(FEATURES)))
    assert model.route == "whole batch"


def rows_of(model, x, y):
    """J as the route gives it, (n, p), and the name of the route."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        derivatives = model.derivatives_for(tf.constant(x), tf.constant(y), None)
    *_, jacobian = derivatives.linearise(tf.constant(x), tf.constant(y), None)
    found = np.array([flat(jacobian.pullback(row)) for row in np.eye(derivatives.functions.n)])
    return found, derivatives.route


def test_whole_trajectories_are_linearised_by_their_few_controls(float64):
    """d = 40 outcomes of a loop, 2 controls: products with ∂y/∂u, not 40 backward passes."""
    def trajectory(x, u):
        def body(i, s, states):
            s = s + 0.1 * tf.stack([s[:, 1] + u[:, 0], u[:, 1] - tf.sin(s[:, 0])], 1)
            return i + 1, s, states.write(i, s)
        states = tf.TensorArray(x.dtype, 20, element_shape=(None, 2))
        states = tf.while_loop(lambda i, *_: i < 20, body, (0, x[:, :2], states),
                               maximum_iterations=20)[2].stack()
        return tf.transpose(tf.ensure_shape(states, (20, *x.shape[:1], 2)), [1, 0, 2])
    backward = []
    model = hig.PhysicsModel(hidden(2, FEATURES), lambda x, u: (backward.append(u.shape[0]), trajectory(x,
        u))[1])
    model.compile(hig.HIG(ETA, truncation=1e-3), squares)
    x = rows(FEATURES)
    found, route = rows_of(model, x, np.zeros((B, 20, 2)))
    assert route == "factored" and 2 * B in backward and 40 * B not in backward
    reference = jacobian_by_rows(lambda: model(tf.constant(x)),
                                 [weight.value for weight in model.trainable_variables])
    # loops of 20 steps
    np.testing.assert_allclose(found, reference, rtol=0, atol=1e-13 * np.abs(reference).max() * 100)


@pytest.mark.parametrize("outputs", [1, 2])
def test_a_closed_loop_takes_weights_of_its_own_for_each_row(float64, outputs):
    """The network acts in every step of a loop, and once in a derivative by its input: rows without
    vectorised loops.
    """
    network = hidden(FEATURES, FEATURES)

    def loop(x, u):
        x = x + 0.1 * slope(network, x) + u
        return tf.while_loop(lambda i, s: i < 7, lambda i, s: (i + 1, s + 0.3 * network(s)), (0, x),
                             maximum_iterations=7)[1][:, :outputs]
    model = hig.PhysicsModel(network, loop)
    model.compile(hig.HIG(ETA, truncation=1e-3), squares)
    x, y = rows(FEATURES), rows(outputs)
    found, route = rows_of(model, x, y)
    assert route == "per sample"
    reference = jacobian_by_rows(lambda: model(tf.constant(x)),
                                 [weight.value for weight in model.trainable_variables])
    np.testing.assert_allclose(found, reference, rtol=0, atol=1e-11 * np.abs(reference).max())
    derivatives = next(iter(model._derivatives.values()))
    assert derivatives.functions.structure.has_own_weights
