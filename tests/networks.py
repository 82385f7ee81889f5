"""What the tables of networks × simulators share: small pieces, and the step that each case is held to.

A case is right if one update by `hig.PhysicsModel` equals

    Δθ = −η · (J^κ g + ∂penalties/∂θ)

(penalties that are sums of squares of weights are further rows of J and g instead) for κ = −1/2 and for κ = 1
without truncation, where J is taken row by row of the whole batch's outcome, with respect to all trainable
weights of the model, and J^κ by numpy's singular value decomposition, all in float64. At κ = 1 the step also
equals that of keras.optimizers.SGD in Keras' own training loop, which knows nothing of Jacobians.
"""

import dataclasses
import typing
import warnings

import keras
import numpy as np
import tensorflow as tf

import hig
from tests.reference import flat, jacobian_by_rows, power_by_svd

B, FEATURES = 5, 3
ETA = 2.0 ** -10          # a power of two: dividing by it costs no digits
# K = JJᵀ is known to 1e-16 σ_max², so f(K) at the smallest singular value kept, 1e-4 σ_max, to 1e-8, times
# the few tens of terms in each entry and the gap at the cut
TOLERANCE = 1e-6


def squares(y_true, y):
    """Σ (y − y*)² of each sample, whatever its shape."""
    return tf.reduce_sum((y - y_true) ** 2, axis=list(range(1, len(y.shape))))


def mean_of_squares(y_true, y):
    """What Keras makes of `squares` on a batch, written out: the sum over outcomes of the mean over samples.
    """
    pairs = zip(tf.nest.flatten(y_true), tf.nest.flatten(y))
    return tf.add_n([tf.reduce_sum((b - a) ** 2) / len(b) for a, b in pairs])


def simulator(x, u):
    """Three outcomes of the first two controls and the state: J has rank 2B of 3B rows."""
    return tf.stack([u[:, 0] + x[:, 0] ** 2, 3 * tf.sin(u[:, 1]), 0.3 * u[:, 0] * u[:, 1] * x[:, 1]], axis=1)


def rows(*shape, seed=0):
    """B samples of the given shape, normally distributed, in Keras' default precision."""
    return np.random.default_rng(seed).normal(size=(B, *shape)).astype(keras.config.floatx())


@dataclasses.dataclass
class Case:
    """One entry of a table: what PhysicsModel is given, what `fit` is given, what is special.

    Attributes:
        network, simulator, network_input: the arguments of hig.PhysicsModel.
        x: array or structure of arrays; `rows(FEATURES)` by default.
        loss: Keras' loss; `plain`: the same as a function (y_true, y) → scalar, written out.
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
    plain: typing.Callable = mean_of_squares
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


def hig_model(case):
    """The PhysicsModel of the case, built, every trainable weight moved away from zeros and ones."""
    model = hig.PhysicsModel(case.network, case.simulator, case.network_input)
    model(tf.nest.map_structure(tf.constant, case.x))
    rng = np.random.default_rng(7)
    for weight in model.trainable_variables:
        weight.assign(weight.numpy() + 0.3 * rng.normal(size=weight.shape))
    return model


def joined(structure):
    """A structure of tensors as one vector."""
    return tf.concat([tf.reshape(t, [-1]) for t in tf.nest.flatten(structure)], axis=0)


def targets(case, model, seed=3):
    """Random y* with the structure, shapes and dtypes of the model's outcome."""
    rng = np.random.default_rng(seed)
    outcome = model(tf.nest.map_structure(tf.constant, case.x))
    return tf.nest.map_structure(lambda t: rng.normal(size=t.shape).astype(t.dtype.as_numpy_dtype), outcome)


def derivatives(case, model, x, y):
    """(J, g, ∂penalties/∂θ) at the model's present weights, float64, from TensorFlow's tape alone.

    A weight's L2 regulariser λ Σ w² is q further rows √(2λ/h) of J, h = 2/B as for `squares`, and entries
    2λw/√(2λ/h) of g.
    """
    x = tf.nest.map_structure(tf.constant, x)
    values = [v.value for v in model.trainable_variables]
    jacobian = jacobian_by_rows(lambda: joined(model(x)), values)
    outcome = model(x)
    with tf.GradientTape() as tape:
        tape.watch(outcome)
        loss = case.plain(y, outcome)
    gradient = flat(tf.nest.flatten(tape.gradient(loss, outcome, unconnected_gradients="zero")))
    with tf.GradientTape() as tape:
        model(x)
        penalty = tf.add_n([tf.reduce_sum(loss) for loss in model.losses]) if model.losses else tf.constant(
            0.0)
    penalty_gradient, place = flat(tape.gradient(penalty, values, unconnected_gradients="zero")), 0
    for weight in model.trainable_variables:
        size = weight.numpy().size
        if weight.regularizer is not None:
            scale = np.sqrt(2 * weight.regularizer.l2 * len(outcome) / 2)
            rows = np.zeros((size, jacobian.shape[1]))
            rows[:, place:place + size] = scale * np.eye(size)
            jacobian = np.vstack([jacobian, rows])
            gradient = np.append(gradient, 2 * weight.regularizer.l2 * weight.numpy().ravel() / scale)
            penalty_gradient[place:place + size] -= 2 * weight.regularizer.l2 * weight.numpy().ravel()
        place += size
    return jacobian, gradient, penalty_gradient


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
    ends = np.cumsum([int(np.prod(v.shape)) for v in model.trainable_variables])
    after = []
    for weight, piece in zip(model.trainable_variables, np.split(direction, ends[:-1])):
        value = weight.numpy() - eta * piece.reshape(weight.shape)
        after.append(keras.ops.convert_to_numpy(weight.constraint(value)) if weight.constraint else value)
    return flat(after)


def one_step(case, model, y):
    """The trainable weights after one update from the present ones, as one vector; the weights are put back.
    """
    saved = [weight.numpy() for weight in model.weights]
    model.train_on_batch(case.x, y, sample_weight=case.sample_weight)
    after = flat([weight.numpy() for weight in model.trainable_variables])
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


def hold_to_the_svd(case, jit_compile="auto", tolerance=TOLERANCE):
    """One case of a table: κ = −1/2 and κ = 1 as the module docstring says. Returns the model, compiled and
    used.
    """
    model = hig_model(case)
    y = targets(case, model)
    before = flat([weight.numpy() for weight in model.trainable_variables])
    jacobian, gradient, penalty = derivatives(case, model, case.x, y)
    truncation = truncation_in_a_gap(jacobian)

    if not case.inference:
        model.compile(keras.optimizers.SGD(ETA), case.loss, run_eagerly=True, **case.compile)
        plain = one_step(case, model, y)
        # of the reference
        assert_same_step(moved(model, jacobian.T @ gradient + penalty), plain, before, tolerance)

    optimizer = hig.JacobianPower(ETA, kappa=-0.5, truncation=truncation)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a slower route: tested by themselves
        model.compile(optimizer, case.loss, **{"jit_compile": jit_compile, **case.compile})
        half_inverse = one_step(case, model, y)
        assert_same_step(half_inverse,
                         moved(model, power_by_svd(jacobian, -0.5, truncation) @ gradient + penalty),
                         before, tolerance)
        optimizer.kappa, optimizer.truncation = 1.0, 0.0
        assert_same_step(one_step(case, model, y), moved(model, jacobian.T @ gradient + penalty), before,
                         tolerance)
    assert model.route in ("factored", "per sample", "whole batch")
    if case.route:
        assert model.route == case.route
    return model
