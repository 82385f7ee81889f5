"""The initial weights of the published runs, and the seeds that lead to them."""

import math

import keras
import tensorflow as tf

from hig.backend import leaves


def draw_published_weights(network, seed):
    """Sets a stack of Dense layers to the weights that the published code starts from with this seed.

    Glorot-uniform kernels as Keras 2 drew them: after `tf.random.set_seed(seed)` one eager draw of
    TensorFlow's global generator per kernel, in layer order, uniform in ±sqrt(6/(in + out)); biases zero.
    (Keras 3 has other generators.)

    Args:
        network: built model whose weights are all kernels, (in, out), and biases, (out,), of Dense layers
            with the default initializers.
        seed: int, for TensorFlow's global generator; the seed of the run.

    Raises:
        ValueError: the network has other weights; all weights then stay as they are. Keras itself draws
            weights of any kind, from `keras.utils.set_random_seed(seed)` before the network is built.

    Source: settings of the published code; Glorot and Bengio 2010, equation 16.
    """
    dense = [layer for layer in leaves(network) if isinstance(layer, keras.layers.Dense)]
    kernels = {id(layer.kernel) for layer in dense
               if isinstance(layer.kernel_initializer, keras.initializers.GlorotUniform)}
    biases = {id(layer.bias) for layer in dense
              if isinstance(layer.bias_initializer, keras.initializers.Zeros)}
    for weight in network.weights:
        if id(weight) not in kernels | biases:
            raise ValueError(
                f"the weight {weight.path}, {tuple(weight.shape)}, is no kernel or bias of a Dense layer "
                "with Keras' default initializers, and only those have published values: call "
                "keras.utils.set_random_seed(seed) before the network is built instead")
    tf.random.set_seed(seed)
    for weight in network.weights:
        if id(weight) in kernels:
            limit = math.sqrt(6 / sum(weight.shape))
            weight.assign(tf.random.uniform(weight.shape, -limit, limit))
        else:
            weight.assign(tf.zeros(weight.shape))
