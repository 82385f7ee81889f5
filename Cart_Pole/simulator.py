"""A cart on a rail with N poles hinged on it, all in one plane, under a force on the cart, without friction.

With the cart's position x and the angles θ_i from upright, the centre of a pole of half-length l is at
(x + l sin θ_i, l cos θ_i). Its moment of inertia about the centre is that of a uniform rod, m l²/3. The
energies are therefore

    T = ½ M ẋ² + Σ_i ½ m [(ẋ + l θ̇_i cos θ_i)² + (l θ̇_i sin θ_i)²] + ½ (m l²/3) θ̇_i² ,
    V = Σ_i m g l cos θ_i ,

and Lagrange's equations for each θ_i and for x, on which the force F acts, are

    (4/3) l θ̈_i + ẍ cos θ_i = g sin θ_i
    (M + N m) ẍ + Σ_i m l (θ̈_i cos θ_i − θ̇_i² sin θ_i) = F .

The first gives θ̈_i = (3/4l) (g sin θ_i − ẍ cos θ_i). Inserted into the second, it gives

    ẍ = [F + Σ_i m sin θ_i (l θ̇_i² − ¾ g cos θ_i)] / [M + Σ_i m (1 − ¾ cos² θ_i)] .

The poles interact only through the cart. These are the equations of Wieland (1991) without friction. A semi-
implicit Euler step changes the velocities by the accelerations, then the positions by the new velocities.
"""

import tensorflow as tf

CART_MASS = 1.0        # M, kg
POLE_MASS = 0.1        # m, kg, of each pole
HALF_LENGTH = 0.5      # l, m
GRAVITY = 9.8          # g, m/s²


class CartPoles:
    """The physics. States (B, 2 + 2N) of any float dtype are (x, ẋ, θ_1 … θ_N, θ̇_1 … θ̇_N) in m, rad and s.

    Args:
        n_poles: N.
        dt: time step in seconds.

    Raises:
        ValueError: if a number is not positive.
    """

    def __init__(self, n_poles=1, dt=0.01):
        if n_poles < 1 or dt <= 0:
            raise ValueError(f"n_poles and dt must be positive, not n_poles = {n_poles}, dt = {dt}")
        self.n_poles, self.dt = n_poles, dt

    def split(self, state):
        """x (B, 1), ẋ (B, 1), θ (B, N) and θ̇ (B, N) of states."""
        return tf.split(state, [1, 1, self.n_poles, self.n_poles], axis=-1)

    def accelerations(self, state, force):
        """ẍ in m/s², (B, 1), and θ̈ in rad/s², (B, N), under forces in N, (B, 1)."""
        _, _, angle, rate = self.split(state)
        sin, cos = tf.sin(angle), tf.cos(angle)
        pushes = POLE_MASS * sin * (HALF_LENGTH * rate**2 - 0.75 * GRAVITY * cos)
        masses = POLE_MASS * (1 - 0.75 * cos**2)
        cart = ((force + tf.reduce_sum(pushes, axis=-1, keepdims=True))
                / (CART_MASS + tf.reduce_sum(masses, axis=-1, keepdims=True)))
        return cart, 0.75 / HALF_LENGTH * (GRAVITY * sin - cart * cos)

    def step(self, state, force):
        """The states after a time step with the force held constant; (B, 2 + 2N), (B, 1) → (B, 2 + 2N)."""
        position, velocity, angle, rate = self.split(state)
        cart, poles = self.accelerations(state, force)
        velocity, rate = velocity + self.dt * cart, rate + self.dt * poles
        return tf.concat([position + self.dt * velocity, velocity, angle + self.dt * rate, rate], axis=-1)

    def energy(self, state):
        """T + V in J, (B,)."""
        _, velocity, angle, rate = self.split(state)
        across, down = velocity + HALF_LENGTH * rate * tf.cos(angle), HALF_LENGTH * rate * tf.sin(angle)
        spin = (HALF_LENGTH * rate) ** 2 / 3
        poles = POLE_MASS * ((across**2 + down**2 + spin) / 2 + GRAVITY * HALF_LENGTH * tf.cos(angle))
        return CART_MASS * velocity[..., 0] ** 2 / 2 + tf.reduce_sum(poles, axis=-1)


class SwingUp:
    """The simulator of a closed loop: the network sees the state at every step and returns a force.

    Args:
        cart: CartPoles.
        network: built Keras model from states (B, 2 + 2N) to controls (B, 1).
        n_steps: number of time steps, one control each.
        strength: force in N of a control u = 1.

    Raises:
        ValueError: if n_steps is not positive.
    """

    def __init__(self, cart, network, n_steps, strength):
        if n_steps < 1:
            raise ValueError(f"n_steps is {n_steps}, but must be positive")
        self.cart, self.network, self.n_steps, self.strength = cart, network, n_steps, strength

    def next(self, state, control):
        """State and control of the next time step."""
        state = self.cart.step(state, self.strength * control)
        return state, self.network(state, training=False)

    def final_state(self, state, control):
        """States (B, 2 + 2N) after n_steps, from the first states and their controls (B, 1)."""
        def body(t, state, control):
            return t + 1, *self.next(state, control)
        return tf.while_loop(lambda t, *_: t < self.n_steps, body, (0, state, control),
                             maximum_iterations=self.n_steps)[1]

    def __call__(self, state, control):
        """The outcome, (B, N): √(2/N) sin(θ_i/2) at the end, 0 if upright. Arguments as in `final_state`.

        Its sum of squares is the mean over the poles of 1 − cos θ, since 1 − cos θ = 2 sin²(θ/2).
        """
        _, _, angle, _ = self.cart.split(self.final_state(state, control))
        return (2 / self.cart.n_poles) ** 0.5 * tf.sin(angle / 2)

    def trajectory(self, state):
        """All states from the first one on, (n_steps + 1, B, 2 + 2N), and controls, (n_steps, B, 1)."""
        first = (state, self.network(state, training=False))
        states, controls = tf.scan(lambda before, _: self.next(*before), tf.range(self.n_steps), first)
        return tf.concat([first[0][None], states], axis=0), tf.concat([first[1][None], controls[:-1]], axis=0)
