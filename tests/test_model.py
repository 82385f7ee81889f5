"""hig.PhysicsModel: its steps against explicit singular value decompositions, and the user's side of Keras.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf

import hig
from tests.reference import jacobian_of_model, power_by_svd, weights_of

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


def linear_model(simulator=lambda x, u: u):
    keras.utils.set_random_seed(5)
    return hig.PhysicsModel(keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)]), simulator)


def compiled(model, optimizer, loss=squares, **options):
    """The model, compiled as graphs without XLA."""
    model.compile(optimizer, loss, **{"jit_compile": False, **options})
    return model


def change(model, x, y, optimizer, loss=squares, sample_weight=None, **options):
    """θ − θ' (p,) of one update."""
    before = weights_of(model)
    compiled(model, optimizer, loss, **options).train_on_batch(x, y, sample_weight=sample_weight)
    return before - weights_of(model)


@pytest.mark.parametrize("rows, hidden, convolution", [(6, 8, False), (40, 1, False), (40, 3, True)],
                         ids=["factored, n < p", "factored, n > p", "by rows, n > p"])
@pytest.mark.parametrize("kappa", [-1.0, -0.5, 0.0, 0.3, 1.0])
def test_step_equals_the_explicit_svd(float64, kappa, rows, hidden, convolution):
    """1e-7: rounding of float64 times cond K, which truncation keeps below 1e8. What is compiled does not
    know κ: once is enough.
    """
    x, y = data(rows)
    model = hig.PhysicsModel(network(hidden=hidden, convolution=convolution), simulator)
    jacobian = jacobian_of_model(model, x)
    gradient = 2 * (model(x).numpy() - y).ravel() / len(x)  # of the mean over samples of Σ (y − y*)²
    expected, before = power_by_svd(jacobian, kappa, 1e-4) @ gradient, weights_of(model)
    model.compile(hig.JacobianPower(1e-3, kappa, 1e-4), squares, run_eagerly=kappa != -0.5)
    model.fit(x, y, batch_size=len(x), verbose=0)
    step = (before - weights_of(model)) / float(model.optimizer.learning_rate)
    np.testing.assert_allclose(step, expected, atol=1e-7 * np.abs(expected).max())


def test_a_metric_of_the_users_own_keeps_its_name():
    """Called "rank" as one of the spectrum's numbers is: its value is logged, and the others beside it."""
    def rank(y_true, y):
        return tf.reduce_sum(y * 0 - 7.0, axis=-1) / 3
    x, y = data()
    model = compiled(hig.PhysicsModel(network(), simulator), hig.HIG(0.3, 1e-4), metrics=[rank])
    logs = model.train_on_batch(x, y, return_dict=True)
    assert logs["rank"] == -7.0 and logs["sigma_max"] > 0


def test_predict_returns_controls_and_outcome_of_what_the_network_sees():
    x, y = data()
    model = hig.PhysicsModel(network(), lambda x, u: simulator(x[0], u), network_input=lambda x: x[1])
    compiled(model, hig.HIG(1.0, truncation=1e-3)).fit((x[:, :2], x), y, batch_size=6, verbose=0)
    prediction = model.predict((x[:, :2], x), verbose=0)
    np.testing.assert_allclose(prediction["controls"], model.network(x), rtol=1e-5)
    np.testing.assert_allclose(prediction["outcome"], simulator(x, model.network(x)), rtol=1e-5)


@pytest.mark.parametrize("optimizer", [hig.HIG(1.0, 1e-3), hig.LevenbergMarquardt(),
                                       hig.HIG(1.0, 1e-3, krylov=4)], ids=["HIG", "LM", "krylov"])
def test_not_a_number_shows_in_loss_and_weights_instead_of_stopping_keras(optimizer):
    """A target after a good update. Where the spectrum is logged, it is not a number either."""
    (x, y), model = data(), compiled(hig.PhysicsModel(network(), simulator), optimizer)
    model.train_on_batch(x, y)
    y[0, 0] = np.nan
    history = model.fit(x, y, batch_size=6, verbose=0).history
    assert np.isnan(history["loss"]).all() and np.isnan(history.get("sigma_max", np.nan)).all()
    assert np.isnan(weights_of(model)).all()


@pytest.mark.parametrize("krylov", [None, 4])
def test_not_a_number_in_the_very_first_batch_shows_too(krylov):
    """Some derivatives are finite then (those by the last bias), and are no reason to refuse the model."""
    (x, y), model = data(), compiled(hig.PhysicsModel(network(), lambda x, u: u), hig.HIG(
        0.1, 1e-6, krylov=krylov))
    x[0, 0] = np.nan
    assert np.isnan(model.train_on_batch(x, y)[0])
    with pytest.raises(ValueError, match="the batch has no samples"):
        model.train_on_batch(x[:0], y[:0])
