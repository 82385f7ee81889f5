"""Nothing that is computed for a step's sake touches metrics, losses, layers' state or what users look at."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import hig
from hig.model import KEPT_SHAPES
from tests.networks import B, ETA, FEATURES, assert_same_step, rows, squares, stack
from tests.reference import flat


@pytest.mark.parametrize("optimizer", [lambda: hig.HIG(ETA, truncation=1e-3), hig.LevenbergMarquardt,
                                       lambda: hig.HIG(ETA, truncation=1e-3, adaptive=True)],
                         ids=["HIG", "Levenberg-Marquardt", "adaptive"])
def test_losses_of_single_outcomes_are_those_before_the_update(float64, optimizer):
    """Their weighted sum is the loss, in the first epoch as in later ones, with ragged batches."""
    model = hig.PhysicsModel(stack(5, 2), lambda x, u: {"a": u[:, :1] + x[:, :1], "b": 3 * u[:, 1:]})
    model.compile(optimizer(), loss={"a": "mse", "b": "mse"}, loss_weights={"a": 1.0, "b": 0.25})
    x = np.concatenate([rows(FEATURES), rows(FEATURES, seed=4)[:3]])
    y = {"a": np.zeros((len(x), 1)), "b": np.ones((len(x), 1))}
    outcome = model(tf.constant(x[:B]))
    expected = {name: float(np.mean((outcome[name] - y[name][:B]) ** 2)) for name in y}
    logs = model.train_on_batch(x[:B], {name: value[:B] for name, value in y.items()}, return_dict=True)
    for name in y:
        assert logs[f"{name}_loss"] == pytest.approx(expected[name], rel=1e-12)
    history = model.fit(x, y, batch_size=B, epochs=3, shuffle=False, verbose=0).history
    np.testing.assert_allclose(np.array(history["a_loss"]) + 0.25 * np.array(history["b_loss"]),
                               history["loss"], rtol=1e-12)


class Measures(hig.PhysicsModel):
    """A user's subclass whose loss measures an outcome, and counts its updates."""

    def build(self, *shapes):
        self.mean = keras.metrics.Mean(name="mean")
        self.updates = self.add_weight(shape=(), initializer="zeros", trainable=False)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        self.mean.update_state(y_pred["a"])
        self.updates.assign_add(1)
        return self.updates * super().compute_loss(x, y, y_pred, sample_weight, training)


def test_what_the_users_loss_measures_is_logged_as_by_keras(float64):
    """Beside the losses of two outcomes and a penalty, the same as in Keras' evaluation."""
    network = stack(5, 2)
    network.layers[0].activity_regularizer = keras.regularizers.L2(0.1)
    model = Measures(network, lambda x, u: {"a": u[:, :1] + x[:, :1], "b": 3 * u[:, 1:]})
    model.build(None)
    model.compile(hig.HIG(ETA, truncation=1e-3), loss={"a": "mse", "b": "mse"}, metrics={"b": ["mae"]})
    batch = rows(FEATURES), {"a": rows(1), "b": rows(1)}
    expected = model.test_on_batch(*batch, return_dict=True)
    model.reset_metrics()
    model.updates.assign(0)
    logs = model.train_on_batch(*batch, return_dict=True)
    assert {"a_loss", "b_loss", "b_mae", "mean", "loss"} == set(expected) and expected["mean"] != 0
    for name, value in expected.items():
        assert float(logs[name]) == pytest.approx(float(value), rel=1e-12)      # rounding, if XLA adds up
    assert model.updates == 1


class WithPenalty(hig.PhysicsModel):
    """A user's subclass that adds a loss within its call."""

    def call(self, x, training=False):
        u = self.network(x, training=training)
        self.add_loss(0.1 * tf.reduce_sum(u ** 2))
        return self.simulator(x, u)


def test_add_loss_within_call_of_a_subclass(float64):
    """The step at κ = 1 is that of gradient descent in Keras' own loop."""
    after = []
    for optimizer in (keras.optimizers.SGD(ETA), hig.JacobianPower(ETA, kappa=1.0, truncation=0.0)):
        keras.utils.set_random_seed(3)
        model = WithPenalty(stack(5, 2), lambda x, u: 2 * u)
        model.compile(optimizer, squares, run_eagerly=not after)
        model.fit(rows(FEATURES), rows(2), batch_size=B, epochs=2, verbose=0)
        after.append(flat(model.get_weights()))
    assert_same_step(after[1], after[0], np.zeros_like(after[0]), 1e-9)


def test_the_route_is_that_of_the_last_update_and_few_shapes_are_kept(float64):
    model = hig.PhysicsModel(stack(3, 2), lambda x, u: u - (tf.reduce_mean(u, 0) if u.shape[0] > 4 else 0.0))
    model.compile(hig.HIG(ETA, truncation=1e-3), squares, jit_compile=False)
    with pytest.warns(UserWarning, match="whole batch"):
        for size, route in ((2, "factored"), (B, "whole batch"), (2, "factored")):
            model.train_on_batch(rows(FEATURES)[:size], rows(2)[:size])
            assert model.route == route
    model._derivatives.update(dict.fromkeys(range(3 * KEPT_SHAPES)))     # as if so many shapes had come
    model.derivatives_for(tf.constant(rows(FEATURES)[:1]), tf.constant(rows(2)[:1]), None)
    assert len(model._derivatives) == KEPT_SHAPES
    model.compile(hig.HIG(ETA, truncation=1e-3), squares)
    assert not model._derivatives
