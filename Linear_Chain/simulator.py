"""A chain of N linear oscillators, controlled at the last one, integrated by classic Runge-Kutta steps.

    q̇_i = p_i ,   ṗ_i = −q_i + k (q_{i+1} − q_i) + k (q_{i−1} − q_i) + c_i·u(t)

A missing neighbour contributes nothing, and c_i = 0 except for the last oscillator (HIG chapter of the
Physics-based Deep Learning book). With s = (q, p) this is ṡ = A s + b u. One Runge-Kutta step of length h is
then linear, too,

    s_{t+1} = M s_t + m u_t ,   M = Σ_{j=0..4} (hA)^j / j! ,   m = h Σ_{j=0..3} (hA)^j / (j+1)!  b ,

and so are all Nt steps together, without a loop: y = M^Nt x + Σ_t M^{Nt−1−t} m u_t.
"""

import math

import numpy as np
import tensorflow as tf


class LinearChain:
    """The simulator: maps an initial state and the controls to the final state, by two matrices.

    Args:
        n_oscillators: N.
        n_steps: number Nt of time steps, one control each.
        dt: time step h, in units of the inverse frequency of a single oscillator.
        coupling: k, spring constant between neighbours, in units of each oscillator's own.
        control_strength: c_N, the force of a control u = 1 on the last oscillator.

    Attributes (float64):
        generator: A, (2N, 2N), and force: b, (2N,).
        free: (2N, 2N), the transposed M^Nt; without control, final row = initial row · free.
        response: (Nt, 2N), the transposed Jacobian ∂y/∂u, which is the same for all samples.

    Raises:
        ValueError: if a number is not positive.
    """

    def __init__(self, n_oscillators=2, n_steps=24, dt=0.5, coupling=0.2, control_strength=1.0):
        if n_oscillators < 1 or n_steps < 1 or dt <= 0:
            raise ValueError("n_oscillators, n_steps and dt must be positive, not n_oscillators = "
                             f"{n_oscillators}, n_steps = {n_steps}, dt = {dt}")
        n = n_oscillators
        bonds = np.diff(np.eye(n), axis=0)                                  # (N−1, N): q_{i+1} − q_i
        stiffness = np.eye(n) + coupling * bonds.T @ bonds
        self.generator = np.block([[np.zeros((n, n)), np.eye(n)], [-stiffness, np.zeros((n, n))]])
        self.force = np.zeros(2 * n)
        self.force[-1] = control_strength
        powers = [np.linalg.matrix_power(dt * self.generator, j) for j in range(5)]
        step = sum(power / math.factorial(j) for j, power in enumerate(powers))
        push = dt * sum(power / math.factorial(j + 1) for j, power in enumerate(powers[:4])) @ self.force
        self.free = np.linalg.matrix_power(step, n_steps).T
        self.response = np.array([np.linalg.matrix_power(step, n_steps - 1 - t) @ push
                                  for t in range(n_steps)])

    def __call__(self, state, controls):
        """The final state (B, 2N) from the initial state (B, 2N) and controls (B, Nt), any float dtype."""
        free, response = (tf.constant(matrix, state.dtype) for matrix in (self.free, self.response))
        return state @ free + controls @ response


class ScaleInvariant:
    """The chain with another backward pass: the cotangent of the controls is J⁺ g, not Jᵀ g (J = ∂y/∂u).

    This is scale-invariant physics (SIP). A Gauss-Newton step of the simulator alone leads each sample from u
    to the controls u* = u − J⁺ (y − y*). They become the regression target of the network, with the loss
    Σ (u − u*)². The gradient of this loss is (∂u/∂θ)ᵀ 2 (u − u*) = (∂u/∂θ)ᵀ J⁺ g, where g = 2 (y − y*) is
    the gradient of the loss Σ (y − y*)². Back-propagation gives this gradient if the simulator returns J⁺ g.

    Args:
        chain: LinearChain.
        truncation: singular values of J up to truncation · (the largest one) are dropped.
    """

    def __init__(self, chain, truncation):
        self.chain = chain
        self.inverse = np.linalg.pinv(chain.response, rcond=truncation)     # (2N, Nt): the transposed J⁺

    def __call__(self, state, controls):
        """As in `LinearChain`, but with J⁺ g as the gradient; that of the initial state is set to zero."""
        @tf.custom_gradient
        def simulate(controls):
            return self.chain(state, controls), lambda g: g @ tf.constant(self.inverse, g.dtype)
        return simulate(controls)
