"""How the Jacobian J = ∂y/∂θ of a model is obtained: three routes, and the proof that the one taken is right.

The outcome y of a batch is a function of all trainable weights θ of the model, wherever they act: in the network, in
the simulator, in `network_input`. From the fastest to the most general, with the notation of `hig.jacobian`:

factored      Every weight is the kernel or bias of a Dense layer that is called once, on one row per sample. Every sample
              is repeated d times, row (b, k) is seeded with the unit cotangent e_k, and one backward pass gives the
              cotangents Δ of all pre-activations.
per sample    Row (b, k) of J is a vector-Jacobian product of sample b alone, all rows in one vectorised pass: of the network
              by the cotangents that come out of the simulator, or of network and simulator together.
whole batch   Row r of J is a vector-Jacobian product of the whole batch. Right for every differentiable function θ → y
              that gives the same y each time; n backward passes of B samples.

Which route is right is not guessed, but proven with the first batch of each shape. For one random v, Jᵀv by the route's
own factors or rows must equal the plain vector-Jacobian product of the whole model, which automatic differentiation
gives at the cost of one backward pass: if a route misses a term anywhere in J, the two differ, with probability one.
"""

import contextlib

import numpy as np
import tensorflow as tf

from hig.backend import keras
from hig.compiled import NotApplicable
from hig.jacobian import FactoredJacobian, RowsJacobian
from hig.memory import available_memory, keep_freed_memory, require_memory
from hig.recording import leaves, recording

