"""The two regressions: data, network, order of the samples, one update, settings of each task."""

import math
from itertools import combinations_with_replacement

import numpy as np
import pytest
import tensorflow as tf

from hig.runs.cli import SettingsError
from hig.runs.experiments import shuffled_batches
from Regression import experiment, flags
from Regression.network import HIDDEN, build_network, draw_weights
from tests import tiny


# ------------------------------------------------------------------------------------------------------- data

def test_data_of_toy_1d():
    """Normalised values by hand, from the float32 points: their rounding of 6e-8 enters with a slope of 7."""
    for x, y in (sets := experiment.draw_data("toy_1d", 1)):
        assert x.shape == y.shape == (10_000, 1) and x.dtype == y.dtype == np.float32
        assert -1 <= x.min() < -0.99 and 0.99 < x.max() <= 1
    values = [[math.exp(-10 * x * x) * math.sin(2 * x) for x in part[:, 0].tolist()] for part, _ in sets]
    mean = sum(values[0]) / 10_000
    deviation = math.sqrt(sum((y - mean) ** 2 for y in values[0]) / 10_000)
    for (_, y), own in zip(sets, values):
        np.testing.assert_allclose(y[:, 0], [(v - mean) / deviation for v in own], atol=2e-6)


def test_data_of_the_polynomial():
    """Against products of variables picked with repetition; a float32 monomial of degree 4 errs by 2e-7."""
    sets = experiment.draw_data("polynomial", 2)
    picks = [pick for degree in range(5) for pick in combinations_with_replacement(range(6), degree)]
    found = {tuple(powers): c for powers, c in zip(experiment.exponents().tolist(), coefficients(2))}
    assert len(picks) == len(found) == 210 == math.comb(10, 4)
    named = {pick: found[tuple(pick.count(j) for j in range(6))] for pick in picks}
    values = [sum(c * np.prod(x[:, list(pick)], axis=1, dtype=float) for pick, c in named.items())
              for x, _ in sets]
    for (x, y), own in zip(sets, values):
        assert x.shape == (10_000, 6) and y.shape == (10_000, 1) and x.dtype == y.dtype == np.float32
        np.testing.assert_allclose(y[:, 0], (own - values[0].mean()) / values[0].std(), atol=1e-4)
    assert abs(sets[0][0].mean()) < 0.02 and abs(sets[0][0].std() - 1) < 0.02     # 60,000 numbers: 5 σ


