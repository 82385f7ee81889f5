"""What the routes of `hig.routes` compute: the factors of J from one backward pass, or its rows.

Every function here takes the `hig.functions.Functions` of a model and batch shape. A route is a function
(x, y*, sample weights) → loss, outcome, g, Jacobian. The notation is that of `hig.jacobian`.
"""

import math
from functools import partial

import numpy as np
import tensorflow as tf

from hig.functions import ZERO, dense
from hig.jacobian import FactoredJacobian, RowsJacobian
from hig.own_weights import own_weights
from hig.structure import layer_products

_CHUNK = 2**24              # numbers computed at a time: entries of J, and intermediate results of its rows


def factored(functions, xla):
    """The route by layer factors: one backward pass of the batch in which each sample is repeated d times."""
    products = []

    def trace(x, y_true, sample_weight):
        outcome, _, _, target, seeds = repeated_pass(functions, x)
        products[:], reason = layer_products(target, functions.weights, functions.n)
        if not products:
            raise tf.errors.UnimplementedError(None, None, reason or "no weight acts on the outcome")
        sums = [product.sums for product in products]
        cotangents = tf.gradients(target, sums, seeds, unconnected_gradients=ZERO)
        loss, outcome, gradient = functions.loss_and_gradient(x, y_true, sample_weight, outcome)
        return loss, outcome, gradient, [
            tf.zeros([functions.batch, 0], delta.dtype) if product.inputs is None
            else product.inputs[::functions.d] for product, delta in zip(products, sums)], cotangents
    function = functions.compiler.function(trace, "The Jacobian by layer factors", xla=xla)

    def linearise(x, y_true, sample_weight):
        loss, outcome, gradient, inputs, cotangents = function(x, y_true, sample_weight)
        return loss, outcome, gradient.numpy(), FactoredJacobian(
            [a.numpy() for a in inputs], [delta.numpy() for delta in cotangents],
            [product.kernel for product in products], [product.bias for product in products])
    return linearise


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
    model, samples, d = functions.model, functions.count(x), functions.d
    repeated = _repeated(functions, x, d)
    inputs = controls = None
    if model.composed:
        inputs = model.network_input(repeated)
        controls = model.network(inputs, training=False)
        watch(controls)
        linearised = _linearised_simulator(functions, x, _every(controls, d), samples)
        if linearised:                                                  # row (b, k): ∂y_bk/∂u_b
            return linearised[0], inputs, controls, controls, tf.reshape(linearised[1], tf.shape(controls))
        rows = model.simulator(repeated, controls)
    else:
        rows = model(repeated, training=False)
    flat = functions.flat(rows, samples * d)                            # (rows, d)
    return _every(rows, d), inputs, controls, flat, _unit_cotangents(d, samples, flat.dtype)


def _repeated(functions, x, times):
    return functions.of_samples(lambda t: tf.repeat(t, times, axis=0), x)


def _every(structure, times):
    """Nested tensors without the repetitions of `_repeated`."""
    return tf.nest.map_structure(lambda t: t[::times], structure)


def _unit_cotangents(count, samples, dtype):
    """(samples · count, count): the unit vectors e_1 … e_count for each sample."""
    return tf.tile(tf.eye(count, dtype=dtype), [samples, 1])


def _linearised_simulator(functions, x, controls, samples):
    """(outcome, ∂y/∂u (samples, d, *controls)) if this takes less time than d backward passes, else None.

    ∂y/∂u comes from the simulator's own `linearize`, or from products with ∂y/∂u, one for each of c controls,
    if c ≤ d/8 and the weights act only in the network. Such a product is the derivative of a backward pass
    and takes about four times as long as one. (TensorFlow's forward mode fails on lists of tensors in loops.)
    """
    simulator, d = functions.model.simulator, functions.d
    if hasattr(simulator, "linearize"):
        return simulator.linearize(x, controls)
    if not functions.structure.network_alone or tf.nest.is_nested(controls) or controls.shape.rank is None:
        return None
    count = math.prod(controls.shape[1:])
    if not 0 < 8 * count <= d:
        return None
    primals = tf.repeat(controls, count, axis=0)
    tangents = tf.reshape(_unit_cotangents(count, samples, controls.dtype), primals.shape)
    try:
        with tf.GradientTape() as outer:
            with tf.GradientTape() as inner:
                inner.watch(primals)
                outcome = simulator(_repeated(functions, x, count), primals)
                flat = functions.flat(outcome, samples * count)
            weights = tf.ones_like(flat)                                # w, because ∂(uᵀ Jᵀ w)/∂w = J u
            outer.watch(weights)
            transposed = inner.gradient(flat, primals, weights, unconnected_gradients=ZERO)
        columns = outer.gradient(transposed, weights, tangents, ZERO)   # row (b, j): ∂y_b/∂u_bj
    except Exception:  # an operation has no second derivative
        return None
    jacobian = tf.transpose(tf.reshape(columns, [samples, count, d]), [0, 2, 1])
    return _every(outcome, count), tf.cast(jacobian, controls.dtype)


