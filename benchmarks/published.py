"""The published algorithm, written again from its description: the slow baseline of the other benchmarks.

It unrolls the simulator's time loop into the graph, takes J = ∂y/∂θ by a vectorised `tape.jacobian` over all
n = B·d outputs, decomposes J by TensorFlow's float32 SVD, forms the truncated half inverse as a matrix and
multiplies it by g. It uses neither XLA nor the factors of J. The definition of J^κ is the paper's; the
choices of implementation are those of the published code.
"""

import keras
import tensorflow as tf


def unrolled(step, n_steps):
    """A simulator (state, controls) → final state that calls `step(state, control)` n_steps times.

    Args:
        step: function of the state (B, …) and the control (B, 1) of one step.
        n_steps: int.
    """
    def simulate(state, controls):
        for t in range(n_steps):
            state = step(state, controls[:, t:t + 1])
        return state
    return simulate


def jacobian_power_update(network, simulator, loss, kappa, truncation, learning_rate):
    """The compiled update x, target → ∅ that moves the network's weights by −η · J^κ · g.

    Args:
        network: built keras.Model; its weights are changed in place.
        simulator: function (x, controls) → outcome (B, d).
        loss: function (target, outcome) → (B,); its mean is the loss.
        kappa, truncation, learning_rate: κ, τ, η.
    """
    weights = [w.value for w in network.trainable_variables]

    @tf.function
    def update(x, target):
        with tf.GradientTape() as tape:
            outcome = simulator(x, network(x))
            flat = tf.reshape(outcome, [-1])                                                     # (n,)
        blocks = tape.jacobian(flat, weights, experimental_use_pfor=True)
        jacobian = tf.concat([tf.reshape(b, [b.shape[0], -1]) for b in blocks], axis=1)          # (n, p)
        with tf.GradientTape() as tape:
            tape.watch(outcome)
            mean = tf.reduce_mean(loss(target, outcome))
        gradient = tf.reshape(tape.gradient(mean, outcome), [-1, 1])                             # (n, 1)
        sigma, u, v = tf.linalg.svd(jacobian)
        powers = tf.where(sigma > truncation * sigma[0], tf.pow(sigma, kappa), 0.0)
        power = tf.matmul(v * powers, u, transpose_b=True)                                       # J^κ, (p, n)
        direction = tf.split(tf.matmul(power, gradient)[:, 0], [w.shape.num_elements() for w in weights])
        for weight, share in zip(weights, direction):
            weight.assign_sub(learning_rate * tf.reshape(share, weight.shape))
    return update


def adam_update(network, simulator, loss, learning_rate):
    """The compiled update of Keras' Adam through the same simulator; as in `jacobian_power_update`."""
    optimizer = keras.optimizers.Adam(learning_rate)
    optimizer.build(network.trainable_variables)

    @tf.function
    def update(x, target):
        with tf.GradientTape() as tape:
            mean = tf.reduce_mean(loss(target, simulator(x, network(x))))
        optimizer.apply(tape.gradient(mean, [w.value for w in network.trainable_variables]))
    return update
