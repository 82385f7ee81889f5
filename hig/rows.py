"""What the routes of `hig.routes` compute: the factors of J from one backward pass, or its rows.

Every function here takes the `hig.functions.Functions` of a model and batch shape. A route is a function
(x, y*, sample weights) → loss, outcome, g, Jacobian. The notation is that of `hig.jacobian`.
"""

import math

import numpy as np
import tensorflow as tf

from hig.compiled import NotApplicable
from hig.functions import ZERO, dense
from hig.jacobian import FactoredJacobian, RowsJacobian
from hig.own_weights import own_weights
from hig.structure import layer_products

_CHUNK = 2**24              # numbers computed at a time: entries of J, and intermediate results of its rows


def factored(functions, xla):
    """The route by layer factors: one backward pass of the batch in which each sample is repeated d times."""
    found = {}

    def trace(*batch):
        results, found["places"] = _factors(functions, *batch)
        return results
    function = functions.compiler.function(trace, "The Jacobian by layer factors", xla=xla)

    def linearise(x, y_true, sample_weight):
        loss, outcome, gradient, inputs, cotangents = function(x, y_true, sample_weight)
        return loss, outcome, gradient.numpy(), FactoredJacobian(
            [a.numpy() for a in inputs], [delta.numpy() for delta in cotangents], *found["places"])
    return linearise


def _factors(functions, x, y_true, sample_weight):
    """((loss, outcome, g, list of A, list of Δ), (places of kernels, places of biases in θ))."""
    outcome, _, _, target, seeds = repeated_pass(functions, x)
    graph = tf.compat.v1.get_default_graph()
    products, reason = layer_products(graph, functions.weights, target, functions.n)
    if not products:
        raise NotApplicable(reason or "no weight acts on the outcome")
    sums = [product.sums for product in products]
    cotangents = tf.gradients(target, sums, seeds, unconnected_gradients=ZERO)
    loss, outcome, gradient = functions.loss_and_gradient(x, y_true, sample_weight, outcome)
    inputs = [tf.zeros([functions.n, 0], sums[0].dtype) if product.inputs is None else product.inputs
              for product in products]
    return ((loss, outcome, gradient, [a[::functions.d] for a in inputs], cotangents),
            ([product.kernel for product in products], [product.bias for product in products]))


def repeated_pass(functions, x, watch=lambda controls: None):
    """A forward pass of some samples in which each is repeated d times: row (b, k) holds sample b.

    Args:
        x: data of these samples.
        watch: function that is called with the controls before the simulator uses them.

    Returns:
        (outcome, inputs, controls, target, seeds). The outcome is (samples, …). Inputs and controls are those
        of the network, one row for each row of J, or None if a subclass has its own `call`. The gradient of
        the target with the cotangents `seeds`, with respect to anything in row (b, k), is that of y_bk.
    """
    model, samples = functions.model, functions.count(x)
    repeated = _repeated(functions, x, functions.d)
    inputs = controls = None
    if model.composed:
        inputs = model.network_input(repeated)
        controls = model.network(inputs, training=False)
        watch(controls)
        each = tf.nest.map_structure(lambda t: t[::functions.d], controls)
        linearised = _linearised_simulator(functions, x, each, samples)
        if linearised:                                                  # row (b, k): ∂y_bk/∂u_b
            return linearised[0], inputs, controls, controls, tf.reshape(linearised[1], tf.shape(controls))
        rows = model.simulator(repeated, controls)
    else:
        rows = model(repeated, training=False)
    flat = functions.flat(rows, samples * functions.d)                                # (rows, d)
    return (tf.nest.map_structure(lambda leaf: leaf[::functions.d], rows), inputs, controls, flat,
            _unit_cotangents(functions.d, samples, flat.dtype))


def _repeated(functions, x, times):
    return functions.of_samples(lambda t: tf.repeat(t, times, axis=0), x)


def _unit_cotangents(count, samples, dtype):
    """(samples · count, count): the unit vectors e_1 … e_count for each sample."""
    return tf.tile(tf.eye(count, dtype=dtype), [samples, 1])


