"""Damped and adaptive steps of hig.PhysicsModel: Levenberg-Marquardt and step control, against SciPy and
explicit matrices.
"""

import contextlib

import keras
import numpy as np
import pytest
import scipy.linalg
import scipy.optimize
import tensorflow as tf

import hig
import hig.control
import hig.model
from hig.jacobian import unflatten
from hig.optimizers import MEASURED
from hig.runs.results import load_results
from tests import tiny
from tests.networks import squares
from tests.reference import flat, jacobian_of_model, weights_of

both = pytest.mark.parametrize("make", [lambda: hig.HIG(0.1, 1e-4, adaptive=True), hig.LevenbergMarquardt],
                               ids=["adaptive", "LM"])
MAKE_NOISY = [lambda: hig.HIG(0.5, 1e-6, adaptive=True), hig.LevenbergMarquardt]


def simulator(x, u):
    """Stiff on purpose: the outputs differ in scale by 10³."""
    return tf.stack([u[:, 0] + x[:, 0] ** 2, 30 * tf.sin(u[:, 1]), 0.03 * u[:, 2] * x[:, 1]], axis=1)


def network(hidden=8):
    keras.utils.set_random_seed(5)
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(hidden, activation="tanh"),
                             keras.layers.Dense(3)])


def data(rows=6):
    rng = np.random.default_rng(0)
    return [rng.normal(size=(rows, size)).astype(keras.config.floatx()) for size in (4, 3)]


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


def gradient_and_jacobian(model, x, y, weight=2.0):
    """g of the mean over samples of weight/2 · Σ (y − y*)², and J, row by row."""
    return weight * (model(x).numpy() - y).ravel() / len(x), jacobian_of_model(model, x)


def assert_close(found, expected, tolerance):
    """Vectors that differ by at most the tolerance, relative to the largest entry."""
    np.testing.assert_allclose(found, expected, atol=tolerance * np.abs(expected).max())


# --- one step ---

@pytest.mark.parametrize("rows, hidden", [(6, 8), (40, 1)], ids=["n < p", "n > p"])
@pytest.mark.parametrize("kappa", [0.3, -0.5, -1.0, "LM", "adaptive"])
def test_a_damped_step_takes_the_damping_relative_to_the_mean_eigenvalue(float64, kappa, rows, hidden):
    """1e-7: cond of the damped K is at most 1e6. Levenberg-Marquardt solves min ‖J s + r‖² + μ ‖s‖² with
    r = y − y*, by SciPy on (J, √μ) s = (−r, 0); η = 1 is all of s. For an adaptive power, a first loss ten
    times today's leaves a tenth of the damping; a step as small as this is neither cut nor taken back.
    """
    x, y = data(rows)
    model = hig.PhysicsModel(network(hidden=hidden), simulator)
    g, J = gradient_and_jacobian(model, x, y)
    mu, eta = 0.01 * np.sum(J**2) / min(J.shape), {"LM": 1.0, "adaptive": 1e-6}.get(kappa, 1e-3)
    if kappa == "LM":
        optimizer = hig.LevenbergMarquardt(damping=0.01, adaptive=False)
        expected = -scipy.linalg.lstsq(np.vstack([J, np.sqrt(mu) * np.eye(J.shape[1])]),
                                       -np.concatenate([g * rows / 2, np.zeros(J.shape[1])]))[0]
    else:
        adaptive, kappa = kappa == "adaptive", -0.75 if kappa == "adaptive" else kappa
        optimizer = hig.JacobianPower(eta, kappa, 1e-4, 0.1 if adaptive else 0.01, adaptive)
        if adaptive:
            optimizer.first_loss.assign(10 * np.mean(np.sum((model(x) - y)**2, axis=1)))
        expected = hig.powers.jacobian_power(J, kappa, 1e-4, mu)[0] @ g
    assert_close(change(model, x, y, optimizer) / eta, expected, 1e-6 if eta == 1e-6 else 1e-7)


