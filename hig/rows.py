"""What the routes of `hig.routes` compute: the factors of J from one backward pass, or its rows.

Every function here takes the `hig.routes.Derivatives` of a model and a batch's shape, called `of`. A route is
a function (x, y*, sample weights) → loss, outcome, g, Jacobian; the notation is that of `hig.jacobian`.
"""

import math
from functools import partial

import numpy as np
import tensorflow as tf

from hig.compiled import NotApplicable
from hig.jacobian import FactoredJacobian, RowsJacobian
from hig.memory import available_memory
from hig.own_weights import own_weights
from hig.structure import layer_products

_CHUNK = 2**24              # numbers of J, or of what its rows are made of, computed at a time
_SHARE = 4                  # J is held if it takes less than one part in _SHARE of the free memory


def factored(of, xla):
    """The route by layer factors: one backward pass of the batch in which each sample is repeated d times."""
    found = {}

    def trace(*batch):
        results, found["places"] = _factors(of, *batch)
        return results
    function = of.compiler.function(trace, "The Jacobian by layer factors", xla=xla)

    def linearise(x, y_true, sample_weight):
        loss, outcome, gradient, inputs, cotangents = function(x, y_true, sample_weight)
        return loss, outcome, gradient.numpy(), FactoredJacobian(
            [a.numpy() for a in inputs], [delta.numpy() for delta in cotangents], *found["places"])
    return linearise


def _factors(of, x, y_true, sample_weight):
    """((loss, outcome, g, list of A, list of Δ), (places of kernels, places of biases in θ))."""
    outcome, _, _, target, seeds = repeated_pass(of, x)
    products, reason = layer_products(tf.compat.v1.get_default_graph(), of.weights, target, of.n)
    if not products:
        raise NotApplicable(reason or "no weight acts on the outcome")
    sums = [product.sums for product in products]
    cotangents = tf.gradients(target, sums, seeds, unconnected_gradients=tf.UnconnectedGradients.ZERO)
    loss, outcome, gradient = of.loss_and_gradient(x, y_true, sample_weight, outcome)
    inputs = [tf.zeros([of.n, 0], sums[0].dtype) if product.inputs is None else product.inputs
              for product in products]
    return ((loss, outcome, gradient, [a[::of.d] for a in inputs], cotangents),
            ([product.kernel for product in products], [product.bias for product in products]))


def repeated_pass(of, x, watch=lambda controls: None):
    """A forward pass of some samples in which each is repeated d times: row (b, k) holds sample b.

    Args:
        x: data of these samples.
        watch: function that is handed the controls before the simulator takes them.

    Returns:
        (outcome, inputs, controls, target, seeds). The outcome is (samples, …). Inputs and controls are
        what the network sees and gives, one row for each row of J; None where a subclass computes the
        outcome in its own way. The gradient of the target with the cotangents `seeds`, with respect to
        anything in row (b, k), is that of y_bk.
    """
    model, samples = of.model, of.count(x)
    repeated = of.of_samples(lambda t: tf.repeat(t, of.d, axis=0), x)
    inputs = controls = None
    if model.composed:
        inputs = model.network_input(repeated)
        controls = model.network(inputs, training=False)
        watch(controls)
        each = tf.nest.map_structure(lambda t: t[::of.d], controls)
        linearised = _linearised_simulator(of, x, each, samples)
        if linearised:                                                  # row (b, k): ∂y_bk/∂u_b
            return linearised[0], inputs, controls, controls, tf.reshape(linearised[1], tf.shape(controls))
        rows = model.simulator(repeated, controls)
    else:
        rows = model(repeated, training=False)
    flat = of.flat(rows, samples * of.d)                                # (rows, d)
    seeds = tf.tile(tf.eye(of.d, dtype=flat.dtype), [samples, 1])       # row (b, k) holds e_k
    return tf.nest.map_structure(lambda leaf: leaf[::of.d], rows), inputs, controls, flat, seeds


