"""The life of hig.PhysicsModel as a Keras model: evaluate, predict, save, load, interrupt, compile."""

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

import hig
from tests.networks import FEATURES, rows, simulator, squares, stack
from tests.reference import weights_of

pytestmark = pytest.mark.filterwarnings("ignore:The Jacobian takes the route")   # said on purpose

X, Y = rows(FEATURES), rows(3, seed=1)


@keras.saving.register_keras_serializable("tests")
class Spring(keras.layers.Layer):
    """A simulator that Keras can save: one number, trained."""

    def build(self, *shapes):
        self.stiffness = self.add_weight(shape=(), initializer="ones", name="stiffness")

    def call(self, x, u):
        return simulator(x, u) * self.stiffness


def model_of(optimizer=None, physics=simulator, network=None, loss=squares, **options):
    keras.utils.set_random_seed(3)
    model = hig.PhysicsModel(network or stack(4, 2), physics)
    model.compile(optimizer or hig.HIG(0.1, truncation=1e-3), loss, **options)
    return model


def fit(model, epochs=1, **options):
    return model.fit(X, Y, batch_size=len(X), shuffle=False, epochs=epochs, verbose=0, **options)


def assert_same_weights(one, other, tolerance=0.0):
    """Two models, or lists of arrays, have the same weights, to the bit without a tolerance."""
    one, other = (of if isinstance(of, list) else of.get_weights() for of in (one, other))
    for value, expected in zip(one, other, strict=True):
        np.testing.assert_allclose(value, expected, rtol=0, atol=tolerance)


# --- what is logged, evaluated and predicted ----------------------------------------------------------------

@pytest.mark.parametrize("metrics", [[], ["mae"]])
def test_evaluate_returns_the_loss_and_the_users_metrics(metrics):
    """And rank, σ_max and σ_min of an epoch are those of its updates, whatever was evaluated before."""
    model, names = model_of(metrics=metrics), {"loss", *metrics}
    for _ in range(2):
        history = fit(model, validation_data=(X, Y)).history
        assert set(history) == {"rank", "sigma_max", "sigma_min", *names, *(f"val_{name}" for name in names)}
        assert history["rank"] == [10] and 0 < history["sigma_min"][0] < history["sigma_max"][0]  # 5 samples
    expected = [np.mean(squares(Y, model(X))), np.abs(model(X) - Y).mean()][:len(names)]
    found = model.evaluate(X, Y, verbose=0)
    assert np.ndim(found) == len(metrics)
    for values in (found, model.test_on_batch(X, Y)):
        np.testing.assert_allclose(np.ravel(values), expected, rtol=1e-5)
    assert set(model.evaluate(X, Y, verbose=0, return_dict=True)) == names


def test_a_metric_of_the_users_own_keeps_its_name():
    """Called "rank" as one of the spectrum's numbers is: its value is logged, and the others beside it."""
    def rank(y_true, y):
        return tf.reduce_sum(y * 0 - 7.0, axis=-1) / 3
    logs = model_of(metrics=[rank]).train_on_batch(X, Y, return_dict=True)
    assert logs["rank"] == -7.0 and logs["sigma_max"] > 0


def test_predict_returns_controls_and_outcome_of_what_the_network_sees():
    model = hig.PhysicsModel(stack(4, 2), lambda x, u: simulator(x[0], u), network_input=lambda x: x[1])
    model.compile(hig.HIG(1.0, truncation=1e-3), squares)
    model.fit((Y, X), Y, batch_size=len(X), verbose=0)
    prediction = model.predict((Y, X), verbose=0)
    np.testing.assert_allclose(prediction["controls"], model.network(X), rtol=1e-5)
    np.testing.assert_allclose(prediction["outcome"], simulator(Y, model.network(X)), rtol=1e-5)


@pytest.mark.parametrize("optimizer", [hig.HIG(1.0, 1e-3), hig.LevenbergMarquardt(),
                                       hig.HIG(1.0, 1e-3, krylov=4)], ids=["HIG", "LM", "krylov"])
def test_not_a_number_shows_in_loss_and_weights_instead_of_stopping_keras(optimizer):
    """A target after a good update. Where the spectrum is logged, it is not a number either."""
    model, y = model_of(optimizer), Y.copy()
    model.train_on_batch(X, y)
    y[0, 0] = np.nan
    history = model.fit(X, y, batch_size=len(X), verbose=0).history
    assert np.isnan(history["loss"]).all() and np.isnan(history.get("sigma_max", np.nan)).all()
    assert np.isnan(weights_of(model)).all()


