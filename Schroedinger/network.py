"""The published network of the dipole: 28 → 20 → 20 → 20 → 384, tanh, linear output."""

import keras

HIDDEN = (20, 20, 20)


def build_network(n_inputs, n_controls, activation="tanh"):
    """Dense layers from the target's pairs (B, n_inputs) to a control for each time step (B, n_controls).

    Keras draws the weights; `hig.runs.initialization.draw_published_weights` replaces them by the published.
    """
    return keras.Sequential(
        [keras.Input((n_inputs,))]
        + [keras.layers.Dense(width, activation=activation) for width in HIDDEN]
        + [keras.layers.Dense(n_controls, name="controls")], name="controller")
