"""What the Dense layers of a network compute in a forward pass: input a and pre-activation z of every call."""

import contextlib

from hig.backend import keras


def leaves(layer):
    """The layers inside a network, models within models taken apart."""
    return [leaf for child in layer.layers for leaf in leaves(child)] if hasattr(layer, "layers") else [layer]


@contextlib.contextmanager
def recording(dense_layers, tape):
    """While open, each call of a Dense layer appends (layer, input a, pre-activation z) and has the tape watch z."""
    calls = []

    def recorder(layer):
        def call(inputs, training=None):
            z = keras.ops.matmul(inputs, layer.kernel)
            if layer.use_bias:
                z = keras.ops.add(z, layer.bias)
            tape.watch(z)
            calls.append((layer, inputs, z))
            return z if layer.activation is None else layer.activation(z)
        return call

    try:
        for layer in dense_layers:
            layer.call = recorder(layer)                                 # on the instance, in front of Dense.call
        yield calls
    finally:
        for layer in dense_layers:
            if "call" in vars(layer):
                del layer.call
