"""What changes after the first batch: steps are right at once, because routes are chosen by the structure of
the graph.

Every case trains one update, changes a number that the first batch hid behind a factor 0 or a loop of one
step, and compares the next update with the singular value decomposition of the whole batch's Jacobian, taken
row by row.
"""

from dataclasses import dataclass, field

import keras
import numpy as np
import pytest
import tensorflow as tf

import hig
from hig.sample_axes import SampleAxes
from hig.structure import layer_products
from tests.networks import (ALL_STEPS, B, ETA, FEATURES, Case, Net, assert_right_rows, assert_right_step,
                            compiled, convolution, dense, rows, rows_of_route, slope, squares, stack, targets)
from tests.reference import jacobian_of_model

pytestmark = pytest.mark.filterwarnings("ignore:The Jacobian takes the route")   # said on purpose


def loop(network, steps, state):
    """The state after a closed loop of some steps, at most eight."""
    steps = tf.cast(steps, tf.int32)
    return tf.while_loop(lambda i, s: i < steps, lambda i, s: (i + 1, s + 0.3 * network(s)), (0, state),
                         maximum_iterations=8)[1]


def rolled(u, factor):
    return tf.while_loop(lambda i, s: i < 3, lambda i, s: (i + 1, s + factor * tf.roll(s, 1, axis=0)), (0, u),
                         maximum_iterations=3)[1]


FIRST, LATER = (rows(FEATURES, seed=seed).astype("float64") for seed in (0, 1))
MEASURED = FIRST * [0, 1, 1]
ONE_STEP, FOUR = ({"state": FIRST, "steps": np.full((B, 1), count, "int32")} for count in (0, 4))
# network, outcome as a function of (network, number that becomes 1, x, u), x before, x after
CHANGES = {
    "weight of a residual": (lambda: stack(5, 2), lambda network, factor, x, u: tf.concat(
        [u, factor * (slope(network, x) + u[:, :1])], 1)),
    "weight of a residual of a convolution": (convolution, lambda network, factor, x, u: tf.concat(
        [u, factor * slope(network, x)], 1)),
    "horizon in a variable": (lambda: stack(5, FEATURES), lambda network, factor, x, u: loop(
        network, 1 + 3 * factor, x + 0.3 * u)),
    "horizon in a factor": (lambda: stack(5, FEATURES), lambda network, factor, x, u: (
        x + 0.3 * u + factor * 0.3 * network(x + 0.3 * u))),
    "horizon in the data": (lambda: stack(5, FEATURES), lambda network, factor, x, u: loop(
        network, tf.reduce_max(x["steps"]), x["state"] + 0.3 * u), ONE_STEP, FOUR),
    "measurements, then collocation points": (lambda: stack(5, 2), lambda network, factor, x, u: (
        u + x[:, :1] * slope(network, x)[:, :2]), MEASURED, LATER),
    "coupled samples": (lambda: stack(5, 2), lambda network, factor, x, u: (
        u + factor * tf.reduce_mean(u, axis=0))),
    "coupled in a loop": (lambda: stack(5, 2), lambda network, factor, x, u: rolled(u, factor)),
    "norm of a kernel": (lambda: stack(5, 2), lambda network, factor, x, u: (
        u + factor * tf.reduce_sum(network.layers[0].kernel ** 2))),
    "norm of a kernel in a tf.function": (lambda: stack(5, 2), lambda network, factor, x, u: tf.function(
        lambda u: u + factor * tf.reduce_sum(network.layers[0].kernel ** 2))(u)),
    "norm of a kernel in a network in a tf.function": (lambda: Net(lambda self, x: tf.function(
        lambda x: self.last(self.first(x)) + self.factor * tf.reduce_sum(self.first.kernel ** 2))(x),
        first=dense(5, FEATURES), last=dense(2, 5)), lambda network, factor, x, u: u),
    "network recomputed for its gradient": (lambda: stack(5, FEATURES), lambda network, factor, x, u: (
        u + factor * tf.recompute_grad(lambda u: network(u))(tf.sin(u)))),
    "bias in a branch": (lambda: stack(5, 2), lambda network, factor, x, u: tf.cond(
        factor > 0, lambda: u * network.layers[1].bias, lambda: u + 0.0))}


CHANGES["coupled with its own repetitions"] = *CHANGES["coupled samples"], FIRST[:1]


@pytest.mark.parametrize("name, options", [
    *((name, {}) for name in CHANGES), ("coupled samples", {**ALL_STEPS, "krylov_chunk": 2}),
    *((name, ALL_STEPS) for name in ("coupled with its own repetitions", "norm of a kernel in a tf.function",
                                     "norm of a kernel in a network in a tf.function", "bias in a branch"))])
