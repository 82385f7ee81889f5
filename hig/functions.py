"""A model as functions of its weights and of a batch: the outcome y, the loss L(y), and derivatives of both.

`Functions` holds what the routes to the Jacobian, the control of steps and the update share. Everything is
compiled once for batches of one shape and one set of trainable weights θ.
"""

import math

import numpy as np
import tensorflow as tf

from hig.memory import require_memory
from hig.penalties import Penalties
from hig.replicas import Split, Together, across, devices
from hig.structure import Structure

ZERO = tf.UnconnectedGradients.ZERO


class Functions:
    """Outcome, loss and their derivatives of a model, for batches of one shape.

    Args:
        model: compiled PhysicsModel.
        compiler: hig.compiled.Compiler, which runs the users' functions and warns.
        x, y_true: the first batch, eager tensors, as Keras hands them to `train_step`.

    Attributes:
        weights, shapes: the trainable weights θ and their shapes.
        batch: B, the number of samples, as `samples` counts them.
        d, n, shape: numbers in the outcome of a sample; n = B·d rows of J; (n, p) with p weights.
        structure: hig.structure.Structure, what the graph of x → y says.
        split: hig.replicas.Split, how the present batch is split among devices.
        loss, plain_loss: functions (x, y*, sample weights) → loss, outcome, g (n,); the second without XLA.
        loss_of_outcome: function (x, y*, sample weights, y) → the same for the given outcome y, without XLA.
        plain_vjp: function (x, v (n,)) → Jᵀv by automatic differentiation without XLA, None for a weight
            without a gradient.
        apply, record: the compiled `PhysicsModel.trace_update` and `PhysicsModel.trace_record`.
        penalties: hig.penalties.Penalties.
        loss_reads_weights: whether the loss reads weights itself, besides y (known once it is traced).
        loss_slope: function (x, y*, sample weights, y) → gradient of the loss for fixed y, (p,) float64.

    Raises:
        ValueError: the batch is empty, no weight is trainable, no array of x has a row for each sample, or
            the outcome does not have one row per sample.
        TypeError: a weight or the outcome is not real.
    """

    def __init__(self, model, compiler, x, y_true):
        self.model, self.compiler, self.loss_reads_weights = model, compiler, False
        self.weights = model.trainable_variables
        self.shapes = [tuple(weight.shape) for weight in self.weights]
        if not self.weights:
            raise ValueError(f"model {model.name!r} has no trainable weights: there is no Jacobian to take")
        for weight in self.weights:
            if not tf.as_dtype(weight.dtype).is_floating:
                raise TypeError(f"the weight {weight.path!r} is {tf.as_dtype(weight.dtype).name}, but a "
                                "Jacobian power takes real weights: hold real and imaginary part as two")
        self.batch = samples(x, y_true)
        if not self.batch:
            raise ValueError("the batch has no samples: leave empty batches out of the data")
        self.split = None if devices() > 1 else Split(self.batch)       # set for each update
        self.sampled = [np.shape(leaf)[:1] == (self.batch,) for leaf in tf.nest.flatten(x)]
        if not any(self.sampled):
            raise ValueError(f"the targets have {self.batch} rows, but no array of x has as many: the "
                             "first axis must be that of the samples")
        self.loss = compiler.function(self.trace_loss, "The loss")
        self.plain_loss = compiler.function(self.trace_loss, "The loss", xla=False)
        self.loss_of_outcome = compiler.function(self.loss_and_gradient, "The loss", xla=False)
        self.plain_vjp = compiler.function(self._trace_vjp, "The plain gradient", xla=False)
        self.loss_slope = compiler.function(self._trace_loss_slope, "The loss' own gradient")
        self.apply = Together(model.trace_update) if devices() > 1 else compiler.function(
            model.trace_update, "The update", xla=False)
        self.record = compiler.function(model.trace_record, "The metrics", xla=False)
        self._curvature = compiler.function(self._trace_curvature, "The loss' curvature")
        self._shift = compiler.function(self._trace_shift, "The step", xla=False)
        self._restore = compiler.function(self._trace_restore, "The step taken back", xla=False)
        self.structure = Structure(self, x)
        self.d = self.structure.outputs
        self.n = self.batch * self.d
        self.shape = self.n, sum(math.prod(shape) for shape in self.shapes)
        self.penalties = Penalties(model, compiler, self.structure.penalties)

    def require_memory(self, numbers):
        """Raises MemoryError if an update takes too much memory; it keeps `numbers` numbers per row of J."""
        require_memory(*self.shape, numbers,
                       f"set krylov=16 or so in the optimizer, or reduce the batch size, {self.batch}, or "
                       f"the outputs per sample, {self.d}")

    # ------------------------------------------------------------------------------------------- the outcome

    def outcome_of(self, x):
        """y = P(x, u), by `call` where possible: Keras' `__call__` disables AutoGraph in users' code."""
        return self.model.call(x, training=False) if self.model.composed else self.model(x, training=False)

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

    def of_samples(self, function, x):
        """x with a function applied to its arrays that have one row for each sample."""
        return tf.nest.pack_sequence_as(x, [function(leaf) if sampled else leaf
                                            for leaf, sampled in zip(tf.nest.flatten(x), self.sampled)])

    def count(self, x):
        """The number of samples in x, which may be a part of the batch."""
        return next(leaf.shape[0] for leaf, sampled in zip(tf.nest.flatten(x), self.sampled) if sampled)

    def values(self):
        """The trainable weights as tensors."""
        return [weight.value for weight in self.weights]

    def _trace_vjp(self, x, v):
        with tf.GradientTape() as tape:
            flat = tf.reshape(self.flat(self.outcome_of(x), self.batch), [-1])
        handles = {id(weight.value.handle) for weight in self.model.variables}
        foreign = sorted({variable.name for variable in tape.watched_variables()
                          if id(variable.handle) not in handles})
        if foreign:
            self.compiler.warn(f"{foreign[0]!r} acts on the outcome but is no weight of the model, so that "
                               "it is not trained: make the simulator or network_input a Keras layer that "
                               "holds it")
        return dense(tape.gradient(flat, self.values(), tf.cast(v, flat.dtype)))

    # ---------------------------------------------------------------------------------------------- the loss

    def trace_loss(self, x, y_true, sample_weight):
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
        if loss.shape.rank:
            raise ValueError(f"the loss of a batch has the shape {loss.shape}, but must be one number: take "
                             'another reduction than None, "sum" for instance')
        gradient = tape.gradient(loss, outcome, unconnected_gradients=ZERO)
        handles = {id(weight.value.handle) for weight in self.weights}
        self.loss_reads_weights |= any(id(read.handle) in handles for read in tape.watched_variables())
        return loss, outcome, tf.reshape(self.flat(gradient, self.batch), [-1])

    def _trace_loss_slope(self, x, y_true, sample_weight, outcome):
        with tf.GradientTape() as tape:
            loss = self.model.data_loss(x, y_true, outcome, sample_weight)
        gradients = dense(tape.gradient(loss, self.values(), unconnected_gradients=ZERO))
        return tf.concat([tf.cast(tf.reshape(each, [-1]), tf.float64) for each in gradients], axis=0)

    def curvature(self, batch, outcome, gradient, change=None):
        """Two curvatures of the loss as a function of y: along its gradient, and along a change of y.

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
        if devices() > 1:                                               # each device has a part of g
            own, square = across(tf.stack([self.split.share**3 * tf.cast(own, tf.float64), float(square)]))
        own, along, square = map(float, (own, along, square))
        h = own / square if own > 0 else 2 / self.split.samples
        return h, along if own > 0 and along > 0 else h * float(np.vdot(change, change))

    def _trace_curvature(self, x, y_true, sample_weight, outcome, change):
        """gᵀ H g and changeᵀ H change of the loss at this outcome."""
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(outcome)
            gradient = self.loss_and_gradient(x, y_true, sample_weight, outcome)[2]
            vectors = tf.stop_gradient(gradient), tf.cast(change, gradient.dtype)
            products = [tf.reduce_sum(gradient * vector) for vector in vectors]
        return [tf.reduce_sum(vector * tf.reshape(self.flat(tape.gradient(
            product, outcome, unconnected_gradients=ZERO), self.batch), [-1]))
                for product, vector in zip(products, vectors)]

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

    # ---------------------------------------------------------------------------------------------- trials

    def loss_after(self, batch, step):
        """The loss of a batch, penalties included, at the weights θ − step, (p,) float64; θ is restored."""
        before = self._shift(tf.cast(step, tf.float64))
        try:
            return float(self.loss(*batch)[0]) + self.penalties.value(batch[0])
        finally:
            self._restore(before)

    def _trace_shift(self, step):
        """Subtracts a step (p,) from the weights; returns their values before it."""
        before = [tf.identity(weight.value) for weight in self.weights]
        for weight, share in zip(self.weights, self.model.shares(step)):
            weight.assign_sub(share)
        return before

    def _trace_restore(self, values):
        for weight, value in zip(self.weights, values):
            weight.assign(value)


def samples(x, y_true):
    """B of a batch: the number of rows of its targets, or, without targets, of the first array of x."""
    return next(np.shape(leaf)[0] for leaf in tf.nest.flatten([y_true, x])
                if leaf is not None and np.ndim(leaf))


def dense(gradients):
    """Gradients as dense tensors; those of embeddings are IndexedSlices."""
    return [gradient if gradient is None else tf.convert_to_tensor(gradient) for gradient in gradients]
