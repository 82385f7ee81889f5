"""Damped and adaptive steps of hig.PhysicsModel: Levenberg-Marquardt and step control, against SciPy and
explicit matrices.
"""

import keras
import numpy as np
import pytest
import scipy.linalg
import scipy.optimize
import tensorflow as tf

import hig
import hig.control
import hig.model
from hig.runs.results import load_results
from tests import tiny
from tests.reference import flat, jacobian_by_rows
from tests.test_model import data, network, simulator, squares


def gradient_and_jacobian(model, x, y, weight=2.0):
    """g of the mean over samples of weight/2 · Σ (y − y*)², and J, row by row."""
    jacobian = jacobian_by_rows(lambda: model(x), [v.value for v in model.trainable_variables])
    return weight * (model(x).numpy() - y).ravel() / len(x), jacobian


def weights_of(model):
    return flat([w.numpy() for w in model.trainable_variables])


def fit(model, x, y, optimizer, loss=squares, epochs=1):
    model.compile(optimizer=optimizer, loss=loss)
    return model.fit(x, y, batch_size=len(x), epochs=epochs, verbose=0).history


# --- one step ---

@pytest.mark.parametrize("rows, hidden", [(6, 8), (40, 1)], ids=["n < p", "n > p"])
@pytest.mark.parametrize("kappa", [0.3, -0.5, -1.0, "LM"])
def test_a_damped_step_takes_the_damping_relative_to_the_mean_eigenvalue(float64, kappa, rows, hidden):
    """1e-7: cond of the damped K is at most 1e6. Levenberg-Marquardt solves min ‖J s + r‖² + μ ‖s‖² with
    r = y − y*, by SciPy on (J, √μ) s = (−r, 0); η = 1 is all of s.
    """
    x, y = data(rows)
    model = hig.PhysicsModel(network(hidden=hidden), simulator)
    g, J = gradient_and_jacobian(model, x, y)
    mu, before = 0.01 * np.sum(J**2) / min(J.shape), weights_of(model)
    if kappa == "LM":
        eta, optimizer = 1.0, hig.LevenbergMarquardt(damping=0.01, adaptive=False)
        expected = -scipy.linalg.lstsq(np.vstack([J, np.sqrt(mu) * np.eye(J.shape[1])]),
                                       -np.concatenate([g * rows / 2, np.zeros(J.shape[1])]))[0]
    else:
        eta, optimizer = 1e-3, hig.JacobianPower(1e-3, kappa, 1e-4, damping=0.01)
        expected = hig.powers.jacobian_power(J, kappa, 1e-4, mu)[0] @ g
    history = fit(model, x, y, optimizer)
    np.testing.assert_allclose((before - weights_of(model)) / eta, expected,
                               atol=1e-7 * np.abs(expected).max())
    assert set(history) == {"loss", *optimizer.logged} and bool(optimizer.logged) == (kappa != "LM")


def test_the_damping_of_an_adaptive_power_falls_with_the_loss(float64):
    """A first loss ten times today's leaves a tenth of the damping; a step as small as this is neither cut
    nor taken back.
    """
    x, y = data()
    model = hig.PhysicsModel(network(), simulator)
    g, J = gradient_and_jacobian(model, x, y)
    now, mean = np.mean(np.sum((model(x) - y)**2, axis=1)), np.sum(J**2) / len(J)
    optimizer, before = hig.JacobianPower(1e-6, -0.75, 1e-4, damping=0.1, adaptive=True), weights_of(model)
    optimizer.first_loss.assign(10 * now)
    fit(model, x, y, optimizer)
    step = (before - weights_of(model)) / 1e-6
    expected, undiminished = (hig.powers.jacobian_power(J, -0.75, 1e-4, mu * mean)[0] @ g
                              for mu in (0.01, 0.1))
    np.testing.assert_allclose(step, expected, atol=1e-6 * np.abs(expected).max())
    assert np.abs(step - undiminished).max() > 0.01 * np.abs(expected).max()


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
    linear = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    model = hig.PhysicsModel(linear, lambda x, u: u * [0.1, 1.0, 10.0])
    g, J = gradient_and_jacobian(model, x, y, weight)
    each = np.repeat(np.ones(rows) if sample_weight is None else sample_weight, 3)
    d = hig.powers.jacobian_power(J, -0.5, 1e-6)[0] @ (each * g)
    expected = -(each * g @ J @ d) / (weight / rows * np.sum(each * (J @ d)**2)) * d
    before = weights_of(model)
    model.compile(hig.HIG(1e6, 1e-6, adaptive=True), loss, jit_compile=False)
    model.train_on_batch(x, y, sample_weight=sample_weight)
    np.testing.assert_allclose(weights_of(model) - before, expected, atol=1e-6 * np.abs(expected).max())


