"""Keras optimizers that step along a power of the Jacobian: Δθ = −η · J^κ · g.

The optimizer holds the settings and applies the step. `hig.PhysicsModel` computes the direction J^κ g,
because this needs the Jacobian of network and simulator, which an ordinary Keras training loop does not have.
With `adaptive=True` the size of the steps follows from how they change the loss (`hig.control`).
"""

import inspect
import math
import warnings

import numpy as np

from hig.backend import keras
from hig.control import ENOUGH, FIRST
from hig.jacobian import flatten, small_side
from hig.krylov import KrylovSpace
from hig.powers import blas_threads, check_settings, gram_coefficients

SPECTRUM = ("rank", "sigma_max", "sigma_min")
KRYLOV = ("krylov_steps", "krylov_change")
MEASURED = ("first_loss", "last_decrease", "own_decrease", "next_decrease", "measurements")  # `hig.control`
POOR, GOOD = 0.25, 0.75     # ratio of actual to predicted decrease; below and above these, steps change
SLOWER, FASTER = 4.0, 2.0   # η is divided by the first after poor steps, multiplied by the second after good
STIFFER, SOFTER = 4.0, 1.5  # Levenberg-Marquardt's q is multiplied by the first, divided by the second
LARGEST = 1e8               # η and q stay between 1/LARGEST and LARGEST
RESOLVED = 1e-8             # the smallest σ/σ_max that K = J Jᵀ resolves in float64, √ε
CHANGING_STEPS = ("gradient_accumulation_steps", "clipnorm", "clipvalue", "global_clipnorm", "weight_decay",
                  "ema_overwrite_frequency")  # Keras' options that change the step −η d


def _checked(name, check):
    """A property whose value passes `check` whenever it is set."""
    return property(lambda optimizer: getattr(optimizer, f"_{name}"),
                    lambda optimizer, value: setattr(optimizer, f"_{name}", check(value)))


def _resolved(truncation):
    """τ as a float; warns if K does not resolve it."""
    truncation = check_settings(truncation=truncation)[1]
    if 0 < truncation < RESOLVED:
        warnings.warn(f"truncation is {truncation:g}, but singular values below {RESOLVED:g} of the largest "
                      "are lost in the rounding of J Jᵀ in float64: what is kept of them is noise",
                      stacklevel=4)
    return truncation


def _whole(value, name="krylov", none="the exact method"):
    """k, or the samples of a chunk, as an int ≥ 1, or None; else raises ValueError."""
    if value is not None and not (value >= 1 and value == int(value)):
        raise ValueError(f"{name} must be a whole number of at least 1, or None for {none}, got {value}")
    return None if value is None else int(value)


