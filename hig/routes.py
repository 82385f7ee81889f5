"""How the Jacobian J = ∂y/∂θ of a model is obtained: three routes, and why the one taken is right.

The outcome y of a batch is a function of all trainable weights θ of the model, wherever they act: in the
network, in the simulator, in `network_input`. From the fastest to the most general, with the notation of
`hig.jacobian`:

factored      Every weight is the kernel or bias of a product z = a W + b of one row per sample. Every sample
              is repeated d times, row (b, k) is seeded with the unit cotangent e_k, and one backward pass
              gives the cotangents Δ of all z.
per sample    Row (b, k) of J is a vector-Jacobian product of sample b alone. One backward pass gives all rows
              if every row can have weights of its own (`hig.own_weights`). Otherwise one vectorised pass
              does: through the network, from the cotangents that come out of the simulator, or through both
              together.
whole batch   Row r of J is a vector-Jacobian product of the whole batch, in n backward passes of B samples.
              This is right for every differentiable function θ → y that gives the same y each time.

Two checks decide which route is taken. First, the structure of the traced graph says where weights act
(`hig.structure`) and whether samples stay apart (`hig.sample_axes`). A route that it rules out is never
taken, whatever the numbers are. Second, numbers prove the route with the first batch of each shape
(`hig.proof`): for a random v, Jᵀv by the route's own factors or rows must equal that of the whole model,
which automatic differentiation gives at the cost of one backward pass. If the proof fails, the next route is
taken. If the graph has operations that are not known, small and large rows of J get the same weight in the
proof, and it is repeated at the updates 1, 2, 4, 8, …, and when a variable that the model reads has changed.
"""

import math
import time
from functools import partial
from typing import Callable, NamedTuple

import numpy as np
import tensorflow as tf

from hig.compiled import NotApplicable
from hig.jacobian import FactoredJacobian, RowsJacobian
from hig.krylov import Products, ways
from hig.memory import available_memory, keep_freed_memory, require_memory
from hig.own_weights import own_weights
from hig.penalties import Penalties
from hig.proof import Proof, moved
from hig.replicas import Split, Together, across, devices
from hig.sample_axes import SampleAxes
from hig.structure import graph_memory, layer_products, weight_operations

ROUTES = ("factored", "per sample", "whole batch")
_CHUNK = 2**24              # numbers of J, or of what its rows are made of, computed at a time
_SHARE = 4                  # J is held if it takes less than one part in _SHARE of the free memory
_LARGE = 6000               # rows of a matrix whose decomposition takes ten seconds
_LOOPS = ("While", "StatelessWhile")
_PROOF_SHARE = 0.02         # of the time of the updates that repeated proofs may take


class _Candidate(NamedTuple):
    """A route that may be right.

    Attributes:
        route: one of ROUTES.
        make: function of xla (bool) → function (x, y*, sample weights) → loss, outcome, g, Jacobian.
        proven: whether the structure of the graph says that it is right.
        loops: whether it vectorises a loop, which takes seconds to trace and cannot be compiled by XLA.
    """

    route: str
    make: Callable
    proven: bool
    loops: bool = False