def by_rows(functions, trace, xla, whole_batch=False):
    """A route by the rows of J, some at a time.

    `trace` is `own_rows`, `network_rows` or `sample_rows`, which give a block of J for each weight, the rows
    of some samples; with `whole_batch` it is `batch_rows` or `one_by_one`, which give some rows.

    Without XLA each sample is doubled, and its copy has the cotangent 0. The reason is that vectorised
    products of a batch of one sample (of rank 4 with an axis of size 1) corrupt memory in TensorFlow 2.21
    with oneDNN.
    """
    n, p = functions.shape
    functions.require_memory(p + min(p, _CHUNK // n))                   # J, and a chunk of it
    count, beside = (n, 32 * n) if whole_batch else (functions.batch, 1000)     # numbers beside each row
    each = n // count                                                   # rows of a sample, or 1
    step = int(np.clip(_CHUNK // ((p + beside) * each), 1, count))
    rows = functions.compiler.function(lambda *part: trace(functions, 1, *part), "The Jacobian by rows",
                                       xla=xla, without_xla=lambda *part: trace(functions, 2, *part))

    def linearise(x, y_true, sample_weight):
        loss_of = functions.loss if xla else functions.plain_loss
        loss, outcome, gradient = loss_of(x, y_true, sample_weight)
        matrix = np.empty((n, p))
        for start in range(0, count, step):
            last = min(start + step, count)
            first = last - step  # of equal parts, so that the last items may come twice
            blocks = rows(*((x, tf.one_hot(tf.range(first, last), n)) if whole_batch else
                            (functions.of_samples(lambda t: t[first:last], x),)))
            blocks = [tf.cast(t, tf.float64) if t.dtype == tf.bfloat16 else t for t in blocks]  # for NumPy
            np.concatenate([block.numpy().reshape(step * each, -1) for block in blocks], axis=1,
                           out=matrix[first * each:last * each], casting="same_kind")
        return loss, outcome, gradient.numpy(), RowsJacobian(matrix, functions.shapes)
    return linearise


def batch_rows(functions, copies, x, seeds, each=tf.vectorized_map):
    """Blocks of J for any model: a backward pass of the batch for each of the seeds; `copies` is not used."""
    with tf.GradientTape(persistent=True) as tape:
        flat = tf.reshape(functions.flat(functions.outcome_of(x), functions.batch), [-1])
    return each(lambda seed: dense(tape.gradient(
        flat, functions.values(), tf.cast(seed, flat.dtype), ZERO)), seeds)


def one_by_one(functions, copies, x, seeds):
    """`batch_rows`, but one backward pass after the other, for models that cannot be vectorised."""
    return batch_rows(functions, copies, x, seeds, partial(
        tf.map_fn, fn_output_signature=[value.dtype for value in functions.values()]))


def own_rows(functions, copies, x):
    """Blocks of J, if every row can have weights of its own (`hig.own_weights`); `copies` is not used."""
    samples = functions.count(x)
    own = {id(weight): tf.zeros((samples * functions.d, *weight.shape), weight.dtype)
           for weight in functions.weights}
    with tf.GradientTape(watch_accessed_variables=False) as tape, own_weights(own):
        tape.watch(list(own.values()))
        flat = functions.flat(functions.outcome_of(_repeated(functions, x, functions.d)),
                              samples * functions.d)
    return tape.gradient(flat, list(own.values()), _unit_cotangents(functions.d, samples, flat.dtype), ZERO)


def network_rows(functions, copies, x):
    """Blocks of J if weights act only in the network, from the cotangents of the controls."""
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        _, inputs, controls, target, seeds = repeated_pass(functions, x, tape.watch)
    cotangents, rows = tape.gradient(target, controls, seeds, ZERO), functions.count(x) * functions.d
    return _vectorised(functions, partial(functions.model.network, training=False), inputs,
                       [t.shape[:1] == (rows,) for t in tf.nest.flatten(inputs)], cotangents, copies)


def sample_rows(functions, copies, x):
    """Blocks of J if samples stay apart: for each row, network and simulator run on its sample."""
    return _vectorised(functions, lambda x: functions.flat(functions.outcome_of(x), copies),
                       _repeated(functions, x, functions.d), functions.sampled,
                       _unit_cotangents(functions.d, functions.count(x), tf.float32), copies)


def _vectorised(functions, function, inputs, by_row, cotangents, copies):
    """Gradients of Σ cotangent · function(input) with respect to the weights, one for each row.

    Args:
        inputs: nested tensors; those that `by_row` marks have an entry for each row, `function` sees `copies`
            of it as a batch, and only the first has a cotangent. The others are the same for all rows.
    """
    leaves = tf.nest.flatten(inputs)
    entries = [tf.repeat(leaf[:, None], copies, axis=1) for leaf, own in zip(leaves, by_row) if own]
    cotangents = tf.nest.map_structure(
        lambda t: tf.stack([t] + [tf.zeros_like(t)] * (copies - 1), axis=1), cotangents)

    def row(arguments):
        entries, cotangent = iter(arguments[0]), arguments[1]
        with tf.GradientTape() as tape:
            values = function(tf.nest.pack_sequence_as(
                inputs, [next(entries) if own else leaf for leaf, own in zip(leaves, by_row)]))
            projection = sum(tf.reduce_sum(value * tf.cast(share, value.dtype)) for value, share
                             in zip(tf.nest.flatten(values), tf.nest.flatten(cotangent)))
        return dense(tape.gradient(projection, functions.values(), unconnected_gradients=ZERO))
    return tf.vectorized_map(row, (entries, cotangents))
