"""Keras optimizers that step along a power of the Jacobian: Δθ = −η · J^κ · g.

The optimizer holds the settings and the plain step; `hig.PhysicsModel` computes the direction J^κ g, because that takes
the Jacobian of network and simulator, which an ordinary Keras training loop does not have. With `adaptive=True` the size
of a step follows from what the one before did (`hig.control`).
"""

import numpy as np

from hig.backend import keras
from hig.powers import check_damping, check_settings, gram_coefficients, levenberg_marquardt_coefficients

SPECTRUM = ("rank", "sigma_max", "sigma_min")
POOR, GOOD = 0.25, 0.75     # ratio of actual to predicted decrease below and above which steps change
SLOWER, FASTER = 4.0, 2.0   # η is divided by the first where steps are poor, multiplied by the second where they are good
STIFFER, SOFTER = 4.0, 1.5  # q, the damping of Levenberg-Marquardt, the other way round
LARGEST = 1e8               # η and q stay between its inverse and this


@keras.saving.register_keras_serializable("hig")
class JacobianPower(keras.optimizers.Optimizer):
    """Steps θ ← θ − η · J^κ · g.

    Args:
        learning_rate: η > 0, or a Keras learning rate schedule.
        kappa: κ in [−1, 1]: 1 is gradient descent, −1/2 the half-inverse gradient, −1 Gauss-Newton.
        truncation: τ in [0, 1), relative: only singular values above τ·σ_max take part, the others are dropped.
        damping: μ ≥ 0 in units of the mean eigenvalue of K = J Jᵀ, tr K/n (of JᵀJ, tr K/p, where p < n): raises every σ²
            that takes part, see `hig.powers`. With `adaptive` it falls with the loss, in proportion to it.
        adaptive: whether η is controlled, from the one given on, for training on fixed data; see `hig.control`.
        **options: those of keras.optimizers.Optimizer, for instance `name`.

    Attributes:
        logged: names of what `fit` logs of the updates: rank, σ_max and σ_min kept, and η if it is adaptive.
        controls: the optimizer's variables that step control changes.

    Raises:
        ValueError: if κ, τ, μ or η is out of range; adaptive with a schedule or with accumulated gradients.

    Source: the paper's definition of J^κ = V Σ^κ Uᵀ and of its truncation.
    """

    damping_adapts = False      # whether a step tried again needs coefficients of its own

    def __init__(self, learning_rate, kappa, truncation, damping=0.0, adaptive=False, name="jacobian_power", **options):
        if options.get("loss_scale_factor") is not None:
            raise ValueError(f"loss_scale_factor is {options['loss_scale_factor']}, but a Jacobian power takes no gradient of "
                             "a loss that could be scaled: leave it out")
        if isinstance(learning_rate, (int, float)):
            learning_rate = _positive(learning_rate)
        if adaptive and options.get("gradient_accumulation_steps"):
            raise ValueError(f"gradient_accumulation_steps is {options['gradient_accumulation_steps']}, but an adaptive step is "
                             "judged by the loss after it: leave it out, or adaptive=False")
        super().__init__(learning_rate=learning_rate, name=name, **options)
        self.kappa, self.truncation, self.damping, self.adaptive = kappa, truncation, damping, bool(adaptive)
        self._set_controls()

    def _set_controls(self):
        self.logged, self.controls = SPECTRUM, []
        if self.adaptive:
            if isinstance(self._learning_rate, keras.optimizers.schedules.LearningRateSchedule):
                raise ValueError("learning_rate is a schedule, but adaptive=True sets η itself: give the number to start from")
            self.logged = (*SPECTRUM, "learning_rate")
            self.first_loss = self._number("first_loss", 0.0)           # L₀
            self.controls = [self._learning_rate, self.first_loss]

    def _number(self, name, value):
        """A variable of the optimizer."""
        return self.add_variable((), keras.initializers.Constant(value), name=name)

    def build(self, variables):
        """Makes the variables that Keras' options (moving averages, accumulation) need for these weights."""
        self._known = {id(variable) for variable in variables}
        super().build(variables)

    @property
    def kappa(self):
        """κ, float in [−1, 1]; may be set between updates."""
        return self._kappa

    @kappa.setter
    def kappa(self, value):
        self._kappa, _ = check_settings(value, 0.0)

    @property
    def truncation(self):
        """τ, float in [0, 1); may be set between updates."""
        return self._truncation

    @truncation.setter
    def truncation(self, value):
        _, self._truncation = check_settings(0.0, value)

    @property
    def damping(self):
        """μ in units of the mean eigenvalue, float ≥ 0; may be set between updates."""
        return self._damping

    @damping.setter
    def damping(self, value):
        self._damping = check_damping(value)

    @property
    def learning_rate(self):
        """η of the next update; may be set, to a positive number or a Keras schedule."""
        return super().learning_rate

    @learning_rate.setter
    def learning_rate(self, value):
        value = _positive(value) if isinstance(value, (int, float)) else value
        keras.optimizers.Optimizer.learning_rate.fset(self, value)

    def update_step(self, direction, variable, learning_rate):
        """One weight's step: `direction` is its share of J^κ g, shaped like `variable`."""
        self.assign_sub(variable, keras.ops.cast(learning_rate, variable.dtype) * direction)

    def coefficients(self, matrix, vector, samples, loss=None):
        """v of d = Jᵀ v from K and g, or d itself from JᵀJ and Jᵀg (`hig.jacobian.small_side`), and numbers to log.

        Args:
            matrix, vector: float64 (n, n) and (n,); unless the steps are adaptive the matrix may be overwritten.
            samples: B, and loss: L before the step, if adaptive.
        """
        mean = np.trace(matrix) / len(matrix) if self.damping else 0.0
        v, spectrum = gram_coefficients(matrix, vector, self.kappa, self.truncation, damping=self._present(loss) * mean,
                                        overwrite=not self.adaptive)
        return v, (spectrum.rank, spectrum.sigma_max, spectrum.sigma_min)

    def _present(self, loss):
        """The damping of an update, in units of the mean eigenvalue: L/L₀ times the one given if it is adaptive."""
        return self.damping * self._fallen(loss) if self.adaptive else self.damping

    def _fallen(self, loss):
        """L/L₀."""
        first = float(self.first_loss)
        return max(loss / first if first > 0 else 1.0, 1e-12)

    def record_first_loss(self, loss):
        """Remembers the first loss, L₀; called by `hig.control` with L before each update."""
        if float(self.first_loss) == 0:
            self.first_loss.assign(loss)

    def rate(self, slope, curvature):
        """(η of the next step to try, whether the minimum of the model keeps it below the η wanted), see `hig.control`."""
        best = slope / curvature if curvature > 0 < slope else np.inf
        return min(float(self.learning_rate), best), best < float(self.learning_rate)

    def adapt(self, ratio, rate, bounded):
        """Changes η after a step of this size with this ratio of actual to predicted decrease; rule in `hig.control`."""
        if ratio < POOR:
            self.learning_rate = max(rate / SLOWER, 1 / LARGEST)
        elif ratio > GOOD and not bounded:
            self.learning_rate = min(rate * FASTER, LARGEST)

    def adapted(self):
        """What step control has come to: η."""
        return float(self.learning_rate)

    def build_for(self, variables):
        """Builds the optimizer's own variables, again if one of these was not trainable before."""
        if not (self.built and {id(v) for v in variables} <= self._known):
            self.build(variables)

    def apply_directions(self, directions, variables):
        """Moves the variables along −J^κ g: one direction for each, of its shape; what `hig.PhysicsModel` calls."""
        super().apply(directions, variables)

    def apply(self, grads, trainable_variables=None):
        """Refuses plain gradients, which an ordinary Keras training loop would hand over: that would silently be SGD.

        Raises:
            TypeError: always.
        """
        raise TypeError(f"{type(self).__name__} needs the Jacobian, not the gradient: train with hig.PhysicsModel")

    def get_config(self):
        """The arguments of the constructor, for `from_config`."""
        return {**super().get_config(), "kappa": self.kappa, "truncation": self.truncation,
                "damping": self.damping, "adaptive": self.adaptive}


