"""The network that the paper trains on the Poisson problem: PhiFlow's dense_net from y* to x."""

import warnings

from phi.tf.flow import dense_net

HIDDEN = (64, 128, 64)


def build_network(resolution, hidden=HIDDEN):
    """A stack of Dense layers, tanh with a linear output, from y* (B, resolution²) to x of the same shape.

    24,896 weights at the published resolution of 8. PhiFlow lets Keras draw them, from Python's global
    generator; `hig.runs.initialization.draw_published_weights` replaces them by seeded ones.
    """
    with warnings.catch_warnings():  # Keras about an old argument that PhiFlow uses
        warnings.filterwarnings("ignore", "Argument `input_shape` is deprecated")
        return dense_net(resolution**2, resolution**2, hidden, activation="tanh")
