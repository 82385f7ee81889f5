"""hig.PhysicsModel: its steps against explicit singular value decompositions, and the user's side of Keras.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf

import hig
from tests.reference import flat, jacobian_by_rows, power_by_svd

pytestmark = pytest.mark.filterwarnings("ignore:The Jacobian takes the route")   # said on purpose


def simulator(x, u):
    """Stiff on purpose: the outputs differ in scale by 10³."""
    return tf.stack([u[:, 0] + x[:, 0] ** 2, 30 * tf.sin(u[:, 1]), 0.03 * u[:, 2] * x[:, 1]], axis=1)


def network(hidden=8, convolution=False):
    keras.utils.set_random_seed(5)
    layers = [keras.Input((4,)), keras.layers.Dense(hidden, activation="tanh")]
    if convolution:
        layers += [keras.layers.Reshape((hidden, 1)), keras.layers.Conv1D(2, 3, activation="tanh"),
                   keras.layers.Flatten()]
    return keras.Sequential(layers + [keras.layers.Dense(3)])


def data(rows=6):
    rng = np.random.default_rng(0)
    return (rng.normal(size=(rows, 4)).astype(keras.config.floatx()),
            rng.normal(size=(rows, 3)).astype(keras.config.floatx()))


def squares(y_true, y):
    return tf.reduce_sum((y - y_true) ** 2, axis=-1)


def step_of(model, x, y, optimizer, loss=squares, **options):
    """−Δθ/η of one update, as one vector."""
    before = flat([w.numpy() for w in model.network.trainable_variables])
    model.compile(optimizer=optimizer, loss=loss, **options)
    model.fit(x, y, batch_size=len(x), verbose=0)
    after = flat([w.numpy() for w in model.network.trainable_variables])
    return (before - after) / float(optimizer.learning_rate)


def expected_step(model, x, y, kappa, truncation):
    jacobian = jacobian_by_rows(lambda: model(x), [v.value for v in model.network.trainable_variables])
    gradient = 2 * (model(x).numpy() - y).ravel() / len(x)  # of the mean over samples of Σ (y − y*)²
    return power_by_svd(jacobian, kappa, truncation) @ gradient


@pytest.mark.parametrize("hidden", [8, 1], ids=["n < p", "n > p"])
@pytest.mark.parametrize("convolution", [False, True], ids=["factored", "explicit"])
@pytest.mark.parametrize("kappa", [-1.0, -0.5, 0.0, 0.3, 1.0])
def test_step_equals_the_explicit_svd(float64, kappa, convolution, hidden):
    """18 rows against 67 or 14 weights and more. Float64: 1e-16 times cond K, which truncation keeps below
    1e8.

    What is compiled does not know κ: once is enough."""
    if convolution and hidden == 1:
        hidden = 3
    x, y = data(rows=6 if hidden == 8 else 40)
    model = hig.PhysicsModel(network(hidden=hidden, convolution=convolution), simulator)
    expected = expected_step(model, x, y, kappa, 1e-4)
    step = step_of(model, x, y, hig.JacobianPower(1e-3, kappa=kappa, truncation=1e-4),
                   run_eagerly=kappa != -0.5)
    np.testing.assert_allclose(step, expected, atol=1e-7 * np.abs(expected).max())


def test_step_in_single_precision():
    """Derivatives rounded to 6e-8 of the largest, times cond J = 1e3 after truncation."""
    x, y = data()
    model = hig.PhysicsModel(network(), simulator)
    expected = expected_step(model, x, y, -0.5, 1e-3)
    step = step_of(model, x, y, hig.HIG(1.0, truncation=1e-3))
    np.testing.assert_allclose(step, expected, atol=1e-4 * np.abs(expected).max())


def test_power_one_is_gradient_descent(float64):
    """κ = 1 without truncation equals Keras' own SGD through Keras' own training step."""
    x, y = data()
    steps = [step_of(hig.PhysicsModel(network(), simulator), x, y, optimizer)
             for optimizer in (hig.JacobianPower(1e-3, kappa=1.0, truncation=0.0),
                               keras.optimizers.SGD(1e-3))]
    np.testing.assert_allclose(*steps, atol=1e-7 * np.abs(steps[1]).max())


def test_gauss_newton_solves_a_linear_problem_in_one_step(float64):
    """Linear network, linear simulator, more weights than equations: J J⁺ = 1, so one step of η = 1/2 hits
    the target of Σ (y − y*)² (gradient 2 (y − y*)), per sample scaled by the mean over B = 1.
    """
    x, y = data(rows=1)
    linear = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    model = hig.PhysicsModel(linear, lambda x, u: u * [1e-3, 1.0, 1e3])
    step_of(model, x, y, hig.GaussNewton(0.5, truncation=1e-8))
    np.testing.assert_allclose(model(x), y, atol=1e-8)


@pytest.mark.parametrize("loss", ["mse", keras.losses.MeanSquaredError(reduction="sum"),
                                  keras.losses.LogCosh()])
def test_any_keras_loss(float64, loss):
    x, y = data()
    model = hig.PhysicsModel(network(), simulator)
    outcome = tf.constant(model(x))
    with tf.GradientTape() as tape:
        tape.watch(outcome)
        value = keras.losses.get(loss)(y, outcome) if not isinstance(loss,
            str) else tf.reduce_mean((outcome - y) ** 2)
    jacobian = jacobian_by_rows(lambda: model(x), [v.value for v in model.network.trainable_variables])
    expected = power_by_svd(jacobian, -0.5, 1e-4) @ tape.gradient(value, outcome).numpy().ravel()
    step = step_of(model, x, y, hig.HIG(1e-3, truncation=1e-4), loss)
    np.testing.assert_allclose(step, expected, atol=1e-6 * np.abs(expected).max())


@pytest.mark.parametrize("optimizer", [hig.HIG(0.3, truncation=1e-4), "adam"], ids=["HIG", "Adam"])
def test_fit_a_users_problem_with_a_convolution(optimizer):
    """The loss falls, Keras' history has it, and the spectrum is logged for Jacobian powers only."""
    x, y = data(rows=32)
    model = hig.PhysicsModel(network(convolution=True), simulator)
    model.compile(optimizer=optimizer, loss=squares, metrics=["mae"])
    history = model.fit(x, y, batch_size=8, epochs=5, verbose=0, validation_data=(x, y)).history
    assert history["loss"][-1] < history["loss"][0] and history["val_loss"][-1] < history["loss"][0]
    assert ("rank" in history) == (optimizer != "adam")
    assert "mae" in history
    np.testing.assert_allclose(model.evaluate(x, y, verbose=0)[0], np.mean(squares(y, model(x))), rtol=1e-5)


