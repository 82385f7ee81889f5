"""Kinds of layers, frozen parts and weights outside the network against a float64 SVD of the Jacobian row by
row.

One case alone:  python -m pytest tests/test_networks_layers.py -k lstm
"""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from tests.networks import (FEATURES, Case, Net, Physics, convolution, dense, held_to_the_svd,
                            in_the_simulator, rows, simulator, stack)

pytestmark = pytest.mark.filterwarnings("ignore:The Jacobian takes the route")   # said on purpose


# --- layers -------------------------------------------------------------------------------------------------

# recurrent layers: XLA cannot compile them, and takes its time to find out
WITHOUT_XLA = {"jit_compile": False}


def of(shape, *parts, x=None, **options):
    """A Sequential of these layers on (B, *shape) that ends in two controls."""
    x = rows(*shape) if x is None else x
    network = keras.Sequential([keras.Input(shape, dtype=x.dtype.name), *parts, layers.Flatten(),
                                layers.Dense(2)])
    return Case(network, lambda x, u: simulator(tf.cast(tf.reshape(x, [-1, np.prod(shape)]), u.dtype), u),
                x=x, **options)


# integers go in; the table's gradient is a tf.IndexedSlices, with one row used by several samples
INTEGERS = np.array([[0, 1, 1], [3, 0, 1], [1, 1, 1], [0, 3, 3], [3, 1, 0]], "int32")


def attention():
    inputs = keras.Input((3, 2))
    hidden = layers.Flatten()(layers.MultiHeadAttention(num_heads=2, key_dim=1)(inputs, inputs))
    network = keras.Model(inputs, layers.Dense(2)(hidden))
    return Case(network, lambda x, u: simulator(x[:, 0], u), x=rows(3, 2))


def nested_models():
    inputs = keras.Input((FEATURES,))
    middle = keras.Sequential([keras.Input((FEATURES,)), layers.Dense(4, "tanh"), stack(3, features=4)])
    return Case(keras.Model(inputs, layers.Dense(2)(middle(inputs))), route="factored")


def several_inputs_and_outputs():
    position, speed = keras.Input((2,), name="position"), keras.Input((1,), name="speed")
    hidden = layers.Dense(3, "tanh")(layers.Concatenate()([position, speed]))
    network = keras.Model([position, speed], [layers.Dense(1)(hidden), layers.Dense(1)(speed)])
    return Case(network, lambda x, u: simulator(x[0], tf.concat(u, axis=1)), x=[rows(2), rows(1, seed=1)],
                route="factored")


def skip_connections():
    inputs = keras.Input((FEATURES,))
    hidden = layers.Add()([layers.Dense(FEATURES, "tanh")(inputs), inputs])
    both = layers.Concatenate()([hidden, inputs])
    return Case(keras.Model(inputs, layers.Dense(2)(both)), route="factored")


class Gated(keras.layers.Layer):
    """The two halves of one product, with a bias each."""

    def build(self, shape):
        self.kernel, self.first, self.second = map(self.add_weight, ((shape[-1], 4), (2,), (2,)))

    def call(self, x):
        first, second = tf.split(x @ self.kernel, 2, axis=1)
        return tf.tanh(first + self.first) * tf.sigmoid(second + self.second)


LAYERS = {
    "dense": lambda: Case(stack(4, 4, 2), route="factored"),
    "dense_without_bias": lambda: Case(stack(4, 2, use_bias=False), route="factored"),
    "fewer_weights_than_outcomes": lambda: Case(stack(1, 2)),
    "subclassed": lambda: Case(Net(lambda self, x: self.last(self.first(x)), first=dense(4, FEATURES, "tanh"),
                                   last=dense(2, 4)), route="factored"),
    "nested_models": nested_models,
    "several_inputs_and_outputs": several_inputs_and_outputs,
    "skip_connections": skip_connections,
    "lstm": lambda: of((3, 2), layers.LSTM(2)),
    "gru": lambda: of((3, 2), layers.GRU(2), compile=WITHOUT_XLA),
    "simple_rnn": lambda: of((3, 2), layers.SimpleRNN(2)),
    "bidirectional": lambda: of((3, 2), layers.Bidirectional(layers.LSTM(1)), compile=WITHOUT_XLA),
    "conv_lstm_2d": lambda: of((2, 2, 2, 1), layers.ConvLSTM2D(1, (2, 1)), compile=WITHOUT_XLA),
    "conv_1d": lambda: of((3, 2), layers.Conv1D(2, 2, activation="tanh")),
    "conv_2d": lambda: of((4, 4, 1), layers.Conv2D(2, 3, activation="tanh")),
    "conv_2d_transpose": lambda: of((2, 2, 1), layers.Conv2DTranspose(1, 2, strides=2)),
    "separable_conv_2d": lambda: of((4, 4, 1), layers.SeparableConv2D(1, 3)),
    "embedding": lambda: of((3,), layers.Embedding(4, 2), x=INTEGERS),
    "einsum_dense": lambda: of((3, 2), layers.EinsumDense("abc,cd->abd", output_shape=(3, 2), bias_axes="d")),
    "two_biases_on_a_product": lambda: of((3,), Gated(), route="factored"),
    "dense_on_axes": lambda: of((3, 2), layers.Dense(2, "tanh")),
    "time_distributed": lambda: of((3, 2), layers.TimeDistributed(layers.Dense(2, "tanh"))),
    "batch_normalization": lambda: of((3,), layers.Dense(4), layers.BatchNormalization(), inference=True),
    "layer_normalization": lambda: of((3,), layers.Dense(4), layers.LayerNormalization()),
    "group_normalization": lambda: of((3,), layers.Dense(4), layers.GroupNormalization(2)),
    "spectral_normalization": lambda: of((3,), layers.SpectralNormalization(layers.Dense(4, "tanh")),
                                         inference=True),
    "attention": attention,
    "prelu_as_activation": lambda: of((3,), layers.Dense(4, activation=layers.PReLU())),
    "prelu": lambda: of((3,), layers.Dense(4), layers.PReLU()),
    "dropout": lambda: of((3,), layers.Dense(4, "tanh"), layers.Dropout(0.5), inference=True),
}


