"""hig.krylov: updates from products with J and Jᵀ, held to the singular value decomposition of the whole
batch's Jacobian.
"""

import os
import signal
from functools import partial

import keras
import numpy as np
import pytest
import tensorflow as tf

import hig
from hig import krylov, optimizers
from hig.jacobian import PenalizedJacobian
from hig.structure import graph_memory
from tests import tiny
from tests.networks import (ALL_STEPS, ETA, Case, Physics, assert_same_step, derivatives, hig_model,
                            hold_to_the_svd, moved, one_step, stack, targets)
from tests.reference import flat, power_by_svd, weights_of
from tests.test_networks import ELSEWHERE
from tests.test_networks_layers import FROZEN, LAYERS, OUTSIDE, closed_loop_in_while_loop
from tests.test_networks_physics import LOSSES, SIMULATED, STRUCTURES

ALL = ALL_STEPS["krylov"]

TABLE = {**ELSEWHERE, **LAYERS, **FROZEN, **OUTSIDE, **STRUCTURES, **SIMULATED, **LOSSES}
del TABLE["recompute_grad"]  # TensorFlow's recomputed gradients have no derivative of their own


def many_outcomes(x, u):
    return tf.concat([u, u**2, tf.sin(3 * u), x * u[:, :1]], axis=1)


COMPILED = {
    "dense": (lambda: Case(stack(7, 5, 2)), "through the network"),
    "more rows than weights": (lambda: Case(stack(2), many_outcomes), "through the network"),
    "a weight in the simulator": (lambda: Case(stack(4, 2), Physics(
        lambda self, x, u: u * self.mass + x[:, :2], mass=1.5)), "forward mode"),
    "coupled samples": (lambda: Case(stack(4, 2), lambda x, u: u - tf.reduce_mean(u, 0)), "forward mode"),
    "a choice among simulators": (lambda: Case(stack(4, 2), lambda x, u: tf.switch_case(
        tf.cast(x[0, 0] > 9, "int32"), [lambda: u - tf.reduce_mean(u, 0), lambda: u])), "double backward"),
    "a loop in the network": (LAYERS["lstm"], "through the network"),
    "a network in a loop": (closed_loop_in_while_loop, "double backward")}


@pytest.mark.slow
@pytest.mark.parametrize("build", TABLE.values(), ids=TABLE)
def test_all_steps_are_the_exact_update(build, float64):
    """The tables of networks and simulators, as graphs without XLA, which spares compiling each of them."""
    hold_to_the_svd(build(), jit_compile=False, **ALL_STEPS)


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow) if "loop" in name else name
                                  for name in COMPILED])
def test_compiled_updates(name, float64):
    """The ways of taking products, of both sides, as they run in practice."""
    build, way = COMPILED[name]
    model = hold_to_the_svd(build(), **ALL_STEPS)
    assert model.route == f"krylov, {way}"
    assert not any("operation by operation" in said for said in model.compiler.said)


def linearised(model, x, y, way="through the network", chunk=None):
    """(g, KrylovJacobian) of a compiled model and a batch, by one way."""
    batch = *tf.nest.map_structure(tf.constant, (x, y)), None
    products = krylov.Products(model.derivatives_for(*batch).functions, way, chunk)
    return products.linearise(*batch)[2:]


def jacobian_of(case, way="through the network", chunk=None):
    """The KrylovJacobian of a case by one way, and J and g by rows."""
    model = hig_model(case)
    y = targets(case, model)
    J, g, _ = derivatives(case, model, case.x, y)
    model.compile(hig.HIG(ETA, 1e-6, krylov=3), case.loss, run_eagerly=True)
    gradient, jacobian = linearised(model, case.x, y, way, chunk)
    np.testing.assert_allclose(gradient, g, rtol=1e-12)
    return jacobian, J, g


@pytest.mark.parametrize("way", ["through the network", "forward mode", "double backward"])
def test_products_are_those_of_the_matrix(way, float64):
    """Each way, in one pass and in chunks that divide the five samples or do not."""
    rng = np.random.default_rng(0)
    for chunk in (None, 1, 2, 9):
        jacobian, J, _ = jacobian_of(Case(stack(4, 2)), way, chunk)
        u, v = rng.standard_normal(len(J)), rng.standard_normal(J.shape[1])
        np.testing.assert_allclose(flat(jacobian.pullback(u)), J.T @ u, rtol=1e-10)
        np.testing.assert_allclose(jacobian.push(v), J @ v, rtol=1e-10, atol=1e-12)


