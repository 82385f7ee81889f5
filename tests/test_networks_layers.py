"""Kinds of layers, frozen parts and weights outside the network against a float64 SVD of the Jacobian row by
row.

One case alone:  python -m pytest tests/test_networks_layers.py -k lstm
"""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.networks import FEATURES, Case, Net, Physics, dense, hold_to_the_svd, rows, simulator, stack

pytestmark = pytest.mark.filterwarnings("ignore:The Jacobian takes the route")   # said on purpose


# --- layers -------------------------------------------------------------------------------------------------

# recurrent layers: XLA cannot compile them, and takes its time to find out
WITHOUT_XLA = {"jit_compile": False}


def of_series(*layers, steps=3, features=2, **options):
    """A Sequential on (B, steps, features) that ends in two controls."""
    network = keras.Sequential([keras.Input((steps, features)), *layers, keras.layers.Dense(2)])
    return Case(network, lambda x, u: simulator(x[:, 0], u), x=rows(steps, features), **options)


def of_images(*layers, shape=(4, 4, 1)):
    network = keras.Sequential([keras.Input(shape), *layers, keras.layers.Flatten(), keras.layers.Dense(2)])
    return Case(network, lambda x, u: simulator(x[:, 0, :, 0], u), x=rows(*shape))


def of_features(*layers, **options):
    return Case(keras.Sequential([keras.Input((FEATURES,)), *layers]), **options)


def embedding():
    """Integers go in; the table's gradient is a tf.IndexedSlices, with one row used by several samples."""
    network = keras.Sequential([keras.Input((3,), dtype="int32"), keras.layers.Embedding(4, 2),
                                keras.layers.Flatten(), keras.layers.Dense(2)])
    x = np.array([[0, 1, 1], [3, 0, 1], [1, 1, 1], [0, 3, 3], [3, 1, 0]], "int32")
    return Case(network, lambda x, u: simulator(tf.cast(x, u.dtype), u), x=x)


def attention():
    inputs = keras.Input((3, 2))
    hidden = keras.layers.MultiHeadAttention(num_heads=2, key_dim=1)(inputs, inputs)
    network = keras.Model(inputs, keras.layers.Dense(2)(keras.layers.Flatten()(hidden)))
    return Case(network, lambda x, u: simulator(x[:, 0], u), x=rows(3, 2))


def nested_models():
    inputs = keras.Input((FEATURES,))
    inner = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, "tanh")])
    middle = keras.Sequential([keras.Input((FEATURES,)), keras.layers.Dense(4, "tanh"), inner])
    return Case(keras.Model(inputs, keras.layers.Dense(2)(middle(inputs))), route="factored")


def several_inputs_and_outputs():
    position, speed = keras.Input((2,), name="position"), keras.Input((1,), name="speed")
    hidden = keras.layers.Dense(3, "tanh")(keras.layers.Concatenate()([position, speed]))
    network = keras.Model([position, speed], [keras.layers.Dense(1)(hidden), keras.layers.Dense(1)(speed)])
    return Case(network, lambda x, u: simulator(x[0], tf.concat(u, axis=1)), x=[rows(2), rows(1, seed=1)],
                route="factored")


def skip_connections():
    inputs = keras.Input((FEATURES,))
    hidden = keras.layers.Add()([keras.layers.Dense(FEATURES, "tanh")(inputs), inputs])
    both = keras.layers.Concatenate()([hidden, inputs])
    return Case(keras.Model(inputs, keras.layers.Dense(2)(both)), route="factored")