def _linearised_simulator(functions, x, controls, samples):
    """(outcome, ∂y/∂u (samples, d, *controls)) if this takes less time than d backward passes, else None.

    ∂y/∂u comes from the simulator's own `linearize`, or from products with ∂y/∂u, one for each of c controls,
    if c ≤ d/8 and the weights act only in the network. Such a product is the derivative of a backward pass
    and takes about four times as long as one. (TensorFlow's forward mode fails on lists of tensors in loops.)
    """
    if hasattr(functions.model.simulator, "linearize"):
        return functions.model.simulator.linearize(x, controls)
    if not functions.structure.network_alone or tf.nest.is_nested(controls) or controls.shape.rank is None:
        return None
    count = math.prod(controls.shape[1:])
    if not 0 < 8 * count <= functions.d:
        return None
    primals = tf.repeat(controls, count, axis=0)
    tangents = tf.reshape(_unit_cotangents(count, samples, controls.dtype), primals.shape)
    try:
        with tf.GradientTape() as outer:
            with tf.GradientTape() as inner:
                inner.watch(primals)
                outcome = functions.model.simulator(_repeated(functions, x, count), primals)
                flat = functions.flat(outcome, samples * count)
            weights = tf.ones_like(flat)                                # w, because ∂(uᵀ Jᵀ w)/∂w = J u
            outer.watch(weights)
            transposed = inner.gradient(flat, primals, weights, unconnected_gradients=ZERO)
        columns = outer.gradient(transposed, weights, tangents, ZERO)   # row (b, j): ∂y_b/∂u_bj
    except Exception:  # an operation has no second derivative
        return None
    jacobian = tf.transpose(tf.reshape(columns, [samples, count, functions.d]), [0, 2, 1])
    return tf.nest.map_structure(lambda leaf: leaf[::count], outcome), tf.cast(jacobian, controls.dtype)


def by_samples(trace_rows, functions, xla):
    """A route by the rows of some samples at a time, which `own_rows`, `network_rows` or `sample_rows` gives.

    Without XLA each sample is doubled, and its copy has the cotangent 0. The reason is that vectorised
    products of a batch of one sample (of rank 4 with an axis of size 1) corrupt memory in TensorFlow 2.21
    with oneDNN.
    """
    rows = functions.compiler.function(
        lambda x: trace_rows(functions, x, 1), "The Jacobian by rows", xla=xla,
        without_xla=lambda x: trace_rows(functions, x, 2))
    return _by_rows(functions, functions.batch, 1000, lambda x, first, last: rows(
        functions.of_samples(lambda t: t[first:last], x)), xla)


def by_batch(trace_rows, functions, xla):
    """A route by rows of the whole batch; `trace_rows` is `batch_rows` or `one_by_one`."""
    rows, n = trace_rows(functions, xla), functions.n
    return _by_rows(functions, n, 32 * n, lambda x, first, last: rows(
        x, tf.one_hot(tf.range(first, last), n)), xla)