@pytest.mark.xla
def test_chunks_are_compiled_by_xla(float64):
    """Two samples at a time, the last one alone: J^κ g of the whole batch, and no word of XLA's failing."""
    directions = []
    for chunk in (None, 2):
        keras.utils.set_random_seed(0)
        case = Case(stack(4, 2))
        model = hig_model(case)
        model.compile(hig.HIG(ETA, 1e-6, krylov=3, krylov_chunk=chunk), case.loss, jit_compile=True)
        gradient, jacobian = linearised(model, case.x, targets(case, model), chunk=chunk)
        directions.append(krylov.KrylovSpace(jacobian, gradient, 3, 0.0, -0.5, 1e-6).power()[0])
    np.testing.assert_allclose(*directions, rtol=1e-9)


@pytest.mark.parametrize("units", [(7, 2), (2,)], ids=["n < p", "n > p"])
def test_the_recurrence_is_that_of_numpy(units, float64):
    """Step by step, and with further rows of one entry each, as penalties give; μ in units of the mean
    eigenvalue.
    """
    jacobian, J, g = jacobian_of(Case(stack(*units), many_outcomes))
    columns, scales = np.array([1, 4]), np.array([0.5, 2.0])
    more = np.zeros((2, J.shape[1]))
    more[[0, 1], columns] = scales
    penalized = PenalizedJacobian(jacobian, columns, scales)
    for of_model, full, right in ((jacobian, J, g),
                                  (penalized, np.vstack([J, more]), np.append(g, [0.3, -1.0]))):
        mean = np.sum(full**2) / min(full.shape)
        for steps in (1, 2, 6, ALL):
            for kappa in (1.0, -0.5, -1.0):
                space = krylov.KrylovSpace(of_model, right, steps, 0.0, kappa, 1e-7)
                # the trace, and with it μ, is else an estimate
                for damping in (0.0, 0.3) if steps == ALL else (0.0,):
                    direction, spectrum = space.power(damping)
                    expected, same = hig.powers.operator_power(full, right, kappa, 1e-7, damping * mean,
                                                               steps)
                    assert np.linalg.norm(direction - expected) < 1e-8 * np.linalg.norm(expected)
                    np.testing.assert_allclose(spectrum[:3], same[:3], rtol=1e-7)
                    # where the space ends, rounding may take one step more
                    assert abs(spectrum.steps - same.steps) <= (steps == ALL)


def test_the_trace_that_scales_the_damping(float64):
    """‖J‖² is exact with all steps. With two steps the rest comes from random vectors, and the sum is right
    within a factor of two.
    """
    keras.utils.set_random_seed(1)
    jacobian, J, g = jacobian_of(Case(stack(7, 2)))
    exact, few = (krylov.KrylovSpace(jacobian, g, steps, 0.0, -1.0, 0.0)._trace() for steps in (ALL, 2))
    assert exact == pytest.approx(np.sum(J**2), rel=1e-10)
    assert 0.5 < few / exact < 2 and few != exact


def test_200_steps_in_single_precision_stay_orthogonal(monkeypatch):
    """A wide spectrum, so that without orthogonalisation the vectors would return: the negative control."""
    keras.utils.set_random_seed(0)
    network = keras.Sequential([keras.Input((8,)), keras.layers.Dense(64, "tanh"), keras.layers.Dense(8)])
    x = np.random.default_rng(0).normal(size=(64, 8)).astype("float32")
    model = hig.PhysicsModel(network, lambda x, u: u * np.geomspace(1, 1e-3, 8, dtype="float32"))
    model.compile(hig.HIG(1.0, 1e-6, krylov=200, krylov_tolerance=0), "mse", jit_compile=False)

    def error():
        gradient, jacobian = linearised(model, x, np.zeros((64, 8), "float32"), "forward mode")
        kept = krylov.KrylovSpace(jacobian, gradient, 200, 0.0, -0.5, 1e-6).state[6].numpy()
        assert kept.shape == (200, 512) and kept.dtype == np.float32
        return np.abs(kept @ kept.T - np.eye(200)).max()
    assert error() < 1e-5
    monkeypatch.setattr(krylov, "_orthogonal", lambda vector, *others: vector)
    assert error() > 0.1