def test_a_step_after_the_change_is_right(float64, name, options):
    build, outcome, *data = CHANGES[name]
    network, factor = build(), tf.Variable(0.0, trainable=False, dtype="float64")
    network.factor = factor
    first, later = (2 * data or 2 * [FIRST])[:2]
    case = Case(network, lambda x, u: outcome(network, factor, x, u), x=first,
                network_input=(lambda x: x["state"]) if isinstance(first, dict) else None)
    model = compiled(case, hig.HIG(ETA, truncation=1e-3, **options))
    _, before = assert_right_step(case, model)
    case.x = later
    factor.assign(1.0)
    expected, _ = assert_right_step(case, model)
    assert np.abs(expected - before).max() > 1e-6                        # the change does something


@dataclass
class Coupled:
    """A simulator with a number and an array that Python holds. It has no hash, and is compared by value."""

    factor: float = 0.0
    scale: np.ndarray = field(default_factory=lambda: np.ones(2))

    def __call__(self, x, u):
        if tf.is_symbolic_tensor(u):
            self.last = u                                               # another one in each graph: no change
        return u * self.scale + self.factor * tf.reduce_mean(u, axis=0)


@pytest.mark.parametrize("change", [
    lambda model: setattr(model.simulator, "factor", 1.0),
    lambda model: setattr(model.simulator, "scale", np.array([2.0, 0.5])),
    lambda model: setattr(model.simulator, "scale", tf.constant([2.0, 0.5], dtype="float64")),
    lambda model: setattr(model.simulator, "scale", tf.Variable([2.0, 0.5], dtype="float64")),
    lambda model: setattr(model, "simulator", lambda x, u: u * x[:, :2]),
    lambda model: setattr(model, "simulator", Coupled(scale=np.array([2.0, 0.5]))),
    lambda model: setattr(model, "network_input", lambda x: x[:, ::-1]),
    lambda model: setattr(model.network.layers[0].kernel, "regularizer", keras.regularizers.L2(0.1))],
    ids=["number", "array", "tensor", "variable", "simulator", "data class", "network_input", "regularizer"])
def test_what_python_holds_counts_as_soon_as_it_changes(float64, change):
    """Only then all is compiled again, as a warning says, which `one_step` does not let through."""
    case = Case(stack(5, 2), Coupled())
    model = compiled(case)
    y = targets(case, model)

    def assert_right():
        assert_right_step(case, model)
        loss = np.mean(squares(y, model(FIRST))) + float(sum(model.losses))
        assert model.evaluate(FIRST, y, verbose=0) == pytest.approx(loss)

    def compiled_again():
        return any(sentence.startswith("A part of the model") for sentence in model.compiler.said)
    for _ in range(2):
        assert_right()
        assert not compiled_again()
    change(model)
    assert_right()
    assert compiled_again()


def test_plain_python_is_proven_again(float64):
    coupled = []
    case = Case(stack(5, 2), lambda x, u: u - tf.reduce_mean(u, axis=0) if coupled else u + 0.0)
    model = compiled(case, run_eagerly=True)
    assert_right_step(case, model)
    coupled.append(True)
    with pytest.warns(UserWarning, match="may have been wrong since update 1; this is update 2"):
        model.train_on_batch(case.x, targets(case, model))
    assert_right_step(case, model)


@pytest.mark.parametrize("options", [{}, ALL_STEPS], ids=["exact", "krylov"])
@pytest.mark.parametrize("coupled", [0.0, 1.0])
def test_noise_that_is_raised_later_is_refused(float64, coupled, options):
    factor = tf.Variable(0.0, trainable=False, dtype="float64")
    case = Case(stack(5, 2), lambda x, u: u * (1 + factor * tf.random.normal(u.shape, dtype=u.dtype))
                - coupled * tf.reduce_mean(u, axis=0))
    model = compiled(case, hig.HIG(ETA, truncation=1e-3, **options))
    y = targets(case, model)
    for _ in range(3):
        model.train_on_batch(case.x, y)
    factor.assign(1.0)
    with pytest.warns(UserWarning, match="stopped being right"), pytest.raises(
            ValueError, match="draw random numbers outside the model"):
        model.train_on_batch(case.x, y)


@pytest.mark.parametrize("dtype, scale", [("float32", 1e4), ("float64", 1e8)])
def test_small_rows_beside_large_ones(dtype, scale):
    """Outcomes {data: scale · u, residual: u″ + u}: the residual's rows are right to the dtype's rounding."""
    network = keras.Sequential([keras.Input((1,), dtype=dtype), keras.layers.Dense(8, "tanh", dtype=dtype),
                                keras.layers.Dense(1, dtype=dtype)])

    def physics(t, u):
        with tf.GradientTape() as outer:
            outer.watch(t)
            du = slope(network, t)
        return tf.concat([scale * u, outer.gradient(du, t) + u], 1)
    case = Case(network, physics, x=np.linspace(0, 3, 9).astype(dtype)[:, None])
    model = compiled(case, dtype=dtype)
    found = rows_of_route(case, model)[0][1::2]
    residual = jacobian_of_model(model, case.x)[1::2]
    error = np.linalg.norm(found - residual, axis=1) / np.linalg.norm(residual, axis=1)
    assert error.max() < 100 * np.finfo(dtype).eps  # the sum of a few tens of rounded terms