SAMPLE_WEIGHTS = {"alike": lambda rows: None, "of samples": lambda rows: np.geomspace(1e-3, 10, rows),
                  "0 or 1": lambda rows: np.arange(rows) % 2.0}
# and the weight of Σ (y − y*)²/2 in them, or None for the number of samples times that of "mse"
QUADRATIC = {"Σ": (squares, 2.0), "½ Σ": (lambda y_true, y: squares(y_true, y) / 2, 1.0),
             "mse": ("mse", 2.0 / 3), "sum": (keras.losses.MeanSquaredError(reduction="sum"), None)}


@pytest.mark.parametrize("rows, name, weights", [
    *((6, name, weights) for name in QUADRATIC for weights in SAMPLE_WEIGHTS if name != "½ Σ" or
      weights == "alike"), (40, "Σ", "of samples"), (40, "sum", "alike")])     # n < p, then n > p
def test_no_step_is_longer_than_to_the_minimum_of_the_quadratic_model(float64, rows, name, weights):
    """Linear network and simulator: the model is exact, so that a huge η ends in the minimum along −J^κ g,
    whatever the loss' scale and the samples' weights; found here from gᵀJd and (Jd)ᵀ H Jd by explicit
    matrices.
    """
    x, y = data(rows)
    (loss, weight), sample_weight = QUADRATIC[name], SAMPLE_WEIGHTS[weights](rows)
    weight = weight or 2.0 / 3 * rows
    model = linear_model(lambda x, u: u * [0.1, 1.0, 10.0])
    g, J = gradient_and_jacobian(model, x, y, weight)
    each = np.repeat(np.ones(rows) if sample_weight is None else sample_weight, 3)
    d = hig.powers.jacobian_power(J, -0.5, 1e-6)[0] @ (each * g)
    expected = (each * g @ J @ d) / (weight / rows * np.sum(each * (J @ d)**2)) * d
    assert_close(change(model, x, y, hig.HIG(1e6, 1e-6, adaptive=True), loss, sample_weight), expected, 1e-6)


def test_kappa_one_with_control_is_gradient_descent_with_backtracking(float64):
    """Twelve updates against algorithm 4.1 of Nocedal and Wright, written out for the gradient and explicit
    matrices.
    """
    x, y = data()
    model = hig.PhysicsModel(network(), lambda x, u: 0.1 * u + 3 * u**5)
    weights = [v.value for v in model.trainable_variables]

    def loss_at(values):
        for w, part in zip(weights, unflatten(values, [w.shape for w in weights])):
            w.assign(part)
        return float(tf.reduce_mean(squares(y, model(x))))

    start = weights_of(model)
    theta, eta, refused = start, 100.0, 0
    for _ in range(12):
        loss = loss_at(theta)
        g, J = gradient_and_jacobian(model, x, y)
        d = J.T @ g
        a, c = d @ d, 2 / len(x) * np.sum((J @ d)**2)
        for _ in range(4):
            tried = min(eta, a / c)
            ratio = (loss - loss_at(theta - tried * d)) / (tried * a - tried**2 * c / 2)
            eta = tried / 4 if ratio < 0.25 else 2 * tried if ratio > 0.75 and tried == eta else eta
            if ratio > 1e-4:
                theta = theta - tried * d
                break
            refused += 1
    assert refused > 0                                                  # the test has seen backtracking
    loss_at(start)
    optimizer = hig.JacobianPower(100.0, 1.0, 0.0, adaptive=True)
    model.compile(optimizer, squares)
    model.fit(x, y, batch_size=len(x), epochs=12, verbose=0)
    # η is kept in single precision: 1e-7 per update, which the fifth power amplifies
    np.testing.assert_allclose(weights_of(model), theta, atol=1e-4)
    assert float(optimizer.learning_rate) == pytest.approx(eta, rel=1e-4)


