"""What the tables of networks × simulators share: small pieces, and the step that each case is held to.

A case is right if one update by `hig.PhysicsModel` equals

    Δθ = −η · (J^κ g + ∂penalties/∂θ)

(penalties that are sums of squares of weights are further rows of J and g instead) for κ = −1/2 and for κ = 1
without truncation, where J is taken row by row of the whole batch's outcome, with respect to all trainable
weights of the model, and J^κ by numpy's singular value decomposition, all in float64. At κ = 1 the step also
equals that of keras.optimizers.SGD in Keras' own training loop, which knows nothing of Jacobians.
"""

import dataclasses
import functools
import typing
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

import hig
from hig.jacobian import unflatten
from tests.reference import flat, jacobian_of_model, power_by_svd, weights_of

B, FEATURES = 5, 3
ETA = 2.0 ** -10          # a power of two: dividing by it costs no digits
ALL_STEPS = {"krylov": 10**6, "krylov_tolerance": 0.0}      # as many as there are
# K = JJᵀ is known to 1e-16 σ_max², so f(K) at the smallest singular value kept, 1e-4 σ_max, to 1e-8, times
# the few tens of terms in each entry and the gap at the cut
TOLERANCE = 1e-6


def squares(y_true, y):
    """Σ (y − y*)² of each sample, whatever its shape."""
    return tf.reduce_sum((y - y_true) ** 2, axis=list(range(1, len(y.shape))))


def simulator(x, u):
    """Three outcomes of the first two controls and the state: J has rank 2B of 3B rows."""
    return tf.stack([u[:, 0] + x[:, 0] ** 2, 3 * tf.sin(u[:, 1]), 0.3 * u[:, 0] * u[:, 1] * x[:, 1]], axis=1)


def rows(*shape, seed=0):
    """B samples of the given shape, normally distributed, in Keras' default precision."""
    return np.random.default_rng(seed).normal(size=(B, *shape)).astype(keras.config.floatx())


@dataclasses.dataclass
class Case:
    """One entry of a table: the arguments of hig.PhysicsModel, those of `fit`, and what is special.

    Attributes:
        x: array or structure of arrays; `rows(FEATURES)` by default.
        loss: that of `compile`, of which Keras itself gives the reference's gradient by the outcome.
        compile: further arguments of `compile`; sample_weight: that of `train_on_batch`.
        inference: True if the network does something else in training (dropout): J is taken in inference, so
            SGD is no yardstick, only Jᵀg is.
        route: the value of `model.route` that speed demands; None where any right one will do.
    """

    network: typing.Any
    simulator: typing.Any = simulator
    x: typing.Any = None
    network_input: typing.Any = None
    loss: typing.Any = squares
    compile: dict = dataclasses.field(default_factory=dict)
    sample_weight: typing.Any = None
    inference: bool = False
    route: str | None = None

    def __post_init__(self):
        self.x = rows(FEATURES) if self.x is None else self.x


class Net(keras.Model):
    """A network made of the named layers, whose call is the function body(self, x)."""

    def __init__(self, body, **layers):
        super().__init__()
        self.body = body
        for name, layer in layers.items():
            setattr(self, name, layer)

    def call(self, x):
        return self.body(self, x)


class Physics(keras.layers.Layer):
    """A simulator with weights: the named numbers as scalar weights, the named layers, and body(self, x, u).
    """

    def __init__(self, body, **parts):
        super().__init__()
        self.body = body
        for name, part in parts.items():
            setattr(self, name, self.add_weight(shape=(), initializer=keras.initializers.Constant(part),
                                                name=name)
                    if isinstance(part, float) else part)

    def call(self, x, u):
        return self.body(self, x, u)


def dense(units, features, activation=None, **options):
    """A Dense layer that has its weights."""
    layer = keras.layers.Dense(units, activation=activation, **options)
    layer.build((None, features))
    return layer


def stack(*units, features=FEATURES, **options):
    """Dense layers, tanh between them."""
    layers = [keras.layers.Dense(size, "tanh", **options) for size in units[:-1]]
    return keras.Sequential([keras.Input((features,)), *layers, keras.layers.Dense(units[-1], **options)])


