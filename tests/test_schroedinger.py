"""The quantum dipole: physics of the simulator, its derivatives, and the published curves."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import hig
from hig.runs.results import load_results
from Schroedinger import experiment
from Schroedinger.simulator import Dipole, to_complex, to_pairs
from tests import tiny
from tests.reference import jacobian_by_differences

GRIDS = [{}, {"n_points": 3, "n_steps": 5}, {"n_points": 4, "n_steps": 7, "box": (-1.0, 1.0)},
         {"n_points": 41, "n_steps": 30, "dt": 0.3, "box": (-3.0, 2.0)},
         {"n_points": 9, "n_steps": 1, "dt": 1e-3}]


def hamiltonian(dipole, u):
    """−∂²/∂x² + u x by its matrix elements, (m, m) float64."""
    x, dx = np.linspace(*dipole.box, dipole.n_points, retstep=True)
    neighbours = np.eye(len(x) - 2, k=1) + np.eye(len(x) - 2, k=-1)
    return np.diag(2 / dx**2 + u * x[1:-1]) - neighbours / dx**2


def crank_nicolson(dipole, psi, controls):
    """ψ of one sample at all times, (Nt + 1, m), by dense solves: ψ (m,) complex128, controls (Nt,)."""
    states = [psi]
    for u in controls:
        half = 0.5j * dipole.dt * hamiltonian(dipole, u)
        states.append(np.linalg.solve(np.eye(len(psi)) + half, states[-1] - half @ states[-1]))
    return states


def random_states(dipole, rows, seed=0):
    """Normalised wave functions, (rows, m) complex128."""
    parts = np.random.default_rng(seed).normal(size=(2, rows, dipole.n_points - 2))
    psi = parts[0] + 1j * parts[1]
    return psi / np.linalg.norm(psi, axis=1, keepdims=True)


def random_controls(dipole, rows, seed=1, size=5.0):
    return size * np.random.default_rng(seed).normal(size=(rows, dipole.n_steps))


def pairs(psi, dtype=tf.float64):
    return to_pairs(tf.constant(psi, tf.complex128), dtype)


# ---------------------------------------------------------------------------------------------------- physics

@pytest.mark.parametrize("grid", GRIDS)
def test_evolution_and_trajectory_equal_dense_crank_nicolson(grid):
    """Float64 on any grid, box and step: rounding, 1e-16 per step and operation."""
    dipole = Dipole(**grid)
    psi, controls = random_states(dipole, 3), random_controls(dipole, 3)
    expected = np.stack([crank_nicolson(dipole, row, u) for row, u in zip(psi, controls)], axis=1)
    trajectory = to_complex(dipole.trajectory(pairs(psi), tf.constant(controls)))
    np.testing.assert_allclose(trajectory, expected, atol=1e-12)
    final = to_complex(dipole(pairs(psi), tf.constant(controls)))
    np.testing.assert_allclose(final, expected[-1], atol=1e-12)


def test_norm_is_conserved_in_single_precision():
    """After 384 steps, controlled or not, only the result is rounded to float32, by 6e-8 per entry."""
    dipole = Dipole()
    size = np.repeat([0.0, 1.0, 30.0], 32)[:, None]
    final = dipole(pairs(random_states(dipole, 96), tf.float32),
                   tf.constant(random_controls(dipole, 96, size=size), tf.float32))
    assert final.dtype == tf.float32
    assert np.abs(np.linalg.norm(np.float64(final), axis=1) - 1).max() < 3e-7


def test_eigenstates_of_the_empty_box_only_turn_their_phase():
    """By ((1 − i E dt/2)/(1 + i E dt/2))^Nt with E = (2 − 2 cos(π n/15))/dx², dx = 2/15; float64."""
    dipole, n = Dipole(), np.array([[1], [2], [3], [14]])
    energy = (2 - 2 * np.cos(np.pi * n / 15)) * 7.5**2
    phase = ((1 - 0.025j * energy) / (1 + 0.025j * energy)) ** 384
    states = np.sin(np.pi * n * np.arange(1, 15) / 15) / np.sqrt(7.5)                       # Σ sin² = 15/2
    np.testing.assert_allclose([dipole.energy(k) for k in n[:, 0]], energy[:, 0], rtol=1e-14)
    np.testing.assert_allclose([dipole.eigenstate(k) for k in n[:, 0]], states, atol=1e-14)
    final = to_complex(dipole(pairs(states + 0j), tf.zeros((4, 384), tf.float64)))
    np.testing.assert_allclose(final, phase * states, atol=1e-11)


def test_energies_on_a_fine_grid_are_those_of_the_box():
    """(π n/width)², with a relative error of (π n dx/width)²/12 = 8e-6 for n = 10 and 1000 points."""
    dipole = Dipole(n_points=1000, box=(-1.0, 4.0))
    for n in (1, 3, 10):
        assert dipole.energy(n) == pytest.approx((np.pi * n / 5) ** 2, rel=1e-4)


def test_reversed_controls_lead_the_conjugate_state_back():
    """Time reversal: U(u_Nt … u_1)* undoes U(u_1 … u_Nt). Float64 rounding over 768 steps."""
    dipole = Dipole()
    psi, controls = random_states(dipole, 3), random_controls(dipole, 3)
    there = to_complex(dipole(pairs(psi), tf.constant(controls))).numpy()
    back = to_complex(dipole(pairs(there.conj()), tf.constant(controls[:, ::-1]))).numpy()
    np.testing.assert_allclose(back.conj(), psi, atol=1e-11)


def test_constant_control_conserves_its_energy():
    """⟨ψ|H|ψ⟩ with H of that control: a Cayley step commutes with its H. Float64, relative to |H| = 230."""
    dipole, u = Dipole(), 7.0
    psi, matrix = random_states(dipole, 4), hamiltonian(dipole, u)
    final = to_complex(dipole(pairs(psi), tf.fill((4, 384), tf.constant(u, tf.float64)))).numpy()
    before, after = (np.einsum("bi,ij,bj->b", s.conj(), matrix, s).real for s in (psi, final))
    np.testing.assert_allclose(after, before, atol=1e-9)


# ------------------------------------------------------------------------------------------------ derivatives

@pytest.mark.parametrize("grid", [*GRIDS, {"n_points": 64, "dt": 0.1, "box": (-10.0, 10.0)},
                                  *({"n_points": n, "dt": dt} for n in range(5, 20) for dt in (1e-3, 10.0))])
def test_solve_against_dense_solves(grid):
    """A⁻¹v of two vectors a sample in float64; the first control makes a diagonal entry of H vanish.

    A reduction halves odd and even numbers of points differently. Steps of 10: A has a condition of 1.4e3.
    """
    dipole = Dipole(**grid)
    controls = random_controls(dipole, 3)[:, 0]
    controls[0] = -2 / dipole.dx**2 / dipole.x[-1]
    vectors = random_states(dipole, 6).reshape(2, 3, -1)                                    # (k, B, m)
    expected = [[np.linalg.solve(np.eye(len(v)) + 0.5j * dipole.dt * hamiltonian(dipole, u), v)
                 for u, v in zip(controls, rows)] for rows in vectors]
    found = dipole.solve(tf.constant(controls), tf.constant(vectors.transpose(2, 0, 1)))
    np.testing.assert_allclose(tf.transpose(found, (1, 2, 0)), expected, atol=1e-13)


@pytest.mark.parametrize("grid",
                         [{"n_steps": 12}, {"n_points": 5, "n_steps": 20, "dt": 0.4, "box": (-2.0, 1.0)}])
def test_derivatives_against_central_differences(grid):
    """The compiled adjoint and the Jacobian, by controls and initial state: error step² ≈ 1e-10."""
    dipole = Dipole(**grid)
    state, controls = pairs(random_states(dipole, 1)), random_controls(dipole, 1)
    outputs = state.shape[1]
    evolve = tf.function(dipole, jit_compile=True)

    @tf.function(jit_compile=True)
    def adjoint(state, controls):
        repeated, controls = tf.repeat(state, outputs, axis=0), tf.repeat(controls, outputs, axis=0)
        with tf.GradientTape() as tape:
            tape.watch([repeated, controls])
            outcome = dipole(repeated, controls)
        return tape.gradient(outcome, [repeated, controls], tf.eye(outputs, dtype=tf.float64))

    by_state, by_controls = adjoint(state, tf.constant(controls))
    expected = jacobian_by_differences(lambda u: evolve(state, tf.constant(u)).numpy(), controls, 1e-5)
    np.testing.assert_allclose(by_controls, expected, atol=1e-9)
    outcome, jacobian = dipole.linearize(state, tf.constant(controls))
    # rounding of 20 unitary steps
    np.testing.assert_allclose(outcome, evolve(state, tf.constant(controls)), atol=1e-13)
    np.testing.assert_allclose(jacobian[0], expected, atol=1e-9)
    expected = jacobian_by_differences(lambda s: evolve(tf.constant(s), tf.constant(controls)).numpy(),
                                       state.numpy(), 1e-5)
    np.testing.assert_allclose(by_state, expected, atol=1e-9)


def test_adjoint_equals_autodiff_through_the_steps():
    """The tape's derivative of the same steps and their solves, without the analytic adjoint; float64."""
    dipole = Dipole(n_steps=8)
    psi, controls = random_states(dipole, 2), tf.constant(random_controls(dipole, 2))
    cotangent = tf.constant(np.random.default_rng(4).normal(size=(2, 28)))
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(controls)
        state = tf.constant(psi.T[:, None])
        for t in range(8):
            state = 2 * dipole.solve(controls[:, t], state) - state
        plain = to_pairs(tf.transpose(state[:, 0]))
        final = dipole(pairs(psi), controls)
    np.testing.assert_allclose(tape.gradient(final, controls, cotangent),
                               tape.gradient(plain, controls, cotangent), atol=1e-13)