def test_the_curvature_of_several_losses_is_that_of_each(float64):
    """Two outcomes, weighed 10³ to 1: one step of a huge η ends where the loss has no slope along it, the
    model being exact.
    """
    x, y = data()
    model, scales = linear_model(lambda x, u: {"a": u[:, :1], "b": 5 * u[:, 1:]}), {"a": 1e3, "b": 1.0}
    targets, optimizer = {"a": y[:, :1], "b": y[:, 1:]}, hig.HIG(1e6, 1e-6, adaptive=True)
    step = change(model, x, targets, optimizer, dict.fromkeys(scales, "mse"), loss_weights=scales)
    with tf.GradientTape() as tape:
        outcome = model(x)
        loss = sum(scales[key] * tf.reduce_mean((outcome[key] - targets[key])**2) for key in scales)
    gradient = flat(tape.gradient(loss, [v.value for v in model.trainable_variables]))
    assert abs(gradient @ step) < 1e-9 * np.linalg.norm(gradient) * np.linalg.norm(step)


@pytest.mark.parametrize("make", [lambda: hig.HIG(0.1, 1e-4), lambda: hig.HIG(0.1, 1e-4, adaptive=True),
                                  hig.LevenbergMarquardt], ids=["fixed", "adaptive", "LM"])
def test_a_warm_up_by_keras_callback_may_begin_with_zero(make):
    """No step in the first epoch, as with Adam, and training from the second on."""
    (x, y), model = data(), hig.PhysicsModel(network(), simulator)
    before, seen = weights_of(model), []
    compiled(model, make()).fit(x, y, batch_size=6, epochs=2, verbose=0, callbacks=[
        keras.callbacks.LearningRateScheduler(lambda epoch: 0.1 * epoch),
        keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(weights_of(model)))])
    np.testing.assert_array_equal(seen[0], before)
    assert (seen[1] != before).all()


@pytest.mark.parametrize("make", [lambda: hig.HIG(0.1, 1e-4, adaptive=True), hig.LevenbergMarquardt,
                                  lambda: hig.HIG(0.1, 1e-4, adaptive=True, krylov=2)],
                         ids=["adaptive", "LM", "krylov"])
def test_updates_without_a_slope_leave_the_size_of_steps_alone(float64, make):
    """A factor 0 before the outcome in the first epochs; then training goes on as if from the start."""
    x, y = data()
    factor, seen = tf.Variable(0.0, trainable=False, dtype="float64"), []
    for waiting in (0, 6):
        model = compiled(hig.PhysicsModel(network(), lambda x, u: factor * simulator(x, u)), make())
        factor.assign(0.0)
        if waiting:
            model.fit(x, y, batch_size=len(x), epochs=waiting, shuffle=False, verbose=0)
        factor.assign(1.0)
        model.optimizer.first_loss.assign(0.0)                           # L₀ is another one
        model.fit(x, y, batch_size=len(x), shuffle=False, verbose=0)
        seen.append(weights_of(model))
    np.testing.assert_allclose(seen[1], seen[0], rtol=1e-9)


def test_a_loss_that_falls_below_zero_is_trained_on(float64):
    """Likelihoods do: L/L₀ says nothing then. A constant taken off the squares changes no gradient."""
    x, y = data()
    model = hig.PhysicsModel(network(), simulator)
    first = float(tf.reduce_mean(squares(y, model(x))))
    model.compile(hig.LevenbergMarquardt(), lambda y_true, y: squares(y_true, y) - 0.9 * first)
    losses = model.fit(x, y, batch_size=len(x), epochs=40, verbose=0).history["loss"]
    assert losses[0] == pytest.approx(0.1 * first)
    assert losses[-1] + 0.9 * first < 0.01 * first                      # 0.12 first, if μ falls with L/L₀


