"""How the Jacobian J = ∂y/∂θ of a model is computed: three routes, and the checks that choose one.

θ are all trainable weights of the model, whether they act in the network, in the simulator or in
`network_input`. From the fastest to the most general, with the notation of `hig.jacobian`, the routes are:

factored      Every weight is the kernel or bias of a product z = a W + b of one row per sample. Every sample
              is repeated d times, row (b, k) is seeded with the unit cotangent e_k, and one backward pass
              gives the cotangents Δ of all z.
per sample    Row (b, k) of J is a vector-Jacobian product of sample b alone. If every row can have weights
              of its own (`hig.own_weights`), one backward pass gives all rows. Otherwise one vectorised pass
              does: through the network only, from the cotangents of the controls, or through network and
              simulator.
whole batch   Row r of J is a vector-Jacobian product of the whole batch, in n backward passes of B samples.
              This is right for every differentiable function θ → y that gives the same y each time.

Two checks decide which route is taken. First, the structure of the traced graph shows where weights act
(`hig.structure`) and whether samples stay apart (`hig.sample_axes`). A route that it rules out is never
taken, whatever the numbers are. Second, the route's numbers are checked with the first batch of each shape
(`hig.proof`): for a random v, Jᵀv by the route's factors or rows must equal that of the whole model, which
automatic differentiation gives at the cost of one backward pass. If it does not, the next route is tried. If
the graph has unknown operations, small and large rows of J get the same weight in this check, which is
repeated at the updates 1, 2, 4, 8, …, and when an untrained variable that the model reads has changed.
"""

import math
import time
from functools import partial
from typing import Callable, NamedTuple

import numpy as np
import tensorflow as tf

from hig.compiled import NotApplicable
from hig.krylov import Products, ways
from hig.memory import keep_freed_memory, require_memory
from hig.own_weights import own_weights
from hig.penalties import Penalties
from hig.proof import Proof, moved
from hig.replicas import Split, Together, across, devices
from hig.rows import (batch_rows, by_batch, by_samples, dense, factored, network_rows, one_by_one, own_rows,
                      sample_rows)
from hig.sample_axes import SampleAxes
from hig.structure import graph_memory, layer_products, weight_operations

ROUTES = ("factored", "per sample", "whole batch")
_LARGE = 6000               # rows of a matrix whose decomposition takes about ten seconds
_LOOPS = ("While", "StatelessWhile")
_PROOF_SHARE = 0.02         # of the updates' time that repeated proofs may take


class _Candidate(NamedTuple):
    """A route that may be right.

    Attributes:
        route: one of ROUTES.
        make: function of (Derivatives, xla) → function (x, y*, sample weights) → loss, outcome, g, Jacobian.
        proven: whether the structure of the graph shows that it is right.
        loops: whether it vectorises a loop, which takes seconds to trace and which XLA cannot compile.
    """

    route: str
    make: Callable
    proven: bool
    loops: bool = False