@keras.saving.register_keras_serializable("hig")
class HIG(JacobianPower):
    """Half-inverse gradients: κ = −1/2. Arguments as in JacobianPower."""

    def __init__(self, learning_rate, truncation, damping=0.0, adaptive=False, name="hig", **options):
        super().__init__(learning_rate, -0.5, truncation, damping, adaptive, name=name, **options)

    def get_config(self):
        """The arguments of the constructor, for `from_config`."""
        config = super().get_config()
        del config["kappa"]
        return config


@keras.saving.register_keras_serializable("hig")
class GaussNewton(JacobianPower):
    """Gauss-Newton: κ = −1, the pseudo-inverse of J. Arguments as in JacobianPower."""

    def __init__(self, learning_rate, truncation, damping=0.0, adaptive=False, name="gauss_newton", **options):
        super().__init__(learning_rate, -1.0, truncation, damping, adaptive, name=name, **options)

    def get_config(self):
        """The arguments of the constructor, for `from_config`."""
        config = super().get_config()
        del config["kappa"]
        return config


@keras.saving.register_keras_serializable("hig")
class LevenbergMarquardt(JacobianPower):
    """Damped least squares: Δθ = −η · B/2 · Jᵀ (K + μ)⁻¹ g, by Cholesky.

    η = 1 is the full Gauss-Newton step, damped, for the mean over B samples of Σ (y − y*)². For another loss of curvature h
    in y it is η = 2/(B h): 2 for ½ Σ (y − y*)², d for Keras' mean squared error of d outputs, 1/B if the loss is the sum
    over the batch and not its mean (2 times that with ½). A loss that is not quadratic is taken by its gradient g.

    Args:
        learning_rate: η > 0, or a Keras learning rate schedule; it is not adapted.
        damping: μ > 0 in units of the mean eigenvalue of K, tr K/n. With `adaptive` it is where μ starts.
        adaptive: whether the damping is controlled and falls with the loss, for training on fixed data; see `hig.control`.
        **options: those of keras.optimizers.Optimizer, for instance `name`.

    Raises:
        ValueError: if η or μ is out of range.

    Source: Levenberg 1944; Marquardt 1963; Jᵀ (J Jᵀ + μ)⁻¹ = (JᵀJ + μ)⁻¹ Jᵀ.
    """

    def __init__(self, learning_rate=1.0, damping=1.0, adaptive=True, name="levenberg_marquardt", **options):
        super().__init__(learning_rate, -1.0, 0.0, damping, adaptive, name=name, **options)
        if not self.damping > 0:
            raise ValueError(f"damping must be positive, got {damping}: hig.GaussNewton is without")

    def _set_controls(self):
        self.logged, self.controls, self.damping_adapts = (), [], self.adaptive
        if self.adaptive:
            self.logged = ("damping",)
            self.factor, self.first_loss = self.controls = [            # q and L₀
                self._number("damping_factor", self.damping), self._number("first_loss", 0.0)]

    def coefficients(self, matrix, vector, samples, loss=None):
        """As in JacobianPower, without numbers to log: no singular value is known."""
        damping = self._present(loss) * np.trace(matrix) / len(matrix)
        return samples / 2 * levenberg_marquardt_coefficients(matrix, vector, damping), ()

    def _present(self, loss):
        return float(self.factor) * self._fallen(loss) if self.adaptive else self.damping

    def record_first_loss(self, loss):
        """As in JacobianPower."""
        super().record_first_loss(loss)
        self._last = loss

    def rate(self, slope, curvature):
        """(η, False): the damping is what adapts."""
        return float(self.learning_rate), False

    def adapt(self, ratio, rate, bounded):
        """Changes q after a step with this ratio of actual to predicted decrease; rule in `hig.control`."""
        if ratio < POOR:
            self.factor.assign(min(float(self.factor) * STIFFER, LARGEST))
        elif ratio > GOOD:
            self.factor.assign(max(float(self.factor) / SOFTER, 1 / LARGEST))

    def adapted(self):
        """What step control has come to: μ in units of tr K/n."""
        return self._present(self._last)

    def get_config(self):
        """The arguments of the constructor, for `from_config`."""
        config = super().get_config()
        del config["kappa"], config["truncation"]
        return config


def _positive(learning_rate):
    """η as a float. Raises ValueError if it is not positive and finite."""
    if not 0 < learning_rate < float("inf"):
        raise ValueError(f"learning_rate is {learning_rate}, but must be positive and finite")
    return float(learning_rate)