def control_of(optimizer):
    """The variables that step control changes, by their names."""
    names = {"learning_rate", "factor", "last_step", *MEASURED}
    return {variable.name: variable for variable in optimizer.variables if variable.name in names}


@both
def test_a_layer_is_frozen_and_trained_again_between_adaptive_updates(float64, make):
    """Each update is that of another optimizer with the same η, damping and trust, which has made no step."""
    x, y = data()
    model, other = [compiled(hig.PhysicsModel(network(), simulator), make()) for _ in range(2)]
    model.fit(x, y, batch_size=len(x), epochs=3, verbose=0)
    for trainable in (False, True):
        model.network.layers[0].trainable = other.network.layers[0].trainable = trainable
        other.set_weights(model.get_weights())
        compiled(other, make())
        for name, variable in control_of(other.optimizer).items():
            variable.assign(control_of(model.optimizer)[name])
        other.optimizer.last_decrease.assign(0.0)
        before = weights_of(model)
        for each in (model, other):
            each.train_on_batch(x, y)
        np.testing.assert_allclose(weights_of(model), weights_of(other), rtol=1e-9)
        assert (weights_of(model) != before).any()


# --- whole problems ---

class Parameters(keras.layers.Layer):
    """A network of parameters alone: the same θ for every sample."""

    def __init__(self, start):
        super().__init__()
        self.theta = self.add_weight(shape=(len(start),), initializer="zeros")
        self.theta.assign(start)
        self.built = True

    def call(self, x):
        return tf.repeat(self.theta.value[None], tf.shape(x)[0], axis=0)


def rosenbrock(u, m=tf):
    return m.stack([10 * (u[..., 1] - u[..., 0]**2), 1 - u[..., 0]], axis=-1)


def powell(u, m=tf):
    """Powell's singular function: J has rank 2 of 4 at the minimum, 0."""
    return m.stack([u[..., 0] + 10 * u[..., 1], 5**0.5 * (u[..., 2] - u[..., 3]),
                    (u[..., 1] - 2 * u[..., 2])**2,
                    10**0.5 * (u[..., 0] - u[..., 3])**2], axis=-1)


@pytest.mark.filterwarnings("ignore:The Jacobian takes the route")  # said on purpose: no network has weights
@pytest.mark.parametrize("residuals, start, updates, close", [
    (rosenbrock, [-1.2, 1.0], 60, 1e-6), (powell, [3.0, -1.0, 0.0, 1.0], 60, 1e-2)],
    ids=["Rosenbrock", "Powell"])
@pytest.mark.parametrize("optimizer", [lambda: hig.LevenbergMarquardt(damping=0.1),
                                       lambda: hig.GaussNewton(0.1, 1e-8, adaptive=True)], ids=["LM",
                                           "adaptive GN"])
def test_residual_networks_end_where_scipy_does(float64, optimizer, residuals, start, updates, close):
    """Powell's minimum is flat to fourth order, so that a loss of 1e-10 is 1e-2 in θ; SciPy's answer is as
    far.
    """
    expected = scipy.optimize.least_squares(lambda theta: residuals(theta, np), start, method="lm",
                                            xtol=1e-15)
    model = hig.PhysicsModel(Parameters(start), lambda x, u: residuals(u))
    zeros = np.zeros((1, len(residuals(np.array(start), np))))
    model.compile(optimizer(), squares)
    losses = model.fit(np.zeros((1, 1)), zeros, epochs=updates, verbose=0).history["loss"]
    np.testing.assert_allclose(model.network.theta.numpy(), expected.x, atol=close)
    assert losses[-1] < 1e-8 and (np.diff(losses) <= 0).all()           # never a step that was not better


# --- a step that is taken back ---

@pytest.mark.parametrize("make", [lambda: hig.HIG(0.5, 1e-4, adaptive=True, use_ema=True),
                                  lambda: hig.LevenbergMarquardt(use_ema=True)], ids=["HIG", "LM"])
