"""The discrete Laplace operator on a square grid, by PhiFlow: y = Δx, and its inverse.

The grid has cells of size 1 and the field is zero outside (`extrapolation.ZERO`), so that Δ is the 5-point
stencil

    y_ij = x_{i+1,j} + x_{i−1,j} + x_{i,j+1} + x_{i,j−1} − 4 x_ij

Source: the Poisson problem of the paper.
"""

import numpy as np
import tensorflow as tf
from phi.tf.flow import CenteredGrid, batch, extrapolation, field, math, spatial


class Laplace:
    """The simulator: maps solutions x to y = Δx.

    Args:
        resolution: int, cells along each of the two axes.

    Raises:
        ValueError: if resolution is below 2.
    """

    def __init__(self, resolution=8):
        if resolution < 2:
            raise ValueError(f"resolution is {resolution}, but must be at least 2")
        self.resolution = resolution

    @tf.autograph.experimental.do_not_convert  # AutoGraph would spend 17 s on PhiFlow's code
    def __call__(self, _, solution):
        """Δx, (B, resolution²), for x of the same shape and any float dtype; the target is not used."""
        cells = tf.reshape(solution, (-1, self.resolution, self.resolution))
        grid = CenteredGrid(math.tensor(cells, batch("batch"), spatial("x,y")), extrapolation.ZERO)
        return tf.reshape(field.laplace(grid).values.native("batch,x,y"), tf.shape(solution))

    def inverse(self, y):
        """The solution x of Δx = y, (B, resolution²), for y of the same shape and any float dtype.

        Sine waves diagonalise the stencil: Δ = S (Λ ⊕ Λ) S with S_jk = √(2/(N+1)) sin(π(j+1)(k+1)/(N+1)),
        S = Sᵀ = S⁻¹, and Λ_j = −4 sin²(π(j+1)/(2(N+1))) along each axis, N the resolution.
        Source: Strang, Computational Science and Engineering, section 3.5.
        """
        n = self.resolution
        frequency = np.arange(1, n + 1)
        waves = np.sqrt(2 / (n + 1)) * np.sin(np.pi / (n + 1) * np.outer(frequency, frequency))
        eigenvalues = -4 * np.sin(np.pi / 2 / (n + 1) * frequency)**2
        waves = tf.constant(waves, y.dtype)
        amplitudes = waves @ tf.reshape(y, (-1, n, n)) @ waves                              # (B, N, N)
        amplitudes /= tf.constant(eigenvalues[:, None] + eigenvalues[None, :], y.dtype)
        return tf.reshape(waves @ amplitudes @ waves, tf.shape(y))