LAYERS = {
    "dense": lambda: Case(stack(4, 4, 2), route="factored"),
    "dense_without_bias": lambda: Case(stack(4, 2, use_bias=False), route="factored"),
    "fewer_weights_than_outcomes": lambda: Case(stack(1, 2)),
    "subclassed": lambda: Case(Net(lambda self, x: self.last(self.first(x)), first=dense(4, FEATURES, "tanh"),
                                   last=dense(2, 4)), route="factored"),
    "nested_models": nested_models,
    "several_inputs_and_outputs": several_inputs_and_outputs,
    "skip_connections": skip_connections,
    "lstm": lambda: of_series(keras.layers.LSTM(2)),
    "gru": lambda: of_series(keras.layers.GRU(2), compile=WITHOUT_XLA),
    "simple_rnn": lambda: of_series(keras.layers.SimpleRNN(2)),
    "bidirectional": lambda: of_series(keras.layers.Bidirectional(keras.layers.LSTM(1)), compile=WITHOUT_XLA),
    "conv_lstm_2d": lambda: Case(keras.Sequential([
        keras.Input((2, 2, 2, 1)), keras.layers.ConvLSTM2D(1, (2, 1)), keras.layers.Flatten(),
        keras.layers.Dense(2)]),
        lambda x, u: simulator(x[:, 0, :, 0, 0], u), x=rows(2, 2, 2, 1), compile=WITHOUT_XLA),
    "conv_1d": lambda: of_series(keras.layers.Conv1D(2, 2, activation="tanh"), keras.layers.Flatten()),
    "conv_2d": lambda: of_images(keras.layers.Conv2D(2, 3, activation="tanh")),
    "conv_2d_transpose": lambda: of_images(keras.layers.Conv2DTranspose(1, 2, strides=2), shape=(2, 2, 1)),
    "separable_conv_2d": lambda: of_images(keras.layers.SeparableConv2D(1, 3)),
    "embedding": embedding,
    "einsum_dense": lambda: of_series(keras.layers.EinsumDense("abc,cd->abd", output_shape=(3, 2),
                                                               bias_axes="d"), keras.layers.Flatten()),
    "dense_on_axes": lambda: of_series(keras.layers.Dense(2, "tanh"), keras.layers.Flatten()),
    "time_distributed": lambda: of_series(keras.layers.TimeDistributed(keras.layers.Dense(2, "tanh")),
                                          keras.layers.Flatten()),
    "batch_normalization": lambda: of_features(keras.layers.Dense(4), keras.layers.BatchNormalization(),
                                               keras.layers.Dense(2), inference=True),
    "layer_normalization": lambda: of_features(keras.layers.Dense(4), keras.layers.LayerNormalization(),
                                               keras.layers.Dense(2)),
    "group_normalization": lambda: of_features(keras.layers.Dense(4), keras.layers.GroupNormalization(2),
                                               keras.layers.Dense(2)),
    "spectral_normalization": lambda: of_features(
        keras.layers.SpectralNormalization(keras.layers.Dense(4, "tanh")), keras.layers.Dense(2),
        inference=True),
    "attention": attention,
    "prelu_as_activation": lambda: of_features(keras.layers.Dense(4, activation=keras.layers.PReLU()),
                                               keras.layers.Dense(2)),
    "prelu": lambda: of_features(keras.layers.Dense(4), keras.layers.PReLU(), keras.layers.Dense(2)),
    "dropout": lambda: of_features(keras.layers.Dense(4, "tanh"), keras.layers.Dropout(0.5),
                                   keras.layers.Dense(2), inference=True),
}


@pytest.mark.parametrize("build", [
    pytest.param(build, id=name, marks=[pytest.mark.slow] * (name in ("conv_lstm_2d", "bidirectional")))
    for name, build in LAYERS.items()])
def test_layers(float64, jit_compile, build):
    hold_to_the_svd(build(), jit_compile)


# --- frozen parts -------------------------------------------------------------------------------------------

def frozen(*parts, convolution=False):
    """Of three Dense layers, or of a convolution and a Dense layer, what is named "index" or "index name"."""
    network = keras.Sequential([
        keras.Input((3, 2)), keras.layers.Conv1D(2, 2), keras.layers.Flatten(),
        keras.layers.Dense(2)]) if convolution else stack(4, 4, 2)
    for part in parts:
        index, _, name = part.partition(" ")
        layer = network.layers[int(index)]
        (getattr(layer, name) if name else layer).trainable = False
    return Case(network, lambda x, u: simulator(x[:, 0], u), x=rows(3, 2)) if convolution else Case(network)


