"""The network of the linear chain: 2N → 20 → 20 → 20 → Nt, tanh, linear output (HIG chapter of the PBDL
book).
"""

import keras

HIDDEN = (20, 20, 20)


def build_network(n_inputs, n_controls):
    """A stack of Dense layers from the target state (B, n_inputs) to one control per time step (B,
    n_controls).

    Its weights are drawn by Keras; `hig.runs.initialization.draw_published_weights` replaces them by seeded
    ones.
    """
    return keras.Sequential(
        [keras.Input((n_inputs,))]
        + [keras.layers.Dense(width, activation="tanh") for width in HIDDEN]
        + [keras.layers.Dense(n_controls)], name="controller")