@pytest.mark.parametrize("krylov", [None, 4])
def test_not_a_number_in_the_very_first_batch_shows_too(krylov):
    """Some derivatives are finite then (those by the last bias), and are no reason to refuse the model."""
    model, x = model_of(hig.HIG(0.1, 1e-6, krylov=krylov), lambda x, u: u, stack(4, 3)), X.copy()
    x[0, 0] = np.nan
    assert np.isnan(model.train_on_batch(x, Y)[0])
    with pytest.raises(ValueError, match="the batch has no samples"):
        model.train_on_batch(x[:0], Y[:0])


# --- weights and files --------------------------------------------------------------------------------------

@pytest.mark.parametrize("physics", [lambda: simulator, Spring], ids=["function", "layer"])
def test_weights_go_to_a_file_and_back(tmp_path, physics):
    model, path = model_of(physics=physics()), tmp_path / "w.weights.h5"
    fit(model, callbacks=[keras.callbacks.ModelCheckpoint(path, save_weights_only=True)])
    assert model.built and model.count_params() == 3 * 4 + 4 + 4 * 2 + 2 + (physics is Spring)
    before = model.get_weights()
    model.save_weights(tmp_path / "again.weights.h5")
    fit(model, epochs=2)
    for file in (path, tmp_path / "again.weights.h5"):
        assert not np.array_equal(model.get_weights()[0], before[0])
        model.load_weights(file)
        assert_same_weights(model, before)
        fit(model, epochs=2)


class Interrupted(Exception):
    pass