test_layers = held_to_the_svd(LAYERS, slow=("conv_lstm_2d", "bidirectional"))


# --- frozen parts -------------------------------------------------------------------------------------------

def freeze(part):
    part.trainable = False
    return part


def frozen(*parts, network=None):
    """Of three Dense layers, or of another network, what is named "index" or "index name"."""
    network = network or stack(4, 4, 2)
    for part in parts:
        index, _, name = part.partition(" ")
        layer = network.layers[int(index)]
        freeze(getattr(layer, name) if name else layer)
    return Case(network)


FROZEN = {
    "first_bias": lambda: frozen("0 bias"),
    "last_bias": lambda: frozen("2 bias"),
    "inner_kernel": lambda: frozen("1 kernel"),
    "all_kernels": lambda: frozen("0 kernel", "1 kernel", "2 kernel"),
    "kernel_of_one_bias_of_another": lambda: frozen("0 kernel", "2 bias"),
    "layer": lambda: frozen("1"),
    "bias_of_a_convolution": lambda: frozen("1 bias", network=convolution()),
    "kernel_of_a_convolution": lambda: frozen("1 kernel", network=convolution())}


test_frozen_parts = held_to_the_svd(FROZEN)


# --- weights outside the network ----------------------------------------------------------------------------

def closed_loop(network, x, u):
    """The network steers the simulator at every time step; its first answer, the control u, is not used."""
    for _ in range(3):
        x = x + 0.2 * network(x)
    return x


def closed_loop_in_while_loop():
    return in_the_simulator(lambda network, x, u: tf.while_loop(
        lambda i, x: i < 3, lambda i, x: (i + 1, x + 0.2 * network(x)), (0, x), maximum_iterations=3)[1],
        3, FEATURES)


def spring(self, x, u):
    return simulator(x, u) * self.stiffness + self.offset * x


def shared_between_network_and_simulator():
    network = stack(4, 2)
    return Case(network, Physics(lambda self, x, u: tf.concat([simulator(x, u), x @ self.shared.kernel], 1),
                                 shared=network.layers[0]))


def layer_shared_as_a_whole():
    layer = dense(FEATURES, FEATURES, "tanh")
    return Case(Net(lambda self, x: self.last(self.first(x)), first=layer, last=dense(FEATURES, FEATURES)),
                Physics(lambda self, x, u: self.shared(x + u), shared=layer))


SPRING = {"stiffness": 0.7, "offset": 0.1}
OUTSIDE = {
    "closed_loop": lambda: in_the_simulator(closed_loop, 4, FEATURES),
    "closed_loop_after_an_open_one": lambda: in_the_simulator(
        lambda network, x, u: x + 0.2 * u + 0.2 * network(x + 0.2 * u), 4, FEATURES),
    "closed_loop_in_while_loop": closed_loop_in_while_loop,
    "physical_parameters": lambda: Case(stack(4, 2), Physics(spring, **SPRING)),
    "frozen_physical_parameters": lambda: Case(stack(4, 2), freeze(Physics(spring, **SPRING)),
                                               route="factored"),
    "only_physical_parameters": lambda: Case(freeze(stack(4, 2)), Physics(spring, **SPRING)),
    "dense_layer_in_the_simulator": lambda: Case(stack(4, 2), Physics(lambda self, x, u: self.surrogate(
        tf.concat([x, u], axis=1)), surrogate=dense(2, FEATURES + 2, "tanh"))),
    "shared_between_network_and_simulator": shared_between_network_and_simulator,
    "layer_shared_as_a_whole": layer_shared_as_a_whole,
    "network_input_with_weights": lambda: Case(stack(3, 2, features=4),
                                               network_input=dense(4, FEATURES, "tanh")),
    "frozen_network_input": lambda: Case(stack(3, 2, features=4), route="factored",
                                         network_input=freeze(dense(4, FEATURES, "tanh"))),
    "weights_everywhere": lambda: Case(stack(3, 2, features=2), Physics(spring, **SPRING),
                                       network_input=layers.Dense(2, "tanh")),
}


test_weights_outside_the_network = held_to_the_svd(OUTSIDE)
