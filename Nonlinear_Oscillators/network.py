"""The published network of the oscillators: 2N → 20 → 20 → 20 → Nt, ReLU, linear output."""

import keras

HIDDEN = (20, 20, 20)


def build_network(n_inputs, n_controls, hidden=HIDDEN):
    """Dense layers from the target state (B, n_inputs) to a control for each time step (B, n_controls)."""
    layers = [keras.layers.Dense(width, activation="relu") for width in hidden]
    layers.append(keras.layers.Dense(n_controls, name="controls"))
    return keras.Sequential([keras.Input((n_inputs,)), *layers], name="controller")
