"""Steps that control themselves: an update whose size follows from what the loss of its own batch did.

A step s = −η d along d = J^κ g changes the outcome by J s = −η J d, and the loss by what its quadratic model says,

    L(θ) − L(θ + s) ≈ predicted = η a − ½ η² c ,     a = gᵀ J d ,     c = h ‖J d‖²

whatever κ is: the model is Gauss-Newton's, only the direction differs. All of it is at hand, since J d = K v for
d = Jᵀ v. h is the curvature of the loss in y, gᵀ (∂²L/∂y²) g/gᵀg: exact for all sums of squares, however scaled. Where
that is not positive (the dipole's infidelity bends down in y, and only the sphere on which y lives makes it a minimum), it
is taken as 2/B, that of the mean of Σ (y − y*)² over B samples.

The loss of the same batch after the step gives the ratio ρ = actual/predicted decrease (Nocedal and Wright, Numerical
Optimization, algorithm 4.1; Moré 1978). A step with ρ ≤ 1e-4, or to a loss that is not finite, is taken back and tried
again smaller, up to TRIALS times per update. What adapts is a variable of the optimizer:

    powers                 η, which is also never larger than the minimum of the model along d, η* = a/c. ρ < 1/4: η is a
                           quarter of what was tried; ρ > 3/4 and η was tried, not η*: twice as large. A damping μ falls with
                           the loss, μ = damping · (L/L₀) · tr K/n.
    Levenberg-Marquardt    the damping μ = q · (L/L₀) · tr K/n; L₀ is the loss of the very first batch. ρ < 1/4: q is four
                           times as large; ρ > 3/4: divided by 1.5.

The damping falls with the loss (Yamashita and Fukushima 2001; Fan and Yuan 2005), not because steps have gone well:
a batch of fewer outputs than weights can be fitted exactly from the start, at the expense of all other samples, and
control by the same batch would not notice. Only where every batch holds new samples is even that not enough: this is
control for fixed data.
"""

import numpy as np
import tensorflow as tf

from hig.jacobian import flatten, small_side
from hig.powers import blas_threads

TRIALS = 4                  # of a step in one update
ACCEPTED = 1e-4             # ρ from which a step is kept


class Control:
    """The updates of a PhysicsModel with an adaptive optimizer, for batches of one shape.

    Args:
        model: compiled PhysicsModel, its optimizer adaptive.
        derivatives: hig.routes.Derivatives of that shape.
    """

    def __init__(self, model, derivatives):
        self.model, self.derivatives = model, derivatives
        function = derivatives.compiler.function
        self._move = function(self._trace_move, "The step", xla=False)
        self._restore = function(self._trace_restore, "The step taken back", xla=False)
        self._curvature = function(self._trace_curvature, "The loss' curvature")

    def step(self, batch, outcome, gradient, jacobian, loss, penalty):
        """Moves the weights by the first step that is good enough, or not at all.

        Args:
            batch: (x, y_true, sample_weight).
            outcome, gradient, jacobian: y, g and J of `Derivatives.linearise` on it.
            loss: L before the step, penalties included.
            penalty: the gradient of the penalties, (p,) float64, or None.

        Returns:
            the numbers to log, in the order of `optimizer.logged`.
        """
        optimizer, loss = self.model.optimizer, float(loss)
        with blas_threads(min(jacobian.shape)):
            matrix, vector = small_side(jacobian, gradient)
        if not (np.isfinite(loss) and np.isfinite(matrix.diagonal()).all() and np.isfinite(vector).all()):
            self._move(tf.constant(np.full(jacobian.shape[1], np.nan)))        # seen in the loss, not stopped here
            return [np.nan] * len(optimizer.logged)
        optimizer.record_first_loss(loss)
        stiffness, direction = self._stiffness(batch, outcome, gradient), None
        for _ in range(TRIALS):
            if direction is None or optimizer.damping_adapts:
                direction, slope, square, numbers = self._direction(jacobian, matrix, vector, loss, penalty)
            rate, bounded = optimizer.rate(slope, stiffness * square)
            share = rate / float(optimizer.learning_rate)               # the optimizer multiplies by η
            before = self._move(tf.constant(share * direction))
            after = self._loss(*batch)
            predicted = rate * slope - rate**2 * stiffness * square / 2
            ratio = (loss - after) / predicted if predicted > 0 and np.isfinite(after) else -1.0
            optimizer.adapt(ratio, rate, bounded)
            if ratio > ACCEPTED:
                break
            self._restore(before)
        return [*numbers, optimizer.adapted()]

    def _direction(self, jacobian, matrix, vector, loss, penalty):
        """d, (p,) float64; a = gᵀ J d, to which penalties add theirs; ‖J d‖²; numbers to log."""
        n, p = jacobian.shape
        with blas_threads(min(n, p)):
            v, numbers = self.model.solve(matrix, vector, self.derivatives.batch, loss)
            product = matrix @ v                                        # J d, or on the small side JᵀJ d
            direction = flatten(jacobian.pullback(v)) if n <= p else v
        slope, square = (vector @ product, product @ product) if n <= p else (vector @ v, v @ product)
        if penalty is not None:
            direction = direction + penalty
            slope += penalty @ direction
        return direction, slope, square, numbers

    def _stiffness(self, batch, outcome, gradient):
        """h, the curvature of the loss in y along its gradient g; 2/B where that is not positive."""
        square = float(np.vdot(gradient, gradient))
        own = float(self._curvature(*batch, outcome)) / square if square > 0 else 0.0
        return own if own > 0 else 2 / self.derivatives.batch

    def _variables(self):
        """What a step changes: the weights, and the optimizer's variables but for those that control it."""
        optimizer = self.model.optimizer
        controls = {id(variable) for variable in optimizer.controls}
        return [*self.model.trainable_variables, *(v for v in optimizer.variables if id(v) not in controls)]

    def _loss(self, x, y_true, sample_weight):
        """The loss of the batch with the present weights, penalties included."""
        penalty = self.derivatives.penalty(x)
        return float(self.derivatives.loss(x, y_true, sample_weight)[0]) + (float(penalty[0]) if penalty else 0.0)

    def _trace_move(self, direction):
        """Moves the weights; returns the values of `_variables` before that."""
        before = [tf.identity(variable.value) for variable in self._variables()]
        self.model.move(direction)
        return before

    def _trace_restore(self, values):
        for variable, value in zip(self._variables(), values):
            variable.assign(value)

    def _trace_curvature(self, x, y_true, sample_weight, outcome):
        """gᵀ H g of the loss at this outcome."""
        with tf.GradientTape() as tape:
            tape.watch(outcome)
            gradient = self.derivatives.loss_and_gradient(x, y_true, sample_weight, outcome)[2]
            square = tf.reduce_sum(gradient * tf.stop_gradient(gradient))
        product = tape.gradient(square, outcome, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        return tf.reduce_sum(tf.reshape(self.derivatives.flat(product, self.derivatives.batch), [-1]) * gradient)