FROZEN = {
    "first_bias": lambda: frozen("0 bias"),
    "last_bias": lambda: frozen("2 bias"),
    "inner_kernel": lambda: frozen("1 kernel"),
    "all_kernels": lambda: frozen("0 kernel", "1 kernel", "2 kernel"),
    "kernel_of_one_bias_of_another": lambda: frozen("0 kernel", "2 bias"),
    "layer": lambda: frozen("1"),
    "bias_of_a_convolution": lambda: frozen("0 bias", convolution=True),
    "kernel_of_a_convolution": lambda: frozen("0 kernel", convolution=True)}


@pytest.mark.parametrize("build", FROZEN.values(), ids=FROZEN)
def test_frozen_parts(float64, jit_compile, build):
    hold_to_the_svd(build(), jit_compile)


# --- weights outside the network ----------------------------------------------------------------------------

def closed_loop():
    """The network steers the simulator at every time step; its first answer, the control u, is not used."""
    network = stack(4, FEATURES)

    def loop(x, u):
        for _ in range(3):
            x = x + 0.2 * network(x)
        return x
    return Case(network, loop)


def closed_loop_after_an_open_one():
    network = stack(4, FEATURES)
    return Case(network, lambda x, u: x + 0.2 * u + 0.2 * network(x + 0.2 * u))


def closed_loop_in_while_loop():
    network = stack(3, FEATURES)

    def loop(x, u):
        step = lambda i, x: (i + 1, x + 0.2 * network(x))     # noqa: E731
        return tf.while_loop(lambda i, x: i < 3, step, (0, x), maximum_iterations=3)[1]
    return Case(network, loop)


def spring(self, x, u):
    return simulator(x, u) * self.stiffness + self.offset * x


def frozen_physics():
    physics = Physics(spring, stiffness=0.7, offset=0.1)
    physics.trainable = False
    return Case(stack(4, 2), physics, route="factored")


def only_the_physics_is_trained():
    network = stack(4, 2)
    network.trainable = False
    return Case(network, Physics(spring, stiffness=0.7, offset=0.1))


def shared_between_network_and_simulator():
    network = stack(4, 2)
    return Case(network, Physics(lambda self, x, u: tf.concat([simulator(x, u), x @ self.shared.kernel], 1),
                                 shared=network.layers[0]))


def layer_shared_as_a_whole():
    layer = dense(FEATURES, FEATURES, "tanh")
    return Case(Net(lambda self, x: self.last(self.first(x)), first=layer, last=dense(FEATURES, FEATURES)),
                Physics(lambda self, x, u: self.shared(x + u), shared=layer))


def frozen_network_input():
    layer = dense(4, FEATURES, "tanh")
    layer.trainable = False
    return Case(stack(3, 2, features=4), network_input=layer, route="factored")


OUTSIDE = {
    "closed_loop": closed_loop,
    "closed_loop_after_an_open_one": closed_loop_after_an_open_one,
    "closed_loop_in_while_loop": closed_loop_in_while_loop,
    "physical_parameters": lambda: Case(stack(4, 2), Physics(spring, stiffness=0.7, offset=0.1)),
    "frozen_physical_parameters": frozen_physics,
    "only_physical_parameters": only_the_physics_is_trained,
    "dense_layer_in_the_simulator": lambda: Case(stack(4, 2), Physics(lambda self, x, u: self.surrogate(
        tf.concat([x, u], axis=1)), surrogate=dense(2, FEATURES + 2, "tanh"))),
    "shared_between_network_and_simulator": shared_between_network_and_simulator,
    "layer_shared_as_a_whole": layer_shared_as_a_whole,
    "network_input_with_weights": lambda: Case(stack(3, 2, features=4),
                                               network_input=dense(4, FEATURES, "tanh")),
    "frozen_network_input": frozen_network_input,
    "weights_everywhere": lambda: Case(stack(3, 2, features=2), Physics(spring, stiffness=0.7, offset=0.1),
                                       network_input=keras.layers.Dense(2, "tanh")),
}


@pytest.mark.parametrize("build", OUTSIDE.values(), ids=OUTSIDE)
def test_weights_outside_the_network(float64, jit_compile, build):
    hold_to_the_svd(build(), jit_compile)