def test_jacobian_of_the_weights_by_either_route():
    """The simulator's own Jacobian, and the repeated batch through its adjoint: K to single precision.
    Samples in another order would fail by far. Both are compiled, as in training.
    """
    model = experiment.build_model(1)
    targets = tf.constant(experiment.draw_data(1)[0][:3])

    def gram(simulator):
        other = hig.PhysicsModel(model.network, simulator)
        other.compile(hig.HIG(0.5, truncation=1e-5), experiment.loss)
        batch = targets, targets, None
        _, outcome, _, jacobian = other.derivatives_for(*batch).linearise(*batch)
        return outcome.numpy(), jacobian.gram()

    outcome, K = gram(model.simulator)
    repeated_outcome, repeated_K = gram(lambda x, u: model.simulator(x, u))                 # hides `jacobian`
    np.testing.assert_allclose(outcome, repeated_outcome, atol=3e-7)
    np.testing.assert_allclose(K, repeated_K, atol=1e-5 * np.abs(K).max())
    assert np.abs(K - np.roll(repeated_K, 28, axis=(0, 1))).max() > 1e-2 * np.abs(K).max()


# ------------------------------------------------------------------------------------------------- experiment

def test_data_are_those_of_numpys_global_generator():
    """Ten targets of each set from the published draws, which those for validation follow; float32."""
    sets = experiment.draw_data(1)
    assert all(targets.shape == (1024, 28) and targets.dtype == np.float32 for targets in sets)
    np.random.seed(1)
    wave = {n: np.array([np.sin(np.pi * n * j / 15) for j in range(16)]) for n in (2, 3)}
    wave = {n: w[1:15] / np.sqrt(np.sum(w**2)) for n, w in wave.items()}
    for index in range(2048 + 10):
        first, second = np.random.normal(), np.random.normal()
        np.random.uniform(0, 2 * np.pi), np.random.uniform(0, 2 * np.pi)
        if index % 1024 < 10:
            target = (first * wave[2] + second * wave[3]) / np.hypot(first, second)
            found = np.concatenate(sets)[index]
            np.testing.assert_allclose(found[0::2], target, atol=6e-8)
            np.testing.assert_array_equal(found[1::2], 0)


