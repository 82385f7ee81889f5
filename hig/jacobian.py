"""The Jacobian J = ∂y/∂θ of network and simulator, kept as factors.

Notation (the paper's)

    B        samples in the mini-batch
    d        outputs per sample, the size of y_b
    n = B·d  rows of J, ordered (sample, output)
    p        columns of J, the trainable weights θ of the network

A Dense layer computes z = a W + b. By the chain rule row r = (b, k) of J has, for that layer, the block

    ∂y_bk/∂W = a_b ⊗ δ_r ,     ∂y_bk/∂b = δ_r ,     with δ_r = ∂y_bk/∂z_b

so the layer's share of J is held by two thin matrices, A (B × in) and Δ (n × out), and

    J Jᵀ  = Σ_layers (A Aᵀ + 1) ∘ (Δ Δᵀ)          with A Aᵀ repeated d times along both axes
    Jᵀ v  = Aᵀ (v ∘ Δ)  for W,   Σ_r v_r δ_r  for b

(∘ is the elementwise product; + 1 only with a bias). All Δ come out of one backward pass: every sample is repeated
d times, row (b, k) is seeded with the unit cotangent e_k, and the tape is asked for the gradients with respect to
the pre-activations z. Networks with other trainable layers take the explicit route, J as one n × p matrix.

The derivatives are TensorFlow and run in the precision of the network; the products are numpy in float64, because
the singular values of J are square roots of the eigenvalues of J Jᵀ.
"""

import contextlib

import keras
import numpy as np
import tensorflow as tf

_STRIPE_ROWS = 128          # rows of K computed at a time: 128 × n float64 fit the caches


