"""What the routes of `hig.routes` compute: the factors of J from one backward pass, or its rows.

Every function here takes the `hig.routes.Derivatives` of a model and batch shape. A route is a function
(x, y*, sample weights) → loss, outcome, g, Jacobian. The notation is that of `hig.jacobian`.
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

_CHUNK = 2**24              # entries of J, with its rows' intermediate results, computed at a time
_SHARE = 4                  # J is kept if it takes less than 1/_SHARE of the free memory


def factored(derivatives, xla):
    """The route by layer factors: one backward pass of the batch in which each sample is repeated d times."""
    found = {}

    def trace(*batch):
        results, found["places"] = _factors(derivatives, *batch)
        return results
    function = derivatives.compiler.function(trace, "The Jacobian by layer factors", xla=xla)

    def linearise(x, y_true, sample_weight):
        loss, outcome, gradient, inputs, cotangents = function(x, y_true, sample_weight)
        return loss, outcome, gradient.numpy(), FactoredJacobian(
            [a.numpy() for a in inputs], [delta.numpy() for delta in cotangents], *found["places"])
    return linearise


def _factors(derivatives, x, y_true, sample_weight):
    """((loss, outcome, g, list of A, list of Δ), (places of kernels, places of biases in θ))."""
    outcome, _, _, target, seeds = repeated_pass(derivatives, x)
    graph = tf.compat.v1.get_default_graph()
    products, reason = layer_products(graph, derivatives.weights, target, derivatives.n)
    if not products:
        raise NotApplicable(reason or "no weight acts on the outcome")
    sums = [product.sums for product in products]
    cotangents = tf.gradients(target, sums, seeds, unconnected_gradients=tf.UnconnectedGradients.ZERO)
    loss, outcome, gradient = derivatives.loss_and_gradient(x, y_true, sample_weight, outcome)
    inputs = [tf.zeros([derivatives.n, 0], sums[0].dtype) if product.inputs is None else product.inputs
              for product in products]
    return ((loss, outcome, gradient, [a[::derivatives.d] for a in inputs], cotangents),
            ([product.kernel for product in products], [product.bias for product in products]))


def repeated_pass(derivatives, x, watch=lambda controls: None):
    """A forward pass of some samples in which each is repeated d times: row (b, k) holds sample b.

    Args:
        x: data of these samples.
        watch: function that is called with the controls before the simulator uses them.

    Returns:
        (outcome, inputs, controls, target, seeds). The outcome is (samples, …). Inputs and controls are the
        network's, one row for each row of J; None if a subclass has its own `call`. The gradient of the
        target with the cotangents `seeds`, with respect to anything in row (b, k), is that of y_bk.
    """
    model, samples = derivatives.model, derivatives.count(x)
    repeated = derivatives.of_samples(lambda t: tf.repeat(t, derivatives.d, axis=0), x)
    inputs = controls = None
    if model.composed:
        inputs = model.network_input(repeated)
        controls = model.network(inputs, training=False)
        watch(controls)
        each = tf.nest.map_structure(lambda t: t[::derivatives.d], controls)
        linearised = _linearised_simulator(derivatives, x, each, samples)
        if linearised:                                                  # row (b, k): ∂y_bk/∂u_b
            return linearised[0], inputs, controls, controls, tf.reshape(linearised[1], tf.shape(controls))
        rows = model.simulator(repeated, controls)
    else:
        rows = model(repeated, training=False)
    flat = derivatives.flat(rows, samples * derivatives.d)                                # (rows, d)
    seeds = tf.tile(tf.eye(derivatives.d, dtype=flat.dtype), [samples, 1])       # row (b, k) holds e_k
    return tf.nest.map_structure(lambda leaf: leaf[::derivatives.d], rows), inputs, controls, flat, seeds


def _linearised_simulator(derivatives, x, controls, samples):
    """(outcome, ∂y/∂u (samples, d, *controls)) if this takes less time than d backward passes, else None.

    It comes from the simulator's own `linearize`, or from products with ∂y/∂u, one for each of c controls, if
    c ≤ d/8 and the weights act only in the network. Such a product is the derivative of a backward pass and
    takes about four times as long. (TensorFlow's forward mode fails on lists of tensors in loops.)
    """
    if hasattr(derivatives.model.simulator, "linearize"):
        return derivatives.model.simulator.linearize(x, controls)
    if not derivatives.network_alone or tf.nest.is_nested(controls) or controls.shape.rank is None:
        return None
    count = math.prod(controls.shape[1:])
    if not 0 < 8 * count <= derivatives.d:
        return None
    repeated = derivatives.of_samples(lambda t: tf.repeat(t, count, axis=0), x)
    primals = tf.repeat(controls, count, axis=0)
    tangents = tf.reshape(tf.tile(tf.eye(count, dtype=controls.dtype), [samples, 1]), primals.shape)
    try:
        with tf.GradientTape() as outer:
            with tf.GradientTape() as inner:
                inner.watch(primals)
                outcome = derivatives.model.simulator(repeated, primals)
                flat = derivatives.flat(outcome, samples * count)
            weights = tf.ones_like(flat)                                # w; ∂(uᵀ Jᵀ w)/∂w = J u
            outer.watch(weights)
            transposed = inner.gradient(flat, primals, weights,
                                        unconnected_gradients=tf.UnconnectedGradients.ZERO)
        # row (b, j): ∂y_b/∂u_bj
        columns = outer.gradient(transposed, weights, tangents, tf.UnconnectedGradients.ZERO)
    except Exception:  # an operation has no second derivative
        return None
    jacobian = tf.transpose(tf.reshape(columns, [samples, count, derivatives.d]), [0, 2, 1])
    return tf.nest.map_structure(lambda leaf: leaf[::count], outcome), tf.cast(jacobian, controls.dtype)


def by_samples(trace_rows, derivatives, xla):
    """A route by the rows of some samples at a time; `trace_rows` is one of the next three functions.

    Without XLA each sample is doubled, and its copy has the cotangent 0: vectorised products of a batch of
    one sample (of rank 4 with an axis of size 1) corrupt memory in TensorFlow 2.21 with oneDNN.
    """
    def rows_of(group):
        return derivatives.compiler.function(
            lambda x: trace_rows(derivatives, group, x, 1), "The Jacobian by rows", xla=xla,
            without_xla=lambda x: trace_rows(derivatives, group, x, 2))

    def pick(x, first, last):
        return (derivatives.of_samples(lambda t: t[first:last], x),)
    return _by_rows(derivatives, derivatives.batch, derivatives.d, 1000, rows_of, pick, xla)


def by_batch(rows_of, derivatives, xla):
    """A route that takes some rows of the whole batch at a time, by `batch_rows` or `one_by_one`."""
    return _by_rows(derivatives, derivatives.n, 1, 32 * derivatives.n, partial(rows_of, derivatives, xla),
                    lambda x, first, last: (x, tf.one_hot(tf.range(first, last), derivatives.n)), xla)


def _by_rows(derivatives, count, rows_each, overhead, rows_of, pick, xla):
    """A route by rows of J, from `count` items (samples or rows) that give `rows_each` rows each.

    Args:
        overhead: about how many numbers a row takes besides itself.
        rows_of: function of a group of weights → function of what `pick` returns → blocks of J.
        pick: function of (x, first, last) → the arguments for these items.
    """
    functions = {}

    def linearise(x, y_true, sample_weight):
        loss_of = derivatives.loss if xla else derivatives.plain_loss
        loss, outcome, gradient = loss_of(x, y_true, sample_weight)

        def chunks(group):
            size = sum(math.prod(derivatives.shapes[index]) for index in group)
            step = int(np.clip(_CHUNK // ((size + overhead) * rows_each), 1, count))
            if group not in functions:
                functions[group] = rows_of(group)
            for start in range(0, count, step):
                first = min(start, count - step)  # the last chunk is as long as the others: it overlaps
                blocks = functions[group](*pick(x, first, first + step))
                skip = (start - first) * rows_each
                yield (slice(start * rows_each, (first + step) * rows_each),
                       [_wide(block)[skip:] for block in blocks])
        vjp = derivatives.vjp if xla else derivatives.plain_vjp
        shapes = derivatives.shapes
        jacobian = RowsJacobian(chunks, shapes, derivatives.n, available_memory() // _SHARE,
                                lambda v: [np.zeros(shape) if share is None else _wide(share)
                                           for share, shape in zip(vjp(x, tf.constant(v)), shapes)])
        return loss, outcome, gradient.numpy(), jacobian
    return linearise


def own_rows(derivatives, group, x, copies):
    """Blocks of J by weights of its own for every row (`hig.own_weights`); `copies` is not used."""
    repeated = derivatives.of_samples(lambda t: tf.repeat(t, derivatives.d, axis=0), x)
    rows = derivatives.count(x) * derivatives.d
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        weights = [derivatives.weights[index] for index in group]
        own = {id(weight): tf.zeros((rows, *weight.shape), weight.dtype) for weight in weights}
        tape.watch(list(own.values()))
        with own_weights(own):
            flat = derivatives.flat(derivatives.outcome_of(repeated), rows)
    seeds = tf.tile(tf.eye(derivatives.d, dtype=flat.dtype), [derivatives.count(x), 1])
    return tape.gradient(flat, list(own.values()), seeds,
                         unconnected_gradients=tf.UnconnectedGradients.ZERO)


def network_rows(derivatives, group, x, copies):
    """Blocks of J if weights act only in the network, from the cotangents of the controls."""
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        _, inputs, controls, target, seeds = repeated_pass(derivatives, x, tape.watch)
    cotangents = tape.gradient(target, controls, seeds,
                               unconnected_gradients=tf.UnconnectedGradients.ZERO)
    inputs = tf.nest.map_structure(lambda t: tf.repeat(t[:, None], copies, axis=1) if t.shape.rank and
                                   t.shape[0] == derivatives.count(x) * derivatives.d else t, inputs)
    cotangents = tf.nest.map_structure(lambda t: _with_copies(t, copies), cotangents)
    network = derivatives.model.network
    return tf.vectorized_map(lambda row: _row(
        derivatives, group, lambda: network(row[0], training=False), row[1]), (inputs, cotangents))


def sample_rows(derivatives, group, x, copies):
    """Blocks of J if samples stay apart: network and simulator on one sample for each row."""
    seeds = _with_copies(tf.tile(tf.eye(derivatives.d), [derivatives.count(x), 1]), copies)
    repeated = [tf.repeat(tf.repeat(leaf, derivatives.d, axis=0)[:, None], copies, axis=1)
                for leaf, sampled in zip(tf.nest.flatten(x), derivatives.sampled) if sampled]

    def row(arguments):
        leaves, cotangent = arguments
        leaves = iter(leaves)
        sample = tf.nest.pack_sequence_as(x, [next(leaves) if sampled else leaf for leaf, sampled
                                              in zip(tf.nest.flatten(x), derivatives.sampled)])
        return _row(derivatives, group, lambda: derivatives.flat(
            derivatives.outcome_of(sample), copies), cotangent)
    return tf.vectorized_map(row, (repeated, seeds))


def _row(derivatives, group, function, cotangent):
    """One row of J: the gradient of Σ cotangent · function() with respect to a group of weights."""
    with tf.GradientTape() as tape:
        projection = sum(tf.reduce_sum(leaf * tf.cast(share, leaf.dtype))
                         for leaf, share in zip(tf.nest.flatten(function()), tf.nest.flatten(cotangent)))
    return dense(tape.gradient(projection, derivatives.values(group),
                                unconnected_gradients=tf.UnconnectedGradients.ZERO))


def batch_rows(derivatives, xla, group):
    """Blocks of J for any model: a forward pass of the batch, and a backward pass for each of the seeds."""
    def rows(x, seeds):
        with tf.GradientTape() as tape:
            flat = tf.reshape(derivatives.flat(derivatives.outcome_of(x), derivatives.batch), [-1])
        return tf.vectorized_map(lambda seed: dense(tape.gradient(
            flat, derivatives.values(group), tf.cast(seed, flat.dtype), tf.UnconnectedGradients.ZERO)), seeds)
    return derivatives.compiler.function(rows, "The Jacobian by rows", xla=xla)


def one_by_one(derivatives, xla, group):
    """As `batch_rows`, but one row after the other, for models that cannot be vectorised."""
    def rows(x, seeds):
        found = [derivatives.vjp(x, seed) for seed in seeds]
        return [tf.stack([row[index] for row in found]) for index in group]
    return rows


def _with_copies(rows, copies):
    """(rows, …) → (rows, copies, …): each row, followed by zeros."""
    return tf.stack([rows] + [tf.zeros_like(rows)] * (copies - 1), axis=1)


def _wide(tensor):
    """A tensor as an array; bfloat16, which NumPy hardly supports, as float64."""
    return np.asarray(tensor, np.float64) if tensor.dtype == tf.bfloat16 else tensor.numpy()


def dense(gradients):
    """Gradients as dense tensors; those of embeddings are IndexedSlices."""
    return [gradient if gradient is None else tf.convert_to_tensor(gradient) for gradient in gradients]