def users_model(optimizer, **options):
    """README's problem in small: the second of two controls is weak."""
    keras.utils.set_random_seed(1)
    network = keras.Sequential([keras.Input((2,)), keras.layers.Dense(10, "tanh"), keras.layers.Dense(2)])
    model = hig.PhysicsModel(network, lambda x, u: x + u * [1.0, 0.1])
    model.compile(optimizer, "mse", **{"jit_compile": False, **options})
    start = np.random.default_rng(0).uniform(-1, 1, (64, 2)).astype("float32")
    return model, start, 0.5 * start[:, ::-1] ** 2


def test_few_steps_train_and_are_logged():
    model, x, y = users_model(hig.HIG(1.0, 1e-5, krylov=12))
    history = model.fit(x, y, batch_size=32, epochs=20, verbose=0).history
    assert {"rank", "sigma_max", "sigma_min", "krylov_steps", "krylov_change"} < set(history)
    assert history["krylov_steps"][0] == 12 and 0 < history["krylov_change"][0] < 1
    exact, x, y = users_model(hig.HIG(1.0, 1e-5))
    spectrum = exact.fit(x, y, batch_size=32, epochs=20, verbose=0).history
    assert history["sigma_max"][0] == pytest.approx(spectrum["sigma_max"][0], rel=1e-2)  # after two updates
    assert history["loss"][-1] < 1.5 * spectrum["loss"][-1] < 0.1 * history["loss"][0]


def test_more_steps_than_a_tolerance_asks_for_are_not_taken():
    model, x, y = users_model(hig.HIG(1.0, 1e-5, krylov=40, krylov_tolerance=0.5))
    history = model.fit(x, y, batch_size=32, epochs=1, verbose=0).history
    assert history["krylov_steps"][0] == 8 and history["krylov_change"][0] <= 0.5


@pytest.mark.parametrize("optimizer", [
    partial(hig.HIG, 1.0, 1e-3, adaptive=True), partial(hig.GaussNewton, 0.5, 1e-2, damping=1e-2),
    partial(hig.JacobianPower, 0.5, 0.2, 1e-3), hig.LevenbergMarquardt,
    partial(hig.HIG, 1.0, 0.0, spectral_filter=lambda s: s**2 / (s**2 + 1e-6))],
    ids=["HIG adaptive", "Gauss-Newton damped", "κ = 0.2", "Levenberg-Marquardt", "filter"])
def test_all_steps_train_like_the_exact_method(optimizer, float64):
    """Eight updates with sample weights: control, damping and logs included."""
    histories = []
    for steps in (None, ALL):
        model, x, y = users_model(optimizer(krylov=steps, krylov_tolerance=0))
        x, y = x.astype(float), y.astype(float)
        histories.append(model.fit(x, y, sample_weight=np.linspace(0.5, 1.5, 64), batch_size=16, epochs=2,
                                   verbose=0).history)
    for name, values in histories[0].items():
        # the conditioning of Jacobians of a small network over eight updates
        np.testing.assert_allclose(histories[1][name], values, rtol=1e-5, err_msg=name)
    assert {"krylov_steps", "krylov_change"} == set(histories[1]) - set(histories[0])


def test_single_precision_and_mixed():
    """J^κ g to a few thousandths in float32, where K would be formed in float64; bfloat16 runs."""
    case = Case(stack(7, 5, 2), compile={"jit_compile": False})
    model = hig_model(case)
    y, before = targets(case, model), weights_of(model)
    jacobian, gradient, _ = derivatives(case, model, case.x, y)
    model.compile(hig.HIG(ETA, 1e-3, krylov=ALL), case.loss)
    assert_same_step(one_step(case, model, y), moved(model, power_by_svd(jacobian, -0.5, 1e-3) @ gradient),
                     before, 5e-3)
    model = hig.PhysicsModel(stack(4, 2, features=2, dtype="mixed_bfloat16"), lambda x, u: u)
    model.compile(hig.HIG(0.1, 1e-2, krylov=4), "mse", jit_compile=False)
    x = np.random.default_rng(0).normal(size=(8, 2)).astype("float32")
    losses = model.fit(x, x, batch_size=8, epochs=10, verbose=0).history["loss"]
    assert losses[-1] < losses[0]


