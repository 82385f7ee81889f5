"""The slow, obvious versions that the tests compare with: loops over rows, explicit matrices, float64."""

import numpy as np
import tensorflow as tf


def jacobian_by_rows(function, variables):
    """∂y/∂θ (n, p) in float64: one backward pass per output, `function()` giving y with n elements in all."""
    with tf.GradientTape(persistent=True) as tape:
        outputs = tf.unstack(tf.reshape(function(), [-1]))
    rows = []
    for output in outputs:
        gradients = tape.gradient(output, variables, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        # an Embedding's is sparse
        rows.append(np.concatenate([np.ravel(tf.convert_to_tensor(g)) for g in gradients]))
    return np.array(rows, np.float64)


def jacobian_of_model(model, x):
    """∂y/∂θ (n, p) of a Keras model for a batch with respect to its trainable weights, likewise."""
    x = tf.nest.map_structure(tf.constant, x)
    return jacobian_by_rows(
        lambda: tf.concat([tf.reshape(leaf, [-1]) for leaf in tf.nest.flatten(model(x))], axis=0),
        [weight.value for weight in model.trainable_variables])


def jacobian_by_differences(function, point, step):
    """∂y/∂x by central differences: (size of y, size of x), for a numpy function of one float64 array."""
    columns = []
    for index in range(point.size):
        shift = np.zeros(point.size)
        shift[index] = step
        shift = shift.reshape(point.shape)
        columns.append((function(point + shift) - function(point - shift)).ravel() / (2 * step))
    return np.array(columns).T


def power_by_svd(jacobian, kappa, truncation):
    """J^κ = V Σ^κ Uᵀ without the small singular values, (p, n): the paper's definition, written as one line
    of numpy each.
    """
    u, sigma, vt = np.linalg.svd(jacobian, full_matrices=False)
    powers = np.array([s**kappa if s > truncation * sigma[0] else 0.0 for s in sigma])
    return vt.T @ np.diag(powers) @ u.T


def flat(arrays):
    """The arrays one after the other as one vector of float64."""
    return np.concatenate([np.ravel(np.asarray(a, np.float64)) for a in arrays])


def weights_of(model):
    """The trainable weights of a model as one vector (p,) of float64."""
    return flat([weight.numpy() for weight in model.trainable_variables])


def random_orthogonal(rng, n):
    return np.linalg.qr(rng.standard_normal((n, n)))[0]


def jacobian_of_spectrum(n, p, sigma, seed=0):
    """J (n, p) with these singular values and random singular vectors, and a normally distributed g (n,)."""
    rng = np.random.default_rng(seed)
    U, V = (random_orthogonal(rng, size)[:, :len(sigma)] for size in (n, p))
    return (U * sigma) @ V.T, rng.standard_normal(n)


def relative_error(value, expected):
    return np.linalg.norm(value - expected) / np.linalg.norm(expected)