def test_a_rejected_step_leaves_all_as_if_it_had_not_been(monkeypatch, make):
    x, y = data()
    model = hig.PhysicsModel(network(), simulator)
    before, optimizer = weights_of(model), make()
    compiled(model, optimizer, metrics=["mae"])
    optimizer.build(model.trainable_variables)

    def state():
        return [v.numpy().copy() for v in optimizer.variables if v.name not in control_of(optimizer)]
    expected, initial = model.evaluate(x, y, batch_size=6, verbose=0, return_dict=True), state()
    monkeypatch.setattr(hig.control, "ACCEPTED", np.inf)
    for _ in range(3):  # not fit, at whose end Keras puts in the averages
        logs = model.train_on_batch(x, y, return_dict=True)
    np.testing.assert_array_equal(weights_of(model), before)
    assert len(initial) > 3 and all(map(np.array_equal, state(), initial))
    for name, value in expected.items():  # of the network, which is still the same
        np.testing.assert_allclose(logs[name], value, rtol=1e-5)
    monkeypatch.undo()
    model.train_on_batch(x, y)
    assert (weights_of(model) != before).any() and int(optimizer.iterations) == 1


@pytest.mark.parametrize("optimizer", ["LM", "HIG_adaptive"])
def test_resume_in_the_middle_of_a_streak_of_rejections(tmp_path, monkeypatch, optimizer):
    """The same curve and weights to the last bit; every step of updates 3 to 8 is refused, the run is cut
    after epoch 3.
    """
    count, step = [], hig.control.step

    def refusing(*arguments):
        count.append(1)
        monkeypatch.setattr(hig.control, "ACCEPTED", np.inf if len(count) in range(3, 9) else 1e-4)
        return step(*arguments)
    monkeypatch.setattr(hig.model, "step", refusing)
    names = {key: f"TINY_{optimizer}_{key}" for key in ("RESULTS.pickle", "CHECKPOINT.npz")}
    for folder, runs in (("whole", [6]), ("parts", [3, 6])):
        count.clear()
        for epochs in runs:                                             # of two updates each
            tiny.run(tmp_path / folder, epochs=epochs, optimizer=optimizer, resume=epochs != runs[0])
    curves = [load_results(tmp_path / folder / names["RESULTS.pickle"]) for folder in ("whole", "parts")]
    np.testing.assert_array_equal(curves[0]["train_loss"], curves[1]["train_loss"])
    assert len(set(curves[0]["train_loss"][1:5])) == 1 < len(set(curves[0]["train_loss"]))       # the streak
    logged = "damping" if optimizer == "LM" else "learning_rate"
    np.testing.assert_array_equal(curves[0]["provenance"][logged], curves[1]["provenance"][logged])
    whole, parts = (np.load(tmp_path / folder / names["CHECKPOINT.npz"]) for folder in ("whole", "parts"))
    for key in whole.files:
        if key.startswith("state"):
            np.testing.assert_array_equal(whole[key], parts[key])


# --- whether a batch determines the weights ---

def noisy_regression(samples, seed=4):
    """Targets that no linear network can meet: 4 inputs and 3 outputs, unit noise; a batch of 2 gives 6 rows
    for p = 15.
    """
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(samples, 4))
    return x, 0.1 * x @ rng.normal(size=(4, 3)) + rng.normal(size=(samples, 3))