def test_an_outcome_that_fits_already_moves_nothing():
    """g = 0, and with it the whole Krylov space."""
    model, x, _ = users_model(hig.HIG(1.0, 1e-5, krylov=4))
    before = model.get_weights()
    y = model.predict(x, batch_size=64, verbose=0)["outcome"]
    model.fit(x, y, batch_size=64, epochs=1, verbose=0)
    np.testing.assert_allclose(flat(model.get_weights()), flat(before), atol=1e-6)


def test_products_that_do_not_belong_together_are_noticed(monkeypatch):
    """Negative control: J v a hundredth too long, in forward mode, is not taken."""
    right = krylov.Products._forward_mode
    monkeypatch.setattr(krylov.Products, "_forward_mode", lambda *arguments: 1.01 * right(*arguments))
    model, x, y = users_model(hig.HIG(0.1, 1e-3, krylov=1))
    with pytest.warns(UserWarning, match="do not belong together"):
        model.fit(x, y, batch_size=64, epochs=1, verbose=0)
    assert model.route == "krylov, double backward"


@pytest.mark.slow
def test_what_does_not_fit_the_memory_says_what_would():
    """n = 160,000 rows take 400 GB for K."""
    model = hig.PhysicsModel(stack(400, 400, 2, features=2), lambda x, u: u)
    x = np.random.default_rng(0).normal(size=(80_000, 2)).astype("float32")
    model.compile(hig.HIG(1.0, 1e-5), "mse")
    with pytest.raises(MemoryError, match="krylov="):
        model.train_on_batch(x, x)
    model.compile(hig.HIG(1e-3, 1e-5, krylov=2), "mse")
    assert np.isfinite(model.train_on_batch(x, x, return_dict=True)["loss"])


def test_a_run_that_is_stopped_goes_on_bit_for_bit(tmp_path, monkeypatch):
    """Ctrl-C twice in the third update of two an epoch, as if it had been killed; resumed, the losses are the
    same.
    """
    assert tiny.run(tmp_path / "straight", optimizer="HIG_Krylov") == "finished"
    calls, space = [], optimizers.KrylovSpace

    def stopped(*arguments):
        calls.append(1)
        for _ in range(2 if len(calls) == 3 else 0):
            os.kill(os.getpid(), signal.SIGINT)
        return space(*arguments)

    monkeypatch.setattr(optimizers, "KrylovSpace", stopped)
    assert tiny.run(tmp_path / "stopped", optimizer="HIG_Krylov") == "interrupted"
    monkeypatch.undo()
    assert tiny.run(tmp_path / "stopped", optimizer="HIG_Krylov", resume=True) == "finished"
    curves = [tiny.losses(tmp_path / folder, "HIG_Krylov")
              for folder in ("stopped", "straight")]
    np.testing.assert_array_equal(*curves)
    assert len(curves[0]) == tiny.EPOCHS + 1


def test_chunks_are_found_from_the_free_memory(monkeypatch, float64):
    """All five samples in one pass where there is room, two where there is half of it, else one by one."""
    products = jacobian_of(Case(stack(4, 2)), "forward mode")[0].products
    of_all, kept = 4 * products.functions.structure.memory, 8 * 3 * min(products.shape)
    for free, samples in ((kept + 2 * of_all, 5), (kept + of_all, 2), (0, 1)):
        monkeypatch.setattr(krylov, "device_memory", lambda: free)
        assert krylov.Products(products.functions, "forward mode").samples == samples


@pytest.mark.parametrize("steps", [1, 40])
def test_the_memory_of_a_pass(steps):
    """A loop counts as often as it may run: its two new tensors of 5 × 3 float32 numbers, and copies."""
    def function(x):
        return tf.while_loop(lambda i, y: i < steps, lambda i, y: (i + 1, tf.sin(2.0 * y)), (0, x),
                             maximum_iterations=steps)[1]
    graph = tf.function(function).get_concrete_function(tf.zeros((5, 3))).graph
    assert 2 * 60 * steps < graph_memory(graph) < 4 * 60 * (steps + 2)
