"""Penalties under Jacobian powers: quadratic ones as further rows of J, by closed forms, SciPy and finite
differences.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf

import hig
from hig.compiled import Compiler
from hig.control import step
from hig.jacobian import unflatten
from hig.penalties import Penalties
from tests.networks import squares
from tests.reference import flat, jacobian_by_rows, power_by_svd, weights_of
from tests.test_model_life import Penalty
from tests.test_steps import change, compiled

OPTIMIZERS = {
    "gradient descent": lambda adaptive: hig.JacobianPower(0.02, 1.0, 0.0, adaptive=adaptive),
    "HIG": lambda adaptive: hig.HIG(1.0, 1e-8, adaptive=adaptive),
    "GN": lambda adaptive: hig.GaussNewton(6.0, 1e-8, adaptive=adaptive),     # h = 1/6 for 12 samples
    "LM": lambda adaptive: hig.LevenbergMarquardt(damping=0.01, adaptive=adaptive)}


def weighted(x, u):
    return u * [0.3, 3.0]


def data(samples, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(samples, 2)), rng.normal(size=(samples, 2))


def model_with(penalty, hidden=8, kind=hig.PhysicsModel, **options):
    """A network 2-8-2 of tanh units whose kernels have a regulariser, before a simulator that weighs its two
    controls.
    """
    keras.utils.set_random_seed(3)
    layers = [keras.layers.Dense(hidden, "tanh", kernel_regularizer=penalty)] if hidden else []
    return kind(keras.Sequential([
        keras.Input((2,)), *layers, keras.layers.Dense(2, kernel_regularizer=penalty, **options)]), weighted)


def whole_loss(model, x, y):
    """The reported loss as a function of all weights (p,) → (value, gradient), float64."""
    weights = [w.value for w in model.trainable_variables]

    def value_and_gradient(theta):
        for w, part in zip(weights, unflatten(theta, [w.shape for w in weights])):
            w.assign(part)
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(squares(y, model(x))) + sum(model.losses)
        return float(loss), flat(tape.gradient(loss, weights))
    return value_and_gradient


# --- the fixed point ---

@pytest.mark.parametrize("name, adaptive, hidden, samples", [
    *((name, adaptive, 0, 12) for name in ("HIG", "GN", "LM") for adaptive in (False, True)),
    ("HIG", True, 8, 64), ("GN", False, 8, 64), ("LM", True, 8, 64), ("LM", True, 8, 8)])
def test_training_ends_where_the_reported_loss_has_no_slope(float64, name, adaptive, hidden, samples):
    """The slope falls below a thousandth of the first one: n = 16 or 128 rows and 32 of the penalty, p = 42.
    For a linear network that is the ridge regression, the minimum of the mean of Σ (y − y*)² plus
    λ Σ kernel², by the normal equations.
    """
    x, y = data(samples)
    model = model_with(keras.regularizers.L2(0.01 if hidden else 0.05), hidden)
    loss = whole_loss(model, x, y)
    first = loss(weights_of(model))[1]
    compiled(model, OPTIMIZERS[name](adaptive))
    for _ in range(250 if hidden else 150):
        model.train_on_batch(x, y)
    assert np.abs(loss(weights_of(model))[1]).max() < 1e-3 * np.abs(first).max()
    if hidden:
        return
    with_bias = np.column_stack([x, np.ones(12)])
    expected = np.stack([np.linalg.solve(
        s**2 * with_bias.T @ with_bias / 12 + np.diag([0.05, 0.05, 0.0]), s * with_bias.T @ y[:, k] / 12)
        for k, s in enumerate([0.3, 3.0])], axis=1)
    found = np.vstack([model.network.layers[-1].kernel.numpy(), model.network.layers[-1].bias.numpy()])
    np.testing.assert_allclose(found, expected, atol=1e-5)


# --- a loss that reads weights itself ---

class SeesTheNetwork(hig.PhysicsModel):
    """A subclass whose loss has the network's values at other points."""

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        data = super().compute_loss(x, y, y_pred, sample_weight, training)
        return data + 0.3 * tf.reduce_mean(self.network(x + 1.0) ** 2)