def test_loss_is_the_infidelity():
    """0 for equal states up to a phase, 1 for orthogonal ones, 1 − cos² in between."""
    box = [experiment.DIPOLE.eigenstate(n) for n in (1, 2)]
    target = pairs([box[0]] * 3, tf.float32)
    outcome = pairs([np.exp(0.7j) * box[0], box[1], np.cos(0.3) * box[0] + 1j * np.sin(0.3) * box[1]],
                    tf.float32)
    np.testing.assert_allclose(experiment.loss(target, outcome), [0, 1, np.sin(0.3) ** 2], atol=1e-6)


def test_populations_of_a_superposition():
    dipole = experiment.DIPOLE
    psi = 0.6 * dipole.eigenstate(2) + 0.8j * dipole.eigenstate(3)
    found = [float(experiment.population(n, pairs([psi], tf.float32))[0]) for n in (1, 2, 3)]
    np.testing.assert_allclose(found, [0, 0.36, 0.64], atol=1e-6)


def test_losses_are_measured_on_normalised_states():
    """Targets times 1 + 1e-6, more than float32's rounding of the norm, as outcomes: the loss of training is
    −2e-6, the one measured 0 to double precision, and populations, 0 or more, are off by float32 at most.
    """
    data = experiment.draw_data(1)[0]
    sets = (data, data), (data, data)
    measured = experiment.evaluation(lambda targets, training: targets * (1 + 1e-6), *sets)(0, None)
    np.testing.assert_allclose(np.mean(experiment.loss(data, data * np.float32(1 + 1e-6))), -2e-6, atol=2e-7)
    for key in ("train_loss", "test_loss"):
        assert abs(measured[key]) < 1e-13, key  # the product is rounded to float32
    assert measured["population_error_2"] < 1e-7 and measured["population_error_3"] < 1e-7


