"""The published network of the oscillators: 2N → 20 → 20 → 20 → Nt, ReLU, linear output (figure 2 of the
paper).
"""

import keras

HIDDEN = (20, 20, 20)


def build_network(n_inputs, n_controls, activation="relu", hidden=HIDDEN):
    """A stack of Dense layers from the target state (B, n_inputs) to one control per time step (B,
    n_controls).

    Its weights are drawn by Keras; `hig.runs.training.draw_published_weights` replaces them by those of the
    published runs.
    """
    return keras.Sequential(
        [keras.Input((n_inputs,))]
        + [keras.layers.Dense(width, activation=activation) for width in hidden]
        + [keras.layers.Dense(n_controls, name="controls")], name="controller")
