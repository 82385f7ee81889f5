"""The simulator of a regression: the identity. Its outcome is what the network says.

So J = ∂y/∂θ is the Jacobian of the network alone, and half-inverse gradients are seen without any physics.
"""


def identity(x, outputs):
    """The outcome (B, 1) is the network's outputs (B, 1); the points x (B, N) are not used."""
    return outputs
