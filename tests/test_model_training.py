"""What surrounds a step of hig.PhysicsModel in Keras' training: Keras' options of an optimizer, threads,
errors, sizes.
"""

import threading
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

import hig
from tests.networks import FEATURES, simulator
from tests.test_model_life import X, Y, assert_same_weights, model_of

RATE = 2.0 ** -6
LONGEST_SENTENCE = 300


def weights_after(optimizer, updates=1):
    """The weights, one list of arrays for each number of updates on the same batch, the initial ones first.
    """
    model = model_of(optimizer)
    history = [model.get_weights()]
    for _ in range(updates):
        model.train_on_batch(X, Y)
        history.append(model.get_weights())
    return history


def power(**options):
    return hig.HIG(RATE, truncation=1e-3, **options)


def moves(history):
    return [[after - before for before, after in zip(*pair)] for pair in zip(history, history[1:])]


# --- Keras' options of an optimizer act on the direction J^κ g as they act on a gradient --------------------

@pytest.mark.parametrize("option", ["clipnorm", "global_clipnorm", "clipvalue"])
def test_clipping(option):
    """Each weight's share of the direction is scaled to the norm, by its own or that of all together; or its
    entries are clipped.
    """
    move, = moves(weights_after(power()))
    norms = np.array([np.linalg.norm(share) for share in move]) / RATE
    together = np.linalg.norm(norms)
    limit = {"clipnorm": np.median(norms), "global_clipnorm": 0.25 * together,
             "clipvalue": np.median(np.abs(move[0])) / RATE}[option]
    clipped, = moves(weights_after(power(**{option: limit})))
    for share, one, norm in zip(move, clipped, norms):
        expected = {"clipnorm": share * min(1, limit / norm), "global_clipnorm": 0.25 * share,
                    "clipvalue": np.clip(share, -RATE * limit, RATE * limit)}[option]
        np.testing.assert_allclose(one, expected, atol=1e-6)


def test_accumulation_takes_the_mean_of_the_directions():
    """Of two at the same weights, as no step lies between them: the step is that of one."""
    move, = moves(weights_after(power()))
    first, second = moves(weights_after(power(gradient_accumulation_steps=2), updates=2))
    assert all(np.all(share == 0) for share in first)
    assert_same_weights(second, move, 1e-6)


def test_moving_average_of_the_weights():
    momentum = 0.75
    history = weights_after(power(), updates=2)
    model = model_of(power(use_ema=True, ema_momentum=momentum))
    for _ in range(2):
        model.train_on_batch(X, Y)
    model.optimizer.finalize_variable_values(model.trainable_variables)
    for initial, first, second, found in zip(*history, model.get_weights()):
        average = first  # Keras' average begins with the first step
        np.testing.assert_allclose(found, momentum * average + (1 - momentum) * second, atol=1e-6)
        assert not np.allclose(found, initial)


@pytest.mark.parametrize("option", [{"use_ema": True}, {"gradient_accumulation_steps": 2}, {}],
                         ids=["average", "accumulation", "neither"])
@pytest.mark.parametrize("first", [False, True], ids=["thawed", "frozen"])
def test_numbers_kept_for_each_weight_are_not_taken_for_those_of_others(first, option):
    """Averages of other weights, or averages that begin with 0, would become the weights at the end."""
    model = model_of(power(**option))
    model.network.layers[0].trainable = first
    model.fit(X, Y, epochs=2, verbose=0)
    model.network.layers[0].trainable, before = not first, model.get_weights()
    if option:
        with pytest.raises(ValueError, match=f"{next(iter(option))} is .* compile with a new optimizer"):
            model.fit(X, Y, verbose=0)
        assert_same_weights(model, before)
        model.compile(power(**option), model.loss)
    model.fit(X, Y, epochs=2, verbose=0)
    assert np.isfinite(np.concatenate([np.ravel(weight) for weight in model.get_weights()])).all()


def test_a_schedule_set_between_updates_counts_at_once():
    """The step is four times that of the constant learning rate from the same weights."""
    model, other = model_of(power()), model_of(power())
    for each in (model, other):
        each.train_on_batch(X, Y)
    before = model.get_weights()
    for value in (RATE, 4 * RATE):                                      # two schedules one after the other
        model.set_weights(before)
        other.set_weights(before)
        model.optimizer.learning_rate = keras.optimizers.schedules.PiecewiseConstantDecay([100], [value, 1.0])
        other.train_on_batch(X, Y)
        model.train_on_batch(X, Y)
        for start, expected, found in zip(before, other.get_weights(), model.get_weights()):
            np.testing.assert_allclose(found - start, value / RATE * (expected - start), atol=1e-6)
        assert not np.allclose(found, start, atol=1e-5)