def test_kappa_one_with_control_is_gradient_descent_with_backtracking(float64):
    """Twelve updates against algorithm 4.1 of Nocedal and Wright, written out for the gradient and explicit
    matrices.
    """
    x, y = data()
    model = hig.PhysicsModel(network(), lambda x, u: 0.1 * u + 3 * u**5)
    weights = [v.value for v in model.trainable_variables]

    def loss_at(values):
        for w, part in zip(weights,
                           np.split(values, np.cumsum([w.shape.num_elements() for w in weights])[:-1])):
            w.assign(part.reshape(w.shape))
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
    fit(model, x, y, optimizer, epochs=12)
    # η is kept in single precision: 1e-7 per update, which the fifth power amplifies
    np.testing.assert_allclose(weights_of(model), theta, atol=1e-4)
    assert float(optimizer.learning_rate) == pytest.approx(eta, rel=1e-4)


def test_the_curvature_of_several_losses_is_that_of_each(float64):
    """Two outcomes, weighed 10³ to 1: one step of a huge η ends where the loss has no slope along it, the
    model being exact.
    """
    x, y = data()
    linear = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    model = hig.PhysicsModel(linear, lambda x, u: {"a": u[:, :1], "b": 5 * u[:, 1:]})
    targets = {"a": y[:, :1], "b": y[:, 1:]}
    before = weights_of(model)
    model.compile(hig.HIG(1e6, 1e-6, adaptive=True), {"a": "mse", "b": "mse"},
                  loss_weights={"a": 1e3, "b": 1.0},
                  jit_compile=False)
    model.train_on_batch(x, targets)
    weights = [v.value for v in model.trainable_variables]
    with tf.GradientTape() as tape:
        outcome = model(x)
        loss = sum(weight * tf.reduce_mean((outcome[key] - targets[key])**2)
                   for key, weight in (("a", 1e3), ("b", 1.0)))
    gradient, step = flat(tape.gradient(loss, weights)), weights_of(model) - before
    assert abs(gradient @ step) < 1e-9 * np.linalg.norm(gradient) * np.linalg.norm(step)


@pytest.mark.parametrize("make", [lambda: hig.HIG(0.1, 1e-4), lambda: hig.HIG(0.1, 1e-4, adaptive=True),
                                  lambda: hig.LevenbergMarquardt()], ids=["fixed", "adaptive", "LM"])