def test_a_metric_of_the_users_own_keeps_its_name():
    """Called "rank" as one of the spectrum's numbers is: its value is logged, and the others beside it."""
    def rank(y_true, y):
        return tf.reduce_sum(y * 0 - 7.0, axis=-1) / 3
    x, y = data()
    model = hig.PhysicsModel(network(), simulator)
    model.compile(hig.HIG(0.3, truncation=1e-4), squares, metrics=[rank], jit_compile=False)
    logs = model.train_on_batch(x, y, return_dict=True)
    assert logs["rank"] == -7.0 and logs["sigma_max"] > 0


def test_predict_returns_controls_and_outcome_of_what_the_network_sees():
    x, y = data()
    model = hig.PhysicsModel(network(), lambda x, u: simulator(x[0], u), network_input=lambda x: x[1])
    model.compile(optimizer=hig.HIG(1.0, truncation=1e-3), loss=squares)
    model.fit((x[:, :2], x), y, batch_size=6, verbose=0)
    prediction = model.predict((x[:, :2], x), verbose=0)
    np.testing.assert_allclose(prediction["controls"], model.network(x), rtol=1e-5)
    np.testing.assert_allclose(prediction["outcome"], simulator(x, model.network(x)), rtol=1e-5)


def test_sample_weights_enter_the_gradient(float64):
    x, y = data()
    weights = np.array([0.0, 1.0, 2.0, 0.5, 0.0, 1.0])
    model = hig.PhysicsModel(network(), simulator)
    jacobian = jacobian_by_rows(lambda: model(x), [v.value for v in model.network.trainable_variables])
    gradient = 2 * (weights[:, None] * (model(x).numpy() - y)).ravel() / len(x)
    expected = power_by_svd(jacobian, -0.5, 1e-4) @ gradient
    before = flat([w.numpy() for w in model.network.trainable_variables])
    model.compile(optimizer=hig.HIG(1e-3, truncation=1e-4), loss=squares)
    model.fit(x, y, sample_weight=weights, batch_size=6, verbose=0)
    step = (before - flat([w.numpy() for w in model.network.trainable_variables])) / 1e-3
    np.testing.assert_allclose(step, expected, atol=1e-4 * np.abs(expected).max())


def test_last_smaller_batch():
    x, y = data(rows=10)
    model = hig.PhysicsModel(network(), simulator)
    model.compile(optimizer=hig.HIG(0.1, truncation=1e-3), loss=squares)
    assert np.isfinite(model.fit(x, y, batch_size=4, epochs=2, verbose=0).history["loss"]).all()


def test_not_a_number_shows_in_the_weights_instead_of_stopping_keras():
    x, y = data()
    y[0, 0] = np.nan
    model = hig.PhysicsModel(network(), simulator)
    model.compile(optimizer=hig.HIG(1.0, truncation=1e-3), loss=squares)
    model.fit(x, y, batch_size=6, verbose=0)
    assert np.isnan(model.network.get_weights()[0]).all()


def test_eager_mode_gives_the_same_step(float64):
    x, y = data()
    steps = []
    for eagerly in (False, True):
        model = hig.PhysicsModel(network(), simulator)
        model.compile(optimizer=hig.HIG(1e-3, truncation=1e-4), loss=squares, run_eagerly=eagerly)
        model.fit(x, y, batch_size=6, verbose=0)
        steps.append(flat(model.network.get_weights()))
    np.testing.assert_allclose(*steps, atol=1e-9)     # 1e-16 times cond K = 1e8, times η
