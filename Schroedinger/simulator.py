"""A quantum dipole in a box, driven by a control field, in unitary Crank-Nicolson steps.

    i ∂ψ/∂t = H ψ ,     H = −∂²/∂x² + u(t)·x ,     ψ = 0 at both walls          (the paper's quantum dipole)

On a grid of Nx points with spacing dx, walls included, H is a real symmetric tridiagonal matrix on the m = Nx
− 2 interior points. One time step with the control held constant is Cayley's form of the evolution,

    (I + i dt/2 H) ψ' = (I − i dt/2 H) ψ    ⇔    ψ' = 2φ − ψ ,     φ = A⁻¹ψ ,     A = I + i dt/2 H

φ is the mean of ψ and ψ'. The step is unitary. The matrices are as small as 14 × 14, so that the time of a
step depends on the number of successive operations. Gaussian elimination along the grid takes 3m of them.
Cyclic reduction eliminates every second point at once and takes only a few for each of log₂ m levels:
`solve_tridiagonal`.

Derivatives. Differentiating A ψ' = A* ψ gives ∂ψ'/∂u = −i dt A⁻¹ x φ. The change of μᵀψ_Nt for a constant
vector μ therefore follows from the step itself, run backwards, because A = Aᵀ:

    χ = A⁻¹μ' ,     μ = 2χ − μ' ,     ∂(μᵀψ_Nt)/∂u_t = −i dt Σ_j χ_j x_j φ_j      with χ and φ of step t

For the cotangent λ of ψ_Nt of a real function, which changes by Re λ†dψ_Nt, take μ = λ*; its gradient is the
real part. The unit vectors μ = e_k together give the whole Jacobian.

Arguments and results are real, float32 or float64: a wave function is a row of m interleaved pairs (real,
imaginary), 2m numbers. The computation is in complex128, because with a slowly changing control a step's
rounding errors repeat from step to step, and complex64 would lose more than 1e-5 of the norm in 384 steps.

Sources: Goldberg, Schey, Schwartz, American Journal of Physics 35 (1967) 177, for Cayley's form on a grid;
Hockney, Journal of the ACM 12 (1965) 95, for cyclic reduction; the derivatives are derived above.
"""

import numpy as np
import tensorflow as tf


