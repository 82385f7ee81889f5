"""Keras optimizers that step along a power of the Jacobian: Δθ = −η · J^κ · g.

The optimizer holds the settings and the plain step; `hig.PhysicsModel` computes the direction J^κ g, because that takes
the Jacobian of network and simulator, which an ordinary Keras training loop does not have.
"""

import keras

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
        check_settings(kappa, truncation)
        if isinstance(learning_rate, (int, float)) and not 0 < learning_rate < float("inf"):
            raise ValueError(f"learning_rate is {learning_rate}, but must be positive and finite")
        super().__init__(learning_rate=learning_rate, name=name, **options)
        self.kappa = float(kappa)
        self.truncation = float(truncation)

    def update_step(self, direction, variable, learning_rate):
        """One weight's step: `direction` is its share of J^κ g, shaped like `variable`."""
        self.assign_sub(variable, keras.ops.cast(learning_rate, variable.dtype) * direction)

    def apply_gradients(self, grads_and_vars):
        """Refuses plain gradients, which an ordinary Keras model would hand over: that would silently be SGD."""
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
