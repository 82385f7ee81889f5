"""The "physics" of the toy problem: it scales the second of two outputs by λ, which sets the conditioning.

    P(u) = (u₁, λ u₂)

λ = 1 is well conditioned; with λ = 0.01 the rows of ∂P/∂u differ a hundredfold in length. Source: chapter on
half-inverse gradients of the Physics-based Deep Learning book.
"""


class Scaling:
    """The simulator: maps the network's outputs u to the outcome (u₁, λ u₂).

    Args:
        factor: λ.

    Raises:
        ValueError: if λ is not positive.
    """

    def __init__(self, factor):
        if not factor > 0:
            raise ValueError(f"factor is {factor}, but must be positive")
        self.factor = factor

    def __call__(self, x, outputs):
        """The outcome (B, 2) of outputs (B, 2), any float dtype; the points x are not used."""
        return outputs * (1.0, self.factor)