@keras.saving.register_keras_serializable("hig")
class JacobianPower(keras.optimizers.Optimizer):
    """Steps θ ← θ − η · J^κ · g.

    Args:
        learning_rate: η > 0, or a Keras learning rate schedule.
        kappa: κ in [−1, 1]: 1 is gradient descent, −1/2 the half-inverse gradient, −1 Gauss-Newton.
        truncation: τ in [0, 1). Only singular values above τ·σ_max take part; the others are dropped.
        damping: μ ≥ 0, added to every σ² that takes part (`hig.powers`), in units of the mean eigenvalue of
            K = J Jᵀ, tr K/n (or of JᵀJ, tr K/p, if p < n). With `adaptive` it falls with the loss.
        adaptive: True to adapt η, beginning with `learning_rate`; see `hig.control`. This is made for
            training on fixed data. If a batch does not determine the weights, steps are shortened, and a
            warning says so.
        krylov: None for the exact J^κ g. A number k ≥ 1 for an approximation by k products with J and Jᵀ,
            which takes less time and memory and finds the large singular values first; see `hig.krylov`.
        krylov_tolerance: ≥ 0. The steps end before the k-th if one changes J^κ g by at most this, relative to
            its norm.
        krylov_chunk: number of samples that go through the model at a time. None: as the free memory allows.
        spectral_filter: function of σ/σ_max → weight of a singular value, for those that the truncation has
            kept; see `hig.powers.spectral_weights`.
        **options: those of keras.optimizers.Optimizer, for instance `name`.

    Attributes:
        logged: names of the numbers that `fit` logs: the rank, and the largest and smallest singular value
            kept; with `krylov` also the steps taken and the relative change of J^κ g by the last one; with
            `adaptive` also η and the trust.

    Raises:
        ValueError: κ, τ, μ, η or k is out of range; η is a function, but no schedule; or `adaptive` comes
            with a schedule, accumulated gradients, clipping, weight decay, or weights that are overwritten by
            their averages.

    A warning is given if τ is set between 0 and 1e-8, because K does not resolve singular values that small.
    κ, τ, μ, k and η may be set between updates.

    Source: the paper's definition of J^κ = V Σ^κ Uᵀ and of its truncation.
    """

    adapts = "learning_rate"    # what `adapt` changes: this or "damping"
    _unlogged = 0               # how many numbers at the start of a spectrum are not logged
    schedule = None             # η's schedule if set between updates, which are traced anew for it

    def __init__(self, learning_rate, kappa, truncation, damping=0.0, adaptive=False, name="jacobian_power",
                 *, krylov=None, krylov_tolerance=1e-3, krylov_chunk=None, spectral_filter=None, **options):
        if options.get("loss_scale_factor") is not None:
            raise ValueError(f"loss_scale_factor is {options['loss_scale_factor']}, but a Jacobian power "
                             "takes no gradient of a loss that could be scaled: leave it out")
        for option in CHANGING_STEPS if adaptive else ():
            if options.get(option):
                raise ValueError(f"{option} is {options[option]}, but an adaptive step is judged by what it "
                                 f"does to the loss, and {option} would change the step after that: leave "
                                 "it out, or set adaptive=False")
        learning_rate = _number_or_schedule(learning_rate)
        super().__init__(learning_rate=learning_rate, name=name, **options)
        self.kappa, self.truncation, self.damping, self.adaptive = kappa, truncation, damping, bool(adaptive)
        self.krylov, self.krylov_tolerance, self.krylov_chunk = krylov, krylov_tolerance, krylov_chunk
        self.spectral_filter = spectral_filter
        if self.adaptive:
            self._refuse_schedule(self._learning_rate)
            self.warned = False
            for name, value in self._control().items():
                setattr(self, name, self.add_variable((), keras.initializers.Constant(value), name=name))

    def _control(self):
        """The variables that step control changes besides η: their names and initial values."""
        return dict.fromkeys(MEASURED, 0.0)

    @property
    def logged(self):
        """Names of the numbers that `fit` logs, for the present settings."""
        numbers = (SPECTRUM + KRYLOV * bool(self.krylov))[self._unlogged:]
        return (*numbers, self.adapts, "trust") if self.adaptive else numbers

    def _refuse_schedule(self, learning_rate):
        if self.adaptive and self.adapts == "learning_rate" and callable(learning_rate):
            raise ValueError("learning_rate is a schedule, but adaptive=True sets η itself: give the number "
                             "to start from")

    def build(self, variables):
        """Creates variables that Keras' options (moving averages, accumulation) need for these weights."""
        self._built_for = {id(variable) for variable in variables}
        super().build(variables)
        self._make_last_step(variables)

    def _make_last_step(self, variables):
        """Creates the variable for the last step of these weights, (p,); the next batch judges it."""
        self._stepped = tuple(map(id, variables))
        if self.adaptive:
            self.last_decrease.assign(0.0)                              # no step yet
            if hasattr(self, "last_step"):  # else a loaded optimizer has fewer variables than the saved one
                self._untrack_variable(self.last_step)
            self.last_step = self.add_variable((sum(math.prod(v.shape) for v in variables),),
                                               name="last_step")

    kappa = _checked("kappa", lambda kappa: check_settings(kappa=kappa)[0])
    truncation = _checked("truncation", _resolved)
    damping = _checked("damping", lambda damping: check_settings(damping=damping)[2])
    krylov = _checked("krylov", _whole)
    krylov_chunk = _checked("krylov_chunk", lambda value: _whole(value, "krylov_chunk", "what fits"))

    @property
    def learning_rate(self):
        """η of the next update; may be set to a number ≥ 0, or to a schedule if η is not adapted."""
        return super().learning_rate

    @learning_rate.setter
    def learning_rate(self, value):
        self._refuse_schedule(value)
        if callable(value) or value != 0:
            value = _number_or_schedule(value)
        keras.optimizers.Optimizer.learning_rate.fset(self, value)
        self.schedule = value if callable(value) else self.schedule

    def update_step(self, direction, variable, learning_rate):
        """The step of one weight: `direction` is its part of J^κ g, shaped like `variable`."""
        self.assign_sub(variable, keras.ops.cast(learning_rate, variable.dtype) * direction)

    def power(self, jacobian, gradient, samples, rest=None):
        """J^κ g of a batch, as a function of the loss because the damping depends on it; K is formed once.

        Args:
            jacobian: FactoredJacobian, RowsJacobian or PenalizedJacobian; with `krylov`, KrylovJacobian or a
                PenalizedJacobian of it.
            gradient: g, (n,).
            samples: B.
            rest: plain gradient of those penalties that are not sums of squares, (p,) float64; it is added
                to J^κ g.

        Returns:
            function of the loss L → (direction, numbers): the direction (p,) for the concatenated weights,
            float64, or a tensor of J's dtype with `krylov`; and the numbers that `logged` names, without
            those that `adapted` gives. If g or J is not finite, the direction is NaN, so that a diverged run
            shows in its loss.
        """
        at = (self._krylov_power if self.krylov else self._exact_power)(jacobian, gradient, samples)

        def power(loss):
            direction, numbers = at(self._current_damping(loss) if self.damping else 0.0)
            if rest is not None:
                direction = direction + (keras.ops.cast(rest, direction.dtype) if self.krylov else rest)
            return direction, numbers[self._unlogged:]
        return power

    def _exact_power(self, jacobian, gradient, samples):
        n, p = jacobian.shape
        with blas_threads(min(n, p)):
            matrix, vector = small_side(jacobian, gradient)             # K and g, or JᵀJ and Jᵀg if p < n
        finite = np.isfinite(matrix.diagonal()).all() and np.isfinite(vector).all()  # |K_ij|² ≤ K_ii K_jj

        def at(damping):
            if not finite:
                return np.full(p, np.nan), (0.0, np.nan, np.nan)
            with blas_threads(min(n, p)):
                v, numbers = self._coefficients(matrix, vector, damping * np.trace(matrix) / len(matrix))
                v = self._scale(samples) * v
                return flatten(jacobian.pullback(v)) if n <= p else v, numbers       # J^κ g = Jᵀ v
        return at

    def _krylov_power(self, jacobian, gradient, samples):
        space = KrylovSpace(jacobian, gradient, self.krylov, self.krylov_tolerance, self.kappa,
                            self.truncation, self.spectral_filter)

        def at(damping):
            direction, spectrum = space.power(damping)
            return self._scale(samples) * direction, spectrum
        return at

    def _coefficients(self, matrix, vector, damping):
        """(v, numbers to log): v = f(K) g, or J^κ g itself from JᵀJ and Jᵀg."""
        return gram_coefficients(matrix, vector, self.kappa, self.truncation, damping=damping,
                                 spectral_filter=self.spectral_filter)

    def _scale(self, samples):
        return 1

    def _current_damping(self, loss):
        """The damping of an update, in units of the mean eigenvalue; with `adaptive` it falls with L/L₀."""
        if not self.adaptive:
            return self.damping
        first = float(self.first_loss)
        return self._factor() * max(loss / first if loss > 0 < first else 1.0, 1e-12)

    def _factor(self):
        return self.damping

    def record_first_loss(self, loss):
        """Stores the first loss as L₀; `hig.control` calls it with L before each update."""
        if float(self.first_loss) == 0:
            self.first_loss.assign(loss)

    def trust(self):
        """t in [0, 1]: how much steps help batches other than their own (`hig.control`); 1 until measured."""
        if float(self.measurements) < FIRST:
            return 1.0
        return min(max(float(self.next_decrease) / float(self.own_decrease) / ENOUGH, 0.0), 1.0)

    def rate(self, slope, curvature):
        """(η of the next trial, whether the minimum of the model limits it); see `hig.control`."""
        best = (1 + self.trust()) / 2 * slope / curvature if curvature > 0 < slope else np.inf
        return min(float(self.learning_rate), best), best < float(self.learning_rate)

    def adapt(self, ratio, rate, bounded):
        """Changes η after a trial with η = rate and ρ = ratio, by the rule in `hig.control`."""
        if ratio < POOR:
            self.learning_rate = max(rate / SLOWER, 1 / LARGEST)
        elif ratio > GOOD and not bounded:
            self.learning_rate = min(rate * FASTER, LARGEST)

    def adapted(self, loss):
        """The present η, or μ in units of the mean eigenvalue if that is adapted, and the trust."""
        present = self._current_damping(loss) if self.adapts == "damping" else float(self.learning_rate)
        return present, self.trust()

    def check(self, variables, irregular):
        """Refuses weights and penalties with which an adaptive step cannot be judged.

        Args:
            variables: the trainable weights.
            irregular: str, names a penalty that is not a sum of squares; "" if there is none.

        Raises:
            ValueError: steps are adaptive, and a penalty is no sum of squares, or a weight has a constraint.
        """
        reasons = [f"{irregular} is no sum of squares"] if irregular else []
        reasons += [f"the constraint of {variable.path!r} changes the step" for variable in variables
                    if variable.constraint is not None]
        if self.adaptive and reasons:
            raise ValueError(f"adaptive steps are judged by a quadratic model of the loss, but {reasons[0]}: "
                             "leave it out, or set adaptive=False")

    def build_for(self, variables):
        """Builds the optimizer for these weights, again if one of them was not trainable before.

        Raises:
            ValueError: the weights are not those of the last update, but Keras averages or accumulates them.
        """
        for option in ("use_ema", "gradient_accumulation_steps"):
            if getattr(self, option) and self.built and self._stepped != tuple(map(id, variables)):
                raise ValueError(f"{option} is {getattr(self, option)}, so that the optimizer keeps numbers "
                                 "for each trainable weight, but other weights are trainable now: compile "
                                 "with a new optimizer")
        if not (self.built and {id(v) for v in variables} <= self._built_for):
            self.build(variables)
        elif self._stepped != tuple(map(id, variables)):
            self._make_last_step(variables)

    def apply_directions(self, directions, variables):
        """Moves each variable by −η times its part of J^κ g; called by `hig.PhysicsModel`."""
        super().apply(directions, variables)

    def apply(self, grads, trainable_variables=None):
        """Raises TypeError: with plain gradients the step would be that of SGD."""
        raise TypeError(f"{type(self).__name__} needs the Jacobian, not the gradient: train with "
                        "hig.PhysicsModel")

    def get_config(self):
        """The constructor's arguments, for `from_config`."""
        names = [name for name in ("kappa", "truncation", "damping", "adaptive")
                 if name in inspect.signature(type(self)).parameters]
        names += ["krylov", "krylov_tolerance", "krylov_chunk"]
        return {**super().get_config(), **{name: getattr(self, name) for name in names},
                "spectral_filter": self.spectral_filter
                and keras.saving.serialize_keras_object(self.spectral_filter)}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        """The optimizer that `get_config` describes."""
        if config.get("spectral_filter"):
            config = {**config, "spectral_filter": keras.saving.deserialize_keras_object(
                config["spectral_filter"], custom_objects)}
        return super().from_config(config, custom_objects)


