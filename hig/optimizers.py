"""Keras optimizers that step along a power of the Jacobian: Δθ = −η · J^κ · g.

The optimizer holds the settings and the plain step; `hig.PhysicsModel` computes the direction J^κ g, because that takes
the Jacobian of network and simulator, which an ordinary Keras training loop does not have.
"""


from hig.backend import keras
from hig.powers import check_settings


@keras.saving.register_keras_serializable("hig")
class JacobianPower(keras.optimizers.Optimizer):
    """Steps θ ← θ − η · J^κ · g.

    Args:
        learning_rate: η > 0, or a Keras learning rate schedule.
        kappa: κ in [−1, 1]: 1 is gradient descent, −1/2 the half-inverse gradient, −1 Gauss-Newton.
        truncation: τ in [0, 1), relative: only singular values above τ·σ_max take part, the others are dropped.
        **options: those of keras.optimizers.Optimizer, for instance `name`.

    Raises:
        ValueError: if κ, τ or η is out of range.

    Source: the paper's definition of J^κ = V Σ^κ Uᵀ and of its truncation.
    """

    def __init__(self, learning_rate, kappa, truncation, name="jacobian_power", **options):
        if options.get("loss_scale_factor") is not None:
            raise ValueError(f"loss_scale_factor is {options['loss_scale_factor']}, but a Jacobian power takes no gradient of "
                             "a loss that could be scaled: leave it out")
        if isinstance(learning_rate, (int, float)):
            learning_rate = _positive(learning_rate)
        super().__init__(learning_rate=learning_rate, name=name, **options)
        self.kappa, self.truncation = kappa, truncation

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
        return {**super().get_config(), "kappa": self.kappa, "truncation": self.truncation}


@keras.saving.register_keras_serializable("hig")
class HIG(JacobianPower):
    """Half-inverse gradients: κ = −1/2. Arguments as in JacobianPower."""

    def __init__(self, learning_rate, truncation, name="hig", **options):
        super().__init__(learning_rate, -0.5, truncation, name=name, **options)

    def get_config(self):
        """The arguments of the constructor, for `from_config`."""
        config = super().get_config()
        del config["kappa"]
        return config


@keras.saving.register_keras_serializable("hig")
class GaussNewton(JacobianPower):
    """Gauss-Newton: κ = −1, the pseudo-inverse of J. Arguments as in JacobianPower."""

    def __init__(self, learning_rate, truncation, name="gauss_newton", **options):
        super().__init__(learning_rate, -1.0, truncation, name=name, **options)

    def get_config(self):
        """The arguments of the constructor, for `from_config`."""
        config = super().get_config()
        del config["kappa"]
        return config


def _positive(learning_rate):
    """η as a float. Raises ValueError if it is not positive and finite."""
    if not 0 < learning_rate < float("inf"):
        raise ValueError(f"learning_rate is {learning_rate}, but must be positive and finite")
    return float(learning_rate)
