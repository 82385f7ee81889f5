"""A quantum dipole in a box, driven by a control field, in unitary Crank-Nicolson steps.

    i ∂ψ/∂t = H ψ ,     H = −∂²/∂x² + u(t)·x ,     ψ = 0 at both walls          (the paper's quantum dipole)

On a grid of Nx points with spacing dx, walls included, H is a real symmetric tridiagonal matrix on the m = Nx − 2
interior points. One time step with the control held constant is Cayley's form of the evolution,

    (I + i dt/2 H) ψ' = (I − i dt/2 H) ψ    ⇔    ψ' = 2φ − ψ ,     φ = A⁻¹ψ ,     A = I + i dt/2 H

φ is the mean of ψ and ψ'. The step is unitary, and because A is tridiagonal and changes with the control alone:

    A = L D Lᵀ      factored without pivoting (the Hermitian part of A is I), for all steps and samples at once,
                    before the loop over time: `factorize`
    φ = A⁻¹ψ        for one vector per sample: forward and backward substitution (Thomas algorithm), `solve`
    G = A⁻¹         for m vectors per sample, as Jacobians need them: its entries in closed form, `inverse`

Derivatives. Differentiating A ψ' = A* ψ gives ∂ψ'/∂u = −i dt A⁻¹ x φ. With a cotangent λ of ψ' (of a real function,
so that its change is Re λ†dψ') and μ = λ*, A = Aᵀ turns the adjoint of a step into that step itself, run backwards:

    χ = A⁻¹μ' ,     μ = 2χ − μ' ,     ∂/∂u = dt Im Σ_j χ_j x_j φ_j

The whole Jacobian comes out of one pass forwards. Let Φ_t be the m × m unitary matrix of the first t steps, U = Φ_Nt
that of all, and M_t = G_tΦ_t, the mean of Φ_t and Φ_{t+1} = 2M_t − Φ_t. The steps after t are U Φ_{t+1}†, and because
a step S_t = 2G_t − I is unitary, Φ_{t+1}†G_t = ½Φ_{t+1}†(S_t + I) = ½(Φ_t + Φ_{t+1})† = M_t†. Therefore

    ∂ψ_Nt/∂u_t = −i dt U Φ_{t+1}† G_t x G_tψ_t = −i dt U M_t† x M_t ψ_0 .

Outside, everything is real, float32 or float64: a wave function is a row of m pairs (real, imaginary), interleaved:
2m numbers. Inside, everything is complex128: with a slowly changing control the rounding of a step repeats itself
from step to step, and complex64 would lose more than 1e-5 of the norm in 384 of them. It costs a third more time.

Source: Goldberg, Schey, Schwartz, American Journal of Physics 35 (1967) 177, for Cayley's form on a grid; the
entries of `inverse` follow from Lᵀ G = D⁻¹ L⁻¹, the rest as derived here.
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
            raise ValueError(f"n_points must be at least 3 and n_steps at least 1, not {n_points} and {n_steps}")
        if dt <= 0 or not box[0] < box[1]:
            raise ValueError(f"dt must be positive and the box from left to right, not dt = {dt}, box = {box}")
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
        """The energy of |n⟩ on the grid, (2 − 2 cos(π n/(Nx − 1)))/dx², which is (π n/width)² on a fine one."""
        return (2 - 2 * np.cos(np.pi * n / (self.n_points - 1))) / self.dx**2

    # ------------------------------------------------------------------------------------- linear algebra of a step

    def factorize(self, controls):
        """A = L D Lᵀ for every sample and step.

        Args:
            controls: (B, Nt) float64.

        Returns:
            (inverse_diagonal, subdiagonal): 1/D, (Nt, m, B), and the entries of L below its unit diagonal,
            (Nt, m − 1, B), complex128.
        """
        u = tf.transpose(controls)                                                          # (Nt, B)
        coupling = tf.constant(-0.5j * self.dt / self.dx**2, tf.complex128)                 # A_{j,j+1}
        diagonal = [tf.complex(tf.ones_like(u), self.dt / 2 * (2 / self.dx**2 + x * u)) for x in self.x]
        inverse_diagonal, subdiagonal = [1 / diagonal[0]], []
        for entry in diagonal[1:]:
            subdiagonal.append(coupling * inverse_diagonal[-1])
            inverse_diagonal.append(1 / (entry - coupling * subdiagonal[-1]))
        subdiagonal = tf.stack(subdiagonal, axis=1) if subdiagonal else inverse_diagonal[0][:, None][:, :0]
        return tf.stack(inverse_diagonal, axis=1), subdiagonal

    @staticmethod
    def solve(inverse_diagonal, subdiagonal, psi):
        """A⁻¹ψ by the Thomas algorithm, (m, B), for ψ (m, B) and the factors of one step, (m, B) and (m − 1, B)."""
        subdiagonal = tf.unstack(subdiagonal)
        forward = tf.unstack(psi)
        for j, entry in enumerate(subdiagonal):
            forward[j + 1] -= entry * forward[j]
        result = tf.unstack(tf.stack(forward) * inverse_diagonal)
        for j, entry in reversed(list(enumerate(subdiagonal))):
            result[j] -= entry * result[j + 1]
        return tf.stack(result)

    @staticmethod
    def inverse(inverse_diagonal, subdiagonal):
        """G = A⁻¹ as matrices (Nt, B, m, m), which are symmetric, from the factors of all steps.

        By Lᵀ G = D⁻¹ L⁻¹, upwards from the last row: G_jj = 1/D_j + L²_{j+1,j} G_{j+1,j+1}, and for k > j
        G_jk = −L_{j+1,j} G_{j+1,k}, hence G_jk = c_k/c_j G_kk with c_j = Π_{i<j} −L_{i+1,i}. In polar form, so that
        the quotient is of a harmless size where c itself leaves the range of floating point numbers.
        """
        pivots, below = tf.unstack(inverse_diagonal, axis=1), tf.unstack(subdiagonal, axis=1)           # (Nt, B) each
        diagonal, phase = [pivots[-1]], [tf.ones_like(pivots[0])]
        for pivot, entry in zip(pivots[-2::-1], below[::-1]):
            diagonal.insert(0, pivot + entry**2 * diagonal[0])
        for entry in below:
            phase.append(-phase[-1] * entry / tf.cast(tf.abs(entry), entry.dtype))
        diagonal, phase = tf.stack(diagonal, axis=-1), tf.stack(phase, axis=-1)                         # (Nt, B, m)
        modulus = tf.cumsum(tf.math.log(tf.abs(tf.transpose(subdiagonal, (0, 2, 1)))), axis=-1)
        modulus = tf.pad(modulus, [[0, 0], [0, 0], [1, 0]])                                             # ln |c_j|

        growth = tf.exp(modulus[..., None, :] - modulus[..., :, None])
        upper = diagonal[..., None, :] * phase[..., None, :] * tf.math.conj(phase[..., :, None]) * tf.cast(growth, phase.dtype)
        rows = np.arange(diagonal.shape[-1])
        return tf.where(rows[:, None] <= rows, upper, tf.linalg.matrix_transpose(upper))

    # ----------------------------------------------------------------------------------------------- time stepping

    def __call__(self, state, controls):
        """The wave functions (B, 2m) after n_steps from `state` (B, 2m) with controls (B, n_steps).

        float32 or float64, the result as the controls; differentiable in both by the adjoint of the module docstring.
        """
        @tf.custom_gradient
        def propagate(psi, controls):                                                       # psi (m, B) complex
            factors = self.factorize(controls)
            final, states = self._sweep(psi, factors)

            def adjoint(cotangent):
                means = (tf.concat([psi[None], states[:-1]], axis=0) + states) / 2          # φ_t, (Nt, m, B)
                driven = tf.constant(self.dt * self.x[:, None], states.dtype) * means

                def body(t, mu, gradient):
                    chi = self.solve(factors[0][t], factors[1][t], mu)
                    slope = tf.math.imag(tf.reduce_sum(chi * driven[t], axis=0))            # (B,)
                    return t - 1, 2 * chi - mu, tf.tensor_scatter_nd_update(gradient, [[t]], slope[None])

                _, mu, gradient = tf.while_loop(
                    lambda t, *_: t >= 0, body,
                    (self.n_steps - 1, tf.math.conj(cotangent), tf.zeros_like(tf.transpose(controls))),
                    maximum_iterations=self.n_steps)
                return tf.math.conj(mu), tf.transpose(gradient)
            return final, adjoint

        final = propagate(tf.transpose(to_complex(state)), tf.cast(controls, tf.float64))
        return to_pairs(tf.transpose(final), controls.dtype)

    def linearize(self, state, controls):
        """The outcome y of `__call__` and ∂y/∂u, (B, 2m) and (B, 2m, Nt), in the dtype of the controls; arguments as there.

        One pass for all columns of a sample: the d-fold repeated batch of `hig.jacobian` would take 2m cotangents per
        sample through `__call__`, and factorize every step 2m times.
        """
        psi = to_complex(state)                                                             # (B, m)
        inverses = self.inverse(*self.factorize(tf.cast(controls, tf.float64)))
        x = tf.constant(self.x, psi.dtype)

        def body(t, unitary, columns):                                                      # Φ_t, (B, m, m)
            mean = inverses[t] @ unitary                                                    # M_t
            driven = x * tf.linalg.matvec(mean, psi)
            return t + 1, 2 * mean - unitary, columns.write(t, tf.linalg.matvec(mean, driven, adjoint_a=True))

        _, unitary, columns = tf.while_loop(
            lambda t, *_: t < self.n_steps, body,
            (0, tf.eye(len(self.x), batch_shape=[tf.shape(psi)[0]], dtype=psi.dtype),
             tf.TensorArray(psi.dtype, self.n_steps, element_shape=psi.shape)), maximum_iterations=self.n_steps)
        columns = -1j * self.dt * tf.linalg.matvec(unitary, columns.stack())                # (Nt, B, m)
        return (to_pairs(tf.linalg.matvec(unitary, psi), controls.dtype),
                tf.transpose(to_pairs(columns, controls.dtype), (1, 2, 0)))

    def trajectory(self, state, controls):
        """All wave functions from the initial one on, (Nt + 1, B, 2m); arguments as in `__call__`."""
        psi = tf.transpose(to_complex(state))
        states = self._sweep(psi, self.factorize(tf.cast(controls, tf.float64)))[1]
        return to_pairs(tf.transpose(tf.concat([psi[None], states], axis=0), (0, 2, 1)), controls.dtype)

    def _sweep(self, psi, factors):
        """(ψ_Nt, all ψ_t from the first step on) from ψ_0: (m, B) and (Nt, m, B)."""
        def body(t, psi, states):
            psi = 2 * self.solve(factors[0][t], factors[1][t], psi) - psi
            return t + 1, psi, tf.tensor_scatter_nd_update(states, [[t]], psi[None])

        return tf.while_loop(lambda t, *_: t < self.n_steps, body, (0, psi, tf.zeros_like(factors[0])),
                             maximum_iterations=self.n_steps)[1:]