def convolution(filters=2, **options):
    """A network of a convolution along the features and a Dense layer, with two controls."""
    return keras.Sequential([
        keras.Input((FEATURES,)), keras.layers.Reshape((FEATURES, 1)),
        keras.layers.Conv1D(filters, 2, activation="tanh", **options), keras.layers.Flatten(),
        keras.layers.Dense(2)])


def in_the_simulator(physics, *units, features=FEATURES, **options):
    """A case whose simulator, physics(network, x, u), uses the network itself."""
    network = stack(*units, features=features)
    return Case(network, functools.partial(physics, network), x=rows(features), **options)


def slope(network, x):
    """∂u/∂x summed over outputs, by a tape within the model."""
    with tf.GradientTape() as tape:
        tape.watch(x)
        u = network(x)
    return tape.gradient(u, x)


def hig_model(case, **options):
    """The PhysicsModel of the case, every trainable weight moved away from zeros and ones.

    It is compiled with gradient descent in Keras' own training loop.
    """
    model = hig.PhysicsModel(case.network, case.simulator, case.network_input, **options)
    model(tf.nest.map_structure(tf.constant, case.x))
    rng = np.random.default_rng(7)
    for weight in model.trainable_variables:
        weight.assign(weight.numpy() + 0.3 * rng.normal(size=weight.shape))
    model.compile(keras.optimizers.SGD(ETA), case.loss, run_eagerly=True, **case.compile)
    return model


def compiled(case, optimizer=None, dtype=None, **options):
    """`hig_model`, compiled with HIG if no optimizer is given, and options of `compile`."""
    model = hig_model(case, dtype=dtype)
    model.compile(optimizer or hig.HIG(ETA, truncation=1e-3), case.loss, **{**options, **case.compile})
    return model


def targets(case, model, seed=3):
    """Random y* with the structure, shapes and dtypes of the model's outcome."""
    rng = np.random.default_rng(seed)
    outcome = model(tf.nest.map_structure(tf.constant, case.x))
    return tf.nest.map_structure(lambda t: rng.normal(size=t.shape).astype(t.dtype.as_numpy_dtype), outcome)


def derivatives(case, model, x, y):
    """(J, g, ∂penalties/∂θ) at a compiled model's present weights, float64, from TensorFlow's tape alone.

    A weight's L2 regulariser λ Σ w² is q further rows √(2λ/h) of J, h = 2/B as for `squares`, and entries
    2λw/√(2λ/h) of g.
    """
    jacobian, values = jacobian_of_model(model, x), [v.value for v in model.trainable_variables]
    outcome = model(tf.nest.map_structure(tf.constant, x))
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(outcome)
        loss = model.compute_loss(x, y, outcome, case.sample_weight)
        model(tf.nest.map_structure(tf.constant, x))
        penalty = tf.add_n([tf.reduce_sum(loss) for loss in [*model.losses, tf.zeros((), loss.dtype)]])
    gradient = flat(tf.nest.flatten(tape.gradient(loss, outcome, unconnected_gradients="zero")))
    penalty_gradient = flat(tape.gradient(penalty, values, unconnected_gradients="zero"))
    strength = flat([np.full(weight.shape, getattr(weight.regularizer, "l2", 0.0))
                     for weight in model.trainable_variables])
    columns, by_weights = np.flatnonzero(strength), 2 * strength * weights_of(model)
    scales = np.sqrt(strength[columns] * len(tf.nest.flatten(outcome)[0]))
    jacobian = np.vstack([jacobian, scales[:, None] * np.eye(len(strength))[columns]])
    return jacobian, np.append(gradient, by_weights[columns] / scales), penalty_gradient - by_weights


def truncation_in_a_gap(jacobian):
    """τ ≥ 1e-8 in the widest gap (as a ratio) of the spectrum that lies below singular values ≥ 1e-4 σ_max.
    """
    sigma = np.linalg.svd(jacobian, compute_uv=False)
    sigma = np.append(np.maximum(sigma / sigma[0], 1e-8), 1e-8)
    kept = np.flatnonzero(sigma >= 1e-4)
    best = kept[np.argmax(sigma[kept] / sigma[kept + 1])]
    assert sigma[best] / sigma[best + 1] > 1.5, f"no gap to cut at in {sigma}"
    return float(np.sqrt(sigma[best] * sigma[best + 1]))


