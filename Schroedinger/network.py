"""The published network of the dipole: 28 → 20 → 20 → 20 → 384, tanh, linear output."""

import keras

HIDDEN = (20, 20, 20)


def build_network(n_inputs, n_controls, activation="tanh"):
    """A stack of Dense layers from the target's pairs (B, n_inputs) to one control per time step (B,
    n_controls).

    Its weights are drawn by Keras; `hig.runs.initialization.draw_published_weights` replaces them by those of
    the published runs.
    """
    return keras.Sequential(
        [keras.Input((n_inputs,))]
        + [keras.layers.Dense(width, activation=activation) for width in HIDDEN]
        + [keras.layers.Dense(n_controls, name="controls")], name="controller")