def _linearised_simulator(of, x, controls, samples):
    """(outcome, ∂y/∂u (samples, d, *controls)) if that takes less than d backward passes, else None.

    It comes from the simulator's own `linearize`, or from products with ∂y/∂u, one for each of c
    controls, if c ≤ d/8 and the weights act in the network alone. Such a product is the derivative of a
    backward pass and takes some four times as long; TensorFlow's forward mode does not know lists of
    tensors in loops.
    """
    if hasattr(of.model.simulator, "linearize"):
        return of.model.simulator.linearize(x, controls)
    if not of.network_alone or tf.nest.is_nested(controls) or controls.shape.rank is None:
        return None
    count = math.prod(controls.shape[1:])
    if not 0 < 8 * count <= of.d:
        return None
    repeated = of.of_samples(lambda t: tf.repeat(t, count, axis=0), x)
    primals = tf.repeat(controls, count, axis=0)
    tangents = tf.reshape(tf.tile(tf.eye(count, dtype=controls.dtype), [samples, 1]), primals.shape)
    try:
        with tf.GradientTape() as outer:
            with tf.GradientTape() as inner:
                inner.watch(primals)
                outcome = of.model.simulator(repeated, primals)
                flat = of.flat(outcome, samples * count)
            weights = tf.ones_like(flat)                                # w; ∂(uᵀ Jᵀ w)/∂w = J u
            outer.watch(weights)
            transposed = inner.gradient(flat, primals, weights,
                                        unconnected_gradients=tf.UnconnectedGradients.ZERO)
        # row (b, j): ∂y_b/∂u_bj
        columns = outer.gradient(transposed, weights, tangents, tf.UnconnectedGradients.ZERO)
    except Exception:  # an operation has no second derivative
        return None
    jacobian = tf.transpose(tf.reshape(columns, [samples, count, of.d]), [0, 2, 1])
    return tf.nest.map_structure(lambda leaf: leaf[::count], outcome), tf.cast(jacobian, controls.dtype)


def by_samples(trace_rows, of, xla):
    """A route by the rows of some samples at a time; `trace_rows` is one of the three below.

    Without XLA every sample comes with a copy of itself that has the cotangent 0, because products of a
    batch of one, which vectorised are products of rank 4 with an axis of size 1, corrupt memory in
    TensorFlow 2.21 with oneDNN.
    """
    def rows_of(group):
        return of.compiler.function(lambda x: trace_rows(of, group, x, 1), "The Jacobian by rows", xla=xla,
                                    without_xla=lambda x: trace_rows(of, group, x, 2))

    def pick(x, first, last):
        return (of.of_samples(lambda t: t[first:last], x),)
    return _by_rows(of, of.batch, of.d, 1000, rows_of, pick, xla)


def by_batch(rows_of, of, xla):
    """A route that takes some rows of the whole batch at a time, by `batch_rows` or `one_by_one`."""
    return _by_rows(of, of.n, 1, 32 * of.n, partial(rows_of, of, xla),
                    lambda x, first, last: (x, tf.one_hot(tf.range(first, last), of.n)), xla)


