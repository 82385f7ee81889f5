"""The network of the linear chain: 2N → 20 → 20 → 20 → Nt, tanh, linear output; from the PBDL book."""

import keras

HIDDEN = (20, 20, 20)


def build_network(n_inputs, n_controls):
    """Dense layers from the target state (B, n_inputs) to a control for each time step (B, n_controls)."""
    layers = [keras.layers.Dense(width, activation="tanh") for width in HIDDEN]
    layers.append(keras.layers.Dense(n_controls))
    return keras.Sequential([keras.Input((n_inputs,)), *layers], name="controller")
