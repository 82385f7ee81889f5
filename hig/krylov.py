"""J^κ g of a model from products with J and Jᵀ, in TensorFlow, for n so large that K = J Jᵀ does not fit.

The method is that of `hig.powers.operator_power`. Here the k steps of the recurrence are one compiled
function, and only the 2k entries of B come to the host, where `hig.powers.bidiagonal_power` takes the power
of B. An update takes k products with J, k + 1 with Jᵀ (two more with damping), and keeps k vectors of
min(n, p) numbers. Products are taken in one of three ways (notation as in `hig.jacobian`):

through the network    The simulator is linearised once: M = ∂y/∂(controls) of each sample, (d, c), by one
                       backward pass for d repetitions of each sample. Then J v = M (∂controls/∂θ v), and Jᵀu
                       = (∂controls/∂θ)ᵀ Mᵀu. This is right if all weights act in the network, and the
                       simulator does not mix samples.
forward mode           The products go through the whole model. Jᵀu is one backward pass, and J v one forward
                       pass that carries tangents along.
double backward        As in forward mode, but J v is the gradient of ⟨Jᵀw, v⟩ with respect to w. It is right
                       for every differentiable model, even if a part of it has no forward mode (custom
                       gradients, and a loop, branch or tf.function that reads variables).

`hig.routes` checks with the first batch of each shape that the way taken is right: Jᵀu for a random u must
equal the vector-Jacobian product of the whole model, and ⟨J v, u⟩ = ⟨v, Jᵀu⟩ for a random v.
"""

import math
from collections import defaultdict
from functools import partial

import numpy as np
import tensorflow as tf

from hig.jacobian import PenalizedJacobian, unflatten
from hig.memory import device_memory
from hig.powers import EXHAUSTED, KrylovSpectrum, bidiagonal_power
from hig.replicas import Together, across, anywhere, devices
from hig.rows import repeated_pass

_COPIES = 4                 # of a pass's tensors in memory: values, cotangents, tangents, and XLA's own
_PIECE = 8                  # steps after which the tolerance is checked
_PROBES_OF_ROWS = 8         # random vectors for the norms of rows; the proof needs only their magnitude
_PROBES = 2                 # random vectors for the trace of K outside the Krylov space


def ways(functions, in_network):
    """The ways to take products that may be right for a model, the fastest first.

    The way through the network comes first if its d backward passes are no more than the steps, or if the
    simulator's own `linearize` replaces them. Otherwise it comes last.

    Args:
        functions: hig.functions.Functions.
        in_network: whether all weights act in the network, and samples are not known to mix.
    """
    names = ["double backward"]
    if not functions.structure.reads_inside:
        names.insert(0, "forward mode")
    if in_network:
        model = functions.model
        cheap = functions.d <= model.optimizer.krylov or hasattr(model.simulator, "linearize")
        names.insert(0 if cheap else len(names), "through the network")
    return names