def test_a_warm_up_by_keras_callback_may_begin_with_zero(make):
    """No step in the first epoch, as with Adam, and training from the second on."""
    x, y = data()
    model, optimizer = hig.PhysicsModel(network(), simulator), make()
    before, seen = weights_of(model), []
    model.compile(optimizer, squares, jit_compile=False)
    model.fit(x, y, batch_size=6, epochs=2, verbose=0, callbacks=[
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
        keras.utils.set_random_seed(4)
        model = hig.PhysicsModel(network(), lambda x, u: factor * simulator(x, u))
        model.compile(make(), squares, jit_compile=False)
        factor.assign(0.0)
        if waiting:
            model.fit(x, y, batch_size=len(x), epochs=waiting, shuffle=False, verbose=0)
        factor.assign(1.0)
        model.optimizer.first_loss.assign(0.0)                           # L₀ is another one
        model.fit(x, y, batch_size=len(x), shuffle=False, verbose=0)
        seen.append(weights_of(model))
    np.testing.assert_allclose(seen[1], seen[0], rtol=1e-9)


@pytest.mark.parametrize("make", [lambda: hig.HIG(0.1, 1e-4, adaptive=True), hig.LevenbergMarquardt],
                         ids=["adaptive", "LM"])
def test_a_layer_is_frozen_and_trained_again_between_adaptive_updates(float64, make):
    """Each update is that of another optimizer with the same η, damping and trust, which has made no step."""
    x, y = data()
    model, other = [hig.PhysicsModel(network(), simulator) for _ in range(2)]
    model.compile(make(), squares, jit_compile=False)
    model.fit(x, y, batch_size=len(x), epochs=3, verbose=0)
    for trainable in (False, True):
        model.network.layers[0].trainable = other.network.layers[0].trainable = trainable
        other.set_weights(model.get_weights())
        other.compile(make(), squares, jit_compile=False)
        for one, another in zip(other.optimizer.controls, model.optimizer.controls):
            one.assign(another)
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
    history = fit(model, np.zeros((1, 1)), zeros, optimizer(), epochs=updates)
    np.testing.assert_allclose(model.network.theta.numpy(), expected.x, atol=close)
    assert history["loss"][-1] < 1e-8
    assert (np.diff(history["loss"]) <= 0).all()                        # never a step that was not better


# --- a step that is taken back ---

@pytest.mark.parametrize("make", [lambda: hig.HIG(0.5, 1e-4, adaptive=True, use_ema=True),
                                  lambda: hig.LevenbergMarquardt(use_ema=True)], ids=["HIG", "LM"])
def test_a_rejected_step_leaves_all_as_if_it_had_not_been(monkeypatch, make):
    x, y = data()
    model = hig.PhysicsModel(network(), simulator)
    before, optimizer = weights_of(model), make()
    model.compile(optimizer=optimizer, loss=squares, metrics=["mae"])
    optimizer.build(model.trainable_variables)
    controls = {id(v) for v in optimizer.controls}
    state = [v.numpy().copy() for v in optimizer.variables if id(v) not in controls]
    expected = model.evaluate(x, y, batch_size=6, verbose=0, return_dict=True)
    monkeypatch.setattr(hig.control, "ACCEPTED", np.inf)
    for _ in range(3):  # not fit, at whose end Keras puts in the averages
        logs = model.train_on_batch(x, y, return_dict=True)
    np.testing.assert_array_equal(weights_of(model), before)
    for value, variable in zip(state, [v for v in optimizer.variables if id(v) not in controls], strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)
    for name, value in expected.items():  # of the network, which is still the same
        np.testing.assert_allclose(logs[name], value, rtol=1e-5)
    monkeypatch.undo()
    model.train_on_batch(x, y)
    assert (weights_of(model) != before).any() and int(optimizer.iterations) == 1


def test_not_a_number_shows_in_the_weights_as_with_fixed_steps():
    x, y = data()
    y[0, 0] = np.nan
    model = hig.PhysicsModel(network(), simulator)
    fit(model, x, y, hig.LevenbergMarquardt())
    assert np.isnan(weights_of(model)).all()


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


def linear_model():
    keras.utils.set_random_seed(5)
    return hig.PhysicsModel(keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)]), lambda x, u: u)


@pytest.mark.filterwarnings("ignore:Steps fit single batches")
@pytest.mark.parametrize("make", [lambda: hig.HIG(0.5, 1e-6, adaptive=True),
                                  lambda: hig.LevenbergMarquardt()], ids=["HIG", "LM"])
def test_trust_is_the_next_batch_s_decrease_over_the_own_one(float64, make, monkeypatch):
    """Measured at each of 12 updates and then at every second one, from weights and losses kept outside: the
    ratio of the means, in which later measurements count a twelfth.
    """
    monkeypatch.setattr(hig.control, "EVERY", 2)
    monkeypatch.setattr(hig.control, "MEMORY", 12)
    x, y = noisy_regression(16)
    model, optimizer, weights = linear_model(), make(), []
    model.compile(optimizer, squares, jit_compile=False)
    batches = [slice(start, start + 4) for start in (0, 4, 8, 12)]

    def loss(theta, batch):
        return np.mean(np.sum((x[batch] @ theta[:12].reshape(4, 3) + theta[12:] - y[batch])**2, axis=1))
    own, following, accepted = [], [], 0
    for update in range(41):
        batch, before = batches[update % 4], weights_of(model)
        if weights and weights[-1] is not None:
            following.append(loss(weights[-1], batch) - loss(before, batch))
        model.train_on_batch(x[batch], y[batch])
        moved = (weights_of(model) != before).any()
        weights.append(before if moved and (len(following) < 12 or accepted % 2 == 0) else None)
        if weights[-1] is not None:
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


