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


@pytest.mark.parametrize("rows, hidden, convolution", [(6, 8, False), (40, 1, False), (40, 3, True)],
                         ids=["factored, n < p", "factored, n > p", "by rows, n > p"])
@pytest.mark.parametrize("kappa", [-1.0, -0.5, 0.0, 0.3, 1.0])
def test_step_equals_the_explicit_svd(float64, kappa, rows, hidden, convolution):
    """1e-7: rounding of float64 times cond K, which truncation keeps below 1e8. What is compiled does not
    know κ: once is enough.
    """
    x, y = data(rows)
    model = hig.PhysicsModel(network(hidden=hidden, convolution=convolution), simulator)
    expected = expected_step(model, x, y, kappa, 1e-4)
    step = step_of(model, x, y, hig.JacobianPower(1e-3, kappa=kappa, truncation=1e-4),
                   run_eagerly=kappa != -0.5)
    np.testing.assert_allclose(step, expected, atol=1e-7 * np.abs(expected).max())


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


def test_not_a_number_shows_in_the_weights_instead_of_stopping_keras():
    x, y = data()
    y[0, 0] = np.nan
    model = hig.PhysicsModel(network(), simulator)
    model.compile(optimizer=hig.HIG(1.0, truncation=1e-3), loss=squares)
    model.fit(x, y, batch_size=6, verbose=0)
    assert np.isnan(model.network.get_weights()[0]).all()