class Derivatives:
    """Loss, gradient g and Jacobian J of a model, for batches of one shape and one set of trainable weights.

    Args:
        model: compiled PhysicsModel.
        compiler: hig.compiled.Compiler, which runs the users' functions and warns.
        x, y_true, sample_weight: the first batch, eager tensors, as Keras hands them to `train_step`.

    Attributes:
        split: hig.replicas.Split, how the present batch is split among devices.
        route: one of ROUTES.
        shape: (n, p).
        pass_memory: about how many bytes the tensors of a forward pass of the batch take; 0 if unknown.
        batch: B, the number of samples, as in `samples`.

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
        self.split = None if devices() > 1 else Split(self.batch)       # set for each update
        self.sampled = [np.shape(leaf)[:1] == (self.batch,) for leaf in tf.nest.flatten(x)]
        if not any(self.sampled):
            raise ValueError(f"the targets have {self.batch} rows, but no array of x has: samples lie along "
                             "the first axis")
        self.loss = compiler.function(self._trace_loss, "The loss")
        self.plain_loss = compiler.function(self._trace_loss, "The loss", xla=False)
        self.loss_of_outcome = compiler.function(self.loss_and_gradient, "The loss", xla=False)
        self.plain_vjp = compiler.function(self._trace_plain_vjp, "The plain gradient", xla=False)
        self.vjp = compiler.function(self._trace_vjp, "A vector-Jacobian product")
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
        """Refuses models whose loss on a batch is not made up of the losses on its parts."""
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

        With several devices, the loss is that of the whole batch, and g and J are this device's rows.
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
        """Called if J^κ g is not finite. If only XLA's derivatives are to blame, takes another route: True.

        If derivatives without XLA are not finite either, a warning names the weights.
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
        """Two curvatures of the loss in y: h along its gradient, and the one along a change of y.

        Args:
            batch: (x, y_true, sample_weight).
            outcome, gradient: y and g (n,).
            change: the change of y, (n,); g if None.

        Returns:
            (h, changeᵀ H change), floats, with h = gᵀ H g/gᵀg and H = ∂²L/∂y², by Hessian-vector products.
            They are exact for every sum of squares, however weighted. If gᵀ H g is not positive, h is 2/B,
            the curvature of the mean of Σ (y − y*)² over B samples. If one of the two is not positive, the
            second is h ‖change‖².
        """
        change = gradient if change is None else change
        own, along = self._curvature(*batch, outcome, tf.cast(change, tf.float64))
        square = np.vdot(gradient, gradient)
        if devices() > 1:                                               # `own`: with this device's part of g
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
        """The loss of a batch, penalties included, at the weights θ − step, (p,) float64; then restores θ."""
        before = self._shift(tf.cast(step, tf.float64))
        try:
            return float(self.loss(*batch)[0]) + self.penalties.value(batch[0])
        finally:
            self._restore(before)

    def of_samples(self, function, x):
        """x with a function applied to its arrays that have one row for each sample."""
        return tf.nest.pack_sequence_as(x, [function(leaf) if sampled else leaf
                                            for leaf, sampled in zip(tf.nest.flatten(x), self.sampled)])

    def count(self, x):
        """The number of samples in x, which may be a part of the batch."""
        return next(leaf.shape[0] for leaf, sampled in zip(tf.nest.flatten(x), self.sampled) if sampled)

    # ---------------------------------------------------------------------------------------------- structure

    def _read_structure(self, x):
        """Reads from the graph of x → y which routes can be right, and d and n."""
        network_span = []                                               # of operations

        def outcome_of(x):
            operations = tf.compat.v1.get_default_graph().get_operations
            if self.model.composed:
                inputs = self.model.network_input(x)
                before = len(operations())
                controls = self.model.network(inputs, training=False)
                network_span[:] = before, len(operations())
                outcome = self.model.simulator(x, controls)
            else:
                outcome = self.model(x, training=False)
            return tf.identity(self.flat(outcome, self.batch))

        self._layered, self.network_alone = "the graph of the model cannot be read", False
        self._mixing, self._read = "its graph cannot be read", ()
        self._certainly_mixed = self._loop = self._loop_in_network = self._has_own_weights = False
        self.pass_memory = 0                                            # unknown
        self.loop_reads_weights = False
        try:
            traced = self.compiler.trace(outcome_of, x)
        except Exception:  # the model runs only as plain Python
            self.d = int(self.flat(self.outcome_of(x), self.batch).shape[1])
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
            if network_span:
                inside = set(graph.get_operations()[slice(*network_span)])
                self._loop_in_network = any(operation.type in _LOOPS for operation in inside)
                self.network_alone = all(operation in inside for each in uses for operation, _ in each)
            self._has_own_weights = (bool(self._layered) or self.compiler.eager) and not self._mixing and (
                self._may_have_own_weights(x))
        self.n = self.batch * self.d
        self._settings = [variable.numpy() for variable in self._read]

    def _may_have_own_weights(self, x):
        """Whether weights act only in Dense layers, and samples stay apart if rows have their own weights."""
        leaves = tf.nest.flatten(x)

        def outcome_of(*arguments):
            own = dict(zip(map(id, self.weights), arguments[len(leaves):]))
            with own_weights(own, shared=False):
                return tf.identity(self.flat(self.outcome_of(tf.nest.pack_sequence_as(x,
                    arguments[:len(leaves)])), self.batch))
        try:
            traced = self.compiler.trace(outcome_of, *leaves, *(
                tf.zeros((self.batch, *weight.shape), weight.dtype) for weight in self.weights))
        except Exception:  # a layer's rows are not the samples
            return False
        held = {id(outside) for outside, _ in traced.graph.captures}
        return not any(id(weight.value.handle) in held for weight in self.weights) and (
            SampleAxes(traced, len(leaves) + len(self.weights), self.batch).verdict() == "")

    # ---------------------------------------------------------------------------------------------- the proof

    def _take_route(self, batch, reference):
        """Takes the first untried route that agrees with the reference on a batch."""
        failure = None
        for candidate in self._untried:
            wrong = None
            may_compile = self.compiler.forced or self.compiler.xla and not candidate.loops
            for xla in (True, False) if may_compile else (False,):
                function, failure = candidate.make(self, xla), None
                try:
                    wrong = self.proof.disagreement(function, batch, reference, weigh=not candidate.proven)
                    if wrong:  # a unit may be at its kink, where rounding decides
                        with moved(self.weights):
                            wrong = self.proof.disagreement(function, batch, self.proof.reference(*batch),
                                                            weigh=not candidate.proven)
                except (MemoryError, tf.errors.ResourceExhaustedError):
                    raise
                except NotApplicable as reason:
                    wrong = str(reason)
                    break
                except Exception as error:  # users' code fails on other rows than its batch
                    failure = error
                    message = str(error).strip().splitlines()[0][:160]
                    wrong = f"the model fails on other rows than its batch ({message})"
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
        """Repeats the proof on a batch. Returns its result, or that of the next route if the proof fails."""
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
        """The outcome as one tensor (B, d), its parts concatenated, in the widest of their dtypes."""
        leaves = tf.nest.flatten(outcome)
        for leaf in leaves:
            if not leaf.dtype.is_floating:
                raise TypeError(f"the simulator's outcome must be a real float tensor, not {leaf.dtype.name}")
            if leaf.shape.rank == 0 or leaf.shape[0] != batch:
                raise ValueError(f"the simulator must return one row per sample, the batch first: {batch} "
                                 f"samples gave an outcome of shape {leaf.shape}")
        widest = max((leaf.dtype for leaf in leaves), key=lambda dtype: dtype.size)
        return tf.concat([tf.cast(tf.reshape(leaf, [batch, -1]), widest) for leaf in leaves], axis=1)

    def outcome_of(self, x):
        """y = P(x, u), by `call` if possible, because Keras' `__call__` disables AutoGraph in users' code."""
        return self.model.call(x, training=False) if self.model.composed else self.model(x, training=False)

    def _trace_plain_vjp(self, x, v):
        """Jᵀv by automatic differentiation of the whole model; None for a weight without a gradient."""
        with tf.GradientTape() as tape:
            flat = tf.reshape(self.flat(self.outcome_of(x), self.batch), [-1])
        self.penalty_count = len(self.model.losses)
        handles = {id(weight.value.handle) for weight in self.model.variables}
        foreign = sorted({variable.name for variable in tape.watched_variables()
                          if id(variable.handle) not in handles})
        if foreign:
            self.compiler.warn(f"{foreign[0]!r} acts on the outcome but is no weight of the model, so that "
                               "it is not trained: make the simulator or network_input a Keras layer that "
                               "holds it")
        return dense(tape.gradient(flat, self.values(), tf.cast(v, flat.dtype)))

    def _trace_vjp(self, x, v):
        """Jᵀv for any v (n,): a list of tensors like the weights."""
        with tf.GradientTape() as tape:
            flat = tf.reshape(self.flat(self.outcome_of(x), self.batch), [-1])
        return dense(tape.gradient(flat, self.values(), tf.cast(v, flat.dtype),
                                    tf.UnconnectedGradients.ZERO))

    def _trace_loss(self, x, y_true, sample_weight):
        """Loss, outcome and g (n,) of a batch."""
        outcome = self.outcome_of(x)
        if any(getattr(leaf, "_keras_mask", None) is not None for leaf in tf.nest.flatten(outcome)):
            raise ValueError("the outcome carries the mask of a Masking or Embedding layer, which the "
                             "Jacobian does not see: return tf.identity of it, and leave padding out by "
                             "sample_weight or within the simulator")
        return self.loss_and_gradient(x, y_true, sample_weight, outcome)

    def loss_and_gradient(self, x, y_true, sample_weight, outcome):
        """The loss of an outcome without penalties, the outcome, and g = ∂L/∂y, (n,)."""
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
        """Subtracts a step (p,) from the weights; returns their values before it."""
        before = [tf.identity(weight.value) for weight in self.weights]
        for weight, share in zip(self.weights, self.model.shares(step)):
            weight.assign_sub(share)
        return before

    def _trace_restore(self, values):
        for weight, value in zip(self.weights, values):
            weight.assign(value)

    def values(self, group=None):
        return [self.weights[index].value for index in (range(len(self.weights)) if group is None else group)]

    # --------------------------------------------------------------------------------------------- the routes

    def _candidates(self):
        """The routes that the structure of the graph does not rule out, the fastest first."""
        if self.krylov:
            for way in ways(self, self.network_alone and not self._certainly_mixed):
                yield _Candidate(f"krylov, {way}", partial(by_products, way),
                                 way != "through the network" or not self._mixing)
            return
        if self._certainly_mixed:
            self._reasons.append(f"samples reach each other's outcomes by {self._mixing}")
        else:
            apart = not self._mixing
            if self._layered:
                self._reasons.append(self._layered)
            elif not self.compiler.eager:                               # layers are found in a graph
                yield _Candidate("factored", factored, apart)
            if self._has_own_weights:
                yield _Candidate("per sample", partial(by_samples, own_rows), apart)
            if self.network_alone:
                yield _Candidate("per sample", partial(by_samples, network_rows), apart,
                                 self._loop_in_network)
            yield _Candidate("per sample", partial(by_samples, sample_rows), apart, self._loop)
        yield _Candidate("whole batch", partial(by_batch, batch_rows), True)
        yield _Candidate("whole batch", partial(by_batch, one_by_one), True)


def by_products(way, derivatives, xla):
    """The route by products with J and Jᵀ, see `hig.krylov`."""
    return Products(derivatives, way, derivatives.model.optimizer.krylov_chunk, xla).linearise


def samples(x, y_true):
    """B of a batch: the number of rows of its targets, or, without targets, of the first array of x."""
    return next(np.shape(leaf)[0] for leaf in tf.nest.flatten([y_true, x])
                if leaf is not None and np.ndim(leaf))