class LearnedScales(hig.PhysicsModel):
    """Its loss weighs every outcome by a trained scale, as for tasks of different uncertainty."""

    def build(self, *shapes):
        self.scales = self.add_weight(shape=(2,), initializer="zeros", name="scales")

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return tf.reduce_mean(tf.reduce_sum(tf.exp(-self.scales) * (y - y_pred) ** 2 + self.scales, axis=1))


def norm_in_the_loss(network):
    return hig.PhysicsModel(network, weighted), lambda y_true, y: squares(
        y_true, y) + 0.1 * tf.reduce_sum(network.layers[0].kernel ** 2)


READS_WEIGHTS = {"norm": norm_in_the_loss,
                 "network": lambda network: (SeesTheNetwork(network, weighted), squares),
                 "scales": lambda network: (LearnedScales(network, weighted), None)}


@pytest.mark.filterwarnings("ignore:The Jacobian takes")                # scales do not act in a product
@pytest.mark.parametrize("krylov", [None, 10**6])
@pytest.mark.parametrize("name", READS_WEIGHTS)
def test_what_the_loss_takes_from_weights_itself_adds_its_gradient(float64, name, krylov):
    """J^κ g + r by the singular value decomposition, where r is what the gradient of the loss has beside Jᵀg.
    """
    keras.utils.set_random_seed(3)
    model, loss = READS_WEIGHTS[name](keras.Sequential([
        keras.Input((2,)), keras.layers.Dense(8, "tanh"), keras.layers.Dense(2)]))
    x, y = map(tf.constant, data(6))
    model.build(None)
    before, weights = weights_of(model), [w.value for w in model.trainable_variables]
    model.compile(hig.JacobianPower(1.0, -0.5, 1e-3, krylov=krylov, krylov_tolerance=0.0), loss)
    with tf.GradientTape(persistent=True) as tape:
        outcome = model(x)
        value = model.compute_loss(x, y, outcome)
    slope = flat(tape.gradient(value, weights))
    gradient = flat([tape.gradient(value, outcome)])
    J = jacobian_by_rows(lambda: model(x), weights)
    rest = slope - J.T @ gradient
    assert np.abs(rest).max() > 0.01
    with pytest.warns(UserWarning, match="adds its plain gradient"):
        model.train_on_batch(x, y)
    np.testing.assert_allclose(before - weights_of(model), power_by_svd(J, -0.5, 1e-3) @ gradient + rest,
                               atol=1e-8)                               # K is known to 1e-16 σ_max²
    model.compile(hig.HIG(1.0, 1e-3, adaptive=True), loss)
    with pytest.warns(UserWarning), pytest.raises(ValueError, match="what the loss takes from weights"):
        model.train_on_batch(x, y)


class WeighsPenalties(hig.PhysicsModel):
    """Its own loss takes the penalties times `strength`, and has no `training`, as before Keras 3.3."""

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None):
        return tf.reduce_mean(squares(y, y_pred)) + self.strength * tf.add_n(self.losses)


def test_a_loss_of_the_users_own_beside_a_regulariser(float64):
    """compute_loss of a subclass, compiled without a loss: not a loss that consists of penalties alone, and
    the penalties in it are no reading of weights, which adaptive steps refuse.
    """
    model = model_with(keras.regularizers.L2(0.1), kind=WeighsPenalties)
    model.strength = 1.0
    model.compile(hig.HIG(0.1, 1e-3, adaptive=True), None)
    first, second = (model.train_on_batch(*data(6), return_dict=True)["loss"] for _ in range(2))
    assert 0 < second < first


# --- a step ---

@pytest.mark.parametrize("name, samples, strength, hidden", [
    *((name, 64, 0.1, 8) for name in OPTIMIZERS), ("HIG", 8, 0.1, 8), ("LM", 8, 1e-3, 8), ("GN", 8, 1e-3, 8),
    ("HIG", 8, 0.1, 0)])