class Derivatives:
    """Loss, gradient g and Jacobian J of a model, for batches of one shape and one set of trainable weights.

    Args:
        model: compiled PhysicsModel.
        compiler: hig.compiled.Compiler, which runs the users' functions and gives the warnings.
        x, y_true, sample_weight: the first batch, eager tensors, as Keras hands them to `train_step`.

    Attributes:
        split: hig.replicas.Split, how the present batch lies on the devices.
        route: one of ROUTES.
        shape: (n, p).
        pass_memory: bytes that the tensors of a forward pass of the batch take, about; 0 if unknown.
        batch: B, the number of samples: the rows of the targets y*, or without targets of x's first array.

    Raises:
        ValueError: no weight is trainable, or none acts on the outcome; the outcome does not have one row per
            sample; a derivative of the model is not finite; no route is right.
        TypeError: the outcome is not real.
        MemoryError: an update takes more memory than is free.
    """

    def __init__(self, model, compiler, x, y_true, sample_weight):
        self.model, self.compiler = model, compiler
        self.weights = model.trainable_variables
        self.shapes = [tuple(weight.shape) for weight in self.weights]
        if not self.weights:
            raise ValueError(f"model {model.name!r} has no trainable weights: there is no Jacobian to take")
        for weight in self.weights:
            if not tf.as_dtype(weight.dtype).is_floating:
                raise TypeError(f"the weight {weight.path!r} is {tf.as_dtype(weight.dtype).name}, but a "
                                "Jacobian power takes real weights: hold real and imaginary part as two")
        self.batch = samples(x, y_true)
        self.split = None if devices() > 1 else Split(self.batch)       # to be set for each update
        self._sampled = [np.shape(leaf)[:1] == (self.batch,) for leaf in tf.nest.flatten(x)]
        if not any(self._sampled):
            raise ValueError(f"the targets have {self.batch} rows, but no array of x has: samples lie along "
                             "the first axis")
        self.loss = compiler.function(self._trace_loss, "The loss")
        self.plain_loss = compiler.function(self._trace_loss, "The loss", xla=False)
        self.loss_of_outcome = compiler.function(self.loss_and_gradient, "The loss", xla=False)
        self.plain_vjp = compiler.function(self._trace_plain_vjp, "The plain gradient", xla=False)
        self._vjp = compiler.function(self._trace_vjp, "A vector-Jacobian product")
        self._read_structure(x)
        self.krylov = model.optimizer.krylov
        self.proof = Proof(self)
        reference = self.proof.reference(x, y_true, sample_weight)
        p = sum(math.prod(shape) for shape in self.shapes)
        self.shape = self.n, p
        if devices() > 1:
            self._check_devices()
        if all(gradient is None for gradient in reference.product):
            raise ValueError("No gradients provided for any variable: the outcome does not depend on any "
                             "trainable weight, or not in a differentiable way.")
        broken = self.proof.not_finite(reference)
        if broken:
            raise ValueError(broken)
        if not self.krylov:
            require_memory(self.n, model,
                           f"set krylov=16 or so in the optimizer, or reduce the batch size, {self.batch}, "
                           f"or the outputs per sample, {self.d}")
            keep_freed_memory()
        self.penalties = Penalties(model, compiler, self.penalty_count)
        self.apply = Together(model.trace_update) if devices() > 1 else compiler.function(
            model.trace_update, "The update", xla=False)
        self.record = compiler.function(model.trace_record, "The metrics", xla=False)
        self._curvature = compiler.function(self._trace_curvature, "The loss' curvature")
        self._shift = compiler.function(self._trace_shift, "The step", xla=False)
        self._restore = compiler.function(self._trace_restore, "The step taken back", xla=False)
        self._reasons, self._untried = [], self._candidates()
        self._updates = self._right_until = 0
        self._next_proof, self._seconds = 2, 0.0
        self._take_route((x, y_true, sample_weight), reference)
        smaller = min(self.shape)
        if smaller > _LARGE and not self.krylov:
            compiler.warn(f"An update decomposes a matrix of {smaller} × {smaller} numbers on the host, "
                          f"which takes about {3 * (smaller / 4096)**3:.0f} s; the optimizer's krylov=16 "
                          "never forms it")

    def _check_devices(self):
        """Refuses models of which a part of a batch does not say what it contributes to the whole."""
        if self._certainly_mixed:
            raise ValueError(f"samples reach each other's outcomes by {self._mixing}, so that a batch cannot "
                             "be split among devices: train on one")
        if self._mixing:
            self.compiler.warn("It is not known whether samples reach each other's outcomes "
                               f"({self._mixing}): on several devices they do so within each device alone")
        if self.penalty_count > sum(weight.regularizer is not None for weight in self.weights):
            raise ValueError("layers add to the loss (add_loss, activity regularisers), of which it is not "
                             "known how the parts of a batch make up the whole: leave them out, or train on "
                             "one device")

    def linearise(self, x, y_true, sample_weight):
        """Loss, outcome, g (n,) and J of a batch: (float tensor, tensors, numpy array, Jacobian).

        Of several devices the loss is that of the whole batch, g and J are this device's rows.
        """
        started = time.perf_counter()
        result = self._linearise(x, y_true, sample_weight)
        self._updates += 1
        if not self._proven and (self._updates >= self._next_proof or self._settings_have_changed()):
            self._seconds = time.perf_counter() - started
            result = self._prove_again((x, y_true, sample_weight), result)
        if devices() > 1:
            loss, outcome, gradient, jacobian = result
            result = across(self.split.share * loss), outcome, self.split.share * gradient, jacobian
        return result

    def _settings_have_changed(self):
        """Whether a variable that the model reads but does not train has changed since the last call."""
        before, self._settings = self._settings, [variable.numpy() for variable in self._read]
        return not all(map(np.array_equal, before, self._settings))

    def mended(self, batch):
        """Whether another route is taken after J^κ g was not finite: where only XLA's derivatives are not.

        If those of automatic differentiation are not finite either, a warning names the weights.
        """
        reference = self.proof.reference(*batch)
        broken = self.proof.not_finite(reference)
        if broken:
            self.compiler.warn(broken)
        finite = not broken and np.isfinite(reference.loss) and np.isfinite(reference.gradient).all()
        if finite:
            self._take_route(batch, reference)
        return finite

    def curvature(self, batch, outcome, gradient, change=None):
        """Two curvatures of the loss in y: h along its gradient, and that along a change of y.

        Args:
            batch: (x, y_true, sample_weight).
            outcome, gradient: y and g (n,).
            change: of y, (n,); g if None.

        Returns:
            (h, changeᵀ H change), floats, with h = gᵀ H g/gᵀg and H = ∂²L/∂y², by Hessian-vector products.
            They are exact for every sum of squares, however weighted. If gᵀ H g is not positive, h is 2/B,
            the curvature of the mean of Σ (y − y*)² over B samples. If one of the two is not positive, the
            second is h ‖change‖².
        """
        change = gradient if change is None else change
        own, along = self._curvature(*batch, outcome, tf.cast(change, tf.float64))
        square = np.vdot(gradient, gradient)
        if devices() > 1:                                               # `own` is that of this device's own g
            own, square = across(tf.stack([self.split.share**3 * tf.cast(own, tf.float64), float(square)]))
        own, along, square = map(float, (own, along, square))
        h = own / square if own > 0 else 2 / self.split.samples
        return h, along if own > 0 and along > 0 else h * float(np.vdot(change, change))

    def quadratic_model(self, batch, outcome, gradient, jacobian, direction):
        """(a, c): slope gᵀ J d and curvature (J d)ᵀ H (J d) of the loss along −d, penalties included.

        Args:
            batch, outcome: as in `curvature`.
            gradient, jacobian: g and J with the rows of the penalties.
            direction: d, (p,) float64.
        """
        change = jacobian.push(direction)
        h, curvature = self.curvature(batch, outcome, gradient[:self.n], change[:self.n])
        return float(np.asarray(gradient) @ change), curvature + h * float(np.sum(change[self.n:]**2))

    def loss_after(self, batch, step):
        """The loss of a batch, penalties included, with the weights θ − step, (p,) float64; θ is put back."""
        before = self._shift(tf.cast(step, tf.float64))
        try:
            return float(self.loss(*batch)[0]) + self.penalties.value(batch[0])
        finally:
            self._restore(before)

    def _of_samples(self, function, x):
        """x with a function applied to the arrays that have a row for each sample; others stay."""
        return tf.nest.pack_sequence_as(x, [function(leaf) if sampled else leaf
                                            for leaf, sampled in zip(tf.nest.flatten(x), self._sampled)])

    def _count(self, x):
        """The number of samples in x, which may be some of the batch."""
        return next(leaf.shape[0] for leaf, sampled in zip(tf.nest.flatten(x), self._sampled) if sampled)

    # ---------------------------------------------------------------------------------------------- structure

    def _read_structure(self, x):
        """What the graph of x → y says: which routes can be right, and d and n."""
        marks = {}

        def outcome_of(x):
            operations = tf.compat.v1.get_default_graph().get_operations
            if self.model.composed:
                inputs = self.model.network_input(x)
                before = len(operations())
                controls = self.model.network(inputs, training=False)
                marks["network"] = before, len(operations())
                outcome = self.model.simulator(x, controls)
            else:
                outcome = self.model(x, training=False)
            return tf.identity(self.flat(outcome, self.batch))

        self._layered, self._network_alone = "the graph of the model cannot be read", False
        self._mixing, self._read = "its graph cannot be read", ()
        self._certainly_mixed = self._loop = self._loop_in_network = self._has_own_weights = False
        self.pass_memory = 0                                            # unknown
        self.loop_reads_weights = False
        try:
            traced = self.compiler.trace(outcome_of, x)
        except Exception:  # a model that runs as plain Python only
            self.d = int(self.flat(self._outcome(x), self.batch).shape[1])
        else:
            graph, outcome = traced.graph, traced.graph.outputs[0]
            self.pass_memory = graph_memory(graph)
            trained = {id(weight.value.handle) for weight in self.weights}
            self._read = [variable for variable in traced.variables if id(variable.handle) not in trained]
            self.d = int(outcome.shape[1])
            axes = SampleAxes(traced, len(tf.nest.flatten(x)), self.batch)
            products, self._layered = layer_products(graph, self.weights, outcome, self.batch)
            if products and not all(axes.one_row_each(product.sums) for product in products):
                self._layered = "a layer is called on rows that are not those of the samples"
            mixed = axes.verdict()
            self._mixing = mixed and mixed.operation
            self._certainly_mixed = bool(mixed) and mixed.certain
            self._loop = any(operation.type in _LOOPS for operation in graph.get_operations())
            uses = weight_operations(graph, self.weights, outcome)
            self.loop_reads_weights = any(
                operation.type in _LOOPS and operation.inputs[index].dtype == tf.resource
                for each in uses for operation, index in each)
            if "network" in marks:
                inside = set(graph.get_operations()[slice(*marks["network"])])
                self._loop_in_network = any(operation.type in _LOOPS for operation in inside)
                self._network_alone = all(operation in inside for each in uses for operation, _ in each)
            self._has_own_weights = (bool(self._layered) or self.compiler.eager) and not self._mixing and (
                self._may_have_own_weights(x))
        self.n = self.batch * self.d
        self._settings = [variable.numpy() for variable in self._read]

    def _may_have_own_weights(self, x):
        """Whether weights act in Dense layers alone, and samples stay apart when rows have own weights."""
        leaves = tf.nest.flatten(x)

        def outcome_of(*arguments):
            own = dict(zip(map(id, self.weights), arguments[len(leaves):]))
            with own_weights(own, shared=False):
                return tf.identity(self.flat(self._outcome(tf.nest.pack_sequence_as(x,
                    arguments[:len(leaves)])), self.batch))
        try:
            traced = self.compiler.trace(outcome_of, *leaves, *(
                tf.zeros((self.batch, *weight.shape), weight.dtype) for weight in self.weights))
        except Exception:  # a layer is called on other rows than the samples
            return False
        held = {id(outside) for outside, _ in traced.graph.captures}
        return not any(id(weight.value.handle) in held for weight in self.weights) and (
            SampleAxes(traced, len(leaves) + len(self.weights), self.batch).verdict() == "")

    # ---------------------------------------------------------------------------------------------- the proof

    def _take_route(self, batch, reference):
        """Takes the first route not tried yet that agrees with the reference on a batch."""
        failure = None
        for candidate in self._untried:
            wrong = None
            may_compile = self.compiler.forced or self.compiler.xla and not candidate.loops
            for xla in (True, False) if may_compile else (False,):
                function, failure = candidate.make(xla), None
                try:
                    wrong = self.proof.disagreement(function, batch, reference, weigh=not candidate.proven)
                    if wrong:  # perhaps a unit is on its kink, and rounding decides on which side
                        with moved(self.weights):
                            wrong = self.proof.disagreement(function, batch, self.proof.reference(*batch),
                                                            weigh=not candidate.proven)
                except (MemoryError, tf.errors.ResourceExhaustedError):
                    raise
                except NotApplicable as reason:
                    wrong = str(reason)
                    break
                except Exception as error:  # from users' code that is called on other rows than its batch
                    failure = error
                    said = str(error).strip().splitlines()[0][:160]
                    wrong = f"the model fails on other rows than its batch ({said})"
                    break
                if not wrong:
                    break
            if not wrong:
                if not xla and may_compile:
                    self.compiler.differs("The Jacobian")
                elif self._reasons:
                    self.compiler.warn(f"The Jacobian takes the route {candidate.route!r}, as "
                                       f"{self._reasons[0]}. An update costs {self._costs(candidate.route)}.")
                self.route, self._linearise, self._proven = candidate.route, function, candidate.proven
                return
            self._reasons.append(wrong)
        if failure:
            raise failure
        self.proof.refuse(batch, self._reasons[-1])

    def _prove_again(self, batch, result):
        """The result of an update, after the proof is repeated on its batch; by the next route if it fails.
        """
        started = time.perf_counter()
        wrong = self.proof.disagreement(lambda *_: result, batch, self.proof.reference(*batch), weigh=True)
        if wrong:
            since = self._right_until + 1
            self._reasons = [wrong]
            self.compiler.warn(f"The route {self.route!r} to the Jacobian stopped being right: {wrong}. "
                               f"Steps may have been wrong since update {since}; this is update "
                               f"{self._updates}.")
            self._take_route(batch, self.proof.reference(*batch))
            result = self._linearise(*batch)
        self._right_until = self._updates
        spent = time.perf_counter() - started
        pause = math.ceil(spent / (_PROOF_SHARE * self._seconds))
        self._next_proof = self._updates + min(self._updates, max(1, pause))
        return result

    def _costs(self, route):
        n, p = self.shape
        if self.krylov:
            return f"{min(self.krylov, n, p)} products with J and as many with its transpose"
        of_what = "one sample" if route == "per sample" else f"all {self.batch} samples"
        passes = f"{n} backward passes of {of_what}"
        return f"{passes} and {8 * n * p / 1e6:.3g} MB for J, n = {n} by p = {p}"

    # ---------------------------------------------------------------------------------------------- the parts

    def flat(self, outcome, batch):
        """The outcome as (B, d), its parts one behind the other, in the widest of their dtypes."""
        leaves = tf.nest.flatten(outcome)
        for leaf in leaves:
            if not leaf.dtype.is_floating:
                raise TypeError(f"the simulator's outcome must be a real float tensor, not {leaf.dtype.name}")
            if leaf.shape.rank == 0 or leaf.shape[0] != batch:
                raise ValueError(f"the simulator must return one row per sample, the batch first: {batch} "
                                 f"samples gave an outcome of shape {leaf.shape}")
        widest = max((leaf.dtype for leaf in leaves), key=lambda dtype: dtype.size)
        return tf.concat([tf.cast(tf.reshape(leaf, [batch, -1]), widest) for leaf in leaves], axis=1)

    def _outcome(self, x):
        """y = P(x, u), by `call` where possible: Keras' `__call__` keeps AutoGraph away from users' code."""
        return self.model.call(x, training=False) if self.model.composed else self.model(x, training=False)

    def _trace_plain_vjp(self, x, v):
        """Jᵀv by automatic differentiation of the whole model; None for a weight without a gradient."""
        with tf.GradientTape() as tape:
            flat = tf.reshape(self.flat(self._outcome(x), self.batch), [-1])
        self.penalty_count = len(self.model.losses)
        known = {id(weight.value.handle) for weight in self.model.variables}
        strangers = sorted({variable.name for variable in tape.watched_variables()
                            if id(variable.handle) not in known})
        if strangers:
            self.compiler.warn(f"{strangers[0]!r} acts on the outcome but is no weight of the model, so that "
                               "it is not trained: make the simulator or network_input a Keras layer that "
                               "holds it")
        return _dense(tape.gradient(flat, self._values(), tf.cast(v, flat.dtype)))

    def _trace_vjp(self, x, v):
        """Jᵀv for any v (n,): a list of tensors like the weights."""
        with tf.GradientTape() as tape:
            flat = tf.reshape(self.flat(self._outcome(x), self.batch), [-1])
        return _dense(tape.gradient(flat, self._values(), tf.cast(v, flat.dtype),
                                    tf.UnconnectedGradients.ZERO))

    def _trace_loss(self, x, y_true, sample_weight):
        """Loss, outcome and g (n,) of a batch."""
        outcome = self._outcome(x)
        if any(getattr(leaf, "_keras_mask", None) is not None for leaf in tf.nest.flatten(outcome)):
            raise ValueError("the outcome carries the mask of a Masking or Embedding layer, which the "
                             "Jacobian does not see: return tf.identity of it, and leave padding out by "
                             "sample_weight or within the simulator")
        return self.loss_and_gradient(x, y_true, sample_weight, outcome)

    def loss_and_gradient(self, x, y_true, sample_weight, outcome):
        """Loss of an outcome without the layers' penalties, the outcome, and g = ∂L/∂y, (n,)."""
        with tf.GradientTape() as tape:
            tape.watch(outcome)
            loss = self.model.data_loss(x, y_true, outcome, sample_weight)
        gradient = tape.gradient(loss, outcome, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        return loss, outcome, tf.reshape(self.flat(gradient, self.batch), [-1])

    def _trace_curvature(self, x, y_true, sample_weight, outcome, change):
        """gᵀ H g and changeᵀ H change of the loss at this outcome."""
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(outcome)
            gradient = self.loss_and_gradient(x, y_true, sample_weight, outcome)[2]
            vectors = tf.stop_gradient(gradient), tf.cast(change, gradient.dtype)
            products = [tf.reduce_sum(gradient * vector) for vector in vectors]
        return [tf.reduce_sum(vector * tf.reshape(self.flat(tape.gradient(
            product, outcome, unconnected_gradients=tf.UnconnectedGradients.ZERO), self.batch), [-1]))
                for product, vector in zip(products, vectors)]

    def _trace_shift(self, step):
        """Takes a step (p,) from the weights; returns their values before that."""
        before = [tf.identity(weight.value) for weight in self.weights]
        for weight, share in zip(self.weights, self.model.shares(step)):
            weight.assign_sub(share)
        return before

    def _trace_restore(self, values):
        for weight, value in zip(self.weights, values):
            weight.assign(value)

    def _values(self, group=None):
        return [self.weights[index].value for index in (range(len(self.weights)) if group is None else group)]

    # --------------------------------------------------------------------------------------------- the routes

    def _candidates(self):
        """The routes that the structure of the graph does not rule out, the fastest first."""
        if self.krylov:
            for way in ways(self, self._network_alone and not self._certainly_mixed):
                yield _Candidate(f"krylov, {way}", partial(self._by_products, way),
                                 way != "through the network" or not self._mixing)
            return
        if self._certainly_mixed:
            self._reasons.append(f"samples reach each other's outcomes by {self._mixing}")
        else:
            apart = not self._mixing
            if self._layered:
                self._reasons.append(self._layered)
            elif not self.compiler.eager:                               # layers are found in a graph
                yield _Candidate("factored", self._factored, apart)
            if self._has_own_weights:
                yield _Candidate("per sample", lambda xla: self._by_samples(self._trace_own_rows, xla), apart)
            if self._network_alone:
                yield _Candidate("per sample", lambda xla: self._by_samples(self._trace_network_rows, xla),
                                 apart, self._loop_in_network)
            yield _Candidate("per sample", lambda xla: self._by_samples(self._trace_sample_rows, xla), apart,
                             self._loop)
        yield _Candidate("whole batch", lambda xla: self._by_batch(lambda group: self.compiler.function(
            lambda x, seeds: self._trace_batch_rows(group, x, seeds), "The Jacobian by rows", xla=xla), xla),
            True)
        yield _Candidate("whole batch", lambda xla: self._by_batch(self._one_by_one, xla), True)

    def _by_products(self, way, xla):
        return Products(self, way, self.model.optimizer.krylov_chunk, xla).linearise

    def _factored(self, xla):
        found = {}

        def trace(*batch):
            results, found["places"] = self._trace_factors(*batch)
            return results
        function = self.compiler.function(trace, "The Jacobian by layer factors", xla=xla)

        def linearise(x, y_true, sample_weight):
            loss, outcome, gradient, inputs, cotangents = function(x, y_true, sample_weight)
            return loss, outcome, gradient.numpy(), FactoredJacobian(
                [a.numpy() for a in inputs], [delta.numpy() for delta in cotangents], *found["places"])
        return linearise

    def _trace_factors(self, x, y_true, sample_weight):
        """((loss, outcome, g, list of A, list of Δ), (places of kernels, places of biases in θ))."""
        outcome, _, _, target, seeds = self._repeated_pass(x)
        products, reason = layer_products(tf.compat.v1.get_default_graph(), self.weights, target, self.n)
        if not products:
            raise NotApplicable(reason or "no weight acts on the outcome")
        sums = [product.sums for product in products]
        cotangents = tf.gradients(target, sums, seeds, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        loss, outcome, gradient = self.loss_and_gradient(x, y_true, sample_weight, outcome)
        inputs = [tf.zeros([self.n, 0], sums[0].dtype) if product.inputs is None else product.inputs
                  for product in products]
        return ((loss, outcome, gradient, [a[::self.d] for a in inputs], cotangents),
                ([product.kernel for product in products], [product.bias for product in products]))

    def _repeated_pass(self, x, watch=lambda controls: None):
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
        model, samples = self.model, self._count(x)
        repeated = self._of_samples(lambda t: tf.repeat(t, self.d, axis=0), x)
        inputs = controls = None
        if model.composed:
            inputs = model.network_input(repeated)
            controls = model.network(inputs, training=False)
            watch(controls)
            linearised = self._linearised_simulator(x, tf.nest.map_structure(lambda t: t[::self.d], controls),
                                                    samples)
            if linearised:                                              # row (b, k): ∂y_bk/∂u_b
                return linearised[0], inputs, controls, controls, tf.reshape(linearised[1],
                                                                             tf.shape(controls))
            rows = model.simulator(repeated, controls)
        else:
            rows = model(repeated, training=False)
        flat = self.flat(rows, samples * self.d)                                           # (rows, d)
        seeds = tf.tile(tf.eye(self.d, dtype=flat.dtype), [samples, 1])  # row (b, k) holds e_k
        return tf.nest.map_structure(lambda leaf: leaf[::self.d], rows), inputs, controls, flat, seeds

    def _linearised_simulator(self, x, controls, samples):
        """(outcome, ∂y/∂u (samples, d, *controls)) if that takes less than d backward passes, else None.

        It comes from the simulator's own `linearize`, or from products with ∂y/∂u, one for each of c
        controls, if c ≤ d/8 and the weights act in the network alone. Such a product is the derivative of a
        backward pass and takes some four times as long; TensorFlow's forward mode does not know lists of
        tensors in loops.
        """
        if hasattr(self.model.simulator, "linearize"):
            return self.model.simulator.linearize(x, controls)
        if not self._network_alone or tf.nest.is_nested(controls) or controls.shape.rank is None:
            return None
        count = math.prod(controls.shape[1:])
        if not 0 < 8 * count <= self.d:
            return None
        repeated = self._of_samples(lambda t: tf.repeat(t, count, axis=0), x)
        primals = tf.repeat(controls, count, axis=0)
        tangents = tf.reshape(tf.tile(tf.eye(count, dtype=controls.dtype), [samples, 1]), primals.shape)
        try:
            with tf.GradientTape() as outer:
                with tf.GradientTape() as inner:
                    inner.watch(primals)
                    outcome = self.model.simulator(repeated, primals)
                    flat = self.flat(outcome, samples * count)
                weights = tf.ones_like(flat)                                # w; ∂(uᵀ Jᵀ w)/∂w = J u
                outer.watch(weights)
                transposed = inner.gradient(flat, primals, weights,
                                            unconnected_gradients=tf.UnconnectedGradients.ZERO)
            # row (b, j): ∂y_b/∂u_bj
            columns = outer.gradient(transposed, weights, tangents, tf.UnconnectedGradients.ZERO)
        except Exception:  # an operation has no second derivative
            return None
        jacobian = tf.transpose(tf.reshape(columns, [samples, count, self.d]), [0, 2, 1])
        return tf.nest.map_structure(lambda leaf: leaf[::count], outcome), tf.cast(jacobian, controls.dtype)

    def _by_samples(self, trace_rows, xla):
        """A route by the rows of some samples at a time; `trace_rows(group, x, copies)` gives blocks of J.

        Without XLA every sample comes with a copy of itself that has the cotangent 0, because products of a
        batch of one, which vectorised are products of rank 4 with an axis of size 1, corrupt memory in
        TensorFlow 2.21 with oneDNN.
        """
        def rows_of(group):
            return self.compiler.function(lambda x: trace_rows(group, x, 1), "The Jacobian by rows", xla=xla,
                                          without_xla=lambda x: trace_rows(group, x, 2))

        def pick(x, first, last):
            return (self._of_samples(lambda t: t[first:last], x),)
        return self._by_rows(self.batch, self.d, 1000, rows_of, pick, xla)

    def _by_batch(self, rows_of, xla):
        """A route that takes some rows of the whole batch at a time, from (x, their unit cotangents)."""
        return self._by_rows(self.n, 1, 32 * self.n, rows_of,
                             lambda x, first, last: (x, tf.one_hot(tf.range(first, last), self.n)), xla)

    def _by_rows(self, count, rows_each, overhead, rows_of, pick, xla):
        """A route that takes J by rows, from `count` things (samples or rows) that give `rows_each` each.

        Args:
            overhead: about how many numbers a row takes besides itself.
            rows_of: function of a group of weights → function of what `pick` returns → blocks of J.
            pick: function of (x, first, last) → what `rows_of` gets for these things.
        """
        functions = {}

        def linearise(x, y_true, sample_weight):
            loss, outcome, gradient = (self.loss if xla else self.plain_loss)(x, y_true, sample_weight)

            def chunks(group):
                size = sum(math.prod(self.shapes[index]) for index in group)
                step = int(np.clip(_CHUNK // ((size + overhead) * rows_each), 1, count))
                if group not in functions:
                    functions[group] = rows_of(group)
                for start in range(0, count, step):
                    first = min(start, count - step)  # the last chunk is as long as the others: it overlaps
                    blocks = functions[group](*pick(x, first, first + step))
                    skip = (start - first) * rows_each
                    yield slice(start * rows_each, (first + step) * rows_each), [_wide(block)[skip:]
                                                                                 for block in blocks]
            vjp = self._vjp if xla else self.plain_vjp
            jacobian = RowsJacobian(chunks, self.shapes, self.n, available_memory() // _SHARE,
                                    lambda v: [np.zeros(shape) if share is None else _wide(share)
                                               for share, shape in zip(vjp(x, tf.constant(v)), self.shapes)])
            return loss, outcome, gradient.numpy(), jacobian
        return linearise

    def _trace_own_rows(self, group, x, copies):
        """Blocks of J where every row has weights of its own; `copies` are for vectorised rows alone."""
        repeated = self._of_samples(lambda t: tf.repeat(t, self.d, axis=0), x)
        rows = self._count(x) * self.d
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            own = {id(self.weights[index]): tf.zeros((rows, *self.shapes[index]), self.weights[index].dtype)
                   for index in group}
            tape.watch(list(own.values()))
            with own_weights(own):
                flat = self.flat(self._outcome(repeated), rows)
        seeds = tf.tile(tf.eye(self.d, dtype=flat.dtype), [self._count(x), 1])
        return tape.gradient(flat, list(own.values()), seeds,
                             unconnected_gradients=tf.UnconnectedGradients.ZERO)

    def _trace_network_rows(self, group, x, copies):
        """Blocks of J where the weights act in the network alone, from the cotangents of the controls."""
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            _, inputs, controls, target, seeds = self._repeated_pass(x, tape.watch)
        cotangents = tape.gradient(target, controls, seeds,
                                   unconnected_gradients=tf.UnconnectedGradients.ZERO)
        inputs = tf.nest.map_structure(lambda t: tf.repeat(t[:, None], copies, axis=1) if t.shape.rank and
                                       t.shape[0] == self._count(x) * self.d else t, inputs)
        cotangents = tf.nest.map_structure(lambda t: _with_copies(t, copies), cotangents)
        return tf.vectorized_map(lambda row: self._row(
            group, lambda: self.model.network(row[0], training=False), row[1]),
                                 (inputs, cotangents))

    def _trace_sample_rows(self, group, x, copies):
        """Blocks of J where samples stay apart: network and simulator on one sample for each row."""
        seeds = _with_copies(tf.tile(tf.eye(self.d), [self._count(x), 1]), copies)
        repeated = [tf.repeat(tf.repeat(leaf, self.d, axis=0)[:, None], copies, axis=1)
                    for leaf, sampled in zip(tf.nest.flatten(x), self._sampled) if sampled]

        def row(arguments):
            leaves, cotangent = arguments
            leaves = iter(leaves)
            sample = tf.nest.pack_sequence_as(x, [next(leaves) if sampled else leaf
                                                  for leaf, sampled in zip(tf.nest.flatten(x),
                                                                           self._sampled)])
            return self._row(group, lambda: self.flat(self._outcome(sample), copies), cotangent)
        return tf.vectorized_map(row, (repeated, seeds))

    def _row(self, group, function, cotangent):
        """One row of J: the gradient of Σ cotangent · function() with respect to a group of weights."""
        with tf.GradientTape() as tape:
            projection = sum(tf.reduce_sum(leaf * tf.cast(share, leaf.dtype))
                             for leaf, share in zip(tf.nest.flatten(function()), tf.nest.flatten(cotangent)))
        return _dense(tape.gradient(projection, self._values(group),
                                    unconnected_gradients=tf.UnconnectedGradients.ZERO))

    def _trace_batch_rows(self, group, x, seeds):
        """Blocks of J for any model: a forward pass of the batch, and a backward pass for each of the seeds.
        """
        with tf.GradientTape() as tape:
            flat = tf.reshape(self.flat(self._outcome(x), self.batch), [-1])
        return tf.vectorized_map(lambda seed: _dense(tape.gradient(
            flat, self._values(group), tf.cast(seed, flat.dtype), tf.UnconnectedGradients.ZERO)), seeds)

    def _one_by_one(self, group):
        """As `_trace_batch_rows`, one call after the other, for what cannot be vectorised."""
        def rows(x, seeds):
            found = [self._vjp(x, seed) for seed in seeds]
            return [tf.stack([row[index] for row in found]) for index in group]
        return rows


def samples(x, y_true):
    """B of a batch: the rows of its targets, or without targets those of the first array of x."""
    return next(np.shape(leaf)[0] for leaf in tf.nest.flatten([y_true, x])
                if leaf is not None and np.ndim(leaf))


def _with_copies(rows, copies):
    """(rows, …) → (rows, copies, …): each row, and behind it zeros."""
    return tf.stack([rows] + [tf.zeros_like(rows)] * (copies - 1), axis=1)


def _dense(gradients):
    """Gradients as dense tensors; those of embeddings come as slices."""
    return [gradient if gradient is None else tf.convert_to_tensor(gradient) for gradient in gradients]


def _wide(tensor):
    """A tensor as an array; bfloat16, of which numpy knows little, as float64."""
    return np.asarray(tensor, np.float64) if tensor.dtype == tf.bfloat16 else tensor.numpy()