class Interrupt(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 2:
            raise Interrupted


def test_backup_and_restore_is_bit_for_bit(tmp_path):
    straight = model_of()
    fit(straight, epochs=4)
    with pytest.raises(Interrupted):
        fit(model_of(), epochs=4, callbacks=[keras.callbacks.BackupAndRestore(tmp_path), Interrupt()])
    resumed = model_of()
    history = fit(resumed, epochs=4, callbacks=[keras.callbacks.BackupAndRestore(tmp_path)])
    assert history.epoch == [2, 3]
    assert_same_weights(resumed, straight)


def test_a_model_that_keras_can_save_is_saved(tmp_path):
    model = model_of(physics=Spring(), loss="mse")
    fit(model)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(*(m.predict(X, verbose=0)["outcome"] for m in (loaded, model)))
    for trained in (model, loaded):
        fit(trained, epochs=2)
    np.testing.assert_allclose(loaded(X), model(X), rtol=1e-6)
    assert isinstance(loaded.optimizer, hig.HIG) and loaded.optimizer.truncation == 1e-3


def test_a_model_is_saved_after_a_layer_was_frozen_between_adaptive_updates(tmp_path):
    """Damping, trust and the last step go on as if the model had not been saved."""
    model = model_of(hig.LevenbergMarquardt(), physics=Spring(), loss="mse")
    fit(model)
    model.network.layers[0].trainable = False
    fit(model)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert len(loaded.optimizer.variables) == len(model.optimizer.variables)
    for variable, other in zip(loaded.optimizer.variables, model.optimizer.variables):
        np.testing.assert_array_equal(variable.numpy(), other.numpy())
    assert np.any(model.optimizer.last_step.numpy())                    # not the zeros of a new optimizer


def test_a_model_that_keras_cannot_save_says_what_to_save(tmp_path):
    model = model_of()
    fit(model)
    with pytest.raises((TypeError, ValueError), match="model.network.save") as caught:
        model.save(tmp_path / "model.keras")
    assert len(str(caught.value)) < 500 and not (tmp_path / "model.keras").exists()
    model.network.save(tmp_path / "network.keras")
    np.testing.assert_array_equal(keras.models.load_model(tmp_path / "network.keras")(X), model.network(X))


# --- compile ------------------------------------------------------------------------------------------------

class Penalty(keras.layers.Layer):
    def call(self, x):
        self.add_loss(keras.ops.mean(x**2))
        return x


@pytest.mark.parametrize("optimizer", [lambda: hig.HIG(0.1, truncation=1e-3),
                                       lambda: keras.optimizers.SGD(0.1)], ids=["HIG", "SGD"])
def test_compile_without_a_loss_is_as_in_keras(optimizer):
    """Nothing to train on: Keras says so. A loss that a layer adds is one: its plain gradient is the step."""
    with pytest.raises(ValueError, match="No loss to compute"):
        fit(model_of(optimizer(), loss=None))
    network = keras.Sequential([keras.Input((FEATURES,)), keras.layers.Dense(4), Penalty(),
                                keras.layers.Dense(2)])
    model, before = model_of(optimizer(), network=network, loss=None), network.layers[0].kernel.numpy()
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(network.layers[0](X) ** 2)
    gradient = tape.gradient(loss, network.layers[0].kernel.value)
    fit(model)
    np.testing.assert_allclose(before - network.layers[0].kernel, 0.1 * gradient, atol=1e-6)


def test_several_batches_in_one_execution():
    """steps_per_execution=2: two updates in one call of the compiled function are the two updates."""
    weights = []
    for steps in (1, 2):
        model = model_of(steps_per_execution=steps)
        model.fit(np.concatenate([X, X]), np.concatenate([Y, Y]), batch_size=len(X), shuffle=False, verbose=0)
        weights.append(model.get_weights())
    assert_same_weights(*weights, tolerance=1e-5)


@pytest.mark.parametrize("make", [lambda: hig.HIG(0.1, 1e-6), lambda: hig.HIG(0.1, 1e-6, adaptive=True),
                                  hig.LevenbergMarquardt], ids=["HIG", "adaptive", "LM"])
def test_krylov_set_between_updates_counts_and_is_logged(make):
    model = model_of(optimizer=make())
    model.train_on_batch(X, Y)
    model.optimizer.krylov = 2
    logs = model.train_on_batch(X, Y, return_dict=True)
    assert logs["krylov_steps"] == 2 and logs.get("learning_rate", 0.1) < 1
    assert model.route.startswith("krylov")
    model.optimizer.krylov = None
    assert "krylov_steps" not in model.train_on_batch(X, Y, return_dict=True)
    assert not model.route.startswith("krylov")


def test_data_of_the_same_shapes_in_another_structure():
    model = hig.PhysicsModel(stack(4, 2), lambda x, u: u, lambda x: tf.nest.flatten(x)[0])
    model.compile(hig.HIG(0.1, truncation=1e-3), squares)
    for x in [X, Y], {"first": X, "second": Y}:
        model.train_on_batch(x, Y[:, :2])


# --- precisions and devices that change what an optimizer is given ------------------------------------------

def test_loss_scaling_is_refused():
    """Scaled losses are for gradients that underflow; a Jacobian power would take the scale to the power 1.
    """
    with pytest.raises(ValueError, match="(?i)loss.?scal"):
        model_of(keras.optimizers.LossScaleOptimizer(hig.HIG(0.1, truncation=1e-3)))
    before = keras.config.dtype_policy()                                # where Keras wraps the optimizer so
    keras.config.set_dtype_policy("mixed_float16")
    try:
        with pytest.raises(ValueError, match="mixed_float16"):
            model_of()
    finally:
        keras.config.set_dtype_policy(before)


def on_the_host(u):
    """2 u by numpy, for which XLA has no kernel; with its derivative."""
    @tf.custom_gradient
    def twice(v):
        return tf.ensure_shape(tf.numpy_function(lambda w: 2 * w, [v], v.dtype),
                               v.shape), lambda cotangent: 2 * cotangent
    return twice(u)


@pytest.mark.parametrize("optimizer", ["sgd", "hig"])
def test_xla_is_tried_unless_the_user_says_no(optimizer):
    """Adam on the oscillators is eight times slower without: an ordinary optimizer's step goes to XLA, too,
    by default. What XLA cannot compile shows that it was asked; the step is the same then as without asking.
    """
    steps = []
    for asked in ("auto", False):
        chosen = hig.HIG(0.1, truncation=1e-3) if optimizer == "hig" else keras.optimizers.SGD(0.1)
        keras.utils.set_random_seed(0)
        model = model_of(chosen, lambda x, u: on_the_host(u), stack(Y.shape[1]), jit_compile=asked)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            fit(model)
        assert any("runs without XLA" in str(warning.message) for warning in caught) == (asked == "auto")
        steps.append(model.get_weights())
    assert_same_weights(*steps)