def test_the_quadratic_model_is_that_of_the_reported_loss(float64, monkeypatch, name, samples, strength,
                                                          hidden):
    """Central differences of the loss along the step, penalties included: relative 1e-6, h² f''' and rounding
    of float64. For a linear network the curvature is the second difference.
    """
    x, y = data(samples)
    model, found = model_with(keras.regularizers.L2(strength), hidden), []
    loss, start = whole_loss(model, x, y), weights_of(model)

    def watching(optimizer, value, power, quadratic_model, loss_after):
        direction, _ = power(float(value))
        found.append((direction, quadratic_model(direction), float(value)))
        return step(optimizer, value, power, quadratic_model, loss_after)
    monkeypatch.setattr(hig.model, "step", watching)
    compiled(model, OPTIMIZERS[name](True)).train_on_batch(x, y)
    (direction, (slope, curvature), value), = found
    small = 1e-5 / np.abs(direction).max()
    below, above = loss(start - small * direction)[0], loss(start + small * direction)[0]
    assert slope == pytest.approx((above - below) / (2 * small), rel=1e-6)
    assert value == pytest.approx(loss(start)[0], rel=1e-12) and curvature > 0
    if not hidden:
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
    "orthogonal": lambda: Function(lambda w: tf.reduce_sum((w @ tf.transpose(w) - np.eye(w.shape[0]))**2)),
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
    _, full = whole_loss(model, x, y)(weights_of(model))
    J = np.kron(np.column_stack([x, np.ones(6)]), np.diag([0.3, 3.0]))  # kernel (2, 2), bias (2,)
    g = 2 * (model(x).numpy() - y).ravel() / 6
    rest = full - J.T @ g
    if name in QUADRATIC:
        c = np.array([0.2, 0.4, 0.6, 0.8]) if name == "weighed" else np.full(4, 0.2)
        scales = np.sqrt(c / (2 / 6))
        J = np.vstack([J, np.column_stack([np.diag(scales), np.zeros((4, 2))])])
        g, rest = np.append(g, rest[:4] / scales), 0.0
    expected = power_by_svd(J, kappa, 1e-8) @ g + rest
    step = change(model, x, y, hig.JacobianPower(1e-3, kappa, 1e-8), run_eagerly=True) / 1e-3
    np.testing.assert_allclose(step, expected, atol=1e-7 * np.abs(expected).max())


@pytest.mark.parametrize("name, optimizer", [*((name, "HIG") for name in ROUGH), ("L1", "LM"),
                                             ("activity", "LM"), ("add_loss", "HIG")])
def test_adaptive_steps_refuse_what_is_no_sum_of_squares(float64, name, optimizer):
    x, y = data(6)
    if name == "add_loss":
        model = hig.PhysicsModel(keras.Sequential([keras.Input((2,)), keras.layers.Dense(2), Penalty()]),
                                 weighted)
    elif name == "activity":
        model = model_with(None, activity_regularizer=keras.regularizers.L2(0.1))
    else:
        model = model_with(ROUGH[name]())
    before = weights_of(model)
    compiled(model, OPTIMIZERS[optimizer](True))
    for _ in range(2):                                                  # not only the first time
        with pytest.raises(ValueError, match="(the regulariser of 'sequential.*/kernel'|what layers add to "
                                             "the loss .*) is no sum of squares"):
            model.fit(x, y, verbose=0)
    np.testing.assert_array_equal(weights_of(model), before)


@pytest.mark.parametrize("adaptive", [False, True], ids=["fixed", "adaptive"])
def test_a_regulariser_without_strength_changes_nothing(float64, adaptive):
    """Keras' L1L2(0, 0) gives a constant, which does not depend on the weight."""
    np.testing.assert_array_equal(*(
        change(model_with(penalty), *data(6), hig.HIG(0.1, 1e-8, adaptive=adaptive))
        for penalty in (keras.regularizers.L1L2(0.0, 0.0), None)))


SQUARES = lambda w, strength: strength * tf.reduce_sum(w**2)
L1_BESIDE_L2 = lambda w, strength: strength * tf.reduce_sum(tf.abs(w)) + 0.1 * tf.reduce_sum(w**2)
L2, L1L2 = keras.regularizers.L2, keras.regularizers.L1L2


def with_strength(penalty):
    """A maker of models from the strength of a penalty."""
    return lambda strength: model_with(Function(lambda w: penalty(w, strength)))