ROUTES = ("factored", "per sample", "whole batch")
_EPSILON = {"float64": 2.0**-52, "float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}
_CHUNK = 2**24              # numbers of J, or of what its rows are made of, computed at a time
_SHARE = 4                  # J is held if it takes less than this part of the free memory


class Derivatives:
    """Loss, its gradient g and the Jacobian J of a model, for batches of one shape and one set of trainable weights.

    Args:
        model: compiled PhysicsModel.
        compiler: hig.compiled.Compiler, which runs the users' functions and gives the warnings.
        x, y_true, sample_weight: the first batch, eager tensors, as Keras hands them to `train_step`.

    Attributes:
        route: one of ROUTES.
        shape: (n, p).

    Raises:
        ValueError: no weight is trainable or acts on the outcome; the outcome has not one row per sample; no route is
            right, because the outcome differs from one call to the next.
        TypeError: the outcome is not real.
        MemoryError: an update takes more memory than is free.
    """

    def __init__(self, model, compiler, x, y_true, sample_weight):
        self.model, self.compiler = model, compiler
        self.weights = model.trainable_variables
        self.shapes = [tuple(weight.shape) for weight in self.weights]
        if not self.weights:
            raise ValueError(f"model {model.name!r} has no trainable weights: there is no Jacobian to take")
        self.batch = tf.nest.flatten(x)[0].shape[0]
        self._reference = compiler.function(self._trace_reference, "The plain gradient", xla=False)
        self.loss = compiler.function(self._trace_loss, "The loss")
        self._vjp = compiler.function(self._trace_vjp, "A vector-Jacobian product")
        reference = self._reference(x)
        self.n, p = int(reference[1].shape[0]), sum(int(np.prod(shape)) for shape in self.shapes)
        self.d, self.shape = self.n // self.batch, (self.n, p)
        if all(gradient is None for gradient in reference[2]):
            raise ValueError("No gradients provided for any variable: the outcome does not depend on any trainable weight, "
                             "or not in a differentiable way.")
        require_memory(self.n, model, f"reduce the batch size, {self.batch}, or the outputs per sample, {self.d}")
        keep_freed_memory()
        self._penalty = compiler.function(self._trace_penalty, "The gradient of the penalties") if self.penalized else None
        self.route, self.linearise = self._proven(x, y_true, sample_weight, reference)

    def penalty(self, x):
        """(Σ of the losses that layers add, its gradient (p,) float64), or None without any."""
        return self._penalty(x) if self._penalty else None

    # ------------------------------------------------------------------------------------------------ the proof

    def _proven(self, *first):
        """The fastest route that is right: its name, and its function (x, y*, weights) → loss, outcome, g, Jacobian."""
        *batch, reference = first
        reasons, failure = [], None
        for route, function in self._candidates(reasons):
            try:
                failure = None
                wrong = self._disagreement(function, batch, reference)
                if wrong:                                               # a unit on its kink may round to either side: look elsewhere
                    with self._moved_weights():
                        wrong = self._disagreement(function, batch, self._reference(batch[0]))
            except MemoryError:
                raise
            except NotApplicable as reason:
                wrong = str(reason)
            except Exception as error:                                  # of users' code, called in a way it was not made for
                failure, wrong = error, f"the model fails on other rows than its batch ({str(error).strip().splitlines()[0][:160]})"
            if not wrong:
                if reasons:
                    self.compiler.warn(f"The Jacobian takes the route {route!r}, as {reasons[0]}. "
                                       f"An update costs {self._costs(route)}.")
                return route, function
            reasons.append(wrong)
        if failure:
            raise failure
        outcomes = [np.concatenate([np.ravel(leaf) for leaf in tf.nest.flatten(self._reference(batch[0])[0])])
                    for _ in range(2)]
        if not np.allclose(*outcomes, rtol=self._tolerance(outcomes[0]), atol=0, equal_nan=True):
            raise ValueError("the outcome is another one at every call, so that it has no Jacobian: draw random numbers outside "
                             "the model and hand them over with x; keep no state from one call to the next")
        raise ValueError(f"the Jacobian of this model cannot be computed reliably in {outcomes[0].dtype}: {reasons[-1]}. "
                         "The simulator may be chaotic (take float64), random, or compiled wrongly (compile(jit_compile=False))")

    def _disagreement(self, function, batch, reference):
        """What is wrong with a route on this batch, as a clause; "" if it is right to the precision of the dtype.

        A weight's share of Jᵀv is compared with its own norm, and with a hundredth of that of all of Jᵀv, which is the
        level of its rounding errors. Not-a-number where the plain product has numbers is wrong; where it has none, the
        network or the data have diverged, which is for the loss to show.
        """
        expected_outcome, v, expected = reference
        _, outcome, gradient, jacobian = function(*batch)
        tolerance = self._tolerance(*tf.nest.flatten(outcome))
        for found, wanted in zip(tf.nest.flatten(outcome), tf.nest.flatten(expected_outcome)):
            found, wanted = np.asarray(found, np.float64), np.asarray(wanted, np.float64)
            if not np.linalg.norm(found - wanted) <= 10 * tolerance * np.linalg.norm(wanted) and np.isfinite(wanted).all():
                return "the outcome differs from one call to the next"
        v = np.asarray(v, np.float64)
        found = (jacobian.pullback if isinstance(jacobian, FactoredJacobian) else jacobian.pullback_by_rows)(v)
        wanted = [np.zeros(shape) if gradient is None else np.asarray(gradient, np.float64)
                  for gradient, shape in zip(expected, self.shapes)]
        floor = 0.01 * np.sqrt(sum(np.sum(gradient**2) for gradient in wanted))
        wrong = [weight.path for weight, one, other in zip(self.weights, found, wanted)
                 if np.isfinite(other).all() and not np.linalg.norm(one - other) <= tolerance * (np.linalg.norm(other) + floor)]
        return f"{' and '.join(map(repr, wrong[:2]))} acts on the outcome in a way that a faster route misses" if wrong else ""

    def _tolerance(self, *outcomes):
        """√ε of the coarsest dtype: far above rounding, far below a missing term."""
        layers = [layer.compute_dtype for part in self._parts() for layer in leaves(part)]
        dtypes = {tf.as_dtype(leaf.dtype).name for leaf in outcomes} | {keras.backend.standardize_dtype(dtype) for dtype in layers}
        return max(np.sqrt(_EPSILON.get(dtype, 0.0)) for dtype in dtypes)

    @contextlib.contextmanager
    def _moved_weights(self):
        """The weights changed by about a thousandth while the block runs."""
        before, random = [weight.numpy() for weight in self.weights], np.random.default_rng(1)
        try:
            for weight, value in zip(self.weights, before):
                scale = 1e-3 * (np.abs(value) + np.mean(np.abs(value)))
                weight.assign((value + scale * random.standard_normal(value.shape)).astype(value.dtype))
            yield
        finally:
            for weight, value in zip(self.weights, before):
                weight.assign(value)

    def _costs(self, route):
        n, p = self.shape
        passes = f"{n} backward passes of {'one sample' if route == 'per sample' else f'all {self.batch} samples'}"
        return f"{passes} and {8 * n * p / 1e6:.3g} MB for J, n = {n} by p = {p}"

    # ------------------------------------------------------------------------------------------------ the parts

    def _parts(self):
        """Network, and simulator and network_input where they are layers."""
        return [part for part in (self.model.network, self.model.simulator, self.model.network_input)
                if isinstance(part, keras.layers.Layer)]

    def flat(self, outcome, batch):
        """The outcome as (B, d), its parts one behind the other, in the widest of their dtypes."""
        leaves = tf.nest.flatten(outcome)
        for leaf in leaves:
            if not leaf.dtype.is_floating:
                raise TypeError(f"the simulator's outcome must be a real float tensor, not {leaf.dtype.name}")
            if leaf.shape.rank == 0 or leaf.shape[0] != batch:
                raise ValueError(f"the simulator must return one row per sample, the batch first: {batch} samples gave "
                                 f"an outcome of shape {leaf.shape}")
        widest = max((leaf.dtype for leaf in leaves), key=lambda dtype: dtype.size)
        return tf.concat([tf.cast(tf.reshape(leaf, [batch, -1]), widest) for leaf in leaves], axis=1)

    def _trace_reference(self, x):
        """Outcome, a random v (n,) and Jᵀv by automatic differentiation of the whole model, None where it has no gradient."""
        with tf.GradientTape() as tape:
            outcome = self.model(x, training=False)
            flat = tf.reshape(self.flat(outcome, self.batch), [-1])
            v = tf.cast(tf.random.stateless_normal(flat.shape, (22, 7)), flat.dtype)
            projection = tf.reduce_sum(flat * v)
        self.penalized = bool(self.model.losses)
        known = {id(weight.value) for weight in self.model.variables}
        strangers = sorted({variable.name for variable in tape.watched_variables() if id(variable) not in known})
        if strangers:
            self.compiler.warn(f"{strangers[0]!r} acts on the outcome but is no weight of the model, so that it is not trained: "
                               "make the simulator or network_input a Keras layer that holds it")
        return outcome, v, _dense(tape.gradient(projection, self._values()))

    def _trace_vjp(self, x, v):
        """Jᵀv for any v (n,): a list of tensors like the weights."""
        with tf.GradientTape() as tape:
            flat = tf.reshape(self.flat(self.model(x, training=False), self.batch), [-1])
        return _dense(tape.gradient(flat, self._values(), tf.cast(v, flat.dtype), tf.UnconnectedGradients.ZERO))

    def _trace_penalty(self, x):
        """Σ of `model.losses` and its gradient: what regularisers and `add_loss` add to the loss of the outcome."""
        with tf.GradientTape() as tape:
            self.model(x, training=False)
            penalty = tf.add_n([tf.cast(tf.reduce_sum(loss), keras.config.floatx()) for loss in self.model.losses])
        gradients = _dense(tape.gradient(penalty, self._values(), unconnected_gradients=tf.UnconnectedGradients.ZERO))
        return penalty, tf.concat([tf.cast(tf.reshape(gradient, [-1]), tf.float64) for gradient in gradients], axis=0)

    def _trace_loss(self, x, y_true, sample_weight):
        """Loss, outcome and g (n,) of a batch."""
        return self.loss_and_gradient(x, y_true, sample_weight, self.model.call(x, training=False))

    def loss_and_gradient(self, x, y_true, sample_weight, outcome):
        """Loss of an outcome without the layers' penalties, the outcome, and g = ∂L/∂y, (n,)."""
        with tf.GradientTape() as tape:
            tape.watch(outcome)
            loss = self.model.compute_loss(x, y_true, outcome, sample_weight, training=False)
            for penalty in self.model.losses:
                loss = loss - tf.cast(tf.reduce_sum(penalty), loss.dtype)
        gradient = tape.gradient(loss, outcome, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        return loss, outcome, tf.reshape(self.flat(gradient, self.batch), [-1])

    def _values(self, group=None):
        return [self.weights[index].value for index in (range(len(self.weights)) if group is None else group)]

    # ----------------------------------------------------------------------------------------------- the routes

    def _candidates(self, reasons):
        """(name, function) of each route that may be right, the fastest first."""
        places = {id(weight): index for index, weight in enumerate(self.weights)}
        dense = {id(layer): layer for part in self._parts() for layer in leaves(part) if type(layer) is keras.layers.Dense}
        held = {places.get(id(weight)) for layer in dense.values() for weight in (layer.kernel, layer.bias)}
        strange = [weight.path for index, weight in enumerate(self.weights) if index not in held]
        if strange:
            reasons.append(f"{strange[0]!r} is no kernel or bias of a Dense layer")
        else:
            yield "factored", self._factored(list(dense.values()), places)
        if {id(weight) for weight in self.weights} <= {id(weight) for weight in self.model.network.trainable_variables}:
            yield "per sample", self._by_samples(self._trace_network_rows)
        yield "per sample", self._by_samples(self._trace_sample_rows)
        yield "whole batch", self._by_batch(lambda group: self.compiler.function(
            lambda x, seeds: self._trace_batch_rows(group, x, seeds), "The Jacobian by rows"))
        yield "whole batch", self._by_batch(self._one_by_one)

    def _factored(self, dense_layers, places):
        layers = [layer for layer in dense_layers if id(layer.kernel) in places or id(layer.bias) in places]
        kernels, biases = [places.get(id(layer.kernel)) for layer in layers], [places.get(id(layer.bias)) for layer in layers]
        trace = self.compiler.function(lambda *batch: self._trace_factors(layers, *batch), "The Jacobian by layer factors")

        def linearise(x, y_true, sample_weight):
            loss, outcome, gradient, inputs, cotangents = trace(x, y_true, sample_weight)
            return loss, outcome, gradient.numpy(), FactoredJacobian(
                [a.numpy() for a in inputs], [delta.numpy() for delta in cotangents], kernels, biases)
        return linearise

    def _trace_factors(self, layers, x, y_true, sample_weight):
        """Loss, outcome, g, and A and Δ of each layer."""
        with tf.GradientTape(watch_accessed_variables=False) as tape, recording(layers, tape) as calls:
            outcome, _, _, target, seeds = self._repeated_pass(x, tape)
        for layer in layers:
            shapes = [a.shape for called, a, _ in calls if called is layer]
            if len(shapes) != 1 or shapes[0].rank != 2 or shapes[0][0] != self.n:
                raise NotApplicable(f"the layer {layer.path!r} is called on {' and '.join(map(str, shapes)) or 'nothing'}, "
                                 f"not once on {self.n} rows")
        found = {id(layer): (a, z) for layer, a, z in calls}
        inputs, sums = zip(*(found[id(layer)] for layer in layers))
        cotangents = tape.gradient(target, list(sums), seeds, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        loss, outcome, gradient = self.loss_and_gradient(x, y_true, sample_weight, outcome)
        return loss, outcome, gradient, [a[::self.d] for a in inputs], cotangents

    def _repeated_pass(self, x, tape):
        """A forward pass of some samples in which each is repeated d times: row (b, k) holds sample b.

        Returns:
            (outcome, inputs, controls, target, seeds): the outcome (samples, …); what the network sees and gives, one row
            for each row of J; and what to ask the tape for: the gradient of the target with the cotangents `seeds`, with
            respect to anything in row (b, k), is that of y_bk. The tape watches the controls.
        """
        model, samples = self.model, tf.nest.flatten(x)[0].shape[0]
        repeated = tf.nest.map_structure(lambda t: tf.repeat(t, self.d, axis=0), x)
        inputs = model.network_input(repeated)
        controls = model.network(inputs, training=False)
        tape.watch(controls)
        if hasattr(model.simulator, "linearize"):                                           # row (b, k): ∂y_bk/∂u_b
            outcome, jacobian = model.simulator.linearize(x, controls[::self.d])
            return outcome, inputs, controls, controls, tf.reshape(jacobian, tf.shape(controls))
        rows = model.simulator(repeated, controls)
        flat = self.flat(rows, samples * self.d)                                           # (rows, d)
        seeds = tf.tile(tf.eye(self.d, dtype=flat.dtype), [samples, 1])                     # row (b, k) holds e_k
        return tf.nest.map_structure(lambda leaf: leaf[::self.d], rows), inputs, controls, flat, seeds

    def _by_samples(self, trace_rows):
        """A route that takes the rows of some samples at a time; `trace_rows(group, x of these samples)` gives blocks."""
        def rows_of(group):
            return self.compiler.function(lambda x: trace_rows(group, x), "The Jacobian by rows")

        def pick(x, first, last):
            return (tf.nest.map_structure(lambda t: t[first:last], x),)
        return self._by_rows(self.batch, self.d, 1000, rows_of, pick)

    def _by_batch(self, rows_of):
        """A route that takes some rows of the whole batch at a time, from (x, their unit cotangents)."""
        return self._by_rows(self.n, 1, 32 * self.n, rows_of,
                             lambda x, first, last: (x, tf.one_hot(tf.range(first, last), self.n)))

    def _by_rows(self, count, rows_each, overhead, rows_of, pick):
        """A route that takes J by rows, from `count` things (samples or rows) of which each gives `rows_each`.

        Args:
            overhead: numbers that a row takes besides itself, about.
            rows_of: function of a group of weights → function of what `pick` returns → blocks of these weights.
            pick: function of (x, first, last): what `rows_of` gets for these things.
        """
        functions = {}

        def linearise(x, y_true, sample_weight):
            loss, outcome, gradient = self.loss(x, y_true, sample_weight)

            def chunks(group):
                size = sum(int(np.prod(self.shapes[index])) for index in group)
                step = int(np.clip(_CHUNK // ((size + overhead) * rows_each), 1, count))
                if group not in functions:
                    functions[group] = rows_of(group)
                for start in range(0, count, step):
                    first = min(start, count - step)                    # the last chunk is as long as the others: it overlaps
                    blocks = functions[group](*pick(x, first, first + step))
                    skip = (start - first) * rows_each
                    yield slice(start * rows_each, (first + step) * rows_each), [_wide(block)[skip:] for block in blocks]
            jacobian = RowsJacobian(chunks, self.shapes, self.n, available_memory() // _SHARE,
                                    lambda v: [_wide(gradient) for gradient in self._vjp(x, tf.constant(v))])
            return loss, outcome, gradient.numpy(), jacobian
        return linearise

    def _trace_network_rows(self, group, x):
        """Blocks of J where the weights act in the network alone: its rows by the cotangents of the controls."""
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            _, inputs, controls, target, seeds = self._repeated_pass(x, tape)
        cotangents = tape.gradient(target, controls, seeds, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        inputs, cotangents = tf.nest.map_structure(lambda t: t[:, None], (inputs, cotangents))
        return tf.vectorized_map(lambda row: self._row(
            group, lambda: self.model.network(row[0], training=False), row[1]),
                                 (inputs, cotangents))

    def _trace_sample_rows(self, group, x):
        """Blocks of J where samples are independent: network and simulator on one sample for each row."""
        seeds = tf.tile(tf.eye(self.d)[:, None], [tf.nest.flatten(x)[0].shape[0], 1, 1])
        repeated = tf.nest.map_structure(lambda t: tf.repeat(t, self.d, axis=0)[:, None], x)
        return tf.vectorized_map(lambda row: self._row(
            group, lambda: self.flat(self.model(row[0], training=False), 1), row[1]), (repeated, seeds))

    def _row(self, group, function, cotangent):
        """One row of J: the gradient of Σ cotangent · function() with respect to a group of weights."""
        with tf.GradientTape() as tape:
            projection = sum(tf.reduce_sum(leaf * tf.cast(share, leaf.dtype))
                             for leaf, share in zip(tf.nest.flatten(function()), tf.nest.flatten(cotangent)))
        return _dense(tape.gradient(projection, self._values(group), unconnected_gradients=tf.UnconnectedGradients.ZERO))

    def _trace_batch_rows(self, group, x, seeds):
        """Blocks of J for any function: one forward pass of the batch, a backward pass for each of the seeds (rows, n)."""
        with tf.GradientTape() as tape:
            flat = tf.reshape(self.flat(self.model(x, training=False), self.batch), [-1])
        return tf.vectorized_map(lambda seed: _dense(tape.gradient(
            flat, self._values(group), tf.cast(seed, flat.dtype), tf.UnconnectedGradients.ZERO)), seeds)

    def _one_by_one(self, group):
        """The same for what cannot be vectorised: one call after the other."""
        def rows(x, seeds):
            found = [self._vjp(x, seed) for seed in seeds]
            return [tf.stack([row[index] for row in found]) for index in group]
        return rows


def _dense(gradients):
    """Gradients as tensors: those of embeddings come as slices."""
    return [gradient if gradient is None else tf.convert_to_tensor(gradient) for gradient in gradients]


def _wide(tensor):
    """A tensor as an array; bfloat16, of which numpy knows little, as float64."""
    return np.asarray(tensor, np.float64) if tensor.dtype == tf.bfloat16 else tensor.numpy()