@pytest.mark.filterwarnings("ignore:Steps fit single batches")
@pytest.mark.parametrize("batch_size, low, high", [(64, 1.0, 1.0), (2, 0.0, 0.5)],
                         ids=["all data", "batches of two"])
def test_trust_tells_whether_a_batch_determines_the_weights(float64, batch_size, low, high):
    x, y = noisy_regression(64)
    model, optimizer = linear_model(), hig.HIG(0.5, 1e-6, adaptive=True)
    model.compile(optimizer, squares, jit_compile=False)
    model.fit(x, y, batch_size=batch_size, epochs=2 * batch_size, verbose=0)
    assert low <= optimizer.trust() <= high


def test_without_trust_a_step_goes_half_way_and_the_damping_does_not_fall(float64):
    """t = 0: a huge η ends half way to the minimum along d; LM takes half a step, damped as at the start."""
    x, y = noisy_regression(2)
    for make in (lambda: hig.HIG(1e6, 1e-6, adaptive=True), lambda: hig.LevenbergMarquardt(damping=0.5)):
        model, optimizer = linear_model(), make()
        model.compile(optimizer, squares, jit_compile=False)
        for variable, value in ((optimizer.measurements, 10), (optimizer.own_decrease, 1.0),
                                (optimizer.next_decrease, -1.0)):
            variable.assign(value)
        if hasattr(optimizer, "factor"):
            optimizer.factor.assign(1e-6)
        g, J = gradient_and_jacobian(model, x, y)
        K = J @ J.T
        if hasattr(optimizer, "factor"):
            expected = -0.5 * J.T @ np.linalg.solve(K + 0.5 * np.trace(K) / 6 * np.eye(6), g * 2 / 2)
        else:
            d = hig.powers.jacobian_power(J, -0.5, 1e-6)[0] @ g
            expected = -0.5 * (g @ J @ d) / (2 / 2 * np.sum((J @ d)**2)) * d
        before = weights_of(model)
        model.train_on_batch(x, y)
        np.testing.assert_allclose(weights_of(model) - before, expected, atol=1e-6 * np.abs(expected).max())


def test_a_warning_when_steps_fit_single_batches(float64):
    x, y = noisy_regression(64)
    model = linear_model()
    model.compile(hig.HIG(0.5, 1e-6, adaptive=True), squares, jit_compile=False)
    with pytest.warns(UserWarning,
                      match="Steps fit single batches: of what a step takes off the loss of its own batch"):
        model.fit(x, y, batch_size=1, epochs=3, verbose=0)


# --- settings ---

def test_what_fit_logs():
    x, y = data()
    for optimizer, names in ((hig.HIG(0.1, 1e-4, adaptive=True),
                              {"rank", "sigma_max", "sigma_min", "learning_rate", "trust"}),
                             (hig.LevenbergMarquardt(), {"damping", "trust"})):
        history = fit(hig.PhysicsModel(network(), simulator), x, y, optimizer, epochs=2)
        assert set(history) == names | {"loss"} and np.isfinite(list(history.values())).all()


def test_a_constraint_on_a_weight_is_refused_with_adaptive_steps():
    x, y = data()
    model = hig.PhysicsModel(keras.Sequential([
        keras.Input((4,)), keras.layers.Dense(3, kernel_constraint=keras.constraints.NonNeg())]), simulator)
    model.compile(hig.HIG(0.1, 1e-4, adaptive=True), squares, jit_compile=False)
    with pytest.raises(ValueError, match="the constraint of 'sequential.*/kernel' changes the step"):
        model.train_on_batch(x, y)