def _by_rows(of, count, rows_each, overhead, rows_of, pick, xla):
    """A route that takes J by rows, from `count` things (samples or rows) that give `rows_each` each.

    Args:
        overhead: about how many numbers a row takes besides itself.
        rows_of: function of a group of weights → function of what `pick` returns → blocks of J.
        pick: function of (x, first, last) → what `rows_of` gets for these things.
    """
    functions = {}

    def linearise(x, y_true, sample_weight):
        loss, outcome, gradient = (of.loss if xla else of.plain_loss)(x, y_true, sample_weight)

        def chunks(group):
            size = sum(math.prod(of.shapes[index]) for index in group)
            step = int(np.clip(_CHUNK // ((size + overhead) * rows_each), 1, count))
            if group not in functions:
                functions[group] = rows_of(group)
            for start in range(0, count, step):
                first = min(start, count - step)  # the last chunk is as long as the others: it overlaps
                blocks = functions[group](*pick(x, first, first + step))
                skip = (start - first) * rows_each
                yield (slice(start * rows_each, (first + step) * rows_each),
                       [_wide(block)[skip:] for block in blocks])
        vjp = of.vjp if xla else of.plain_vjp
        jacobian = RowsJacobian(chunks, of.shapes, of.n, available_memory() // _SHARE,
                                lambda v: [np.zeros(shape) if share is None else _wide(share)
                                           for share, shape in zip(vjp(x, tf.constant(v)), of.shapes)])
        return loss, outcome, gradient.numpy(), jacobian
    return linearise


def own_rows(of, group, x, copies):
    """Blocks of J where every row has weights of its own; `copies` are for vectorised rows alone."""
    repeated = of.of_samples(lambda t: tf.repeat(t, of.d, axis=0), x)
    rows = of.count(x) * of.d
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        own = {id(of.weights[index]): tf.zeros((rows, *of.shapes[index]), of.weights[index].dtype)
               for index in group}
        tape.watch(list(own.values()))
        with own_weights(own):
            flat = of.flat(of.outcome_of(repeated), rows)
    seeds = tf.tile(tf.eye(of.d, dtype=flat.dtype), [of.count(x), 1])
    return tape.gradient(flat, list(own.values()), seeds,
                         unconnected_gradients=tf.UnconnectedGradients.ZERO)


def network_rows(of, group, x, copies):
    """Blocks of J where the weights act in the network alone, from the cotangents of the controls."""
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        _, inputs, controls, target, seeds = repeated_pass(of, x, tape.watch)
    cotangents = tape.gradient(target, controls, seeds,
                               unconnected_gradients=tf.UnconnectedGradients.ZERO)
    inputs = tf.nest.map_structure(lambda t: tf.repeat(t[:, None], copies, axis=1) if t.shape.rank and
                                   t.shape[0] == of.count(x) * of.d else t, inputs)
    cotangents = tf.nest.map_structure(lambda t: _with_copies(t, copies), cotangents)
    return tf.vectorized_map(lambda row: _row(
        of, group, lambda: of.model.network(row[0], training=False), row[1]), (inputs, cotangents))


def sample_rows(of, group, x, copies):
    """Blocks of J where samples stay apart: network and simulator on one sample for each row."""
    seeds = _with_copies(tf.tile(tf.eye(of.d), [of.count(x), 1]), copies)
    repeated = [tf.repeat(tf.repeat(leaf, of.d, axis=0)[:, None], copies, axis=1)
                for leaf, sampled in zip(tf.nest.flatten(x), of.sampled) if sampled]

    def row(arguments):
        leaves, cotangent = arguments
        leaves = iter(leaves)
        sample = tf.nest.pack_sequence_as(x, [next(leaves) if sampled else leaf for leaf, sampled
                                              in zip(tf.nest.flatten(x), of.sampled)])
        return _row(of, group, lambda: of.flat(of.outcome_of(sample), copies), cotangent)
    return tf.vectorized_map(row, (repeated, seeds))


def _row(of, group, function, cotangent):
    """One row of J: the gradient of Σ cotangent · function() with respect to a group of weights."""
    with tf.GradientTape() as tape:
        projection = sum(tf.reduce_sum(leaf * tf.cast(share, leaf.dtype))
                         for leaf, share in zip(tf.nest.flatten(function()), tf.nest.flatten(cotangent)))
    return dense(tape.gradient(projection, of.values(group),
                                unconnected_gradients=tf.UnconnectedGradients.ZERO))


def batch_rows(of, xla, group):
    """Blocks of J for any model: a forward pass of the batch, and a backward pass for each of the seeds."""
    def rows(x, seeds):
        with tf.GradientTape() as tape:
            flat = tf.reshape(of.flat(of.outcome_of(x), of.batch), [-1])
        return tf.vectorized_map(lambda seed: dense(tape.gradient(
            flat, of.values(group), tf.cast(seed, flat.dtype), tf.UnconnectedGradients.ZERO)), seeds)
    return of.compiler.function(rows, "The Jacobian by rows", xla=xla)


def one_by_one(of, xla, group):
    """As `batch_rows`, one call after the other, for what cannot be vectorised."""
    def rows(x, seeds):
        found = [of.vjp(x, seed) for seed in seeds]
        return [tf.stack([row[index] for row in found]) for index in group]
    return rows


def _with_copies(rows, copies):
    """(rows, …) → (rows, copies, …): each row, and behind it zeros."""
    return tf.stack([rows] + [tf.zeros_like(rows)] * (copies - 1), axis=1)


def _wide(tensor):
    """A tensor as an array; bfloat16, of which numpy knows little, as float64."""
    return np.asarray(tensor, np.float64) if tensor.dtype == tf.bfloat16 else tensor.numpy()


def dense(gradients):
    """Gradients as dense tensors; those of embeddings come as slices."""
    return [gradient if gradient is None else tf.convert_to_tensor(gradient) for gradient in gradients]