@pytest.mark.slow
def test_published_curve_of_adam():
    """Seed 1, from the untrained network on: the published losses, float32 in another order of operations."""
    curve = tiny.curve(experiment, keras.optimizers.Adam(5e-4), 1, 256, 2)
    np.testing.assert_allclose(curve[0], [0.9996313, 0.9996258], atol=1e-6)
    np.testing.assert_allclose(curve[1:], [[0.9984944, 0.9984633], [0.9961447, 0.9960588]], atol=2e-6)


@pytest.mark.slow
def test_a_run_of_hig(tmp_path):
    """An epoch with the published settings and seed. No curve is published; Adam is at 0.998 after its first.
    """
    assert experiment.run(tiny.settings("Schroedinger", "HIG", tmp_path, "--epochs", 1, seed=1, batch_size=16,
                                        learning_rate=0.5, truncation=1e-5)) == "finished"
    results = load_results(tmp_path / "QMC_HIG_RESULTS.pickle")
    assert results["test_loss"][1] < 0.9
    np.testing.assert_allclose(results["validation_loss"], results["test_loss"], rtol=0.05)   # another 1,024
    assert not np.array_equal(results["validation_loss"], results["test_loss"])
    test = experiment.draw_data(1)[1]
    untrained = experiment.build_model(1).predict(test, batch_size=1024, verbose=0)         # compiled
    outcome = to_complex(tf.constant(untrained["outcome"])).numpy()
    psi, wanted = (state / np.linalg.norm(state, axis=1, keepdims=True)
                   for state in (outcome, to_complex(test).numpy()))
    infidelity = 1 - np.abs(np.sum(wanted.conj() * psi, axis=1)) ** 2
    assert results["test_loss"][0] == pytest.approx(infidelity.mean(), abs=1e-6)  # another float32 program
    for n in (2, 3):
        state = experiment.DIPOLE.eigenstate(n)
        wanted, found = (np.abs(psi @ state) ** 2 for psi in (to_complex(test).numpy(), outcome))
        errors = results[f"population_error_{n}"]
        assert errors[0] == pytest.approx(np.mean(np.abs(found - wanted)), abs=1e-6)
        assert len(errors) == 2 and errors[1] < errors[0]


def test_batches_whose_size_is_unknown_when_tracing():
    """Keras leaves it open where the last batch is smaller."""
    model, targets = experiment.build_model(1), experiment.draw_data(1)[0][:7]
    found = model.predict(targets, batch_size=4, verbose=0)
    assert found["controls"].shape == (7, 384)
    np.testing.assert_allclose(found["outcome"], model(targets), atol=3e-7)


def test_batch_size_that_does_not_divide_the_samples(tmp_path):
    """Refused before anything is written."""
    with pytest.raises(ValueError, match="1024"):
        experiment.run(tiny.settings("Schroedinger", "GN", tmp_path, batch_size=100, truncation=1e-5))
    assert not list(tmp_path.iterdir())