@keras.saving.register_keras_serializable("hig")
class HIG(JacobianPower):
    """Half-inverse gradients: κ = −1/2. Arguments as in JacobianPower."""

    def __init__(self, learning_rate, truncation, damping=0.0, adaptive=False, name="hig", **options):
        super().__init__(learning_rate, -0.5, truncation, damping, adaptive, name=name, **options)


@keras.saving.register_keras_serializable("hig")
class GaussNewton(JacobianPower):
    """Gauss-Newton: κ = −1, the pseudo-inverse of J. Arguments as in JacobianPower."""

    def __init__(self, learning_rate, truncation, damping=0.0, adaptive=False, name="gauss_newton",
                 **options):
        super().__init__(learning_rate, -1.0, truncation, damping, adaptive, name=name, **options)


@keras.saving.register_keras_serializable("hig")
class LevenbergMarquardt(JacobianPower):
    """Damped least squares: Δθ = −η · B/2 · Jᵀ (K + μ)⁻¹ g, by Cholesky.

    If the loss is the mean over B samples of Σ (y − y*)², η = 1 is the full damped Gauss-Newton step. If the
    loss has another curvature h in y, the full step is η = 2/(B h): 2 for ½ Σ (y − y*)², d for Keras' mean
    squared error of d outputs, 1/B if the loss is the sum over the batch and not the mean, and 2/B for half
    of that sum. For a loss that is no sum of squares, the direction uses its gradient g alone.

    Args:
        learning_rate: η > 0, or a Keras learning rate schedule; η is not adapted.
        damping: μ > 0 in units of the mean eigenvalue of K, tr K/n. With `adaptive` it is the initial value.
        adaptive: True to adapt the damping, which then also falls with the loss. This is made for training on
            fixed data; see `hig.control`.
        **options: those of keras.optimizers.Optimizer, for instance `name`.

    Raises:
        ValueError: if η or μ is out of range.

    Source: Levenberg 1944; Marquardt 1963; Jᵀ (J Jᵀ + μ)⁻¹ = (JᵀJ + μ)⁻¹ Jᵀ.
    """

    adapts = "damping"
    _unlogged = len(SPECTRUM)   # a Cholesky decomposition gives no singular values

    def __init__(self, learning_rate=1.0, damping=1.0, adaptive=True, name="levenberg_marquardt", **options):
        super().__init__(learning_rate, -1.0, 0.0, damping, adaptive, name=name, **options)
        if not self.damping > 0:
            raise ValueError(f"damping must be positive, got {damping}; hig.GaussNewton has none")

    def _control(self):
        return {"factor": self.damping, **super()._control()}           # q

    def _coefficients(self, matrix, vector, damping):
        return gram_coefficients(matrix, vector, -1.0, 0.0, "cholesky", damping)[0], ()

    def _scale(self, samples):
        return samples / 2

    def _factor(self):
        """q, at least (1 − t) · damping."""
        return max(float(self.factor), (1 - self.trust()) * self.damping)

    def rate(self, slope, curvature):
        """((1 + t)/2 · η, False): the damping is adapted, and not η."""
        return (1 + self.trust()) / 2 * float(self.learning_rate), False

    def adapt(self, ratio, rate, bounded):
        """Changes q after a trial with ρ = ratio, by the rule in `hig.control`."""
        if ratio < POOR:
            self.factor.assign(min(self._factor() * STIFFER, LARGEST))
        elif ratio > GOOD:
            self.factor.assign(max(self._factor() / SOFTER, 1 / LARGEST))


def _number_or_schedule(learning_rate):
    """η as a float or a Keras schedule. Raises ValueError if it is neither positive nor a schedule."""
    if isinstance(learning_rate, keras.optimizers.schedules.LearningRateSchedule):
        return learning_rate
    if callable(learning_rate):  # Keras would call it once, when the update is traced
        raise ValueError(f"learning_rate is {learning_rate}, but must be a number or a Keras schedule; it "
                         "may be set between updates")
    if not 0 < learning_rate < float("inf"):
        raise ValueError(f"learning_rate is {learning_rate}, but must be positive and finite")
    return float(learning_rate)
