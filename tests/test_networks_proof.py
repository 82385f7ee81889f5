"""The proof of a route: what it refuses, what it warns of, and that it catches a wrong Jacobian; precisions.

One case alone:  python -m pytest tests/test_networks_proof.py -k random
"""

import sys
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

import hig
import hig.jacobian
from tests.networks import (B, ETA, FEATURES, Case, Net, assert_same_step, dense, derivatives, hig_model,
                            hold_to_the_svd, moved, one_step, rows, simulator, squares, stack, targets)
from tests.reference import flat, power_by_svd
from tests.test_networks_physics import SIMULATORS, Linearized

pytestmark = [pytest.mark.filterwarnings("ignore:The Jacobian takes the route"),  # both said on purpose
              pytest.mark.filterwarnings("ignore:The plain gradient runs operation by operation")]

LONGEST_SENTENCE = 500      # characters: no page of graph, no traceback of TensorFlow's inside


def first_update(network, physics, x=None, optimizer=None, y=None, **options):
    """One `fit` of one batch by HIG. Returns the model."""
    x = rows(FEATURES) if x is None else x
    model = hig.PhysicsModel(network, physics)
    y = rows(2) if y is None else y
    model.compile(optimizer or hig.HIG(ETA, truncation=1e-3), squares, **options)
    model.fit(x, y, batch_size=len(x), verbose=0)
    return model


# --- what is refused, in a sentence -------------------------------------------------------------------------

def always_dropped():
    """Dropout that is on in inference as well."""
    dropout = keras.layers.Dropout(0.5)
    return Net(lambda self, x: self.last(dropout(self.first(x), training=True)), first=dense(6, FEATURES),
               last=dense(2, 6))


def stateful():
    """A recurrent layer that begins where it was at the end of the last call."""
    return keras.Sequential([keras.Input((FEATURES,), batch_size=B), keras.layers.Reshape((FEATURES, 1)),
                             keras.layers.LSTM(3, stateful=True), keras.layers.Dense(2)])


class WithMemory(keras.layers.Layer):
    """A simulator that counts its calls, and depends on the count."""

    def build(self, *shapes):
        self.calls = self.add_weight(shape=(), initializer="zeros", trainable=False)

    def call(self, x, u):
        self.calls.assign_add(1)
        return u * (1 + self.calls)


NO_GRADIENTS = "(?i)no gradients provided"      # Keras' words
REFUSED = {
    "random_simulator": (lambda: stack(4, 2), lambda x,
                         u: u + u * tf.random.normal(tf.shape(u), dtype=u.dtype), ValueError, "random"),
    "random_network": (always_dropped, lambda x, u: u, ValueError, "random"),
    "stateful_network": (stateful, lambda x, u: u, ValueError, "state"),
    "simulator_with_memory": (lambda: stack(4, 2), WithMemory(), ValueError, "state"),
    "time_first": (lambda: stack(4, 2), lambda x, u: tf.stack([u[:, 0], u[:, 1]]), ValueError, "sample"),
    "no_row_per_sample": (lambda: stack(4, 2), lambda x, u: tf.reduce_sum(u), ValueError, "sample"),
    "complex_outcome": (lambda: stack(4, 2), lambda x, u: tf.complex(u, u), TypeError, "real"),
    "integer_outcome": (lambda: stack(4, 2), lambda x, u: tf.cast(u, tf.int32), TypeError, "real"),
    "control_that_is_not_used": (lambda: stack(4, 2), lambda x, u: 2 * x[:, :2], ValueError, NO_GRADIENTS),
    "simulator_without_gradient": (lambda: stack(4, 2), lambda x, u: tf.round(u), ValueError, NO_GRADIENTS),
    "stopped_simulator": (lambda: stack(4, 2), lambda x, u: tf.stop_gradient(u), ValueError, NO_GRADIENTS),
}


@pytest.mark.parametrize("network, physics, error, words", REFUSED.values(), ids=REFUSED)
def test_refused_in_a_sentence(float64, network, physics, error, words):
    with pytest.raises(error, match=words) as caught:
        first_update(network(), physics)
    assert len(str(caught.value)) < LONGEST_SENTENCE


def test_nothing_to_train(float64):
    network = stack(4, 2)
    network.trainable = False
    with pytest.raises(ValueError, match="no trainable weights"):
        first_update(network, lambda x, u: u)


# --- one warning for a slower way ---------------------------------------------------------------------------

