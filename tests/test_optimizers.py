"""hig.optimizers: settings, serialisation, and the refusal of plain gradients."""

import keras
import numpy as np
import pytest

import hig

OPTIMIZERS = [hig.HIG(0.5, truncation=1e-5), hig.GaussNewton(1.0, truncation=0.0, name="gn"),
              hig.JacobianPower(0.1, kappa=0.25, truncation=1e-3)]


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda o: type(o).__name__)
def test_config_survives_both_ways_of_serialising(optimizer):
    for again in (type(optimizer).from_config(optimizer.get_config()),
                  keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))):
        assert type(again) is type(optimizer)
        assert (again.kappa, again.truncation,
                again.name) == (optimizer.kappa, optimizer.truncation, optimizer.name)
        assert float(again.learning_rate) == pytest.approx(float(optimizer.learning_rate))


def test_the_names_stand_for_their_powers():
    assert (hig.HIG(1.0, 1e-6).kappa, hig.GaussNewton(1.0, 1e-6).kappa) == (-0.5, -1.0)


def test_a_step_is_learning_rate_times_direction():
    variable = keras.Variable(np.array([1.0, 2.0], "float32"))
    hig.HIG(0.25, truncation=1e-6).apply_directions([np.array([4.0, -8.0], "float32")], [variable])
    np.testing.assert_array_equal(variable.numpy(), [0.0, 4.0])


def test_learning_rate_schedule():
    variable = keras.Variable(np.zeros(1, "float32"))
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([0], [1.0, 0.5])
    optimizer = hig.HIG(schedule, truncation=1e-6)
    optimizer.apply_directions([np.ones(1, "float32")], [variable])
    optimizer.apply_directions([np.ones(1, "float32")], [variable])
    np.testing.assert_array_equal(variable.numpy(), [-1.5])


@pytest.mark.parametrize("settings, words", [
    ({"learning_rate": 0.0}, "learning_rate"), ({"learning_rate": float("nan")}, "learning_rate"),
    ({"learning_rate": -1}, "learning_rate"), ({"kappa": -1.5}, "kappa"), ({"kappa": float("nan")}, "kappa"),
    ({"truncation": 1.0}, "truncation"), ({"truncation": -1e-6}, "truncation"),
])
def test_settings_out_of_range(settings, words):
    with pytest.raises(ValueError, match=words):
        hig.JacobianPower(**{"learning_rate": 1.0, "kappa": -0.5, "truncation": 1e-6, **settings})


@pytest.mark.parametrize("value", [-1.0, float("nan"), np.float32(-1.0), float("inf")])
def test_a_learning_rate_may_be_set_to_zero_but_not_to_nonsense(value):
    optimizer = hig.HIG(0.5, truncation=1e-6)
    optimizer.learning_rate = 0.0
    assert float(optimizer.learning_rate) == 0.0
    with pytest.raises(ValueError, match="learning_rate"):
        optimizer.learning_rate = value


def test_a_truncation_that_float64_cannot_resolve_is_told_when_it_is_set():
    """Rows 1e6 : 1 and τ = 1e-11: K knows eigenvalues to 1e-16 of the largest, σ to 1e-8. 0 and 1e-8 are
    silent.
    """
    with pytest.warns(UserWarning, match="truncation is 1e-11"):
        optimizer = hig.GaussNewton(1.0, truncation=1e-11)
    with pytest.warns(UserWarning, match="truncation is 5e-09"):
        optimizer.truncation = 5e-9
    optimizer.truncation = 0.0
    optimizer.truncation = 1e-8


def test_an_ordinary_keras_model_cannot_use_it_by_mistake():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile(optimizer=hig.HIG(1.0, truncation=1e-6), loss="mse")
    with pytest.raises(TypeError, match="PhysicsModel"):
        model.fit(np.ones((2, 2)), np.ones((2, 1)), verbose=0)
