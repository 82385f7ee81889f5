"""The cart poles: physics of the simulator, the closed loop, data, what a run records."""

import math

import numpy as np
import pytest
import tensorflow as tf

import hig
from Cart_Pole import adam_flags, experiment, pictures, simulator
from Cart_Pole.simulator import CART_MASS, GRAVITY, HALF_LENGTH, POLE_MASS, CartPoles
from hig.runs.cli import SettingsError
from hig.runs.results import load_results
from hig.runs.weights import save_weights
from tests import tiny
from tests.reference import flat, jacobian_by_rows, power_by_svd


def run_free(cart, state, seconds, force=0.0):
    """The state after some seconds under a constant force in N; (2 + 2N,) float64 arrays."""
    steps, force = round(seconds / cart.dt), tf.constant([[force]], tf.float64)

    @tf.function(autograph=False)
    def run(state):
        return tf.while_loop(lambda t, s: t < steps, lambda t, s: (t + 1, cart.step(s, force)), (0, state))[1]
    return run(tf.constant(state, tf.float64)[None])[0].numpy()


# ---------------------------------------------------------------------------------------------------- physics

@pytest.mark.parametrize("n_poles", [1, 2, 4])
def test_equations_of_motion_are_those_of_lagrange(n_poles):
    """q̈ from M(q) q̈ = f of the energies in the module's docstring, the mass matrix solved in numpy."""
    random = np.random.default_rng(n_poles)
    states, forces = random.normal(size=(20, 2 + 2 * n_poles)), random.normal(size=(20, 1), scale=10)
    cart, poles = CartPoles(n_poles).accelerations(tf.constant(states), tf.constant(forces))
    for state, (force,), one, other in zip(states, forces, cart.numpy(), poles.numpy()):
        angle, rate = np.split(state[2:], 2)
        mass = np.diag([CART_MASS + n_poles * POLE_MASS, *[4 / 3 * POLE_MASS * HALF_LENGTH**2] * n_poles])
        mass[0, 1:] = mass[1:, 0] = POLE_MASS * HALF_LENGTH * np.cos(angle)
        right = [force + POLE_MASS * HALF_LENGTH * (rate**2 * np.sin(angle)).sum(),
                 *(POLE_MASS * GRAVITY * HALF_LENGTH * np.sin(angle))]
        np.testing.assert_allclose([*one, *other], np.linalg.solve(mass, right), rtol=1e-10, atol=1e-10)


