"""The published network of the oscillators: 2N → 20 → 20 → 20 → Nt, ReLU, linear output."""

import keras

HIDDEN = (20, 20, 20)


def build_network(n_inputs, n_controls, activation="relu", hidden=HIDDEN):
    """Dense layers from the target state (B, n_inputs) to a control for each time step (B, n_controls).

    Keras draws the weights; `hig.runs.initialization.draw_published_weights` replaces them by the published.
    """
    return keras.Sequential(
        [keras.Input((n_inputs,))]
        + [keras.layers.Dense(width, activation=activation) for width in hidden]
        + [keras.layers.Dense(n_controls, name="controls")], name="controller")