def moved(model, direction, eta=ETA):
    """The weights after θ ← θ − η · direction and, where a weight has one, its constraint: one vector."""
    shapes = [weight.shape for weight in model.trainable_variables]
    return flat([(weight.constraint or np.asarray)(weight.numpy() - step) for weight, step
                 in zip(model.trainable_variables, unflatten(eta * direction, shapes))])


def one_step(case, model, y):
    """The trainable weights after one update from the present ones, as one vector; the weights are put back.
    """
    saved = [weight.numpy() for weight in model.weights]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")                         # of a slower route: tested by themselves
        model.train_on_batch(case.x, y, sample_weight=case.sample_weight)
    after = weights_of(model)
    for weight, value in zip(model.weights, saved):
        weight.assign(value)
    return after


def assert_same_step(step, expected, before, tolerance=TOLERANCE):
    """Two vectors of weights, both one update away from `before`, agree relative to the largest entry of the
    update.
    """
    change = np.abs(expected - before).max()
    assert change > 0
    np.testing.assert_allclose((step - before) / change, (expected - before) / change, rtol=0, atol=tolerance)


def assert_right_step(case, model, kappa=-0.5, reference=None, tolerance=TOLERANCE):
    """One update of a compiled model equals that by the decomposition of the reference's J.

    `reference` is what `derivatives` returns. With κ < 1, τ is set into a gap of the spectrum. Returns the
    weights expected, and those before.
    """
    y, before = targets(case, model), weights_of(model)
    jacobian, gradient, penalty = reference or derivatives(case, model, case.x, y)
    truncation = truncation_in_a_gap(jacobian) if kappa < 1 else 0.0
    if isinstance(model.optimizer, hig.JacobianPower):
        model.optimizer.kappa, model.optimizer.truncation = kappa, truncation
    expected = moved(model, power_by_svd(jacobian, kappa, truncation) @ gradient + penalty)
    assert_same_step(one_step(case, model, y), expected, before, tolerance)
    return expected, before


def rows_of_route(case, model):
    """(J (n, p) as the route gives it, row by row; the `Derivatives`)."""
    x, y = (tf.nest.map_structure(tf.constant, data) for data in (case.x, targets(case, model)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        derivatives = model.derivatives_for(x, y, None)
    jacobian = derivatives.linearise(x, y, None)[3]
    return np.array([flat(jacobian.pullback(row)) for row in np.eye(derivatives.functions.n)]), derivatives


def assert_right_rows(case, model, tolerance=1e-11):
    """J as the route gives it is the reference's, to a tolerance relative to its largest entry: by default
    that of loops of 20 steps in float64. Returns the `Derivatives`.
    """
    found, derivatives = rows_of_route(case, model)
    reference = jacobian_of_model(model, case.x)
    np.testing.assert_allclose(found, reference, rtol=0, atol=tolerance * np.abs(reference).max())
    return derivatives


def hold_to_the_svd(case, jit_compile="auto", tolerance=TOLERANCE, kappas=(-0.5, 1.0), **krylov):
    """One case of a table, for some κ and perhaps `ALL_STEPS`, as the module docstring says. Returns the
    model, compiled and used.
    """
    model = hig_model(case)
    reference = derivatives(case, model, case.x, targets(case, model))
    if not case.inference:                                      # Keras' own step
        assert_right_step(case, model, 1.0, reference, tolerance)
    optimizer = hig.JacobianPower(ETA, -0.5, 0.0, **krylov)
    model.compile(optimizer, case.loss, **{"jit_compile": jit_compile, **case.compile})
    for kappa in kappas:
        assert_right_step(case, model, kappa, reference, tolerance)
    if krylov:
        assert model.route.startswith("krylov, ")
    else:
        assert model.route in ("factored", "per sample", "whole batch")
        assert case.route in (None, model.route)
    return model


def held_to_the_svd(table, slow=()):
    """The test of a table {name: function that builds a Case}; those named in `slow` are marked so."""
    @pytest.mark.parametrize("build", [
        pytest.param(build, id=name, marks=[pytest.mark.slow] * (name in slow))
        for name, build in table.items()])
    def test(float64, jit_compile, build):
        hold_to_the_svd(build(), jit_compile)
    return test