class FactoredJacobian:
    """J of a network whose trainable layers are all Dense, as factors A and Δ of every layer; J is never formed.

    Args:
        inputs: list of A, one per layer, each (B, in), any float dtype; taken to float64.
        cotangents: list of Δ, one per layer, each (n, out), rows ordered (sample, output).
        biases: list of bool, whether the layer has a bias.

    The weights are ordered layer by layer, kernel before bias, which is the order of Keras' `trainable_variables`.
    Source: module docstring.
    """

    def __init__(self, inputs, cotangents, biases):
        self.inputs = [np.asarray(a, np.float64) for a in inputs]
        self.cotangents = [np.asarray(delta, np.float64) for delta in cotangents]
        self.biases = list(biases)
        rows = len(self.cotangents[0])
        columns = sum((a.shape[1] + bias) * delta.shape[1]
                      for a, delta, bias in zip(self.inputs, self.cotangents, self.biases))
        self.shape = rows, columns

    def gram(self):
        """K = J Jᵀ, (n, n) float64, in O(n² Σ out) operations.

        Built in stripes of whole samples that stay in the cache, the lower triangle computed and the upper mirrored:
        measured at 2 to 6 times the speed of whole-matrix products, and no memory beyond K.
        """
        n, batch = self.shape[0], len(self.inputs[0])
        d = n // batch
        products = [a @ a.T + bias for a, bias in zip(self.inputs, self.biases)]             # (B, B) each
        gram = np.empty((n, n))
        for first in range(0, batch, max(1, _STRIPE_ROWS // d)):
            last = min(first + max(1, _STRIPE_ROWS // d), batch)
            top, bottom = first * d, last * d
            stripe = 0.0
            for product, delta in zip(products, self.cotangents):
                share = delta[top:bottom] @ delta[:bottom].T                                 # (rows, columns)
                by_sample = share.reshape(last - first, d, last, d)                          # a view
                by_sample *= product[first:last, None, :last, None]
                stripe += share
            square = stripe[:, top:]                                 # on the diagonal: symmetric up to rounding so far
            stripe[:, top:] = np.tril(square) + np.tril(square, -1).T
            gram[top:bottom, :bottom] = stripe
            gram[:top, top:bottom] = stripe[:, :top].T
        return gram

    def pullback(self, v):
        """Jᵀ v for v of shape (n,): a list of float64 arrays, shaped like the weights and in their order."""
        gradients = []
        for a, delta, bias in zip(self.inputs, self.cotangents, self.biases):
            weighted = np.asarray(v, np.float64)[:, None] * delta                           # (n, out)
            per_sample = weighted.reshape(len(a), -1, delta.shape[1]).sum(axis=1)           # (B, out)
            gradients.append(a.T @ per_sample)
            if bias:
                gradients.append(per_sample.sum(axis=0))
        return gradients

    def dense(self):
        """J itself, (n, p) float64: for tests, and for the small side JᵀJ when the network has p < n weights."""
        n = self.shape[0]
        blocks = []
        for a, delta, bias in zip(self.inputs, self.cotangents, self.biases):
            rows = np.repeat(a, n // len(a), axis=0)                                        # (n, in)
            blocks.append((rows[:, :, None] * delta[:, None, :]).reshape(n, -1))
            if bias:
                blocks.append(delta)
        return np.concatenate(blocks, axis=1)


class ExplicitJacobian:
    """J as one matrix, for networks with trainable layers other than Dense; same methods as FactoredJacobian.

    Args:
        blocks: list of ∂y/∂w for each weight w, each (n, *shape of w), any float dtype; taken to float64.
    """

    def __init__(self, blocks):
        self.shapes = [np.shape(block)[1:] for block in blocks]
        self.matrix = np.concatenate(
            [np.reshape(block, (len(block), -1)) for block in blocks], axis=1, dtype=np.float64)
        self.shape = self.matrix.shape

    def gram(self):
        """K = J Jᵀ, (n, n) float64."""
        return self.matrix @ self.matrix.T

    def pullback(self, v):
        """Jᵀ v for v of shape (n,): a list of float64 arrays, shaped like the weights and in their order."""
        return unflatten(self.matrix.T @ v, self.shapes)

    def dense(self):
        """J itself, (n, p) float64."""
        return self.matrix


def unflatten(vector, shapes):
    """A vector of p numbers as a list of arrays of the given shapes, in that order."""
    ends = np.cumsum([np.prod(shape, dtype=int) for shape in shapes])
    return [piece.reshape(shape) for piece, shape in zip(np.split(vector, ends[:-1]), shapes)]


def trace_jacobian(network, simulator, x, network_input):
    """Differentiates y = P(x, u), u = network(network_input(x)), with respect to the network's trainable weights.

    To be called inside a `tf.function`; its result is plain tensors, which `assemble` turns into a Jacobian.

    Args:
        network: built keras.Model or Layer that treats its samples independently; it runs in inference mode
            (a row of J belongs to one sample: dropout and batch statistics have no Jacobian of that kind).
        simulator: function (x, u) → y of real float tensors with B rows, differentiable in u. One that has a method
            linearize(x, u) → (y, ∂y/∂u), the latter (B, d, *shape of a sample's u), is asked for both instead.
        x: nested structure of tensors with B rows each.
        network_input: function of x, what the network sees.

    Returns:
        (y, pieces): the outcome y, (B, …), and the tensors for `assemble`: {"inputs", "cotangents"} where all
        trainable weights sit in Dense layers called once on (B, features), else {"blocks"}.

    Raises:
        ValueError: if the network has no trainable weights or does not return one row per sample.
        TypeError: if the outcome is not a real floating point tensor.

    Source: the chain rule as in the module docstring; J is the paper's.
    """
    first = tf.nest.flatten(x)[0]
    batch, known_batch = tf.shape(first)[0], first.shape[0]                # known_batch is None where Keras leaves it open
    outcome = simulator(x, network(network_input(x), training=False))      # for its shape; XLA drops this pass
    if not outcome.dtype.is_floating:
        raise TypeError(f"the simulator's outcome must be a real float tensor, not {outcome.dtype.name}")
    if outcome.shape.rank == 0 or known_batch not in (None, outcome.shape[0]):
        raise ValueError(f"the simulator must return one row per sample: {known_batch} samples gave {outcome.shape}")
    if not network.trainable_variables:
        raise ValueError(f"network {network.name!r} has no trainable weights: there is no Jacobian to take")
    d = outcome.shape[1:].num_elements()
    repeated = tf.nest.map_structure(lambda t: tf.repeat(t, d, axis=0), x)                  # row (b, k) holds x_b
    unit_cotangents = tf.reshape(tf.tile(tf.eye(d, dtype=outcome.dtype), [batch, 1]),       # row (b, k) holds e_k
                                 [batch * d, *outcome.shape[1:]])

    dense_layers = _dense_layers(network)
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        with _recording(dense_layers, tape) as calls:
            controls = network(network_input(repeated), training=False)
        tape.watch(controls)
        if hasattr(simulator, "linearize"):                                                 # row (b, k): ∂y_bk/∂u_b
            outcome, jacobian = simulator.linearize(x, controls[::d])
            rows, seeds = controls, tf.reshape(jacobian, tf.shape(controls))
        else:
            rows, seeds = simulator(repeated, controls), unit_cotangents                    # (n, …)
            outcome = rows[::d]

    if _is_factored(network, calls, known_batch and known_batch * d):
        cotangents = tape.gradient(rows, [z for _, _, z in calls], seeds,
                                   unconnected_gradients=tf.UnconnectedGradients.ZERO)
        by_layer = {id(layer): (a[::d], delta) for (layer, a, _), delta in zip(calls, cotangents)}
        in_order = [by_layer[id(layer)] for layer in dense_layers]
        return outcome, {"inputs": [a for a, _ in in_order], "cotangents": [delta for _, delta in in_order]}
    return outcome, {"blocks": _network_rows(network, network_input(repeated),
                                             tape.gradient(rows, controls, seeds))}


def assemble(network, pieces):
    """The Jacobian of the arrays that `trace_jacobian` returned, as FactoredJacobian or ExplicitJacobian.

    Args:
        network: the network given to `trace_jacobian`.
        pieces: its second result, with the tensors evaluated (numpy arrays or eager tensors).
    """
    if "blocks" in pieces:
        return ExplicitJacobian(pieces["blocks"])
    biases = [layer.use_bias for layer in _dense_layers(network)]
    return FactoredJacobian(pieces["inputs"], pieces["cotangents"], biases)


def _leaves(layer):
    """The layers inside a network, models within models taken apart."""
    return [leaf for child in layer.layers for leaf in _leaves(child)] if hasattr(layer, "layers") else [layer]


def _dense_layers(network):
    """The trainable Dense layers, each once, in the order of `network.trainable_variables`."""
    position = {id(variable): i for i, variable in enumerate(network.trainable_variables)}
    dense = {id(layer): layer for layer in _leaves(network)
             if type(layer) is keras.layers.Dense and id(layer.kernel) in position}
    return sorted(dense.values(), key=lambda layer: position[id(layer.kernel)])


@contextlib.contextmanager
def _recording(dense_layers, tape):
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


def _is_factored(network, calls, rows):
    """Whether the calls hold all of J: every trainable weight in a Dense layer, called once on (n, in), n = rows."""
    weights = {id(variable) for layer, _, _ in calls for variable in layer.trainable_variables}
    return (weights == {id(variable) for variable in network.trainable_variables}
            and len(calls) == len({id(layer) for layer, _, _ in calls})
            and all(a.shape.rank == 2 and a.shape[0] in (None, rows) for _, a, _ in calls))


def _network_rows(network, inputs, cotangents):
    """One vector-Jacobian product of the network per row: a list of (n, *shape of w), for any trainable layers."""
    def row(arguments):
        row_input, cotangent = arguments
        with tf.GradientTape() as tape:
            controls = network(tf.nest.map_structure(lambda t: t[None], row_input), training=False)
            projection = tf.reduce_sum(controls * cotangent)
        return tape.gradient(projection, [v.value for v in network.trainable_variables],
                             unconnected_gradients=tf.UnconnectedGradients.ZERO)
    return tf.vectorized_map(row, (inputs, cotangents))