def to_complex(pairs):
    """Wave functions (…, m) complex128 of interleaved pairs (…, 2m), float32 or float64."""
    shape = tf.concat([tf.shape(pairs)[:-1], [pairs.shape[-1] // 2, 2]], axis=0)
    pairs = tf.reshape(tf.cast(pairs, tf.float64), shape)
    return tf.complex(pairs[..., 0], pairs[..., 1])


def to_pairs(psi, dtype=tf.float64):
    """Interleaved pairs (…, 2m) of that dtype of wave functions (…, m) complex128."""
    pairs = tf.cast(tf.stack([tf.math.real(psi), tf.math.imag(psi)], axis=-1), dtype)
    return tf.reshape(pairs, tf.concat([tf.shape(psi)[:-1], [2 * psi.shape[-1]]], axis=0))


def solve_tridiagonal(diagonal, coupling, vectors):
    """A⁻¹v for symmetric tridiagonal matrices A with Hermitian part I, by cyclic reduction.

    Every second point, from the first on, is eliminated. The remaining matrix is tridiagonal again, of half
    the size, and its Hermitian part is at least I, so that no pivoting is needed.

    Args:
        diagonal: A_jj, (m, 1, B) complex128.
        coupling: A_{j,j+1}, (m − 1, 1, B) or (m − 1, 1, 1).
        vectors: v, (m, k, B), k for each of the B matrices.

    Returns:
        (m, k, B), of the dtype of `vectors`.
    """
    m = diagonal.shape[0]
    real, imaginary = tf.math.real(diagonal[::2]), tf.math.imag(diagonal[::2])
    scale = 1 / (real**2 + imaginary**2)  # XLA's own complex division is slower
    inverse = tf.complex(scale * real, -scale * imaginary)
    eliminated = inverse * vectors[::2]
    if m == 1:
        return eliminated
    # each remaining point has a neighbour before it, and one after it except for the last point if m is even
    before, after = coupling[::2], coupling[1::2]
    left, right, missing = m // 2, (m - 1) // 2, 1 - m % 2
    to_before, to_after = before * inverse[:left], after * inverse[1:]

    def pad(rows, first, last):
        return tf.pad(rows, [[first, last], [0, 0], [0, 0]])

    kept = solve_tridiagonal(
        diagonal[1::2] - before * to_before - pad(after * to_after, 0, missing),
        -after[:left - 1] * before[1:] * inverse[1:left],
        vectors[1::2] - before * eliminated[:left] - pad(after * eliminated[1:], 0, missing))
    eliminated -= pad(to_before * kept, 0, 1 - missing) + pad(to_after * kept[:right], 1, 0)
    return tf.gather(tf.concat([eliminated, kept], axis=0), [j // 2 + (m - left) * (j % 2) for j in range(m)])


class Dipole:
    """The simulator: maps initial wave functions and the controls to the final wave functions.

    Units: ħ = 1, mass 1/2, charge 1, so that energies are squares of wave numbers.

    Args:
        n_points: grid points Nx, the two walls included; at least 3.
        n_steps: number Nt of time steps, one control each.
        dt: time step.
        box: positions of the two walls.

    Attributes:
        x: positions of the m = Nx − 2 interior points, (m,) float64.
        dx: their distance.

    Raises:
        ValueError: if a number is out of range.
    """

    def __init__(self, n_points=16, n_steps=384, dt=0.05, box=(0.0, 2.0)):
        if n_points < 3 or n_steps < 1:
            raise ValueError(f"n_points must be at least 3 and n_steps at least 1, not {n_points} and "
                             f"{n_steps}")
        if dt <= 0 or not box[0] < box[1]:
            raise ValueError(f"dt must be positive and the box from left to right, not dt = {dt}, box = "
                             f"{box}")
        self.n_points, self.n_steps, self.dt, self.box = n_points, n_steps, dt, tuple(box)
        self.dx = (box[1] - box[0]) / (n_points - 1)
        self.x = box[0] + self.dx * np.arange(1, n_points - 1)

    def eigenstate(self, n):
        """The n-th state |n⟩ of the empty box on the grid, (m,) float64, n from 1 to m; Σ_j |ψ_j|² = 1.

        sin(π n j/(Nx − 1)), an eigenvector of −∂²/∂x² on the grid with the eigenvalue `energy(n)`.
        """
        state = np.sin(np.pi * n * np.arange(1, self.n_points - 1) / (self.n_points - 1))
        return state / np.linalg.norm(state)

    def energy(self, n):
        """The energy of |n⟩ on the grid, (2 − 2 cos(π n/(Nx − 1)))/dx² ≈ (π n/width)² on a fine one."""
        return (2 - 2 * np.cos(np.pi * n / (self.n_points - 1))) / self.dx**2

    # some 70 operations, each a call from Python if the caller is not compiled
    @tf.function(autograph=False)
    def solve(self, controls, vectors):
        """A⁻¹v, (m, k, B) complex128, for k vectors v of each sample and a step's controls (B,) float64."""
        imaginary = self.dt / 2 * (2 / self.dx**2 + self.x[:, None, None] * controls)
        coupling = tf.fill([len(self.x) - 1, 1, 1], tf.constant(-0.5j * self.dt / self.dx**2, vectors.dtype))
        return solve_tridiagonal(tf.complex(tf.ones_like(imaginary), imaginary), coupling, vectors)

    # ------------------------------------------------------------------------------------------ time stepping

    def __call__(self, state, controls):
        """The wave functions (B, 2m) after n_steps from `state` (B, 2m) with controls (B, n_steps).

        They are float32 or float64, and the result has the dtype of the controls. It is differentiable in
        both, by the derivatives in the module's docstring.
        """
        @tf.custom_gradient
        def propagate(psi, controls):  # (m, 1, B), (Nt, B)
            final, means = self._forwards(psi, controls)

            def adjoint(cotangent):
                mu, slopes = self._backwards(tf.math.conj(cotangent), controls, means)
                return tf.math.conj(mu), tf.math.real(slopes[:, 0])
            return final, adjoint

        return self._rows(propagate(*self._columns(state, controls)), controls.dtype)

    def linearize(self, state, controls):
        """(y, ∂y/∂u), (B, 2m) and (B, 2m, Nt), in the dtype of the controls; arguments as in `__call__`.

        This takes one backward pass with m complex vectors for each sample. Without it, `hig.rows` would
        repeat each sample d = 2m times, forwards and backwards.
        """
        psi, controls_by_step = self._columns(state, controls)
        final, means = self._forwards(psi, controls_by_step)
        units = tf.repeat(tf.eye(len(self.x), dtype=psi.dtype)[..., None], tf.shape(psi)[-1], axis=-1)
        _, slopes = self._backwards(units, controls_by_step, means)                         # (Nt, m, B)
        return (self._rows(final, controls.dtype),
                tf.transpose(to_pairs(tf.transpose(slopes, (0, 2, 1)), controls.dtype), (1, 2, 0)))

    def trajectory(self, state, controls):
        """All wave functions from the initial one on, (Nt + 1, B, 2m); arguments as in `__call__`."""
        psi, controls_by_step = self._columns(state, controls)
        means = self._forwards(psi, controls_by_step)[1]
        signs = tf.constant((-1.0) ** np.arange(1, self.n_steps + 1)[:, None, None, None], psi.dtype)
        states = signs * (psi + 2 * tf.cumsum(signs * means))                               # of ψ' = 2φ − ψ
        states = tf.transpose(tf.concat([psi[None], states], axis=0)[:, :, 0], (0, 2, 1))
        return to_pairs(states, controls.dtype)

    @staticmethod
    def _columns(state, controls):
        """ψ_0 (m, 1, B) complex128 and the controls (Nt, B) float64; samples are neighbours in memory."""
        return tf.transpose(to_complex(state))[:, None], tf.transpose(tf.cast(controls, tf.float64))

    @staticmethod
    def _rows(psi, dtype):
        """Wave functions (m, 1, B) as pairs (B, 2m) of that dtype."""
        return to_pairs(tf.transpose(psi[:, 0]), dtype)

    def _forwards(self, psi, controls):
        """(ψ_Nt, φ_t of all steps) from ψ_0: (m, 1, B) and (Nt, m, 1, B); the controls (Nt, B)."""
        def body(t, psi, means):
            mean = self.solve(controls[t], psi)
            return t + 1, 2 * mean - psi, tf.tensor_scatter_nd_update(means, [[t]], mean[None])

        means = tf.zeros([self.n_steps, len(self.x), 1, tf.shape(psi)[-1]], psi.dtype)
        return tf.while_loop(lambda t, *_: t < self.n_steps, body, (0, psi, means),
                             maximum_iterations=self.n_steps)[1:]

    def _backwards(self, mu, controls, means):
        """(μ_0, ∂(μᵀψ_Nt)/∂u_t) for k vectors μ of each sample, (m, k, B): (m, k, B) and (Nt, k, B)."""
        weights = tf.constant(-1j * self.dt * self.x[:, None, None])

        def body(t, mu, slopes):
            chi = self.solve(controls[t], mu)
            slope = tf.reduce_sum(weights * means[t] * chi, axis=0)
            return t - 1, 2 * chi - mu, tf.tensor_scatter_nd_update(slopes, [[t]], slope[None])

        slopes = tf.zeros([self.n_steps, *mu.shape[1:2], tf.shape(mu)[-1]], mu.dtype)
        return tf.while_loop(lambda t, *_: t >= 0, body, (self.n_steps - 1, mu, slopes),
                             maximum_iterations=self.n_steps)[1:]
