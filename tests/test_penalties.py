"""Penalties under Jacobian powers: quadratic ones as further rows of J, by closed forms, SciPy and finite
differences.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf

import hig
from hig.control import step
from tests.networks import squares
from tests.reference import flat, power_by_svd

OPTIMIZERS = {
    "gradient descent": lambda adaptive: hig.JacobianPower(0.02, 1.0, 0.0, adaptive=adaptive),
    "HIG": lambda adaptive: hig.HIG(1.0, 1e-8, adaptive=adaptive),
    "GN": lambda adaptive: hig.GaussNewton(6.0, 1e-8, adaptive=adaptive),     # h = 1/6 for 12 samples
    "LM": lambda adaptive: hig.LevenbergMarquardt(damping=0.01, adaptive=adaptive)}
both_steps = pytest.mark.parametrize("adaptive", [False, True], ids=["fixed", "adaptive"])


def weighted(x, u):
    return u * [0.3, 3.0]


def data(samples, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(samples, 2)), rng.normal(size=(samples, 2))


def model_with(penalty, hidden=8, **options):
    """A network 2-8-2 of tanh units whose kernels have a regulariser, before a simulator that weighs its two
    controls.
    """
    keras.utils.set_random_seed(3)
    layers = [keras.layers.Dense(hidden, "tanh", kernel_regularizer=penalty)] if hidden else []
    return hig.PhysicsModel(keras.Sequential([
        keras.Input((2,)), *layers, keras.layers.Dense(2, kernel_regularizer=penalty, **options)]), weighted)


def whole_loss(model, x, y):
    """The reported loss as a function of all weights (p,) → (value, gradient), float64."""
    weights = [w.value for w in model.trainable_variables]

    def value_and_gradient(theta):
        ends = np.cumsum([w.shape.num_elements() for w in weights])
        for w, part in zip(weights, np.split(theta, ends[:-1])):
            w.assign(part.reshape(w.shape))
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(squares(y, model(x))) + sum(model.losses)
        return float(loss), flat(tape.gradient(loss, weights))
    return value_and_gradient


def weights_of(model):
    return flat([w.numpy() for w in model.trainable_variables])


# --- the fixed point ---

@both_steps
@pytest.mark.parametrize("name", ["HIG", "GN", "LM"])
def test_training_ends_at_the_ridge_regression(float64, name, adaptive):
    """A linear network: the minimum of the mean of Σ (y − y*)² plus λ Σ kernel² has a closed form, the normal
    equations.
    """
    x, y = data(12)
    model = model_with(keras.regularizers.L2(0.05), hidden=0)
    with_bias = np.column_stack([x, np.ones(12)])
    expected = np.stack([np.linalg.solve(
        s**2 * with_bias.T @ with_bias / 12 + np.diag([0.05, 0.05, 0.0]), s * with_bias.T @ y[:, k] / 12)
        for k, s in enumerate([0.3, 3.0])], axis=1)
    model.compile(OPTIMIZERS[name](adaptive), squares, jit_compile=False)
    for _ in range(150):
        model.train_on_batch(x, y)
    found = np.vstack([model.network.layers[-1].kernel.numpy(), model.network.layers[-1].bias.numpy()])
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("name, adaptive, samples", [("HIG", True, 64), ("GN", False, 64), ("LM", True, 64),
                                                     ("LM", True, 8)])
def test_a_network_of_tanh_units_ends_where_the_reported_loss_has_no_slope(float64, name, adaptive, samples):
    """n = 16 or 128 rows and 32 of the penalty, p = 42; the slope falls below a thousandth of the first one.
    """
    x, y = data(samples)
    model = model_with(keras.regularizers.L2(0.01))
    loss = whole_loss(model, x, y)
    first = loss(weights_of(model))[1]
    model.compile(OPTIMIZERS[name](adaptive), squares, jit_compile=False)
    for _ in range(250):
        model.train_on_batch(x, y)
    assert np.abs(loss(weights_of(model))[1]).max() < 1e-3 * np.abs(first).max()


# --- a step ---

@pytest.mark.parametrize("name, samples, strength", [
    *((name, 64, 0.1) for name in OPTIMIZERS), ("HIG", 8, 0.1), ("LM", 8, 1e-3), ("GN", 8, 1e-3)])
def test_the_predicted_slope_is_that_of_the_reported_loss(float64, name, samples, strength):
    """Central differences of the loss along the step, penalties included: relative 1e-6, h² f''' and rounding
    of float64.
    """
    x, y = data(samples)
    model, found = model_with(keras.regularizers.L2(strength)), []
    loss, start = whole_loss(model, x, y), weights_of(model)
    model.compile(OPTIMIZERS[name](True), squares, jit_compile=False)

    def watching(optimizer, value, power, quadratic_model, loss_after):
        direction, _ = power(float(value))
        found.append((direction, quadratic_model(direction), float(value)))
        return step(optimizer, value, power, quadratic_model, loss_after)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hig.model, "step", watching)
        model.train_on_batch(x, y)
    (direction, (slope, curvature), value), = found
    small = 1e-5 / np.abs(direction).max()
    below, above = loss(start - small * direction)[0], loss(start + small * direction)[0]
    assert slope == pytest.approx((above - below) / (2 * small), rel=1e-6)
    assert value == pytest.approx(loss(start)[0], rel=1e-12)
    assert curvature > 0


def test_the_curvature_of_a_linear_model_is_the_second_difference(float64):
    x, y = data(8)
    model, found = model_with(keras.regularizers.L2(0.1), hidden=0), []
    loss, start = whole_loss(model, x, y), weights_of(model)
    model.compile(hig.HIG(1.0, 1e-8, adaptive=True), squares)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hig.model, "step", lambda o, value, power, quadratic_model, after: found.append(
            (power(float(value))[0], quadratic_model(power(float(value))[0])[1]))
            or (None, [0.0] * len(o.logged)))
        model.train_on_batch(x, y)
    (direction, curvature), = found
    second = loss(start + direction)[0] + loss(start - direction)[0] - 2 * loss(start)[0]
    assert curvature == pytest.approx(second, rel=1e-9)


class Function(keras.regularizers.Regularizer):
    """A regulariser of the user's own."""

    def __init__(self, function):
        self.function = function

    def __call__(self, w):
        return self.function(w)


QUADRATIC = {
    "L1L2 without L1": lambda: keras.regularizers.L1L2(l1=0.0, l2=0.1),
    "a function": lambda: Function(lambda w: 0.1 * tf.reduce_sum(w**2)),
    "around one": lambda: Function(lambda w: 0.1 * tf.reduce_sum((w - 1.0)**2)),
    "weighed": lambda: Function(lambda w: tf.reduce_sum([[0.1, 0.2], [0.3, 0.4]] * w**2))}
ROUGH = {
    "L1": lambda: Function(lambda w: 0.1 * tf.reduce_sum(tf.abs(w))),
    "L1L2": lambda: keras.regularizers.L1L2(0.1, 0.1),
    "coupled": lambda: Function(lambda w: 0.1 * tf.reduce_sum(w)**2),
    "orthogonal": lambda: Function(lambda w: tf.reduce_sum((w @ tf.transpose(w) - tf.eye(w.shape[0],
                                                                                         dtype=w.dtype))**2)),
    "Huber's": lambda: Function(lambda w: tf.reduce_sum(tf.where(tf.abs(w) < 1, w**2 / 2, tf.abs(w) - 0.5))),
    "negative": lambda: Function(lambda w: -0.1 * tf.reduce_sum(w**2))}


@pytest.mark.parametrize("name, kappa", [*((name, -0.5) for name in [*QUADRATIC, *ROUGH]), ("weighed", -1.0),
                                         ("L1", -1.0)])
def test_one_fixed_step(float64, name, kappa):
    """A sum of squares is rows √(c/h) of J, c the second derivative, h = 2/B; of anything else the gradient
    is added.
    """
    x, y = data(6)
    penalty = (QUADRATIC | ROUGH)[name]()
    model = model_with(penalty, hidden=0)
    theta, after = weights_of(model), whole_loss(model, x, y)
    _, full = after(theta)
    with_bias, zero = np.column_stack([x, np.ones(6)]), np.zeros((6, 3))
    J = np.concatenate([np.stack([np.column_stack([0.3 * with_bias, zero]), np.column_stack([zero,
        3.0 * with_bias])], 1)])
    J = J.reshape(12, 6)[:, [0, 3, 1, 4, 2, 5]]                         # kernel (2, 2), bias (2,)
    g = 2 * (model(x).numpy() - y).ravel() / 6
    rest = full - J.T @ g
    if name in QUADRATIC:
        c = np.array([0.2, 0.4, 0.6, 0.8]) if name == "weighed" else np.full(4, 0.2)
        scales = np.sqrt(c / (2 / 6))
        J = np.vstack([J, np.column_stack([np.diag(scales), np.zeros((4, 2))])])
        g, rest = np.append(g, rest[:4] / scales), 0.0
    expected = power_by_svd(J, kappa, 1e-8) @ g + rest
    model.compile(hig.JacobianPower(1e-3, kappa, 1e-8), squares, run_eagerly=True)
    model.train_on_batch(x, y)
    np.testing.assert_allclose((theta - weights_of(model)) / 1e-3, expected,
                               atol=1e-7 * np.abs(expected).max())


@pytest.mark.parametrize("name, optimizer", [*((name, "HIG") for name in ROUGH), ("L1", "LM"),
                                             ("activity", "LM"), ("add_loss", "HIG")])
def test_adaptive_steps_refuse_what_is_no_sum_of_squares(float64, name, optimizer):
    x, y = data(6)
    if name == "add_loss":
        class Adding(keras.layers.Layer):
            def call(self, u):
                self.add_loss(tf.reduce_mean(u**2))
                return u
        model = hig.PhysicsModel(keras.Sequential([keras.Input((2,)), keras.layers.Dense(2), Adding()]),
                                 weighted)
    elif name == "activity":
        model = model_with(None, activity_regularizer=keras.regularizers.L2(0.1))
    else:
        model = model_with(ROUGH[name]())
    before = weights_of(model)
    model.compile(OPTIMIZERS[optimizer](True), squares)
    for _ in range(2):                                                  # not only the first time
        with pytest.raises(ValueError,
                           match="(the regulariser of 'sequential.*/kernel'|what layers add to the loss .*) "
                                 "is no sum of squares"):
            model.fit(x, y, verbose=0)
    np.testing.assert_array_equal(weights_of(model), before)


@both_steps
def test_a_regulariser_without_strength_changes_nothing(float64, adaptive):
    """Keras' L1L2(0, 0) gives a constant, which does not depend on the weight."""
    x, y = data(6)
    models = [model_with(penalty) for penalty in (keras.regularizers.L1L2(0.0, 0.0), None)]
    models[1].set_weights(models[0].get_weights())
    for model in models:
        model.compile(hig.HIG(0.1, 1e-8, adaptive=adaptive), squares, jit_compile=False)
        model.train_on_batch(x, y)
    np.testing.assert_array_equal(*map(weights_of, models))


def test_a_penalty_that_is_raised_later(float64):
    """Its strength is a variable, 0 at first: the step is that of a model that has had it from the start."""
    x, y = data(6)
    strength = tf.Variable(0.0, dtype=tf.float64)
    late, early = model_with(Function(lambda w: strength * tf.reduce_sum(w**2))), model_with(
        keras.regularizers.L2(0.1))
    late.compile(hig.HIG(0.1, 1e-8), squares)
    late.train_on_batch(x, y)
    strength.assign(0.1)
    early.set_weights(late.get_weights())
    early.compile(hig.HIG(0.1, 1e-8), squares)
    for model in (late, early):
        model.train_on_batch(x, y)
    np.testing.assert_allclose(weights_of(late), weights_of(early), rtol=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["HIG", "LM"])
def test_in_single_precision_with_a_penalty_every_update_is_an_improvement(name):
    x, y = (array.astype("float32") for array in data(8))
    model = model_with(keras.regularizers.L2(0.01))
    model.compile(OPTIMIZERS[name](True), squares, jit_compile=False)
    losses = model.fit(x, y, batch_size=8, epochs=60, verbose=0).history["loss"]
    assert (np.diff(losses) < 1e-6).all()                               # float32 of a loss near 1


def test_krylov_steps_with_a_penalty_in_single_precision():
    """With as many products as weights they are the exact step; to 1e-3, as g and J have 24 bits."""
    x, y = (array.astype("float32") for array in data(8))
    steps = []
    for krylov in (None, 42):
        model = model_with(keras.regularizers.L2(0.05))
        before = weights_of(model)
        model.compile(hig.HIG(0.1, 1e-2, krylov=krylov, krylov_tolerance=0.0), squares, jit_compile=False)
        model.train_on_batch(x, y)
        steps.append(weights_of(model) - before)
    np.testing.assert_allclose(steps[1], steps[0], atol=1e-3 * np.abs(steps[0]).max())
