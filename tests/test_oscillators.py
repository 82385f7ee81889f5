"""The nonlinear oscillators: physics of the simulator, and the published curves."""

import keras
import numpy as np
import tensorflow as tf

import hig
from Nonlinear_Oscillators import experiment
from Nonlinear_Oscillators.simulator import Oscillators, energy, force
from tests import tiny
from tests.reference import jacobian_by_differences


def states(rows, n=2, seed=0):
    return tf.constant(np.random.default_rng(seed).uniform(size=(rows, 2 * n)))


def test_force_is_the_gradient_of_the_energy():
    """ṗ = −∂H/∂q without control, for four oscillators in float64."""
    q = tf.constant(np.random.default_rng(1).normal(size=(3, 4)))
    with tf.GradientTape() as tape:
        tape.watch(q)
        total = tf.reduce_sum(energy(tf.concat([q, tf.zeros_like(q)], axis=1)))
    np.testing.assert_allclose(force(q), -tape.gradient(total, q), atol=1e-14)


def test_force_by_hand():
    """Positions 1, 3, 2: the middle one is pulled by (1 − 3)³ and (2 − 3)³."""
    np.testing.assert_array_equal(force(tf.constant([[1.0, 3.0, 2.0]])), [[-1.0 + 8, -3.0 - 8 - 1, -2.0 + 1]])


def test_energy_drift_is_that_of_a_fourth_order_method():
    """Halving dt divides it by 2⁴ or more: by 2⁵ on an oscillator, whose leading error is in the phase."""
    start = states(20)

    def drift(n_steps, dt):
        end = Oscillators(n_steps, dt)(start, tf.zeros((20, n_steps), tf.float64))
        return float(tf.reduce_max(tf.abs(energy(end) - energy(start))))
    assert 15 < drift(96, 0.125) / drift(192, 0.0625) < 40


def test_one_oscillator_is_sine_and_cosine():
    """q(t) = q₀ cos t + p₀ sin t; RK4's global error is t·dt⁴/120 = 2.4e-5 at t = 12."""
    q, p, t = 0.7, -0.4, 12
    final = Oscillators(96, 0.125)(tf.constant([[q, p]], tf.float64), tf.zeros((1, 96), tf.float64))[0]
    np.testing.assert_allclose(final, [q * np.cos(t) + p * np.sin(t), p * np.cos(t) - q * np.sin(t)],
                               atol=5e-5)


def test_constant_control_shifts_the_equilibrium():
    """A single oscillator under constant u rests at q = c u."""
    start, controls = np.array([[3.0 * 0.2, 0.0]]), np.full((1, 50), 0.2)
    final = Oscillators(50, 0.1)(tf.constant(start), tf.constant(controls))
    np.testing.assert_allclose(final, [[0.6, 0.0]], atol=1e-14)


def test_only_the_last_oscillator_is_controlled():
    derivative = Oscillators().derivative(tf.zeros((1, 6)), tf.ones((1, 1)))
    np.testing.assert_array_equal(derivative, [[0, 0, 0, 0, 0, 3.0]])


def test_jacobian_with_respect_to_the_controls():
    """Through the while loop by autodiff under XLA, against central differences: error step² ≈ 1e-10."""
    simulator, start = Oscillators(12, 0.125), states(1)
    controls = np.random.default_rng(2).normal(size=(1, 12))

    @tf.function(jit_compile=True)
    def row(u, cotangent):
        with tf.GradientTape() as tape:
            tape.watch(u)
            outcome = simulator(start, u)
        return tape.gradient(outcome, u, cotangent)
    jacobian = [row(tf.constant(controls), tf.constant([e]))[0] for e in np.eye(4)]
    expected = jacobian_by_differences(lambda u: simulator(start, tf.constant(u)).numpy(), controls, 1e-5)
    np.testing.assert_allclose(jacobian, expected, atol=1e-8)


def test_trajectory_ends_where_the_simulator_does():
    simulator, start = Oscillators(9, 0.2), states(3)
    controls = tf.constant(np.random.default_rng(3).normal(size=(3, 9)))
    trajectory = simulator.trajectory(start, controls)
    assert trajectory.shape == (10, 3, 4)
    np.testing.assert_array_equal(trajectory[0], start)
    np.testing.assert_allclose(trajectory[-1], simulator(start, controls), atol=1e-14)


def test_data_are_those_of_numpys_global_generator():
    np.random.seed(22)
    expected = np.random.rand(9216, 4).astype(np.float32)
    sets = experiment.draw_data(22)
    assert [len(states) for states in sets] == [4096, 4096, 1024]
    np.testing.assert_array_equal(np.concatenate(sets), expected)


def test_published_curve_of_adam():
    """Train and test losses of the published code, seed 1; the same float32 operations in another order."""
    curve = tiny.curve(experiment, keras.optimizers.Adam(3e-4), 1, 512, 10)
    np.testing.assert_allclose(curve[0], [0.8657997, 0.8586396], rtol=1e-6)
    np.testing.assert_allclose(curve[1:3], [[0.737100, 0.730365], [0.642390, 0.636989]], rtol=1e-4)
    np.testing.assert_allclose(curve[[5, 10], 1], [0.501758, 0.378652], rtol=1e-4)


def test_published_curve_of_hig():
    """Seed 22. The published float32 SVD and ours differ by the condition of J, so per cent, not digits."""
    curve = tiny.curve(experiment, hig.HIG(1.0, truncation=1e-6), 22, 128, 2)
    np.testing.assert_allclose(curve[0], [0.9024984, 0.9021118], rtol=1e-6)
    np.testing.assert_allclose(curve[1], [0.105331, 0.103491], rtol=0.01)
    np.testing.assert_allclose(curve[2], [0.017385, 0.016784], rtol=0.02)


def test_published_curve_of_gauss_newton():
    """Seed 28. At η = 1 it amplifies rounding from step to step: only the first epoch can be compared."""
    curve = tiny.curve(experiment, hig.GaussNewton(1.0, truncation=1e-6), 28, 128, 1)
    np.testing.assert_allclose(curve[0], [0.8779699, 0.8733025], rtol=1e-6)
    np.testing.assert_allclose(curve[1], [0.324592, 0.328151], rtol=0.03)
