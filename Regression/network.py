"""The network of both regressions: N → 16 → 16 → 16 → 1, GELU; 593 weights for N = 1, 673 for N = 6."""

import math

import keras
import numpy as np

HIDDEN = (16, 16, 16)


def build_network(n_inputs):
    """A stack of Dense layers from points (B, n_inputs) to values (B, 1), with a linear output.

    GELU is x Φ(x) by the error function, the default of PyTorch and of Keras, not the form with tanh. The
    weights are drawn by Keras; `draw_weights` replaces them.
    """
    return keras.Sequential(
        [keras.Input((n_inputs,))]
        + [keras.layers.Dense(width, activation="gelu") for width in HIDDEN]
        + [keras.layers.Dense(1, name="output")], name="regression")


def draw_weights(network, seed):
    """Draws the weights as PyTorch's Linear does by default: kernels and biases uniform in ±1/√fan-in.

    The distribution is PyTorch's, the stream of random numbers is numpy's.

    Args:
        network: built model of Dense layers.
        seed: int or sequence of int, for `numpy.random.default_rng`.
    """
    random = np.random.default_rng(seed)
    for layer in network.layers:
        limit = 1 / math.sqrt(layer.kernel.shape[0])
        layer.set_weights([random.uniform(-limit, limit, weight.shape) for weight in layer.weights])