def told(function):
    """What `function` returns, and the texts of the warnings on the way that are hig's."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = function()
    return result, [str(w.message) for w in caught if "__array__" not in str(w.message)]


def test_the_fast_route_warns_of_nothing(float64):
    model, texts = told(lambda: first_update(stack(4, 2), lambda x, u: u))
    assert model.route == "factored" and texts == []


def test_a_slower_route_warns_once(float64):
    model, texts = told(lambda: first_update(stack(4, 2), SIMULATORS["neighbours"]))
    assert model.route == "whole batch" and len(texts) == 1
    _, texts = told(lambda: model.fit(rows(FEATURES), rows(2), batch_size=5, epochs=2, verbose=0))
    assert texts == []


@pytest.mark.xla
@pytest.mark.parametrize("name", ["numpy_function", "sparse_product"])
def test_without_xla_as_the_user_wishes_or_with_one_warning(float64, name):
    y = rows(3 if name == "sparse_product" else 2)
    _, texts = told(lambda: first_update(stack(4, 2), SIMULATORS[name], y=y, jit_compile=False))
    assert texts == []
    _, texts = told(lambda: first_update(stack(4, 2), SIMULATORS[name], y=y))
    assert len(texts) == 1 and "XLA" in texts[0]


def test_autograph_rewrites_only_what_cannot_be_traced(float64):
    """An `if` over tensors, of which no graph can be made as it stands, is rewritten to a tf.cond and trains;
    what needs no rewriting is left alone, as in Keras, for it takes seconds: its source would no longer be
    this file's.
    """
    sources = []

    def plain(x, u):
        sources.append(sys._getframe().f_code.co_filename)
        return 2 * u

    def branching(x, u):
        return u if tf.reduce_sum(x) > 0 else 2 * u
    for physics in (plain, branching):
        case = Case(stack(4, 2), physics)
        model = hig_model(case)
        y = targets(case, model)
        model.compile(hig.HIG(ETA, truncation=1e-3), squares)
        before = flat(model.get_weights())
        assert not np.array_equal(one_step(case, model, y), before)
    assert set(sources) == {__file__}


# --- negative controls --------------------------------------------------------------------------------------

def test_the_comparison_sees_one_entry_off_by_a_thousandth(float64):
    case = Case(stack(4, 2))
    model = hig_model(case)
    y = targets(case, model)
    before = flat([weight.numpy() for weight in model.trainable_variables])
    jacobian, gradient, _ = derivatives(case, model, case.x, y)
    step = power_by_svd(jacobian, -0.5, 1e-3) @ gradient
    wrong = step.copy()
    wrong[3] += 1e-3 * np.abs(step).max()
    with pytest.raises(AssertionError):
        assert_same_step(moved(model, wrong), moved(model, step), before)


class WrongByOneEntry(Linearized):
    """∂y/∂u with one of its entries a thousandth too large."""

    def linearize(self, x, u):
        y, jacobian = super().linearize(x, u)
        return y, jacobian + 1e-3 * tf.constant([[0.0, 1.0], [0.0, 0.0]], u.dtype) * jacobian


def test_a_simulator_that_is_wrong_about_its_derivatives_is_not_believed(float64):
    hold_to_the_svd(Case(stack(4, 2), WrongByOneEntry()))


def step_with_a_wrong_route(monkeypatch, physics=simulator, **faults):
    """A case on the factored route, whose `faults` are {name of a method of FactoredJacobian: its wrong
    version}.
    """
    for name, wrong in faults.items():
        right = getattr(hig.jacobian.FactoredJacobian, name)
        monkeypatch.setattr(hig.jacobian.FactoredJacobian, name, lambda *a, right=right,
                            wrong=wrong: wrong(right(*a)))
    case = Case(stack(4, 2), physics)
    model = hig_model(case)
    model.compile(hig.HIG(ETA, truncation=1e-3), squares)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        one_step(case, model, targets(case, model))
    return model.route


@pytest.mark.parametrize("fault", [lambda pieces: [pieces[0] * (1 + 1e-6), *pieces[1:]],
                                   lambda pieces: [*pieces[:-1], 0 * pieces[-1]],
                                   lambda pieces: [np.nan * pieces[0], *pieces[1:]]], ids=["scaled",
                                       "term lost", "not a number"])
def test_a_route_with_a_wrong_term_is_not_taken(float64, monkeypatch, fault):
    assert step_with_a_wrong_route(monkeypatch) == "factored"
    assert step_with_a_wrong_route(monkeypatch, pullback=fault) != "factored"


def test_rows_with_a_wrong_term_are_not_taken(float64, monkeypatch):
    """All rows wrong, on every route: then there is no step at all, but a sentence."""
    right = hig.jacobian.RowsJacobian.pullback
    monkeypatch.setattr(hig.jacobian.RowsJacobian, "pullback",
                        lambda *a: [piece * (1 + 1e-6) for piece in right(*a)])
    with pytest.raises(ValueError, match="cannot be computed reliably"):
        first_update(stack(4, 2), SIMULATORS["neighbours"])


# --- trainable changed --------------------------------------------------------------------------------------

@pytest.mark.parametrize("first, then", [(True, False), (False, True)], ids=["frozen", "thawed"])
def test_trainable_changed_between_steps_counts_at_once(float64, first, then):
    """κ = 1 against SGD that is compiled anew after the change; Keras alone would go on with what it has
    compiled.
    """
    after = []
    for optimizer in (lambda: keras.optimizers.SGD(ETA),
                      lambda: hig.JacobianPower(ETA, kappa=1.0, truncation=0.0)):
        keras.utils.set_random_seed(1)
        case = Case(stack(4, 2))
        case.network.layers[0].trainable = first
        model = hig_model(case)
        y = targets(case, model)
        model.compile(optimizer(), squares, run_eagerly=not after)
        model.train_on_batch(case.x, y)
        case.network.layers[0].trainable = then
        if not after:
            model.compile(optimizer(), squares, run_eagerly=True)
        model.train_on_batch(case.x, y)
        after.append(flat(model.get_weights()))
    np.testing.assert_allclose(after[1], after[0], rtol=0, atol=1e-12)  # steps of 1e-3, rounded to 1e-16 each


# --- precisions ---------------------------------------------------------------------------------------------

# Error of the step relative to its largest entry: the rounding 2^-24, 2^-11, 2^-8 of each derivative, times a
# few tens of operations, times σ_max/σ_kept ≤ 10 of this network
PRECISIONS = {"float32": 1e-4, "float16": 5e-2, "bfloat16": 0.3, "mixed_bfloat16": 0.3}


@pytest.fixture
def policy():
    """Sets Keras' dtype policy, and puts it back."""
    before = keras.config.floatx(), keras.config.dtype_policy()
    yield keras.config.set_dtype_policy
    keras.config.set_floatx(before[0])
    keras.config.set_dtype_policy(before[1])


