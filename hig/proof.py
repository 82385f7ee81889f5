"""The numerical check of a Jacobian: Jᵀv for a random v, by the route and by the whole model.

Automatic differentiation gives Jᵀv of the whole model at the cost of one backward pass. If a route misses a
term anywhere in J, its Jᵀv differs with probability one. Differences up to √ε of the coarsest dtype are
allowed, far above rounding and far below a missing term. The whole model's product is computed without XLA,
the route's as in later updates.
"""

import contextlib
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from hig.backend import keras, leaves
from hig.jacobian import flatten

_EPSILON = {"float64": 2.0**-52, "float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}


class Reference(NamedTuple):
    """L, y, g, a vector v and Jᵀv of a batch, by automatic differentiation of the whole model without XLA."""

    loss: tf.Tensor
    outcome: object
    gradient: tf.Tensor
    v: np.ndarray
    product: list


class Proof:
    """Compares a route to the Jacobian of a model with automatic differentiation of the whole model.

    Args:
        functions: hig.functions.Functions.
    """

    def __init__(self, functions):
        self.functions, self.krylov = functions, functions.model.optimizer.krylov

    def reference(self, x, y_true, sample_weight, v=None):
        """The `Reference` of a batch for v (n,), or for a random v if None."""
        loss, outcome, gradient = self.functions.plain_loss(x, y_true, sample_weight)
        if v is None:
            v = tf.random.stateless_normal([self.functions.n], (22, 7), dtype=gradient.dtype)
        product = self.functions.plain_vjp(x, tf.cast(v, tf.float64))
        return Reference(loss, outcome, gradient, np.asarray(v, np.float64), product)

    def not_finite(self, reference):
        """A sentence if the loss is finite but a derivative is not, whatever the route; else ""."""
        broken = [weight.path for weight, share in zip(self.functions.weights, reference.product)
                  if share is not None and not np.isfinite(share).all()]
        if not (broken and np.isfinite(reference.loss) and np.isfinite(reference.gradient).all()):
            return ""
        return (f"the gradient of the model with respect to {' and '.join(map(repr, broken[:2]))} is not "
                "finite, although its loss is, with or without XLA. The square root, norm or quotient of a "
                "zero has no derivative, not even where tf.where masks it: mask its argument as well")

    def refuse(self, batch, reason):
        """Raises a ValueError that says why no route is right."""
        again = self.functions.compiler.function(self.functions.outcome_of, "The outcome", xla=False)
        outcomes = [np.concatenate([np.ravel(leaf) for leaf in tf.nest.flatten(outcome)])
                    for outcome in (self.functions.plain_loss(*batch)[1], again(batch[0]))]
        tolerance = tolerance_of(self.functions.model, outcomes[0])
        if not np.allclose(*outcomes, rtol=tolerance, atol=0, equal_nan=True):
            raise ValueError("the outcome is another one at every call, so that it has no Jacobian: draw "
                             "random numbers outside the model and hand them over with x; keep no state from "
                             "one call to the next")
        raise ValueError(f"the Jacobian of this model cannot be computed reliably in {outcomes[0].dtype}, "
                         f"with or without XLA: {reason}. The simulator may be chaotic or badly conditioned "
                         "(take float64), or multiply matrices with few digits (TF32, switched off by "
                         "tf.config.experimental.enable_tensor_float_32_execution(False))")

    def disagreement(self, function, batch, reference, weigh=False):
        """What is wrong with a route on this batch, as a clause; "" if it is right to the dtype's precision.

        For each weight the error of its share of Jᵀv may be √ε of the share's norm, plus √ε of a hundredth of
        the norm of all of Jᵀv, which is the level of rounding errors. NaN is wrong if the product of the
        whole model is finite. If both are NaN, network or data have diverged, which the loss shows.

        Args:
            weigh: compare again with v divided by the norms of J's rows, so that small rows count as much.
        """
        loss, outcome, gradient, jacobian = function(*batch)
        tolerance = tolerance_of(self.functions.model, *tf.nest.flatten(outcome))

        def differ(found, wanted):
            found, wanted = np.asarray(found, np.float64), np.asarray(wanted, np.float64)
            return np.isfinite(wanted).all() and not np.linalg.norm(found -
                wanted) <= 10 * tolerance * np.linalg.norm(wanted)
        if any(map(differ, tf.nest.flatten(outcome), tf.nest.flatten(reference.outcome))):
            return "a faster route gives another outcome than the model does"
        loss_without, _, gradient_without = self.functions.loss_of_outcome(*batch, outcome)
        if differ(gradient, gradient_without) or np.isfinite(loss_without) and not np.isfinite(loss):
            return "the loss or its gradient is another one than without XLA"
        wrong = self._wrong_weights(jacobian, reference, tolerance)
        if not wrong and weigh:
            norms = np.sqrt(jacobian.row_squares())
            if np.isfinite(norms).all() and norms.any():
                weighed = np.asarray(reference.v) / np.maximum(norms, norms[norms > 0].min())
                wrong = self._wrong_weights(jacobian, self.reference(*batch, v=weighed), tolerance)
        if wrong:
            named = " and ".join(map(repr, wrong[:2]))
            return f"{named} acts on the outcome in a way that a faster route misses"
        return self._inconsistency(jacobian, reference.v, tolerance) if self.krylov else ""

    def _inconsistency(self, jacobian, v, tolerance):
        """What is wrong with products J w, as a clause: ⟨J w, v⟩ must equal ⟨w, Jᵀv⟩ for a random w."""
        w = np.random.default_rng(3).standard_normal(self.functions.shape[1])
        forwards, backwards = jacobian.push(w), flatten(jacobian.pullback(v))
        size = np.linalg.norm(forwards) + np.linalg.norm(backwards)
        wrong = np.isfinite(backwards).all() and not abs(forwards @ v - w @ backwards) <= tolerance * size
        return "products with the Jacobian and with its transpose do not belong together" if wrong else ""

    def _wrong_weights(self, jacobian, reference, tolerance):
        """Paths of the weights whose share of Jᵀv differs from the reference's."""
        found = jacobian.pullback(reference.v)
        wanted = [np.zeros(shape) if gradient is None else np.asarray(gradient, np.float64)
                  for gradient, shape in zip(reference.product, self.functions.shapes)]
        floor = 0.01 * np.sqrt(sum(np.nansum(gradient**2) for gradient in wanted))
        return [weight.path for weight, one, other in zip(self.functions.weights, found, wanted)
                if np.isfinite(other).all() and not np.linalg.norm(one - other) <= tolerance *
                (np.linalg.norm(other) + floor)]


def tolerance_of(model, *tensors):
    """√ε of the coarsest dtype in which a model computes, or of these tensors."""
    dtypes = {tf.as_dtype(tensor.dtype).name for tensor in tensors} | {
        keras.backend.standardize_dtype(layer.compute_dtype) for part in model.layers
        for layer in leaves(part)}
    return max(np.sqrt(_EPSILON.get(dtype, 0.0)) for dtype in dtypes)


@contextlib.contextmanager
def moved(weights, share=1e-3):
    """A context in which the weights are changed by about this share of their size."""
    before, random = [weight.numpy() for weight in weights], np.random.default_rng(1)
    try:
        for weight, value in zip(weights, before):
            scale = share * (np.abs(value) + np.mean(np.abs(value)))
            weight.assign((value + scale * random.standard_normal(value.shape)).astype(value.dtype))
        yield
    finally:
        for weight, value in zip(weights, before):
            weight.assign(value)
