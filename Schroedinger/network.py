"""The published network of the dipole: 28 → 20 → 20 → 20 → 384, tanh, linear output."""

import keras

HIDDEN = (20, 20, 20)


def build_network(n_inputs, n_controls):
    """Dense layers from the target's pairs (B, n_inputs) to a control for each time step (B, n_controls)."""
    layers = [keras.layers.Dense(width, activation="tanh") for width in HIDDEN]
    layers.append(keras.layers.Dense(n_controls, name="controls"))
    return keras.Sequential([keras.Input((n_inputs,)), *layers], name="controller")