def _by_rows(functions, count, overhead, rows_of, xla):
    """A route by rows of J, some at a time.

    Args:
        count: number of items that have n/count rows each: B samples, or n rows.
        overhead: about how many numbers a row takes in addition to its own.
        rows_of: function of (x, first, last) → the rows of the items first … last − 1, in a block for each
            weight. The number of items is the same in every call.
    """
    (n, p), each = functions.shape, functions.n // count            # each: rows of an item
    functions.require_memory(p + min(p, _CHUNK // n))                   # J, and a chunk of it
    step = int(np.clip(_CHUNK // ((p + overhead) * each), 1, count))

    def linearise(x, y_true, sample_weight):
        loss_of = functions.loss if xla else functions.plain_loss
        loss, outcome, gradient = loss_of(x, y_true, sample_weight)
        matrix = np.empty((n, p))
        for start in range(0, count, step):
            first = min(start, count - step)                            # the last items may come twice
            blocks = [_wide(block) for block in rows_of(x, first, first + step)]
            np.concatenate([block.reshape(len(block), -1) for block in blocks], axis=1,
                           out=matrix[first * each:(first + step) * each], casting="same_kind")
        return loss, outcome, gradient.numpy(), RowsJacobian(matrix, functions.shapes)
    return linearise


def own_rows(functions, x, copies):
    """Blocks of J, if every row can have weights of its own (`hig.own_weights`); `copies` is not used."""
    samples = functions.count(x)
    rows = samples * functions.d
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        own = {id(weight): tf.zeros((rows, *weight.shape), weight.dtype) for weight in functions.weights}
        tape.watch(list(own.values()))
        with own_weights(own):
            flat = functions.flat(functions.outcome_of(_repeated(functions, x, functions.d)), rows)
    return tape.gradient(flat, list(own.values()), _unit_cotangents(functions.d, samples, flat.dtype),
                         unconnected_gradients=ZERO)


def network_rows(functions, x, copies):
    """Blocks of J if weights act only in the network, from the cotangents of the controls."""
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        _, inputs, controls, target, seeds = repeated_pass(functions, x, tape.watch)
    cotangents = tape.gradient(target, controls, seeds, unconnected_gradients=ZERO)
    inputs = tf.nest.map_structure(lambda t: tf.repeat(t[:, None], copies, axis=1) if t.shape.rank and
                                   t.shape[0] == functions.count(x) * functions.d else t, inputs)
    cotangents = tf.nest.map_structure(lambda t: _with_copies(t, copies), cotangents)
    network = functions.model.network
    return tf.vectorized_map(lambda row: _row(
        functions, lambda: network(row[0], training=False), row[1]), (inputs, cotangents))


def sample_rows(functions, x, copies):
    """Blocks of J if samples stay apart: for each row, network and simulator run on its sample."""
    seeds = _with_copies(_unit_cotangents(functions.d, functions.count(x), tf.float32), copies)
    repeated = [tf.repeat(tf.repeat(leaf, functions.d, axis=0)[:, None], copies, axis=1)
                for leaf, sampled in zip(tf.nest.flatten(x), functions.sampled) if sampled]

    def row(arguments):
        leaves, cotangent = arguments
        leaves = iter(leaves)
        sample = tf.nest.pack_sequence_as(x, [next(leaves) if sampled else leaf for leaf, sampled
                                              in zip(tf.nest.flatten(x), functions.sampled)])
        return _row(functions, lambda: functions.flat(functions.outcome_of(sample), copies), cotangent)
    return tf.vectorized_map(row, (repeated, seeds))


def _row(functions, function, cotangent):
    """One row of J: the gradient of Σ cotangent · function() with respect to the weights."""
    with tf.GradientTape() as tape:
        projection = sum(tf.reduce_sum(leaf * tf.cast(share, leaf.dtype))
                         for leaf, share in zip(tf.nest.flatten(function()), tf.nest.flatten(cotangent)))
    return dense(tape.gradient(projection, functions.values(), unconnected_gradients=ZERO))


def batch_rows(functions, xla):
    """Blocks of J for any model: a forward pass of the batch, and a backward pass for each of the seeds."""
    def rows(x, seeds):
        with tf.GradientTape() as tape:
            flat = tf.reshape(functions.flat(functions.outcome_of(x), functions.batch), [-1])
        return tf.vectorized_map(lambda seed: dense(tape.gradient(
            flat, functions.values(), tf.cast(seed, flat.dtype), ZERO)), seeds)
    return functions.compiler.function(rows, "The Jacobian by rows", xla=xla)


def one_by_one(functions, xla):
    """`batch_rows`, but one row after the other and without XLA, for models that cannot be vectorised."""
    def rows(x, seeds):
        found = [functions.plain_vjp(x, seed) for seed in tf.cast(seeds, tf.float64)]
        return [tf.zeros((len(seeds), *weight.shape), weight.dtype) if shares[0] is None else tf.stack(shares)
                for weight, shares in zip(functions.weights, zip(*found))]
    return rows


def _with_copies(rows, copies):
    """(rows, …) → (rows, copies, …): each row, followed by zeros."""
    return tf.stack([rows] + [tf.zeros_like(rows)] * (copies - 1), axis=1)


def _wide(tensor):
    """A tensor as an array; bfloat16, which NumPy hardly supports, as float64."""
    return np.asarray(tensor, np.float64) if tensor.dtype == tf.bfloat16 else tensor.numpy()