@pytest.mark.filterwarnings("ignore:Steps fit single batches")
@pytest.mark.parametrize("make", MAKE_NOISY, ids=["HIG", "LM"])
def test_trust_is_the_next_batch_s_decrease_over_the_own_one(float64, make, monkeypatch):
    """Measured at each of 12 updates and then at every second one, from weights and losses kept outside: the
    ratio of the means, in which later measurements count a twelfth.
    """
    monkeypatch.setattr(hig.control, "EVERY", 2)
    monkeypatch.setattr(hig.control, "MEMORY", 12)
    x, y = noisy_regression(16)
    model, optimizer, before_last = linear_model(), make(), None
    compiled(model, optimizer)

    def loss(theta, batch):
        return np.mean(np.sum((x[batch] @ theta[:12].reshape(4, 3) + theta[12:] - y[batch])**2, axis=1))
    own, following, accepted = [], [], 0
    for update in range(41):
        batch, before = slice(update % 4 * 4, update % 4 * 4 + 4), weights_of(model)
        if before_last is not None:
            following.append(loss(before_last, batch) - loss(before, batch))
        model.train_on_batch(x[batch], y[batch])
        moved = (weights_of(model) != before).any()
        before_last = before if moved and (len(following) < 12 or accepted % 2 == 0) else None
        if before_last is not None:
            own.append(loss(before, batch) - loss(weights_of(model), batch))
        accepted += moved

    def mean(values):
        found = 0.0
        for count, value in enumerate(values):
            found += (value - found) / min(count + 1, 12)
        return found
    expected = mean(following) / mean(own[:len(following)])
    assert len(following) >= 20
    ratio = float(optimizer.next_decrease) / float(optimizer.own_decrease)
    assert ratio == pytest.approx(expected, abs=1e-5)                   # kept in single precision
    assert optimizer.trust() == pytest.approx(np.clip(3 * expected, 0, 1), abs=3e-5)


@pytest.mark.parametrize("batch_size, epochs, low, high", [(64, 128, 1.0, 1.0), (1, 3, 0.0, 0.3)],
                         ids=["all data", "batches of one"])
def test_trust_tells_whether_a_batch_determines_the_weights(float64, batch_size, epochs, low, high):
    """And there is a warning if it does not."""
    x, y = noisy_regression(64)
    model = compiled(linear_model(), hig.HIG(0.5, 1e-6, adaptive=True))
    said = "Steps fit single batches: of what a step takes off the loss of its own batch"
    with pytest.warns(UserWarning, match=said) if batch_size == 1 else contextlib.nullcontext():
        model.fit(x, y, batch_size=batch_size, epochs=epochs, verbose=0)
    assert low <= model.optimizer.trust() <= high


def test_without_trust_a_step_goes_half_way_and_the_damping_does_not_fall(float64):
    """t = 0: a huge η ends half way to the minimum along d; LM takes half a step, damped as at the start."""
    x, y = noisy_regression(2)
    for optimizer in (hig.HIG(1e6, 1e-6, adaptive=True), hig.LevenbergMarquardt(damping=0.5)):
        model = linear_model()
        for variable, value in ((optimizer.measurements, 10), (optimizer.own_decrease, 1.0),
                                (optimizer.next_decrease, -1.0)):
            variable.assign(value)
        g, J = gradient_and_jacobian(model, x, y)
        if isinstance(optimizer, hig.LevenbergMarquardt):
            optimizer.factor.assign(1e-6)
            K = J @ J.T
            expected = 0.5 * J.T @ np.linalg.solve(K + 0.5 * np.trace(K) / 6 * np.eye(6), g * 2 / 2)
        else:
            d = hig.powers.jacobian_power(J, -0.5, 1e-6)[0] @ g
            expected = 0.5 * (g @ J @ d) / (2 / 2 * np.sum((J @ d)**2)) * d
        assert_close(change(model, x, y, optimizer), expected, 1e-6)


def test_a_constraint_on_a_weight_is_refused_with_adaptive_steps():
    x, y = data()
    model = hig.PhysicsModel(keras.Sequential([
        keras.Input((4,)), keras.layers.Dense(3, kernel_constraint=keras.constraints.NonNeg())]), simulator)
    compiled(model, hig.HIG(0.1, 1e-4, adaptive=True))
    with pytest.raises(ValueError, match="the constraint of 'sequential.*/kernel' changes the step"):
        model.train_on_batch(x, y)