def coefficients(draw):
    """c_m = N(0, 1)/√E[m²] with E[m²] by Gauss-Hermite quadrature with nine nodes, exact up to degree 17."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(9)
    moments = [weights @ nodes ** (2 * power) / weights.sum() for power in range(5)]       # E[x^2p]
    squares = [math.prod(moments[power] for power in powers) for powers in experiment.exponents()]
    found = [experiment.mean_square(powers) for powers in experiment.exponents()]
    np.testing.assert_allclose(found, squares, rtol=1e-12)
    return np.random.default_rng([draw, 3]).standard_normal(210) / np.sqrt(squares)


@pytest.mark.parametrize("task", ["toy_1d", "polynomial"])
def test_sets_are_drawn_separately_and_normalised_by_the_training_set(task):
    train, validation, test = experiment.draw_data(task, 0)
    assert abs(train[1].mean(dtype=float)) < 1e-6 and abs(train[1].std(dtype=float) - 1) < 1e-6
    assert all(abs(y.mean(dtype=float)) > 1e-5 for _, y in (validation, test))      # they are about 1e-2 away
    points = np.concatenate([x for x, _ in (train, validation, test)])
    assert len(np.unique(points, axis=0)) > 29_900      # some of float32's in [−1, 1] coincide
    assert not np.array_equal(train[0], experiment.draw_data(task, 1)[0][0])
    again = experiment.draw_data(task, 0)[2]
    np.testing.assert_array_equal(test[1], again[1])


# ---------------------------------------------------------------------------------------------------- network

@pytest.mark.parametrize("n_inputs, count", [(1, 593), (6, 673)])
def test_initial_weights(n_inputs, count):
    """As many as published; uniform in ±1/√fan-in, biases too: σ is that over √3, to five standard errors."""
    network = build_network(n_inputs)

    def drawn(seed):
        draw_weights(network, seed)
        return network.get_weights()
    draws = [drawn(seed) for seed in range(40)]
    assert sum(weight.size for weight in draws[0]) == count
    for kernels, fan_in in zip(zip(*draws), [fan for fan in (n_inputs, *HIDDEN) for _ in "kb"]):
        values, limit = np.concatenate([w.ravel() for w in kernels]), fan_in**-0.5
        assert np.abs(values).max() <= limit * (1 + 1e-7)
        assert abs(values.std() * math.sqrt(3) / limit - 1) < 5 * math.sqrt(0.2 / len(values))


def test_seeds_are_three_draws_of_data_times_five_of_weights(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(experiment, "draw_data", lambda task, draw: seen.append(draw) or [None] * 3)
    monkeypatch.setattr(experiment, "train_on_fixed_data", lambda s, prefix, model, *rest, **more:
                        seen.append(float(tf.reduce_sum(model.network.trainable_variables[2]))))
    for seed in range(15):
        experiment.run(tiny.settings("Regression", "Adam", tmp_path, "--seed", seed, flags=flags()))
    assert seen[::2] == [0] * 5 + [1] * 5 + [2] * 5
    assert len(set(seen[1::2])) == 5 and seen[1:11:2] == seen[11:21:2] == seen[21:31:2]


def test_network_with_the_exact_gelu():
    """x Φ(x) by the error function, in float64; the tanh form, which differs by up to 5e-4, is noticed."""
    network, x = build_network(6), np.random.default_rng(0).normal(size=(50, 6), scale=3).astype(np.float32)
    draw_weights(network, 3)

    def forward(gelu):
        values, weights = x.astype(float), [w.numpy().astype(float) for w in network.trainable_variables]
        for kernel, bias in zip(weights[::2], weights[1::2]):
            values = values @ kernel + bias
            values = gelu(values) if bias.size > 1 else values
        return values
    exact = forward(np.vectorize(lambda z: z * (1 + math.erf(z / math.sqrt(2))) / 2))
    by_tanh = forward(lambda z: z * (1 + np.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3))) / 2)
    assert np.abs(network(x) - exact).max() < 1e-6 < 2e-5 < np.abs(network(x) - by_tanh).max()


# --------------------------------------------------------------------------------------- order of the samples

def epochs_of(batches, updates, count, epochs_done=0):
    """The samples of some epochs, (count, updates, batch)."""
    taken = [x.numpy()[:, 0] for x, _ in batches(epochs_done).take(updates * count)]
    return np.array(taken).reshape(count, updates, -1)


def test_a_fresh_permutation_in_each_epoch_without_the_last_incomplete_batch():
    rows = np.arange(10_000.0)[:, None]
    batches, updates = shuffled_batches((rows, 2 * rows), 32, seed=7)
    assert updates == 312
    first, second, third = epochs_of(batches, updates, 3)
    for epoch in (first, second, third):
        assert len(np.unique(epoch)) == 312 * 32 and epoch.shape == (312, 32)
    assert (first != second).mean() > 0.99 and (second != third).mean() > 0.99
    assert not np.array_equal(np.unique(first), np.unique(second))                  # others are left over
    np.testing.assert_array_equal(epochs_of(batches, updates, 2, epochs_done=1), [second, third])
    assert (epochs_of(shuffled_batches((rows, rows), 32, seed=8)[0], updates, 1)[0] != first).mean() > 0.99
    x, y = next(iter(batches(5)))
    np.testing.assert_array_equal(y, 2 * x)


def test_batches_of_all_samples_and_more():
    rows = np.arange(6.0)[:, None]
    batches, updates = shuffled_batches((rows, rows), 6, seed=0)
    assert updates == 1 and sorted(next(iter(batches(0)))[0].numpy()[:, 0]) == list(range(6))
    with pytest.raises(SettingsError, match="must not exceed the 6 training samples, but is 7"):
        shuffled_batches((rows, rows), 7, seed=0)


# --------------------------------------------------------------------------------------- settings and figures

POLYNOMIAL = {"learning_rate": 0.16, "truncation": 1e-6, "flags": flags(learning_rate=3.2, truncation=1e-8)}


@pytest.mark.parametrize("arguments, expected", [
    ([], (0.16, 1e-6)), (["--task", "toy_1d"], (0.16, 1e-6)), (["--task", "polynomial"], (3.2, 1e-8)),
    (["--learning-rate", 0.5, "--task", "polynomial"], (0.5, 1e-8)),
    (["--task", "polynomial", "--truncation", 0.1], (3.2, 0.1)),
    (["--learning-rate", 0.16, "--task=polynomial"], (0.16, 1e-8))])
def test_a_task_has_settings_of_its_own_unless_they_are_named(tmp_path, arguments, expected):
    chosen = tiny.settings("Regression", "HIG", tmp_path, *arguments, **POLYNOMIAL)
    assert (chosen.learning_rate, chosen.truncation) == expected and chosen.epochs == 20
