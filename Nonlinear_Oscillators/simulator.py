"""A chain of N nonlinear oscillators, controlled at the last one, integrated by classic Runge-Kutta steps.

    q̇_i = p_i ,   ṗ_i = −q_i + (q_{i+1} − q_i)³ + (q_{i−1} − q_i)³ + c_i·u(t)

A missing neighbour contributes nothing, and c_i = 0 except for the last oscillator. Without control these are
the equations of motion for the Hamiltonian that `energy` computes. Source: figure 2 of the paper; the force
between neighbours, the cubic difference with coefficient 1, is that of the published code.
"""

import tensorflow as tf


def force(q):
    """ṗ without control, −q_i + (q_{i+1} − q_i)³ + (q_{i−1} − q_i)³, (…, N), for positions q (…, N)."""
    bond = tf.pow(q[..., 1:] - q[..., :-1], 3)                              # (…, N−1): between i and i+1
    padding = [[0, 0]] * (q.shape.rank - 1)
    return -q + tf.pad(bond, padding + [[0, 1]]) - tf.pad(bond, padding + [[1, 0]])


def energy(state):
    """H = Σ_i q_i²/2 + p_i²/2 + Σ_i (q_{i+1} − q_i)⁴/4, shape (…,), for states (q, p) of shape (…, 2N)."""
    q, p = tf.split(state, 2, axis=-1)
    return (tf.reduce_sum(q**2 + p**2, axis=-1) / 2
            + tf.reduce_sum(tf.pow(q[..., 1:] - q[..., :-1], 4), axis=-1) / 4)


class Oscillators:
    """The simulator: maps an initial state and the controls to the final state.

    Args:
        n_steps: number Nt of time steps, one control each.
        dt: time step, in units of the inverse frequency of a single oscillator.
        control_strength: c_N, the force of a control u = 1 on the last oscillator.

    Raises:
        ValueError: if a number is not positive.
    """

    def __init__(self, n_steps=96, dt=0.125, control_strength=3.0):
        if n_steps < 1 or dt <= 0:
            raise ValueError(f"n_steps and dt must be positive, not n_steps = {n_steps}, dt = {dt}")
        self.n_steps, self.dt, self.control_strength = n_steps, dt, control_strength

    def derivative(self, state, control):
        """d(q, p)/dt, (B, 2N), for states (B, 2N) and controls (B, 1) of one instant."""
        q, p = tf.split(state, 2, axis=-1)
        controlled = self.control_strength * tf.pad(control, [[0, 0], [q.shape[-1] - 1, 0]])
        return tf.concat([p, force(q) + controlled], axis=-1)

    def step(self, state, control):
        """One classic Runge-Kutta step of fourth order with the control held constant, (B, 2N) → (B, 2N)."""
        k1 = self.derivative(state, control)
        k2 = self.derivative(state + self.dt / 2 * k1, control)
        k3 = self.derivative(state + self.dt / 2 * k2, control)
        k4 = self.derivative(state + self.dt * k3, control)
        return state + self.dt / 6 * (k1 + 2 * k2 + 2 * k3 + k4)

    def __call__(self, state, controls):
        """The final state (B, 2N) from the initial state (B, 2N) and controls (B, n_steps), any float dtype.
        """
        def body(t, state):
            return t + 1, self.step(state, controls_by_step[t])

        controls_by_step = tf.transpose(controls)[:, :, None]               # (Nt, B, 1)
        return tf.while_loop(lambda t, state: t < self.n_steps, body, (0, state),
                             maximum_iterations=self.n_steps)[1]

    def trajectory(self, state, controls):
        """All states from the initial one on, (Nt + 1, B, 2N); arguments as in `__call__`."""
        return tf.concat([state[None], tf.scan(self.step, tf.transpose(controls)[:, :, None], state)], axis=0)
