"""Penalties (regularisers and `add_loss`) and how they enter J^κ g.

A quadratic regulariser of a weight, R(w) = Σ_i c_i/2 (w_i − o_i)² (L2: o = 0, c = 2λ), is a least-squares
problem like the loss, with the weights as its outcome. Near the outcome y the loss behaves like
h/2 ‖y − y*‖², where h is its curvature in y. In the same units the residuals of R are √(c_i/h) (w_i − o_i).
They become further rows of J and entries of g,

    s_i = √(c_i/h)  in column i ,     g_i = R'(w_i)/s_i ,

so that Jᵀg is the gradient of the whole loss. J^κ g is zero where this gradient is zero. Training therefore
ends at the minimum of the reported loss for every κ, as long as truncation keeps these rows.

A penalty that is not a sum of squares (L1, activity regularisers, other `add_loss`) has no residuals. Its
plain gradient r is added to J^κ g. Training then ends where J^κ g + r = 0, which is a minimum of the reported
loss only for κ = 1.
"""

import numpy as np
import tensorflow as tf

from hig.backend import keras
from hig.jacobian import PenalizedJacobian
from hig.replicas import place

_ZERO = tf.UnconnectedGradients.ZERO
_TOLERANCE = 1e-3           # relative difference of curvatures, far above float32's rounding


class Penalties:
    """The penalties of one model with one set of trainable weights.

    Args:
        model: compiled PhysicsModel.
        compiler: hig.compiled.Compiler.
        count: number of the model's `losses` after a call on a batch.

    Attributes:
        irregular: str, names a penalty that is not a sum of squares; "" if there is none.
    """

    def __init__(self, model, compiler, count):
        self.model, self.weights = model, model.trainable_variables
        self._arguments = model, compiler, count
        regularized = [weight for weight in self.weights if weight.regularizer is not None]
        self._find_squares = compiler.function(
            lambda: [_is_sum_of_squares(weight) for weight in regularized], "The kind of penalties",
            xla=False)
        self._squares = list(map(bool, self._find_squares()))
        self.quadratic = [w for w, square in zip(regularized, self._squares) if square]
        others = [f"the regulariser of {w.path!r}" for w, square in zip(regularized, self._squares)
                  if not square]
        if count > len(regularized):
            others.append("what layers add to the loss (add_loss, activity regularisers)")
        self.irregular = others[0] if others else ""
        self.any = bool(self.quadratic or others)
        self._values = compiler.function(self._trace, "The gradient of the penalties")
        self._find_factor = compiler.function(self._trace_factor, "The loss", xla=False)
        self.factor = 1.0

    def now(self):
        """`self`, or new Penalties if a strength has changed which of them are sums of squares."""
        same = not self._squares or self._squares == list(map(bool, self._find_squares()))
        return self if same else Penalties(*self._arguments)

    def value(self, x):
        """The sum of all penalties for a batch x, float."""
        return self.factor * float(self._values(x)[0]) if self.any else 0.0

    def extend(self, batch, outcome, loss, gradient, jacobian, curvature):
        """Adds the penalties to the loss, gradient and Jacobian of a batch.

        Args:
            batch, outcome: (x, y_true, sample_weight) and y.
            loss, gradient, jacobian: L, g (n,) and J (n, p) without penalties.
            curvature: function without arguments that returns h; called only for quadratic penalties.

        Returns:
            (loss, gradient, jacobian, rest): the first three with the quadratic penalties as further rows;
            rest is the plain gradient of the other penalties, (p,) float64, or None without any penalty.
        """
        if not self.any:
            return loss, gradient, jacobian, None
        if type(self.model).compute_loss is not keras.Model.compute_loss:
            self.factor = float(self._find_factor(*batch, outcome))
        value, slopes, curvatures, rest = [self.factor * tensor.numpy() for tensor in self._values(batch[0])]
        loss = loss + tf.cast(value, loss.dtype)
        columns = np.flatnonzero(curvatures > 0)
        if len(columns):
            own = columns[:0] if place() else columns                   # the first device has all
            scales = np.sqrt(curvatures[own] / curvature())
            jacobian = PenalizedJacobian(jacobian, own, scales)
            gradient = np.concatenate([gradient, slopes[own] / scales])
            slopes[columns] = 0.0
        return loss, gradient, jacobian, rest + slopes

    def _trace_factor(self, x, y_true, sample_weight, outcome):
        """The factor by which a subclass' own compute_loss takes the penalties, 0 if it leaves them out."""
        with tf.GradientTape() as tape:
            penalty = tf.zeros((), keras.config.floatx())
            tape.watch(penalty)
            loss = self.model.data_loss(x, y_true, outcome, sample_weight, penalty)
        return tape.gradient(loss, penalty, unconnected_gradients=_ZERO) / len(self.model.losses)

    def _trace(self, x):
        """Σ of all penalties; slopes and curvatures of the quadratic ones, slopes of the rest, (p,) each."""
        values, total = [weight.value for weight in self.weights], tf.zeros((), keras.config.floatx())
        with tf.GradientTape() as second:
            with tf.GradientTape() as first:
                for weight in self.quadratic:
                    total += tf.cast(weight.regularizer(weight.value), total.dtype)
            slopes = first.gradient(total, values, unconnected_gradients=_ZERO)
        # ∂²/∂w_i∂w_j = 0 for i ≠ j
        curvatures = second.gradient(slopes, values, unconnected_gradients=_ZERO)
        slopes, curvatures, whole = _joined(slopes), _joined(curvatures), total
        if not self.irregular:
            return total, slopes, curvatures, tf.zeros_like(slopes)
        with tf.GradientTape() as tape:
            self.model(x, training=False)
            whole = tf.add_n([tf.cast(tf.reduce_sum(loss), total.dtype) for loss in self.model.losses])
        gradient = _joined(tape.gradient(whole, values, unconnected_gradients=_ZERO))
        return whole, slopes, curvatures, gradient - slopes


def _joined(parts):
    return tf.concat([tf.cast(tf.reshape(part, [-1]), tf.float64) for part in parts], axis=0)


def _is_sum_of_squares(weight):
    """Whether a weight's regulariser is Σ c_i/2 (w_i − o_i)² with c_i ≥ 0.

    The differences of its gradient must be c_i times those of w_i, which is tested at four random places, at
    least in float32. Their sizes are so far apart that no difference is lost in rounding. Returns a bool
    tensor.
    """
    places, slopes, dtype = [], [], tf.float64 if weight.dtype == "float64" else tf.float32
    for seed, size in enumerate((0.1, 1.0, 10.0, 100.0)):
        random = tf.random.stateless_uniform(weight.shape, (22, seed), -1, 1, dtype)
        place = size * (random + tf.sign(random))                       # of one to two times this size
        with tf.GradientTape() as tape:
            tape.watch(place)
            penalty = weight.regularizer(place)
        slope = tape.gradient(penalty, place, unconnected_gradients=_ZERO)
        places.append(tf.cast(place, tf.float64))
        slopes.append(tf.cast(slope, tf.float64))
    places, slopes = tf.stack(places), tf.stack(slopes)
    curvatures = (slopes[1:] - slopes[:-1]) / (places[1:] - places[:-1])
    constant = tf.abs(curvatures - curvatures[-1]) <= _TOLERANCE * curvatures[-1]   # False for NaN and c < 0
    return tf.reduce_all(constant & ((curvatures[-1] > 0) | (slopes[-1] == 0)))