def test_one_pole_is_the_textbook_s():
    """Barto, Sutton and Anderson 1983, without friction: first the pole's acceleration, then the cart's."""
    random = np.random.default_rng(0)
    states, force = random.normal(size=(50, 4)), random.normal(size=50, scale=10)
    _, _, angle, rate = states.T
    total, moment = CART_MASS + POLE_MASS, POLE_MASS * HALF_LENGTH
    inner = (-force - moment * rate**2 * np.sin(angle)) / total
    pole = (GRAVITY * np.sin(angle) + np.cos(angle) * inner) / (
        HALF_LENGTH * (4 / 3 - POLE_MASS * np.cos(angle) ** 2 / total))
    cart = (force + moment * (rate**2 * np.sin(angle) - pole * np.cos(angle))) / total
    found = CartPoles().accelerations(tf.constant(states), tf.constant(force[:, None]))
    np.testing.assert_allclose(np.hstack(found), np.stack([cart, pole], axis=1), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("n_poles", [1, 3])
def test_energy_of_the_free_system(n_poles):
    """Its error is of first order in the time step, since the masses depend on the angles."""
    state = np.random.default_rng(4).uniform(-1, 1, 2 + 2 * n_poles)
    ends = [run_free(CartPoles(n_poles, dt), state, 1.0) for dt in (0.002, 0.001, 0.0005)]
    before, *after = CartPoles(n_poles).energy(tf.constant([state, *ends])).numpy()
    errors = np.array(after) - before
    assert abs(errors[-1]) < 2e-3 * abs(before)
    np.testing.assert_allclose([errors[0] / errors[1], errors[1] / errors[2]], 2, rtol=0.05)


def test_energy_by_hand():
    """A cart that carries an upright pole along, and a pole that turns about the hinge of a resting cart."""
    states = tf.constant([[5.0, 2.0, 0.0, 0.0], [0.0, 0.0, math.pi, 3.0]], tf.float64)
    expected = [(CART_MASS + POLE_MASS) * 2 + POLE_MASS * GRAVITY * HALF_LENGTH,
                4 / 3 * POLE_MASS * HALF_LENGTH**2 * 9 / 2 - POLE_MASS * GRAVITY * HALF_LENGTH]
    np.testing.assert_allclose(CartPoles().energy(states), expected, rtol=1e-14)


@pytest.mark.parametrize("rest, sign", [(math.pi, -1), (0.0, 1)])
def test_small_angles_follow_the_linear_solution(rest, sign):
    """ε̈ = ± ω² ε with ω² = 3g (M + m)/(4l (M + m/4)): the hanging pole swings, the upright one falls.

    The step of 1e-4 s and the angle of 1e-4 err by about 1e-3 of the angle at ω = 4 and after half a second.
    """
    omega = math.sqrt(3 * GRAVITY / (4 * HALF_LENGTH) * (CART_MASS + POLE_MASS) / (CART_MASS + POLE_MASS / 4))
    final = run_free(CartPoles(1, 1e-4), [0.0, 0.0, rest + 1e-4, 0.0], 0.5)
    expected = 1e-4 * (math.cosh if sign > 0 else math.cos)(omega * 0.5)
    assert abs(final[2] - rest - expected) < 1e-7
    shift = POLE_MASS * HALF_LENGTH / (CART_MASS + POLE_MASS) * math.cos(rest)     # the centre of mass stays
    assert abs(final[0] + shift * (expected - 1e-4)) < 1e-8


def test_a_constant_force_gives_its_momentum():
    """(M + N m) ẋ + Σ m l θ̇ cos θ grows by F t, to first order in the time step."""
    state, cart = np.array([0.3, -0.5, 2.5, 0.7, 0.4, -1.0]), CartPoles(2, 1e-4)

    def momentum(s):
        return (CART_MASS + 2 * POLE_MASS) * s[1] + POLE_MASS * HALF_LENGTH * (s[4:] * np.cos(s[2:4])).sum()
    assert abs(momentum(run_free(cart, state, 1.0, force=3.0)) - momentum(state) - 3.0) < 1e-3


def test_equal_poles_with_equal_states_move_as_one(monkeypatch):
    """Two, and one of twice the mass, in the same way; with different states they part."""
    two = run_free(CartPoles(2), [0.1, 0.2, 3.0, 3.0, 0.5, 0.5], 1.0, force=2.0)
    assert two[2] == two[3] and two[4] == two[5]
    apart = run_free(CartPoles(2), [0.1, 0.2, 3.0, 3.1, 0.5, 0.5], 1.0, force=2.0)
    assert abs(apart[2] - two[2]) > 1e-4
    monkeypatch.setattr(simulator, "POLE_MASS", 2 * POLE_MASS)
    one = run_free(CartPoles(1), [0.1, 0.2, 3.0, 0.5], 1.0, force=2.0)
    np.testing.assert_allclose(two[[0, 1, 2, 4]], one, rtol=1e-12)


# -------------------------------------------------------------------------------------------- the closed loop

@pytest.mark.parametrize("n_poles, weights", [(1, 10_701), (2, 10_901), (4, 11_301)])
def test_the_network_acts_at_every_step(n_poles, weights):
    """The outcome against 100 steps in numpy, float64; float32 errs by 1e-5 over a swing."""
    model = experiment.build_model(n_poles, 3)
    assert sum(weight.numpy().size for weight in model.trainable_variables) == weights
    states = experiment.draw_data(n_poles)[0][:5]
    layers = [weight.numpy().astype(float) for weight in model.trainable_variables]
    cart, state = CartPoles(n_poles), states.astype(float)
    for step in range(100):
        hidden = np.tanh(np.tanh(state @ layers[0] + layers[1]) @ layers[2] + layers[3])
        force = 10.0 * (hidden @ layers[4] + layers[5])
        state = cart.step(tf.constant(state), tf.constant(force)).numpy()
    outcome = model(states).numpy()
    angle = state[:, 2:2 + n_poles]
    np.testing.assert_allclose((outcome**2).sum(axis=1), (1 - np.cos(angle)).mean(axis=1), atol=1e-3)
    np.testing.assert_allclose(outcome, np.sqrt(2 / n_poles) * np.sin(angle / 2), atol=1e-3)
    every, controls = model.simulator.trajectory(tf.constant(states))
    assert every.shape == (101, 5, 2 + 2 * n_poles) and controls.shape == (100, 5, 1)
    np.testing.assert_allclose(every[-1], state, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(controls, [model.network(seen) for seen in every[:-1]], rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore:The Jacobian takes the route 'per sample'")
@pytest.mark.parametrize("n_poles", [1, 4])
def test_an_update_in_the_loop_is_that_of_the_whole_jacobian(n_poles, monkeypatch):
    """Ten steps, six states: −J^(−1/2) g by an SVD of J, whose rows are backward passes in float64.

    No singular value is between 2e-4 and 6e-3 of the largest, so that rounding does not decide which are
    truncated. The update in float32 differs by 2e-6 of its length. Negative controls: a Jacobian in which the
    weights act at the first step alone, and Gauss-Newton's power of the whole one.
    """
    steps, samples, truncation = 10, 6, 1e-3
    monkeypatch.setattr(experiment, "N_STEPS", steps)
    model, states = experiment.build_model(n_poles, 3), experiment.draw_data(n_poles)[0][:samples]
    weights = [tf.Variable(weight.numpy().astype(float)) for weight in model.trainable_variables]
    cart = CartPoles(n_poles, experiment.DT)

    def outcome(acting):
        state = tf.constant(states.astype(float))
        for step in range(steps):
            w1, b1, w2, b2, w3, b3 = weights if step < acting else map(tf.stop_gradient, weights)
            hidden = tf.tanh(tf.tanh(state @ w1 + b1) @ w2 + b2)
            state = cart.step(state, experiment.STRENGTH * (hidden @ w3 + b3))
        return math.sqrt(2 / n_poles) * tf.sin(state[:, 2:2 + n_poles] / 2)

    gradient = 2 * outcome(0).numpy().ravel() / samples
    whole, first_only = (jacobian_by_rows(lambda: outcome(acting), weights) for acting in (steps, 1))
    model.compile(hig.HIG(1.0, truncation=truncation), loss=experiment.loss)
    model.train_on_batch(states, np.zeros((samples, n_poles), np.float32))
    update = flat(model.trainable_variables) - flat(weights)

    def error(jacobian, kappa):
        return np.linalg.norm(update + power_by_svd(jacobian, kappa, truncation) @ gradient)
    assert error(whole, -0.5) < 2e-5 * np.linalg.norm(update)
    assert min(error(first_only, -0.5), error(whole, -1)) > 0.5 * np.linalg.norm(update)


@pytest.mark.parametrize("n_poles", [1, 3])
def test_data(n_poles):
    """256 states in each set, the same for every run; 768 uniform numbers come within 3 % of both ends."""
    sets = experiment.draw_data(n_poles)
    assert {(states.shape, states.dtype.name) for states in sets} == {((256, 2 + 2 * n_poles), "float32")}
    every = np.concatenate(sets)
    angles = every[:, 2:2 + n_poles]
    others = np.delete(every, range(2, 2 + n_poles), axis=1)
    assert len(np.unique(every[:, 0])) == 768
    for values, middle, reach in ((others, 0, 1), (angles, math.pi, math.pi / 6)):
        scaled = (values.astype(float) - middle) / reach
        assert np.abs(scaled).max() <= 1 + 1e-6 and scaled.min() < -0.97 and scaled.max() > 0.97
    np.testing.assert_array_equal(sets[1], experiment.draw_data(n_poles)[1])


# ------------------------------------------------------------------------------------------------------- runs

def test_what_is_measured(monkeypatch):
    """The three losses and the share of upright ends of an untrained network, against its trajectories."""
    model, sets = experiment.build_model(2, 5), experiment.draw_data(2)
    model.compile(loss=experiment.loss)
    angles = [model.simulator.cart.split(model.simulator.trajectory(tf.constant(states))[0][-1])[2].numpy()
              for states in sets]
    turned = np.abs((angles[1] + np.pi) % (2 * np.pi) - np.pi).max(axis=1)          # of the test set
    monkeypatch.setattr(experiment, "TOLERANCE", float(np.median(turned)))
    pairs = [(states, np.zeros((256, 2), np.float32)) for states in sets]
    found = experiment.evaluation(pairs[2])(model, *pairs[:2])(0, None)
    assert abs(found["upright"] - 0.5) < 0.01
    for name, angle in zip(("train_loss", "test_loss", "validation_loss"), angles):
        assert abs(found[name] - (1 - np.cos(angle)).mean()) < 1e-4


def test_a_run_from_the_command_line(tmp_path, monkeypatch):
    """With clipped gradients and two poles, in a loop of three steps: what the pickle tells."""
    monkeypatch.setattr(experiment, "N_STEPS", 3)
    arguments = ["--poles", 2, "--epochs", 2, "--clip-norm", 0.1]
    assert experiment.run(tiny.settings("Cart_Pole", "Adam", tmp_path, *arguments, batch_size=64,
                                        learning_rate=1e-2, flags=adam_flags)) == "finished"
    results = load_results(tmp_path / "POLES_2_Adam_RESULTS.pickle")
    assert results["sim_par"]["clip_norm"] == 0.1 and results["sim_par"]["poles"] == 2
    assert results["provenance"]["updates_per_epoch"] == 4
    assert results["train_loss"][-1] < results["train_loss"][0]
    assert all(len(results[key]) == 3 for key in ("test_loss", "validation_loss", "upright"))


def test_a_picture_finds_the_number_of_poles(tmp_path):
    from matplotlib.figure import Figure

    for n_poles in (1, 3):
        model = experiment.build_model(n_poles, 1)
        save_weights(model.network, tmp_path / "a.weights.h5")
        solution = pictures.solve(tmp_path / "a.weights.h5", 1)
        assert solution["angle"].shape == (101, 6, n_poles) and solution["force"].shape == (100, 6)
        show = pictures.draw(Figure(), solution, [solution], ("red", "green", "blue", "black"))
        rods = [line for line in show(0.25) if line.get_color() == "red"]
        x, y = rods[0].get_data()
        tip = math.sin(solution["angle"][25, 0, 0]), math.cos(solution["angle"][25, 0, 0])     # a pole of 1 m
        np.testing.assert_allclose([x[1] - x[0], y[1] - y[0]], tip, atol=1e-6)
        metres = show(1.0)[0].get_xdata() + solution["position"][-1, 0]
        np.testing.assert_allclose(metres, np.round(metres), atol=1e-5)
    save_weights(experiment.build_network(5), tmp_path / "b.weights.h5")
    with pytest.raises(SettingsError, match="b.weights.h5"):
        pictures.solve(tmp_path / "b.weights.h5", 1)
