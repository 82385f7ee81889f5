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
from tests.networks import (B, ETA, FEATURES, Case, Net, assert_right_step, assert_same_step, compiled,
                            convolution, dense, derivatives, hig_model, hold_to_the_svd, moved, one_step,
                            rows, squares, stack, targets, weights_of)
from tests.reference import flat, power_by_svd
from tests.test_networks_physics import SIMULATORS, Linearized

pytestmark = [pytest.mark.filterwarnings("ignore:The Jacobian takes the route"),  # both said on purpose
              pytest.mark.filterwarnings("ignore:The plain gradient runs operation by operation")]

LONGEST_SENTENCE = 500      # characters: no page of graph, no traceback of TensorFlow's inside


def first_update(physics, network=None, y=None, loss=squares, **options):
    """One `fit` of one batch by HIG. Returns the model."""
    model = hig.PhysicsModel(network or stack(4, 2), physics)
    model.compile(hig.HIG(ETA, truncation=1e-3), loss, **options)
    model.fit(rows(FEATURES), rows(2) if y is None else y, batch_size=B, verbose=0)
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


def frozen():
    network = stack(4, 2)
    network.trainable = False
    return network


class WithMemory(keras.layers.Layer):
    """A simulator that counts its calls, and depends on the count."""

    def build(self, *shapes):
        self.calls = self.add_weight(shape=(), initializer="zeros", trainable=False)

    def call(self, x, u):
        self.calls.assign_add(1)
        return u * (1 + self.calls)


class Complex(keras.layers.Layer):
    """A simulator with a complex weight."""

    def build(self, *shapes):
        self.phase = self.add_weight(shape=(), dtype="complex64", name="phase")

    def call(self, x, u):
        return u * tf.cast(tf.math.real(self.phase), u.dtype)


def masked():
    """Keras leaves masked steps out of the loss if the simulator returns the controls as they are."""
    return keras.Sequential([keras.Input((FEATURES,)), keras.layers.Reshape((FEATURES, 1)),
                             keras.layers.Masking(), keras.layers.Dense(2)])


NO_GRADIENTS = "(?i)no gradients provided"      # Keras' words
REFUSED = {
    "random_simulator": (lambda x, u: u + u * tf.random.normal(tf.shape(u), dtype=u.dtype), ValueError,
                         "random"),
    "random_number_of_numpy": (lambda x, u: u * (1 + np.random.normal()), ValueError, "random"),
    "random_network": (lambda x, u: u, ValueError, "random", always_dropped),
    "stateful_network": (lambda x, u: u, ValueError, "state", stateful),
    "simulator_with_memory": (WithMemory(), ValueError, "state"),
    "time_first": (lambda x, u: tf.stack([u[:, 0], u[:, 1]]), ValueError, "sample"),
    "no_row_per_sample": (lambda x, u: tf.reduce_sum(u), ValueError, "sample"),
    "complex_outcome": (lambda x, u: tf.complex(u, u), TypeError, "real"),
    "integer_outcome": (lambda x, u: tf.cast(u, tf.int32), TypeError, "real"),
    "control_that_is_not_used": (lambda x, u: 2 * x[:, :2], ValueError, NO_GRADIENTS),
    "simulator_without_gradient": (lambda x, u: tf.round(u), ValueError, NO_GRADIENTS),
    "stopped_simulator": (lambda x, u: tf.stop_gradient(u), ValueError, NO_GRADIENTS),
    "nothing_to_train": (lambda x, u: u, ValueError, "no trainable weights", frozen),
    "complex_weight": (Complex(), TypeError, "phase.*complex64"),
    "masked_steps": (lambda x, u: u, ValueError, "mask of a Masking.*sample_weight", masked),
    "loss_without_reduction": (lambda x, u: u, ValueError, rf"shape \({B},\).*reduction", lambda: stack(4, 2),
                               keras.losses.MeanSquaredError(None)),
}


@pytest.mark.parametrize("physics, error, words, network, loss", [
    (*case, *(lambda: stack(4, 2), squares)[len(case) - 3:]) for case in REFUSED.values()], ids=REFUSED)
def test_refused_in_a_sentence(float64, physics, error, words, network, loss):
    with pytest.raises(error, match=words) as caught:
        first_update(physics, network(), loss=loss)
    assert len(str(caught.value)) < LONGEST_SENTENCE


# --- one warning for a slower way ---------------------------------------------------------------------------

