"""hig.optimizers: settings, serialisation, and the refusal of plain gradients."""

import keras
import numpy as np
import pytest

import hig

DECAY = keras.optimizers.schedules.ExponentialDecay(1.0, 10, 0.9)
OPTIMIZERS = [hig.HIG(0.5, 1e-5, damping=0.1, adaptive=True),
              hig.GaussNewton(1.0, 0.0, damping=0.1, name="gn"), hig.JacobianPower(0.1, 0.25, 1e-3),
              hig.HIG(1.0, 1e-6, krylov=7),
              hig.LevenbergMarquardt(0.5, 0.1, krylov=7, krylov_tolerance=0.0)]


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda o: type(o).__name__)
def test_config_survives_both_ways_of_serialising(optimizer):
    names = ("kappa", "truncation", "damping", "adaptive", "krylov", "krylov_tolerance", "logged", "name")
    for again in (type(optimizer).from_config(optimizer.get_config()),
                  keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))):
        assert type(again) is type(optimizer) and again.get_config() == optimizer.get_config()
        assert [getattr(again, name) for name in names] == [getattr(optimizer, name) for name in names]
        assert float(again.learning_rate) == pytest.approx(float(optimizer.learning_rate))


def test_the_names_stand_for_their_powers():
    assert (hig.HIG(1.0, 1e-6).kappa, hig.GaussNewton(1.0, 1e-6).kappa) == (-0.5, -1.0)
    spectrum, steps = ("rank", "sigma_max", "sigma_min"), ("krylov_steps", "krylov_change")
    assert hig.HIG(1.0, 1e-6, adaptive=True).logged == (*spectrum, "learning_rate", "trust")
    assert hig.HIG(1.0, 1e-6, krylov=7).logged == (*spectrum, *steps)
    assert hig.LevenbergMarquardt(krylov=7).logged == (*steps, "damping", "trust")
    assert hig.LevenbergMarquardt(adaptive=False).logged == ()


@pytest.mark.parametrize("rate, expected", [
    (0.25, [-1.0, 2.0]), (keras.optimizers.schedules.PiecewiseConstantDecay([0], [1.0, 0.5]), [-6.0, 12.0])],
    ids=["number", "schedule"])
def test_steps_are_learning_rate_times_direction(rate, expected):
    """One step with η = 1/4, or two with η = 1 and 1/2."""
    variable, optimizer = keras.Variable(np.zeros(2, "float32")), hig.HIG(rate, truncation=1e-6)
    for _ in range(2 if callable(rate) else 1):
        optimizer.apply_directions([np.array([4.0, -8.0], "float32")], [variable])
    np.testing.assert_array_equal(variable.numpy(), expected)


def power(**settings):
    return hig.JacobianPower(**{"learning_rate": 1.0, "kappa": -0.5, "truncation": 1e-6, **settings})


def adaptive(**settings):
    return hig.HIG(1.0, 1e-6, adaptive=True, **settings)


NAN, WHOLE = float("nan"), "must be a whole number of at least 1, or None for"


@pytest.mark.parametrize("name, value, words", [
    *(("learning_rate", value, "must be positive and finite")
      for value in (-1.0, np.float32(-1.0), NAN, float("inf"))),
    ("learning_rate", lambda: 0.1, "must be a number or a Keras schedule"),
    *(("kappa", value, "kappa must lie") for value in (-1.5, 3.0, NAN)),
    *(("truncation", value, "truncation must lie") for value in (1.0, -1e-6)),
    ("damping", -1.0, "damping must be at least 0"),
    *(("krylov", value, f"krylov {WHOLE} the exact method, got {value}") for value in (0, -1, 2.5)),
    *(("krylov_chunk", value, f"krylov_chunk {WHOLE} what fits") for value in (0, -1, 2.5))])
def test_settings_out_of_range_from_the_start_or_set_later(name, value, words):
    with pytest.raises(ValueError, match=words):
        power(**{name: value})
    optimizer = power()
    with pytest.raises(ValueError, match=words):
        setattr(optimizer, name, value)
    assert optimizer.get_config() == power().get_config()


@pytest.mark.parametrize("make, settings, words", [
    (power, {"learning_rate": 0.0}, "learning_rate"),
    (power, {"loss_scale_factor": 8.0}, "loss_scale_factor"),
    (hig.LevenbergMarquardt, {"damping": 0.0}, "damping must be positive"),
    (hig.LevenbergMarquardt, {"learning_rate": 0.0}, "learning_rate"),
    (lambda: hig.HIG(DECAY, 1e-6, adaptive=True), {}, "schedule"),
    *((make, {name: value}, f"{name} is {value}") for make, name, value in (
        (adaptive, "gradient_accumulation_steps", 2), (adaptive, "clipnorm", 0.01),
        (adaptive, "global_clipnorm", 2.0), (adaptive, "ema_overwrite_frequency", 5),
        (hig.LevenbergMarquardt, "gradient_accumulation_steps", 2),
        (hig.LevenbergMarquardt, "clipvalue", 0.5), (hig.LevenbergMarquardt, "weight_decay", 0.1)))])
def test_settings_that_no_optimizer_begins_with(make, settings, words):
    if "ema_overwrite_frequency" in settings:
        settings = {**settings, "use_ema": True}
    with pytest.raises(ValueError, match=words):
        make(**settings)


def test_a_schedule_is_refused_when_it_is_assigned_to_what_sets_its_own_learning_rate():
    optimizer = hig.HIG(0.3, 1e-6, adaptive=True)
    with pytest.raises(ValueError, match="learning_rate is a schedule"):
        optimizer.learning_rate = DECAY
    assert float(optimizer.learning_rate) == pytest.approx(0.3)
    for other in (hig.HIG(0.3, 1e-6), hig.LevenbergMarquardt()):        # η is not what adapts
        other.learning_rate = DECAY
        assert float(other.learning_rate) == 1.0


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


@pytest.mark.parametrize("hand_over", [
    lambda optimizer, v: optimizer.apply([np.ones(2)], [v]),
    lambda optimizer, v: optimizer.apply_gradients([(np.ones(2), v)])], ids=["apply", "apply_gradients"])
def test_plain_gradients_are_refused(hand_over):
    variable = keras.Variable(np.zeros(2))
    with pytest.raises(TypeError, match="hig.PhysicsModel"):
        hand_over(hig.HIG(0.1, truncation=1e-3), variable)
    np.testing.assert_array_equal(variable, np.zeros(2))
