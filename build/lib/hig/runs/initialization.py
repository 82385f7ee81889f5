"""The initial weights of the published runs, and the seeds that lead to them."""

import math

import tensorflow as tf


def draw_published_weights(network, seed):
    """Sets a stack of Dense layers to the weights that the published code starts from with this seed.

    Glorot-uniform kernels as Keras 2 drew them: after `tf.random.set_seed(seed)` one eager draw of TensorFlow's global
    generator per kernel, in layer order, uniform in ±sqrt(6/(in + out)); biases zero. (Keras 3 has other generators.)

    Args:
        network: built model whose weights are Dense kernels, (in, out), and biases, (out,).
        seed: int, for TensorFlow's global generator; the seed of the run.

    Source: settings of the published code; Glorot and Bengio 2010, equation 16.
    """
    tf.random.set_seed(seed)
    for weight in network.trainable_variables:
        if len(weight.shape) == 2:
            limit = math.sqrt(6 / sum(weight.shape))
            weight.assign(tf.random.uniform(weight.shape, -limit, limit))
        else:
            weight.assign(tf.zeros(weight.shape))
