"""The linear chain of the book: physics of the simulator, scale-invariant physics, the published curve."""

import numpy as np
import pytest
import tensorflow as tf
from scipy.linalg import expm

import hig
from hig.runs.results import load_results
from Linear_Chain import experiment
from Linear_Chain.simulator import LinearChain, ScaleInvariant
from tests import tiny


def step_by_step(state, controls, dt=0.5, coupling=0.2, strength=1.0):
    """Classic Runge-Kutta steps, written out for each oscillator: (2N,), (Nt,) → (2N,)."""
    def derivative(s, u):
        q, p = np.split(s, 2)
        change = np.concatenate([p, -q])
        for i in range(len(q)):
            for neighbour in (i - 1, i + 1):
                if 0 <= neighbour < len(q):
                    change[len(q) + i] += coupling * (q[neighbour] - q[i])
        change[-1] += strength * u
        return change

    for u in controls:
        k1 = derivative(state, u)
        k2 = derivative(state + dt / 2 * k1, u)
        k3 = derivative(state + dt / 2 * k2, u)
        k4 = derivative(state + dt * k3, u)
        state = state + dt / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    return state


@pytest.mark.parametrize("n", [1, 2, 3])
def test_the_two_matrices_are_the_runge_kutta_steps(n):
    generator = np.random.default_rng(n)
    states, controls = generator.normal(size=(5, 2 * n)), generator.normal(size=(5, 24))
    expected = [step_by_step(state, u) for state, u in zip(states, controls)]
    outcome = LinearChain(n)(tf.constant(states), tf.constant(controls))
    np.testing.assert_allclose(outcome, expected, atol=1e-12)


def test_without_control_it_tends_to_the_matrix_exponential():
    """y = exp(A t) x; the error of a fourth-order method falls 16-fold when dt halves."""
    exact = expm(12 * LinearChain().generator).T
    errors = [np.abs(LinearChain(n_steps=n, dt=12 / n).free - exact).max() for n in (96, 192)]
    assert errors[0] < 1e-4 and 15 < errors[0] / errors[1] < 17


def test_two_oscillators_have_two_normal_modes():
    """q₁ = q₂ swings with ω = 1, q₁ = −q₂ with √(1 + 2k); t = 12 in steps of 0.05: t·dt⁴·ω⁵/120 ≈ 2e-6."""
    chain = LinearChain(n_steps=240, dt=0.05)
    for mode, omega in (([1.0, 1.0], 1.0), ([1.0, -1.0], np.sqrt(1.4))):
        final = chain(tf.constant([[*mode, 0.0, 0.0]], tf.float64), tf.zeros((1, 240), tf.float64))[0]
        factors = np.cos(12 * omega), -omega * np.sin(12 * omega)
        np.testing.assert_allclose(final, np.outer(factors, mode).ravel(), atol=4e-6)


def test_energy_is_conserved():
    """H = Σ (q² + p²)/2 + k (q₂ − q₁)²/2; a Runge-Kutta step loses (ω dt)⁶/72 of it, 240 × 6e-10 in all."""
    states = np.random.default_rng(0).uniform(size=(20, 4))
    final = LinearChain(n_steps=240, dt=0.05)(tf.constant(states), tf.zeros((20, 240), tf.float64)).numpy()

    def energy(s):
        return (s ** 2).sum(axis=1) / 2 + 0.2 * (s[:, 1] - s[:, 0]) ** 2 / 2
    np.testing.assert_allclose(energy(final), energy(states), rtol=5e-7)


def test_one_step_of_scale_invariant_physics_solves_the_task():
    """The simulator is linear in the controls: u − J⁺ (y − y*) brings every sample to its target."""
    states = tf.constant(np.random.default_rng(1).uniform(size=(6, 4)))
    controls = tf.constant(np.random.default_rng(2).normal(size=(6, 24)))
    inverted = ScaleInvariant(experiment.CHAIN, 1e-5)
    with tf.GradientTape() as tape:
        tape.watch(controls)
        outcome = inverted(states, controls)
        loss = tf.reduce_sum(experiment.loss(states, outcome)) / 2           # g = y − y*
    np.testing.assert_array_equal(outcome, experiment.CHAIN(states, controls))
    improved = controls - tape.gradient(loss, controls)
    np.testing.assert_allclose(experiment.CHAIN(states, improved), states, atol=1e-12)


def test_the_gradient_of_scale_invariant_physics_is_that_of_the_regression():
    """By the weights, of the batch mean of Σ (u − u*)², with u* from a pseudo-inverse of each sample."""
    states = experiment.draw_data(3)[0][:5]
    model = experiment.build_model(3, ScaleInvariant(experiment.CHAIN, 1e-5))
    with tf.GradientTape(persistent=True) as tape:
        controls = model.network(states)
        ours = tf.reduce_mean(experiment.loss(states, model(states)))
        jacobians = np.repeat(experiment.CHAIN.response.T[None], 5, axis=0)
        residual = (experiment.CHAIN(states, controls) - states).numpy()
        wanted = controls.numpy() - (np.linalg.pinv(jacobians, rcond=1e-5) @ residual[:, :, None])[:, :, 0]
        regression = tf.reduce_mean(tf.reduce_sum((controls - wanted) ** 2, axis=1))
    weights = model.network.trainable_variables
    for one, other in zip(tape.gradient(ours, weights), tape.gradient(regression, weights)):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5)         # float32


PUBLISHED = [5.44e-5, 1.06e-5, 3.16e-6, 1.19e-6]  # training loss of the book's HIG run after epochs 1 to 4


@pytest.mark.filterwarnings("ignore:truncation is 1e-10")                # the book's setting
def test_published_curve_of_hig():
    """Two epochs of one seed within a factor of 3. The book's start has no seed."""
    curve = tiny.curve(experiment, hig.HIG(1.0, truncation=1e-10), 1, 32, 2)[1:, 0]
    assert np.abs(np.log(curve / PUBLISHED[:2])).max() < np.log(3)


def test_scale_invariant_physics_from_the_command_line(tmp_path):
    """The loss falls, the pickle calls the run SIP, and the network has learned controls by Adam."""
    settings = tiny.settings("Linear_Chain", "SIP", tmp_path, "--epochs", 20, seed=1, batch_size=256,
                             learning_rate=1e-3, truncation=1e-5)
    assert experiment.run(settings) == "finished"
    results = load_results(tmp_path / "CHAIN_SIP_RESULTS.pickle")
    assert results["sim_par"]["optimizer"] == "SIP"
    assert results["train_loss"][-1] < 0.2 * results["train_loss"][0]