# --- what the graph says ------------------------------------------------------------------------------------

def verdict(function, *shapes):
    traced = tf.function(function, autograph=False).get_concrete_function(*map(tf.TensorSpec, shapes))
    return SampleAxes(traced, len(shapes), B).verdict()


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
    "sparse matrix of samples": lambda x: tf.transpose(tf.sparse.sparse_dense_matmul(
        tf.SparseTensor([[0, 0], [0, 1], [0, 2], [1, 0], [1, 1]], x[:, 0], [2, 3]), x, adjoint_b=True)),
    "matrix from the left": lambda x: tf.matmul(tf.ones([B, B]), x),
    "hidden behind 0": lambda x: x + 0.0 * tf.reduce_sum(x),
}


@pytest.mark.parametrize("function", APART.values(), ids=APART)
def test_samples_stay_apart(function):
    assert verdict(function, (B, 3)) == ""


@pytest.mark.parametrize("function", MIXED.values(), ids=MIXED)
def test_samples_are_mixed(function):
    assert verdict(function, (B, 3)) != ""


def test_a_grid_with_as_many_points_as_samples_is_no_sample():
    def operator(functions, grid):
        return tf.einsum("bf,gf->bg", functions, grid)
    assert verdict(operator, (B, 3), (9, 3)) == ""
    assert verdict(operator, (B, 3), (B, 3)) != ""


def test_an_unknown_operation_is_no_certainty():
    found = verdict(lambda x: tf.ensure_shape(tf.numpy_function(np.tanh, [x], tf.float32), x.shape), (B, 3))
    assert not found.certain and found.operation == "PyFunc"


def test_where_weights_act():
    network = stack(5, 2)

    def products(function):
        traced = tf.function(function, autograph=False).get_concrete_function(tf.TensorSpec((B, FEATURES)))
        found, reason = layer_products(traced.graph.outputs[0], network.trainable_variables, B)
        return [product[2:] for product in found] or reason
    assert products(lambda x: tf.identity(network(x))) == [(0, 1), (2, 3)]
    assert "acts 2 times" in products(lambda x: network(x) + 0.0 * tf.reduce_sum(network.layers[0].kernel))
    assert "While" in products(lambda x: tf.while_loop(lambda s: True, lambda s: [s * network(x)[:, :1]], [x],
                                                       maximum_iterations=2)[0])


def test_where_the_graph_leaves_it_open_the_proof_is_repeated(float64):
    """An operation that is not known, hidden behind a factor that is 0 at first: found at the next proof, and
    told.
    """
    factor = tf.Variable(0.0, trainable=False, dtype="float64")
    case = Case(stack(5, 2), lambda x, u: u + factor * tf.math.unsorted_segment_sum(
        u, tf.zeros_like(u[:, 0], "int32"), 1))
    model = compiled(case)
    assert_right_step(case, model)                                      # update 1
    assert model.route == "factored"
    y = targets(case, model)
    for _ in range(20):  # past the proofs at updates 2, 4, 8 and 16
        model.train_on_batch(case.x, y)
    factor.assign(1.0)
    with pytest.warns(UserWarning, match="may have been wrong since update 17; this is update 22"):
        model.train_on_batch(case.x, y)
    assert_right_step(case, model)
    assert model.route == "whole batch"


def test_whole_trajectories_are_linearised_by_their_few_controls(float64):
    """d = 40 outcomes of a loop, 2 controls: products with ∂y/∂u, not 40 backward passes."""
    backward = []

    def trajectory(x, u):
        def body(i, s, states):
            s = s + 0.1 * tf.stack([s[:, 1] + u[:, 0], u[:, 1] - tf.sin(s[:, 0])], 1)
            return i + 1, s, states.write(i, s)
        backward.append(u.shape[0])
        states = tf.TensorArray(x.dtype, 20, element_shape=(None, 2))
        states = tf.while_loop(lambda i, *_: i < 20, body, (0, x[:, :2], states),
                               maximum_iterations=20)[2].stack()
        return tf.transpose(tf.ensure_shape(states, (20, *x.shape[:1], 2)), [1, 0, 2])
    case = Case(stack(5, 2), trajectory)
    assert assert_right_rows(case, compiled(case)).route == "factored"
    assert 2 * B in backward and 40 * B not in backward


@pytest.mark.parametrize("outputs", [1, 2])
def test_a_closed_loop_takes_weights_of_its_own_for_each_row(float64, outputs):
    """The network acts in every step of a loop, and once in a derivative by its input: rows without
    vectorised loops.
    """
    network = stack(5, FEATURES)
    case = Case(network, lambda x, u: loop(network, 7, x + 0.1 * slope(network, x) + u)[:, :outputs])
    derivatives = assert_right_rows(case, compiled(case))
    assert derivatives.route == "per sample" and derivatives.functions.structure.has_own_weights