class Products:
    """Products with J and Jᵀ of a model for batches of one shape, and the recurrence that uses them.

    An `operator` represents J of one batch: the tuple (x, [M]), or (x, []) if products go through the whole
    model. For the recurrence a third entry follows, [columns, scales] or []: quadratic penalties add rows to
    J with one entry each, its scale, in its column.

    Args:
        functions: hig.functions.Functions.
        way: "through the network", "forward mode" or "double backward".
        chunk: samples that go through the model at a time. None: the whole batch, or as many as fit into half
            of the device's free memory beside the vectors kept. It is the whole batch, too, if samples reach
            each other's outcomes.
        xla: whether XLA may compile the functions.
    """

    def __init__(self, functions, way, chunk=None, xla=True):
        self.functions, self.model, self.way = functions, functions.model, way
        self.batch, self.shape, self.shapes = functions.batch, functions.shape, functions.shapes
        self.samples = self.batch if functions.structure.certainly_mixed else min(      # in a pass
            chunk or self._fitting(), self.batch)
        function = partial(functions.compiler.function, xla=xla)
        self._loss = functions.loss if xla else functions.plain_loss
        self._linearise = function(self._trace_linearise, "The linearised simulator")
        self.pull = function(self._trace_pull, "A product with the transposed Jacobian")
        self.push = function(self._trace_push, "A product with the Jacobian")
        # by numbers of rows, as the strength of a penalty may be raised from 0
        self._steps = defaultdict(lambda: function(self._trace_steps, "The Krylov steps"))
        self._step = Together(self._trace_step)

    def _fitting(self):
        """The number of samples whose pass fits into memory: the whole batch, or a power of two.

        With powers of two, a little more or less free memory changes neither the number nor the rounding. A
        simulator that knows its own derivatives is not differentiated, so that its tensors are not kept.
        """
        through_network = self.way == "through the network"
        if through_network and hasattr(self.model.simulator, "linearize"):
            return self.batch
        repeated = self.functions.d if through_network else 1
        each = _COPIES * repeated * self.functions.structure.memory / self.batch
        kept = 8 * self.functions.model.optimizer.krylov * min(self.shape)
        fitting = max(1.0, (device_memory() - kept) / 2 / each) if each else self.batch
        return self.batch if fitting >= self.batch else 2**int(math.log2(fitting))

    def linearise(self, x, y_true, sample_weight):
        """Loss, outcome, g (n,) as a tensor, and the `KrylovJacobian` of a batch."""
        if self.way == "through the network":
            loss, outcome, gradient, matrices = self._linearise(x, y_true, sample_weight)
        else:
            (loss, outcome, gradient), matrices = self._loss(x, y_true, sample_weight), []
        gradient = tf.cast(gradient, tf.float64 if gradient.dtype == tf.float64 else tf.float32)
        return loss, outcome, gradient, KrylovJacobian(self, (x, matrices), gradient.dtype)

    def _trace_linearise(self, x, y_true, sample_weight):
        """Loss, outcome, g, and [M]."""
        def linearise(x):
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                outcome, _, controls, target, seeds = repeated_pass(self.functions, x, tape.watch)
            cotangents = tape.gradient(target, controls, seeds,
                                       unconnected_gradients=tf.UnconnectedGradients.ZERO)
            dtype = tf.float64 if self._flat(outcome).dtype == tf.float64 else tf.float32
            return outcome, tf.concat([tf.cast(tf.reshape(leaf, [self.samples, self.functions.d, -1]),
                                               dtype)
                                       for leaf in tf.nest.flatten(cotangents)], axis=2)
        outcome, matrices = self._joined(linearise, x)
        loss, outcome, gradient = self.functions.loss_and_gradient(x, y_true, sample_weight, outcome)
        return loss, outcome, gradient, [matrices]

    # -------------------------------------------------------------------------------------- chunks of samples

    def _joined(self, function, *arguments):
        """The results of a function of some samples at a time (nested tensors), a row for each sample."""
        if self.samples == self.batch:
            return function(*arguments)
        dtypes = tf.nest.map_structure(lambda t: t.dtype, function(*self._chunk(0, arguments)))
        chunks = tf.map_fn(lambda i: function(*self._chunk(i, arguments)),
                           tf.range(-(-self.batch // self.samples)), fn_output_signature=dtypes)
        return tf.nest.map_structure(lambda t: tf.reshape(t, [-1, *t.shape[2:]])[:self.batch], chunks)

    def _chunk(self, i, arguments):
        """The rows of chunk i of nested tensors; the last chunk is filled up by repeating the last sample."""
        rows = tf.minimum(i * self.samples + tf.range(self.samples), self.batch - 1)
        x, *others = arguments
        return (self.functions.of_samples(lambda t: tf.gather(t, rows), x),
                *tf.nest.map_structure(lambda t: tf.gather(t, rows), others))

    # ------------------------------------------------------------------------------------------- the products

    def _function(self, x):
        """What is differentiated: the outcomes (samples, d), or the network's controls (samples, c)."""
        if self.way != "through the network":
            return self._flat(self.functions.outcome_of(x))
        return self._flat(self.model.network(self.model.network_input(x), training=False))

    def _flat(self, structure):
        return self.functions.flat(structure, self.samples)

    def _trace_pull(self, operator, u):
        """Jᵀu, (p,), for u (n,)."""
        x, matrices = operator

        def pull(x, matrices, cotangent):
            if matrices:
                cotangent = tf.einsum("bd,bdc->bc", cotangent, tf.cast(matrices[0], u.dtype))
            with tf.GradientTape() as tape:
                value = self._function(x)
            gradients = tape.gradient(value, self.functions.values(), tf.cast(cotangent, value.dtype),
                                      tf.UnconnectedGradients.ZERO)
            return tf.concat([tf.cast(tf.reshape(gradient, [-1]), u.dtype) for gradient in gradients], axis=0)
        rows = tf.reshape(u, [self.batch, -1])
        if self.samples == self.batch:
            return pull(x, matrices, rows)
        chunks = -(-self.batch // self.samples)
        rows = tf.pad(rows, [[0, chunks * self.samples - self.batch], [0, 0]])  # 0 for repeated samples
        rows = tf.reshape(rows, [chunks, self.samples, -1])             # XLA wants sizes that it knows
        return tf.while_loop(lambda i, _: i < chunks, lambda i, total: (
            i + 1, total + pull(*self._chunk(i, (x, matrices)), rows[i])),
                             (0, tf.zeros([self.shape[1]], u.dtype)))[1]

    def _trace_push(self, operator, v):
        """J v, (n,), for v (p,)."""
        x, matrices = operator
        values = self.functions.values()
        shares = tf.split(v, [math.prod(shape) for shape in self.shapes])
        tangents = [tf.cast(tf.reshape(share, value.shape), value.dtype)
                    for share, value in zip(shares, values)]

        def push(x, matrices):
            twice = self.way == "double backward" or self.functions.structure.reads_inside
            way = self._double_backward if twice else self._forward_mode
            product = tf.cast(way(x, values, tangents), v.dtype)
            return tf.einsum("bdc,bc->bd", tf.cast(matrices[0], v.dtype), product) if matrices else product
        return tf.reshape(self._joined(push, x, matrices), [-1])

    def _forward_mode(self, x, values, tangents):
        if tf.executing_eagerly() and not self.functions.compiler.eager:  # other ways are faster then
            raise NotImplementedError("TensorFlow makes no graph of the forward mode")
        with tf.autodiff.ForwardAccumulator(values, tangents) as accumulator:
            value = self._function(x)
        return accumulator.jvp(value, tf.UnconnectedGradients.ZERO)

    def _double_backward(self, x, values, tangents):
        with tf.GradientTape(watch_accessed_variables=False) as outer:
            with tf.GradientTape() as tape:
                value = self._function(x)
            w = tf.zeros_like(value)                                    # Jᵀw is linear in w: any w will do
            outer.watch(w)
            gradients = tape.gradient(value, values, w, tf.UnconnectedGradients.ZERO)
            projection = tf.add_n([tf.cast(tf.reduce_sum(gradient * tangent), value.dtype)
                                   for gradient, tangent in zip(gradients, tangents)])
        return outer.gradient(projection, w, unconnected_gradients=tf.UnconnectedGradients.ZERO)

    def _with_penalties(self, pull, push, operator):
        """The functions u → Jᵀu and v → J v with the rows of penalties, from those without."""
        pull, push = partial(pull, operator[:2]), partial(push, operator[:2])
        if not operator[2]:
            return pull, push
        (columns, scales), n = operator[2], self.shape[0]
        return (lambda u: tf.tensor_scatter_nd_add(pull(u[:n]), columns[:, None], scales * u[n:]),
                lambda v: tf.concat([push(v), scales * tf.gather(v, columns)], axis=0))

    # ----------------------------------------------------------------------------------------- the recurrence

    def go_on(self, operator, state, more):
        """The state after `more` further steps, or fewer if the Krylov space is exhausted.

        The state is the number of steps taken, whether the space is exhausted, the last u, β and v, the
        largest α or β, the vectors kept (k, min(n, p)) with zeros for steps still to come, and all α and β
        (k,). Each device has its own rows of u, and of the vectors kept if these are the u_i; all else is the
        same on each. With several devices, steps go on after exhaustion without an effect.
        """
        if devices() == 1:
            return self._steps[len(state[2])](operator, state, state[0] + more)
        for _ in range(more):
            state = self._step(operator, state)
        return state

    def _trace_steps(self, operator, state, until):
        products = self._with_penalties(self._trace_pull, self._trace_push, operator)
        return tf.while_loop(lambda i, exhausted, *_: (i < until) & ~exhausted,
                             lambda *state: step(*products, *state), state, parallel_iterations=1)

    def _trace_step(self, operator, state):
        return step(*self._with_penalties(self.pull, self.push, operator), *state)

    def finish(self, operator, state, by_u, last, by_v):
        """J^κ g (p,) from the coefficients of `bidiagonal_power` (0 for steps not taken).

        Args:
            last: by_u[k] β_{k+1}.
        """
        v, kept = state[4], state[6]
        if not _keeps_u(v, kept):
            return tf.linalg.matvec(kept, by_v, transpose_a=True)
        pull, _ = self._with_penalties(self.pull, self.push, operator)
        return across(pull(tf.linalg.matvec(kept, by_u, transpose_a=True))) + last * v

    def remainder(self, operator, state, rows):
        """An estimate of tr K outside the Krylov space: the mean of ‖J z‖² or ‖Jᵀz‖².

        z are vectors of random signs minus their components along the vectors kept.
        Source: Meyer, Musco, Musco and Woodruff, Hutch++, SIAM Symposium on Simplicity in Algorithms 2021.
        """
        _, exhausted, u, _, v, _, kept, _, _ = state
        keeps_u, total = _keeps_u(v, kept), 0.0
        pull, push = self._with_penalties(self.pull, self.push, operator)
        if exhausted and keeps_u:  # α ended it: u belongs to the space, too
            kept = tf.concat([kept, u[None]], axis=0)
        for probe in range(_PROBES):
            signs = tf.cast(2 * tf.random.stateless_uniform([rows if keeps_u else len(v)], (22, probe), 0, 2,
                                                            tf.int32) - 1, kept.dtype)
            if keeps_u:                                                 # this device's, then the penalties'
                first, n = self.functions.split.before * self.functions.d, self.shape[0]
                signs = tf.concat([signs[first:first + n], signs[rows - (len(u) - n):]], axis=0)
                size = _norm(across(pull(_orthogonal(signs, kept, across))))
            else:
                size = _norm(push(_orthogonal(signs, kept)), across)
            total += float(size)**2 / _PROBES
        return total


class KrylovJacobian:
    """J of a batch, given only by products with J and Jᵀ.

    Args:
        products: Products.
        operator: see `Products`.
        dtype: float32 or float64, in which the products are computed.

    Attributes:
        shape: (n, p).
    """

    def __init__(self, products, operator, dtype):
        self.products, self.operator, self.dtype, self.shape = products, operator, dtype, products.shape

    def pullback(self, u):
        """Jᵀu for u of shape (n,): a list of float64 arrays, shaped like the weights and in their order."""
        return unflatten(np.asarray(self.products.pull(self.operator, tf.cast(u, self.dtype)), np.float64),
                         self.products.shapes)

    def row_squares(self):
        """An estimate of Σ_j J_rj² for each row, the mean of (J v)² over a few random v: float64 (n,)."""
        random = np.random.default_rng(0)
        return np.mean([self.push(random.standard_normal(self.shape[1]))**2 for _ in range(_PROBES_OF_ROWS)],
                       axis=0)

    def push(self, v):
        """J v, float64 (n,), for v of shape (p,)."""
        return np.asarray(self.products.push(self.operator, tf.cast(v, self.dtype)), np.float64)


class KrylovSpace:
    """The Krylov space that k steps of the recurrence build from g: it gives J^κ g for any damping.

    Args:
        jacobian: KrylovJacobian, or a `hig.jacobian.PenalizedJacobian` of one.
        gradient: g, with one entry for each row of J, those of the penalties included.
        steps: k ≥ 1. At most min(n, p) steps are taken; the result is then exact.
        tolerance: ≥ 0. After every eighth step the recurrence ends if the relative change of J^κ g in this
            step is at most the tolerance (without damping).
        kappa, truncation, spectral_filter: κ, τ and f as in `hig.powers.operator_power`.
    """

    def __init__(self, jacobian, gradient, steps, tolerance, kappa, truncation, spectral_filter=None):
        penalties = []
        if isinstance(jacobian, PenalizedJacobian):
            penalized, jacobian = jacobian, jacobian.jacobian
            penalties = [tf.constant(penalized.columns), tf.constant(penalized.scales, jacobian.dtype)]
        self.products, self.operator = jacobian.products, (*jacobian.operator, penalties)
        self.kappa, self.truncation, self.filter = kappa, truncation, spectral_filter
        dtype = jacobian.dtype
        g, zero = tf.cast(gradient, dtype), tf.zeros((), dtype)
        self.sides = n, p = int(across(tf.constant(len(g), tf.float64))), jacobian.shape[1]
        steps, norm = min(steps, n, p), _norm(g, across)
        self.state = (tf.constant(0), tf.constant(False), tf.math.divide_no_nan(g, norm), zero,
                      tf.zeros([p], dtype), zero, tf.zeros([steps, len(g) if n < p else p], dtype),
                      tf.zeros([steps], dtype), tf.zeros([steps], dtype))
        self.norm, piece = float(norm), _PIECE if tolerance else steps
        for first in range(0, steps, piece):
            self.state = self.products.go_on(self.operator, self.state, min(piece, steps - first))
            self._read_state()
            enough = self.exhausted or not self.finite or self._small_part(0.0)[2].change <= tolerance
            if anywhere(enough):
                break

    def _read_state(self):
        """α_1 … α_k and β_2 … β_{k+1} of the k steps taken, float64, and whether the space is exhausted."""
        taken, exhausted, *_, alphas, betas = self.state
        self.alphas, self.betas = (np.asarray(numbers, np.float64)[:int(taken)]
                                   for numbers in (alphas, betas))
        self.exhausted = bool(exhausted)
        self.finite = bool(np.isfinite([self.norm, *self.alphas, *self.betas]).all())

    def _small_part(self, mu):
        return bidiagonal_power(self.alphas, self.betas, self.norm, self.exhausted, self.sides, self.kappa,
                                self.truncation, mu, self.filter)

    def power(self, damping=0.0):
        """J^κ g.

        Args:
            damping: μ in units of the mean eigenvalue of the smaller of K and JᵀJ.

        Returns:
            (direction, spectrum): a tensor (p,) of J's dtype, and the `hig.powers.KrylovSpectrum`. Both are
            NaN if g or J is not finite.
        """
        dtype, p = self.state[6].dtype, self.sides[1]
        if not self.finite:
            return tf.fill([p], tf.constant(np.nan, dtype)), KrylovSpectrum(0, np.nan, np.nan,
                                                                            len(self.alphas), np.nan)
        if not len(self.alphas):
            return tf.zeros([p], dtype), KrylovSpectrum(0, 0.0, 0.0, 0, 0.0)
        by_u, by_v, spectrum = self._small_part(damping * self._trace() / min(self.sides) if damping else 0.0)
        missing = (0, len(self.state[7]) - len(self.alphas))
        numbers = np.pad(by_u[:-1], missing), by_u[-1] * self.betas[-1], np.pad(by_v, missing)
        return self.products.finish(self.operator, self.state,
                                    *(tf.constant(number, dtype) for number in numbers)), spectrum

    def _trace(self):
        """tr K: exact in the Krylov space, the rest estimated by random vectors."""
        betas = self.betas if self.sides[0] >= self.sides[1] or self.exhausted else self.betas[:-1]
        return np.sum(self.alphas**2) + np.sum(betas**2) + self.products.remainder(
            self.operator, self.state, self.sides[0])


def step(pull, push, i, exhausted, u, beta, v, largest, kept, alphas, betas):
    """The state (see `Products.go_on`) after one more step of the recurrence, unchanged if exhausted.

    Args:
        pull, push: functions u → Jᵀu, by this device's rows, and v → J v.
        i, exhausted, …: the state.
    """
    keeps_u, tiny = _keeps_u(v, kept), EXHAUSTED * np.finfo(u.dtype.as_numpy_dtype).eps
    w = across(pull(u)) - beta * v
    w = w if keeps_u else _orthogonal(w, kept)
    alpha = _norm(w)
    ended = exhausted | (alpha <= tiny * largest)                       # after the step before
    next_v = tf.math.divide_no_nan(w, alpha)
    kept = tf.tensor_scatter_nd_update(kept, [[i]], tf.where(
        ended, tf.zeros_like(kept[0]), u if keeps_u else next_v)[None])
    next_u = push(next_v) - alpha * u
    next_u = _orthogonal(next_u, kept, across) if keeps_u else next_u
    next_beta = _norm(next_u, across)
    largest = tf.maximum(largest, tf.maximum(alpha, next_beta))
    exhausted = next_beta <= tiny * largest
    next_beta = tf.where(exhausted, tf.zeros_like(beta), next_beta)
    next_u = tf.math.divide_no_nan(next_u, next_beta)
    alphas = tf.tensor_scatter_nd_update(alphas, [[i]], [alpha])
    betas = tf.tensor_scatter_nd_update(betas, [[i]], [next_beta])
    return (tf.where(ended, i, i + 1), ended | exhausted, tf.where(ended, u, next_u),
            tf.where(ended, beta, next_beta), tf.where(ended, v, next_v), largest, kept, alphas, betas)


def _keeps_u(v, kept):
    """Whether the vectors kept are the u_i: J has fewer rows, on all devices together, than columns."""
    return kept.shape[1] != v.shape[0]


def _norm(vector, total=tf.identity):
    """‖v‖ in the dtype of v, summed in float64: float32 loses three digits over a million numbers.

    `total` sums over the devices if each has a part of v.
    """
    return tf.cast(tf.sqrt(total(tf.reduce_sum(tf.cast(vector, tf.float64)**2))), vector.dtype)


def _orthogonal(vector, others, total=tf.identity):
    """A vector minus its components along others (k, …), orthonormal or zero; twice, because of rounding.

    `total` is that of `_norm`.
    """
    for _ in range(2):
        vector = vector - tf.linalg.matvec(others, total(tf.linalg.matvec(others, vector)), transpose_a=True)
    return vector
