"""The tasks: two regressions on which the authors of Sven (2026) have compared fifteen optimizers.

    toy_1d         y = exp(−10 x²) sin 2x ,   x uniform in [−1, 1]
    polynomial     y = Σ c_m m(x) over all 210 monomials m of degree 4 and less in six variables,
                   x standard normal,  c_m = N(0, 1)/√E[m²] , so that every monomial contributes equally

Targets are normalised by mean and standard deviation of the training set; the loss is their mean squared
error. An epoch is a fresh permutation in batches of 32, without the last, incomplete one: 312 updates.
The published runs have 20 epochs.

A seed selects a draw of the data and a draw of the weights, seed = 5 · data + weights: seeds 0 to 14 are
three draws of data with five draws of weights each. The permutations are drawn with the seed itself.
"""

import itertools
import math

import numpy as np
import tensorflow as tf

from hig.model import PhysicsModel
from hig.runs.experiments import train_on_fixed_data
from Regression.network import build_network, draw_weights
from Regression.simulator import identity

SAMPLES = 10_000               # in each of the training, validation and test sets
WEIGHT_SEEDS = 5               # seeds that share a draw of the data
VARIABLES, DEGREE = 6, 4       # of the polynomial


def toy_1d(x):
    """exp(−10 x²) sin 2x for points x (B, 1): (B, 1)."""
    return np.exp(-10 * x**2) * np.sin(2 * x)


def exponents():
    """Exponents of the monomials of degree DEGREE and less, (210, 6) int, the constant first."""
    every = itertools.product(range(DEGREE + 1), repeat=VARIABLES)
    return np.array(sorted((powers for powers in every if sum(powers) <= DEGREE), key=sum))


def mean_square(powers):
    """E[m(x)²] of a monomial m = Π x_j^p_j at standard normal x, from the moments E[x^2p] = (2p − 1)!!."""
    return math.prod(math.prod(range(2 * power - 1, 0, -2)) for power in powers.tolist())


def polynomial(x, coefficients):
    """Σ c_m m(x) for points x (B, 6) and coefficients (210,), ordered as `exponents`: (B, 1)."""
    powers_of_x, value = x[:, :, None] ** np.arange(DEGREE + 1), np.zeros(len(x))       # (B, 6, 5)
    for coefficient, powers in zip(coefficients, exponents()):
        value += coefficient * np.prod(powers_of_x[:, range(VARIABLES), powers], axis=1)
    return value[:, None]


def draw_data(task, draw):
    """Training, validation and test set, each from random numbers of its own.

    Args:
        task: "toy_1d" or "polynomial".
        draw: int, which draw of the data.

    Returns:
        three pairs (x, y), (10000, 1 or 6) and (10000, 1) float32, y normalised by the training set.
    """
    random = [np.random.default_rng([draw, part]) for part in range(4)]
    if task == "toy_1d":
        points, truth = [one.uniform(-1, 1, (SAMPLES, 1)) for one in random[:3]], toy_1d
    else:
        scales = [math.sqrt(mean_square(powers)) for powers in exponents()]
        coefficients = random[3].standard_normal(len(scales)) / scales
        points = [one.standard_normal((SAMPLES, VARIABLES)) for one in random[:3]]

        def truth(x):
            return polynomial(x, coefficients)
    values = [truth(x) for x in points]
    values = [(y - values[0].mean()) / values[0].std() for y in values]
    return [(x.astype(np.float32), y.astype(np.float32)) for x, y in zip(points, values)]


def loss(target, outcome):
    """(y − y*)² for each sample, (B,), from values (B, 1)."""
    return tf.reduce_sum(tf.square(outcome - target), axis=-1)


def build_model(task, seed):
    """Network and simulator; the weights are those of the seed's draw."""
    network = build_network(1 if task == "toy_1d" else VARIABLES)
    draw_weights(network, seed % WEIGHT_SEEDS)
    return PhysicsModel(network, identity)


def run(settings):
    """Trains with the settings of a submit script; returns how it ended, see `hig.runs.training.train`."""
    train_data, validation_data, test_data = draw_data(settings.task, settings.seed // WEIGHT_SEEDS)
    model = build_model(settings.task, settings.seed)
    return train_on_fixed_data(settings, f"REGRESSION_{settings.task}", model, loss, train_data, test_data,
                               {"task": settings.task}, validation_data=validation_data, shuffle=True)