# --- where and how it runs ----------------------------------------------------------------------------------

def test_training_in_a_thread():
    """Where Python allows no signal handlers; the weights are those of the main thread."""
    expected, found = weights_after(power(), updates=2)[-1], []
    thread = threading.Thread(target=lambda: found.extend(weights_after(power(), updates=2)[-1]))
    thread.start()
    thread.join()
    assert_same_weights(found, expected)


@pytest.mark.parametrize("optimizer", [power, lambda: keras.optimizers.Adam(1e-3)], ids=["HIG", "Adam"])
def test_an_error_within_a_step_comes_out_as_its_own_sentence(optimizer):
    def checked(x, u):
        with tf.control_dependencies([tf.debugging.assert_less(x[:, 0], 1e3,
                                                               message="positions beyond the box")]):
            return simulator(x, tf.identity(u))
    model = model_of(optimizer(), checked, jit_compile=False)
    model.train_on_batch(X, Y)
    with pytest.raises(tf.errors.InvalidArgumentError, match="positions beyond the box") as caught:
        model.train_on_batch(1e4 * np.abs(X) + 1e4, Y)
    if isinstance(model.optimizer, hig.JacobianPower):  # Keras' own step is not ours to shorten
        assert len(str(caught.value)) < LONGEST_SENTENCE


@pytest.mark.xla
def test_a_long_python_loop_runs_without_xla_and_says_so(monkeypatch):
    """Hundreds of steps written out would keep XLA busy for minutes; here 30 are too many. One update at κ =
    1 is that of SGD, and of the same loop by tf.while_loop.
    """
    monkeypatch.setattr("hig.compiled.MOST_OPERATIONS", 600)
    def step(y, x, u):
        force = tf.stack([u[:, 0], u[:, 1], u[:, 0] - u[:, 1]], axis=1)
        return y + 0.005 * (tf.sin(y) - 0.1 * tf.roll(y, 1, axis=1) * x + 0.3 * force - 0.01 * y ** 3)

    def unrolled(x, u):
        y = x
        for _ in range(30):
            y = step(y, x, u)
        return y

    def loop(x, u):
        return tf.while_loop(lambda i, y: i < 30, lambda i, y: (i + 1, step(y, x, u)), (0, x),
                             maximum_iterations=30)[1]
    results = []
    for physics, optimizer in ((unrolled, hig.JacobianPower(RATE, 1.0, 0.0)),
                               (loop, hig.JacobianPower(RATE, 1.0, 0.0)), (loop, keras.optimizers.SGD(RATE))):
        model = model_of(optimizer, physics)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            model.train_on_batch(X, Y)
        told = [str(warning.message) for warning in caught if "operations" in str(warning.message)]
        assert bool(told) == (physics is unrolled)
        assert all("tf.while_loop" in sentence for sentence in told)
        results.append(model.get_weights())
    for other in results[1:]:
        assert_same_weights(results[0], other, 1e-6)


WIDE = [keras.layers.Dense(220, "tanh"), keras.layers.Dense(220, "tanh"), keras.layers.Dense(1)]
BY_ROWS = [keras.layers.Reshape((FEATURES, 1)), keras.layers.Conv1D(4, 2), keras.layers.Flatten(),
           keras.layers.Dense(2)]


@pytest.mark.parametrize("layers, x, free, message", [
    (WIDE, np.zeros((20_000, 1), "float32"), 4 * 2**30,
     r"n = 20000 rows and p = 49281 columns takes 6.* GiB .* 4.0 GiB are free.*batch size, 20000"),
    (BY_ROWS, X, 5000, "n = 10 rows and p = 30 columns.*set krylov=16 or so")], ids=["K", "rows"])
def test_a_batch_that_memory_does_not_hold_is_refused_in_a_sentence(monkeypatch, layers, x, free, message):
    """K and its copy take 6.4 GB for n = 20,000. For n = 10, p = 30 they and factors would take 4,480 bytes;
    rows, n p numbers twice, take 6,400.
    """
    monkeypatch.setattr("hig.memory.available_memory", lambda: free)
    model = model_of(power(), lambda x, u: u, keras.Sequential([keras.Input(x.shape[1:]), *layers]))
    with pytest.raises(MemoryError, match=message) as caught:
        model.train_on_batch(x, np.zeros((len(x), layers[-1].units)))
    assert len(str(caught.value)) < LONGEST_SENTENCE