def weighed_by_the_loss(*arguments, **options):
    def make(strength):
        model = model_with(*arguments, kind=WeighsPenalties, **options)
        model.strength = strength
        return model
    return make


@pytest.mark.parametrize("make, early, krylov", [
    (with_strength(SQUARES), lambda: model_with(L2(0.3)), None),
    (with_strength(SQUARES), lambda: model_with(L2(0.3)), 10**6),
    (with_strength(L1_BESIDE_L2), lambda: model_with(L1L2(0.3, 0.1)), None),
    (weighed_by_the_loss(L2(0.1)), lambda: model_with(L2(0.03)), None),
    (weighed_by_the_loss(None, activity_regularizer=L2(0.1)),
     lambda: model_with(None, activity_regularizer=L2(0.03)), None)],
    ids=["L2", "L2, krylov", "L1 beside L2", "L2 in compute_loss", "activity in compute_loss"])
def test_a_penalty_that_is_raised_later(float64, make, early, krylov):
    """Its strength is a variable, 0 at first: the step is that of a model that has had it from the start, and
    not that of one whose strength stays 0.
    """
    x, y = data(6)
    strength, zero = (tf.Variable(0.0, dtype=tf.float64) for _ in range(2))
    late, never, early = (compiled(model, hig.HIG(0.1, 1e-5, krylov=krylov, krylov_tolerance=0.0))
                          for model in (make(strength), make(zero), early()))
    late.train_on_batch(x, y)
    strength.assign(0.3)
    for model in (never, early):
        model.set_weights(late.get_weights())
        model.reset_metrics()
    late.reset_metrics()
    losses = [model.train_on_batch(x, y) for model in (late, never, early)]
    np.testing.assert_allclose(weights_of(late), weights_of(early), rtol=1e-10)
    assert not np.allclose(weights_of(late), weights_of(never), rtol=1e-3)
    assert losses[0] == pytest.approx(losses[2], rel=1e-10) != pytest.approx(losses[1], rel=1e-3)


def test_adaptive_steps_refuse_a_penalty_that_is_no_sum_of_squares_any_more(float64):
    x, y = data(6)
    strength = tf.Variable(0.0, dtype=tf.float64)
    model = compiled(model_with(Function(lambda w: L1_BESIDE_L2(w, strength))),
                     hig.HIG(0.1, 1e-5, adaptive=True))
    model.train_on_batch(x, y)
    strength.assign(0.3)
    with pytest.raises(ValueError, match="is no sum of squares"):
        model.train_on_batch(x, y)
    strength.assign(0.0)
    model.train_on_batch(x, y)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "float64"])
def test_squares_are_told_from_other_penalties_in_every_precision(dtype):
    """Also among many weights, of which some are close to each other by chance."""
    for penalty, square in ((keras.regularizers.L2(0.013), True),
                            (keras.regularizers.L1L2(0.013, 0.1), False)):
        layer = keras.layers.Dense(1000, kernel_regularizer=penalty, dtype=dtype)
        network = keras.Sequential([keras.Input((1000,)), layer])
        assert (Penalties(network, Compiler(), 1).irregular == "") == square


@pytest.mark.slow
@pytest.mark.parametrize("name", ["HIG", "LM"])
def test_in_single_precision_with_a_penalty_every_update_is_an_improvement(name):
    x, y = (array.astype("float32") for array in data(8))
    model = compiled(model_with(keras.regularizers.L2(0.01)), OPTIMIZERS[name](True))
    losses = model.fit(x, y, batch_size=8, epochs=60, verbose=0).history["loss"]
    assert (np.diff(losses) < 1e-6).all()                               # float32 of a loss near 1


def test_krylov_steps_with_a_penalty_in_single_precision():
    """With as many products as weights they are the exact step; to 1e-3, as g and J have 24 bits."""
    x, y = (array.astype("float32") for array in data(8))
    exact, step = (change(model_with(keras.regularizers.L2(0.05)), x, y,
                          hig.HIG(0.1, 1e-2, krylov=krylov, krylov_tolerance=0.0)) for krylov in (None, 42))
    np.testing.assert_allclose(step, exact, atol=1e-3 * np.abs(exact).max())
