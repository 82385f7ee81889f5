"""Dense layers in which every row of the batch has weights of its own: rows of J from one backward pass.

Row r of a batch is computed with the weights W + W_r, where W_r is zero and has the shape of W. If samples
stay apart, y_r depends on W_r alone, and one gradient of Σ_r y_r with respect to all W_r gives ∂y_r/∂W for
every r, which are the rows of J. This holds even if a layer is called several times (in a loop, or in a
derivative by its input), because

    z_r = a_r (W + W_r) + b + b_r

is a function of W_r and b_r that automatic differentiation can differentiate to any order.
"""

import contextlib

import tensorflow as tf

from hig.backend import keras


@contextlib.contextmanager
def own_weights(own, shared=True):
    """A context in which every Dense layer adds the rows' own weights to its weights.

    Args:
        own: dict of id(Keras variable) → tensor (rows, *shape) that is added to that weight, row by row.
        shared: False to leave out W itself. If a traced graph still holds W, W is used outside Dense layers.
    """
    original = keras.layers.Dense.call

    def call(layer, inputs, training=None):
        if layer.lora_enabled or layer.quantization_mode or type(layer).call is not call:
            return original(layer, inputs)
        z = keras.ops.matmul(inputs, layer.kernel) if shared or id(layer.kernel) not in own else 0.0
        if id(layer.kernel) in own:
            z += tf.einsum("n...i,nio->n...o", inputs, tf.cast(own[id(layer.kernel)], inputs.dtype))
        if layer.use_bias:
            z = keras.ops.add(z, layer.bias) if shared or id(layer.bias) not in own else z
            if id(layer.bias) in own:
                between = [1] * (len(inputs.shape) - 2)
                z += tf.reshape(tf.cast(own[id(layer.bias)], z.dtype), [-1, *between, layer.units])
        return z if layer.activation is None else layer.activation(z)

    keras.layers.Dense.call = call
    try:
        yield
    finally:
        keras.layers.Dense.call = original