def well_conditioned(x, u):
    return tf.stack([u[:, 0] + 0.5 * u[:, 1], tf.sin(u[:, 1])], axis=1)


@pytest.mark.parametrize("name, convolution", [*((name, False) for name in PRECISIONS), ("float32", True),
                                               ("bfloat16", True)])
def test_precisions(policy, name, convolution):
    """A float64 twin with the same weights says what is right; η = 1, so that no step is lost in rounding."""
    def build():
        keras.utils.set_random_seed(4)
        first = ([keras.layers.Reshape((FEATURES, 1)), keras.layers.Conv1D(3, 2, activation="tanh"),
                  keras.layers.Flatten()] if convolution else [keras.layers.Dense(5, "tanh")])
        return keras.Sequential([keras.Input((FEATURES,)), *first, keras.layers.Dense(2)])
    policy(name)
    case = Case(build(), well_conditioned, x=np.round(rows(FEATURES) * 8) / 8)
    model = hig_model(case)
    y = np.round(rows(2, seed=3) * 8) / 8
    policy("float64")
    twin = Case(build(), well_conditioned, x=case.x.astype("float64"))
    reference = hig.PhysicsModel(twin.network, well_conditioned)
    reference(twin.x)
    for weight, value in zip(reference.weights, model.weights):
        weight.assign(np.asarray(keras.ops.cast(value, "float64")))
    jacobian, gradient, _ = derivatives(twin, reference, twin.x, y.astype("float64"))
    before = flat([weight.numpy() for weight in reference.trainable_variables])
    policy(name)
    for kappa in (-0.5, 1.0):
        model.compile(hig.JacobianPower(1.0, kappa=kappa, truncation=0.1 if kappa < 0 else 0.0), squares)
        expected = moved(reference, power_by_svd(jacobian, kappa, 0.1 if kappa < 0 else 0.0) @ gradient,
                         eta=1.0)
        assert_same_step(one_step(case, model, y), expected, before, PRECISIONS[name])


def test_float64_network_under_a_float32_default():
    """The dtype of the layers, not Keras' default, is the precision of the derivatives."""
    options = {"dtype": "float64"}
    network = keras.Sequential([keras.Input((FEATURES,), **options), keras.layers.Dense(4, "tanh", **options),
                                keras.layers.Dense(2, **options)])
    model = hig.PhysicsModel(network, lambda x, u: u, dtype="float64")
    x = rows(FEATURES).astype("float64")
    case = Case(network, lambda x, u: u, x=x)
    y = rows(2, seed=3).astype("float64")
    before = flat([weight.numpy() for weight in model.trainable_variables])
    jacobian, gradient, _ = derivatives(case, model, x, y)
    model.compile(hig.HIG(ETA, truncation=1e-3), squares)
    expected = moved(model, power_by_svd(jacobian, -0.5, 1e-3) @ gradient)
    assert_same_step(one_step(case, model, y), expected, before, 1e-5)     # Keras casts the loss to float32