def told(function):
    """What `function` returns, and the texts of the warnings on the way that are hig's."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = function()
    return result, [str(w.message) for w in caught if "__array__" not in str(w.message)]


@pytest.mark.parametrize("name, route, count", [("control", "factored", 0), ("neighbours", "whole batch", 1)])
def test_a_slower_route_warns_once_and_the_fast_one_of_nothing(float64, name, route, count):
    model, texts = told(lambda: first_update(SIMULATORS.get(name, lambda x, u: u)))
    assert model.route == route and len(texts) == count
    _, texts = told(lambda: model.fit(rows(FEATURES), rows(2), batch_size=5, epochs=2, verbose=0))
    assert texts == []


def test_a_simulator_that_fails_on_other_rows_without_a_word_takes_the_whole_batch(float64):
    def only_its_batch(x, u):
        if x.shape[0] != B:
            raise ValueError
        return u
    model, texts = told(lambda: first_update(only_its_batch))
    assert model.route == "whole batch" and len(texts) == 1 and "ValueError()" in texts[0]


@pytest.mark.xla
@pytest.mark.parametrize("name", ["numpy_function", "sparse_product"])
def test_without_xla_as_the_user_wishes_or_with_one_warning(float64, name):
    y = rows(3 if name == "sparse_product" else 2)
    assert told(lambda: first_update(SIMULATORS[name], y=y, jit_compile=False))[1] == []
    _, texts = told(lambda: first_update(SIMULATORS[name], y=y))
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
        model = compiled(case)
        before = weights_of(model)
        assert not np.array_equal(one_step(case, model, targets(case, model)), before)
    assert set(sources) == {__file__}


# --- negative controls --------------------------------------------------------------------------------------

def test_the_comparison_sees_one_entry_off_by_a_thousandth(float64):
    case = Case(stack(4, 2))
    model = compiled(case)
    expected, before = assert_right_step(case, model)
    wrong = expected.copy()
    wrong[3] += 1e-3 * np.abs(expected - before).max()
    with pytest.raises(AssertionError):
        assert_same_step(wrong, expected, before)


class WrongByOneEntry(Linearized):
    """∂y/∂u with one of its entries a thousandth too large."""

    def linearize(self, x, u):
        y, jacobian = super().linearize(x, u)
        return y, jacobian + 1e-3 * tf.constant([[0.0, 1.0], [0.0, 0.0]], u.dtype) * jacobian


def test_a_simulator_that_is_wrong_about_its_derivatives_is_not_believed(float64):
    hold_to_the_svd(Case(stack(4, 2), WrongByOneEntry()))


def spoil(monkeypatch, kind, wrong):
    """Replaces what `pullback` of a kind of Jacobian returns by `wrong` of it."""
    right = kind.pullback
    monkeypatch.setattr(kind, "pullback", lambda *a: wrong(right(*a)))


@pytest.mark.parametrize("fault", [
    lambda pieces: pieces, lambda pieces: [pieces[0] * (1 + 1e-6), *pieces[1:]],
    lambda pieces: [*pieces[:-1], 0 * pieces[-1]], lambda pieces: [np.nan * pieces[0], *pieces[1:]]],
                         ids=["none", "scaled", "term lost", "not a number"])
def test_a_route_with_a_wrong_term_is_not_taken(float64, monkeypatch, request, fault):
    spoil(monkeypatch, hig.jacobian.FactoredJacobian, fault)
    case = Case(stack(4, 2))
    model = compiled(case)
    one_step(case, model, targets(case, model))
    assert (model.route == "factored") == (request.node.callspec.id == "none")


def test_rows_with_a_wrong_term_are_not_taken(float64, monkeypatch):
    """All rows wrong, on every route: then there is no step at all, but a sentence."""
    spoil(monkeypatch, hig.jacobian.RowsJacobian, lambda pieces: [piece * (1 + 1e-6) for piece in pieces])
    with pytest.raises(ValueError, match="cannot be computed reliably"):
        first_update(SIMULATORS["neighbours"])


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
        model = compiled(case, optimizer(), run_eagerly=not after)
        y = targets(case, model)
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


@pytest.mark.parametrize("name, build", [*((name, stack) for name in PRECISIONS), ("float32", convolution),
                                         ("bfloat16", convolution)])
def test_precisions(policy, name, build):
    """A float64 twin with the same weights says what is right; η = 1, so that no step is lost in rounding."""
    keras.utils.set_random_seed(4)
    sizes = (5, 2) if build is stack else (3,)
    policy(name)
    case = Case(build(*sizes), well_conditioned, x=np.round(rows(FEATURES) * 8) / 8)
    model = hig_model(case)
    y = np.round(rows(2, seed=3) * 8) / 8
    policy("float64")
    twin = Case(build(*sizes), well_conditioned, x=case.x.astype("float64"))
    reference = hig_model(twin)
    reference.set_weights([np.asarray(keras.ops.cast(value, "float64")) for value in model.weights])
    jacobian, gradient, _ = derivatives(twin, reference, twin.x, y.astype("float64"))
    policy(name)
    for kappa, truncation in (-0.5, 0.1), (1.0, 0.0):
        model.compile(hig.JacobianPower(1.0, kappa, truncation), squares)
        expected = moved(reference, power_by_svd(jacobian, kappa, truncation) @ gradient, eta=1.0)
        assert_same_step(one_step(case, model, y), expected, weights_of(reference), PRECISIONS[name])


def test_float64_network_under_a_float32_default():
    """The dtype of the layers, not Keras' default, is the precision of the derivatives."""
    keras.utils.set_random_seed(4)
    network = keras.Sequential([keras.Input((FEATURES,), dtype="float64"),
                                keras.layers.Dense(4, "tanh", dtype="float64"),
                                keras.layers.Dense(2, dtype="float64")])
    case = Case(network, lambda x, u: u, x=rows(FEATURES).astype("float64"))
    model = compiled(case, dtype="float64")
    assert_right_step(case, model, tolerance=1e-5)                      # Keras casts the loss to float32
