"""A network that controls a differentiable simulator, as one Keras model: y = P(x, u), u = network(input)."""

import keras
import numpy as np
import tensorflow as tf

from hig.jacobian import assemble, trace_jacobian, unflatten
from hig.optimizers import JacobianPower
from hig.powers import blas_threads, gram_coefficients


class PhysicsModel(keras.Model):
    """Network and simulator in a row, trained on a loss of the simulator's outcome.

    With an ordinary Keras optimizer it trains by plain gradients; with `hig.HIG`, `hig.GaussNewton` or
    `hig.JacobianPower` each step is Δθ = −η · J^κ · g. Everything else is Keras: compile, fit, evaluate, callbacks.

    Args:
        network: built keras.Model (or layer) from what it sees to the controls u; samples must be independent.
        simulator: function (x, u) → y, differentiable TensorFlow code; x is what `fit` was given, with B rows (an
            array or a structure of arrays), u the controls, y real with B rows. If it steps in time, loop with
            `tf.while_loop(..., maximum_iterations=...)`: that is what the XLA compiler can differentiate. One that knows
            its own derivatives may have a method linearize(x, u) → (y, ∂y/∂u), the latter (B, d, *shape of a sample's u).
        network_input: function of x, what the network sees; x itself by default. A task whose simulator starts from
            one thing and whose network sees another passes both, for instance as x = (state, target) with
            `network_input=lambda x: x[1]`.

    Source: the paper's update of network and physics together, Δθ = −η · J^κ · g.
    """

    def __init__(self, network, simulator, network_input=None, **options):
        super().__init__(**options)
        self.network = network
        self.simulator = simulator
        self.network_input = network_input or (lambda x: x)
        self.spectrum_metrics = [keras.metrics.Mean(name=name) for name in ("rank", "sigma_max", "sigma_min")]

    def compile(self, optimizer, loss, **options):
        """Keras' compile. The loss is any Keras loss or a function (y_true, y) → one value per sample.

        The step of an ordinary optimizer is compiled by XLA as a whole. That of a Jacobian power contains a call to
        LAPACK, so only its derivatives are; it logs rank, σ_max and σ_min kept, each the mean over the epoch.
        """
        if isinstance(optimizer, JacobianPower):
            options["jit_compile"] = False
        else:
            options.setdefault("jit_compile", not options.get("run_eagerly", False))
        super().compile(optimizer=optimizer, loss=loss, **options)
        self._derivatives = tf.function(self._trace_derivatives, jit_compile=not self.run_eagerly)

    @property
    def metrics(self):
        """Keras' metrics; rank, σ_max and σ_min only where the optimizer takes a power of the Jacobian."""
        jacobian_power = isinstance(getattr(self, "optimizer", None), JacobianPower)
        return [m for m in super().metrics if jacobian_power or m not in self.spectrum_metrics]

    def call(self, x, training=False):
        """The outcome y = P(x, network(input)) for a batch, (B, …)."""
        return self.simulator(x, self.network(self.network_input(x), training=training))

    def predict_step(self, data):
        """What `predict` returns for each batch: {"controls": u, "outcome": y}."""
        x, _, _ = keras.utils.unpack_x_y_sample_weight(data)
        x = self.dtype_policy.convert_input(x, self.autocast, self.input_dtype)
        controls = self.network(self.network_input(x), training=False)
        return {"controls": controls, "outcome": self.simulator(x, controls)}

    def train_step(self, data):
        """One update of the weights: plain gradients or a Jacobian power, as the optimizer asks for."""
        if not isinstance(self.optimizer, JacobianPower):
            return super().train_step(data)
        x, y_true, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        x = self.dtype_policy.convert_input(x, self.autocast, self.input_dtype)     # as Keras does before `call`
        loss, outcome, gradient, pieces = self._derivatives(x, y_true, sample_weight)

        weights = self.network.trainable_variables
        results = tf.numpy_function(
            lambda gradient, *arrays: self._direction(gradient, tf.nest.pack_sequence_as(pieces, arrays)),
            [gradient, *tf.nest.flatten(pieces)], [w.dtype for w in weights] + [tf.float64] * 3)
        directions, spectrum = results[:len(weights)], results[len(weights):]
        self.optimizer.apply([tf.ensure_shape(direction, w.shape) for direction, w in zip(directions, weights)], weights)

        for metric, value in zip(self.spectrum_metrics, spectrum):
            metric.update_state(tf.ensure_shape(value, ()))
        for metric in self.metrics:
            if metric.name == "loss":
                metric.update_state(loss, sample_weight=tf.shape(outcome)[0])
        return self.compute_metrics(x, y_true, outcome, sample_weight)

    def _trace_derivatives(self, x, y_true, sample_weight):
        """Loss L, outcome y, its gradient g = ∂L/∂y of shape (n,), and the pieces of J = ∂y/∂θ, on one batch."""
        outcome, pieces = trace_jacobian(self.network, self.simulator, x, self.network_input)
        with tf.GradientTape() as tape:
            tape.watch(outcome)
            loss = self.compute_loss(x, y_true, outcome, sample_weight)
        return loss, outcome, tf.reshape(tape.gradient(loss, outcome), [-1]), pieces

    def _direction(self, gradient, pieces):
        """J^κ g on the host: one array per trainable weight, then rank, σ_max and σ_min kept.

        Not-a-number comes out where it went in, so that a diverged run is seen in its loss rather than stopped here.
        """
        kappa, truncation = self.optimizer.kappa, self.optimizer.truncation
        weights = self.network.trainable_variables
        jacobian = assemble(self.network, pieces)
        n, p = jacobian.shape
        with blas_threads(min(n, p)):
            if n <= p:
                matrix, vector = jacobian.gram(), gradient
            else:                                                      # the small side: f(JᵀJ) Jᵀg = J^κ g
                dense = jacobian.dense()
                matrix, vector = dense.T @ dense, dense.T @ gradient
            if not (np.isfinite(matrix).all() and np.isfinite(vector).all()):
                return [np.full(w.shape, np.nan, w.dtype) for w in weights] + [0.0, np.nan, np.nan]
            coefficients, spectrum = gram_coefficients(matrix, vector, kappa, truncation)
            directions = (jacobian.pullback(coefficients) if n <= p
                          else unflatten(coefficients, [w.shape for w in weights]))
        return [d.astype(w.dtype) for d, w in zip(directions, weights)] + [
            np.float64(spectrum.rank), spectrum.sigma_max, spectrum.sigma_min]
