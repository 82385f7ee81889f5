"""The network of the toy problem: 1 → 7 → 2, tanh, linear output, 30 weights."""

import keras

HIDDEN = 7


def build_network():
    """Two Dense layers, "hidden" and "output", from a point x (B, 1) to the outputs (B, 2)."""
    return keras.Sequential([keras.Input((1,)), keras.layers.Dense(HIDDEN, activation="tanh", name="hidden"),
                             keras.layers.Dense(2, name="output")], name="fit")
