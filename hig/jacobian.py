"""The Jacobian J = ∂y/∂θ of network and simulator, as factors or by rows, and the products that J^κ g needs.

Notation (the paper's)

    B        samples in the mini-batch
    d        outputs per sample, the size of y_b
    n = B·d  rows of J, ordered (sample, output)
    p        columns of J, the trainable weights θ of the model, in the order of `trainable_variables`

A Dense layer computes z = a W + b. By the chain rule row r = (b, k) of J has, for that layer, the block

    ∂y_bk/∂W = a_b ⊗ δ_r ,     ∂y_bk/∂b = δ_r ,     with δ_r = ∂y_bk/∂z_b

where a_b is the layer's input for sample b. Two thin matrices represent the layer's part of J: A (B × in),
with rows a_b, and Δ (n × out), with rows δ_r. Then

    J Jᵀ  = Σ_layers (A Aᵀ + 1) ∘ (Δ Δᵀ)          with A Aᵀ repeated d times along both axes
    Jᵀ v  = Aᵀ (v ∘ Δ)  for W,   Σ_r v_r δ_r  for b

where ∘ is the elementwise product. The term A Aᵀ is present only if the kernel is trained, and the term 1
only if the bias is. `FactoredJacobian` computes this. `RowsJacobian` holds J as a matrix, for weights that
act in any other way. `PenalizedJacobian` adds quadratic penalties on weights as further rows of J. All three
give K, JᵀJ, Jᵀv and J d. `hig.routes` obtains them from a model and checks that they are right.

All computations are in NumPy and float64, whatever the precision of the network, because the singular values
of J are square roots of the eigenvalues of J Jᵀ.
"""

import math

import numpy as np

_STRIPE_ROWS = 128          # rows of K computed at a time: 128 × n float64 fit in the cache
# most rows of a matrix M for which M Mᵀ is one BLAS call; OpenBLAS 0.3.29 crashes for more
_LARGEST_PRODUCT = 4096
_CHUNK_BYTES = 2**27        # of J formed at a time from its factors


class _ByRows:
    """What follows from `chunks_of_rows`, which yields J in chunks: (slice of rows, (rows, p) float64)."""

    def normal(self, v):
        """(JᵀJ (p, p), Jᵀv (p,)) float64 for v of shape (n,): the small side where p < n."""
        matrix, vector = np.zeros((self.shape[1],) * 2), np.zeros(self.shape[1])
        for where, rows in self.chunks_of_rows():
            matrix += rows.T @ rows
            vector += rows.T @ v[where]
        return matrix, vector

    def row_squares(self):
        """Σ_j J_rj² for each row, (n,) float64: the diagonal of K."""
        return np.concatenate([np.sum(rows**2, axis=1) for _, rows in self.chunks_of_rows()])


class FactoredJacobian(_ByRows):
    """J by the factors A and Δ of Dense layers, if all weights are kernels or biases of these.

    Args:
        inputs: list of A, one per layer, each (B, in), any float dtype; converted to float64.
        cotangents: list of Δ, one per layer, each (n, out), rows ordered (sample, output).
        kernels: list of int, index of each layer's kernel in the weights θ; None if it is not trained.
        biases: the same for the biases.

    Attributes:
        shape: (n, p).
    """

    def __init__(self, inputs, cotangents, kernels, biases):
        self.layers = [(np.asarray(a, np.float64), np.asarray(delta, np.float64), kernel, bias)
                       for a, delta, kernel, bias in zip(inputs, cotangents, kernels, biases)]
        shapes = {}
        for a, delta, kernel, bias in self.layers:
            shapes.update({kernel: (a.shape[1], delta.shape[1]), bias: delta.shape[1:]})
        self.places = sorted(place for place in shapes if place is not None)        # of the weights in θ
        self.shapes = [shapes[place] for place in self.places]
        self.batch, n = len(inputs[0]), len(cotangents[0])
        self.d, self.shape = n // self.batch, (n, sum(map(math.prod, self.shapes)))

    def gram(self):
        """K = J Jᵀ, (n, n) float64, in O(n² Σ out) operations.

        K is built in stripes of whole samples that fit in the cache. The lower triangle is computed, and the
        upper one is its mirror image. This was measured to be 2 to 6 times as fast as products of whole
        matrices, and takes little memory beside K.
        """
        n, d, batch = self.shape[0], self.d, self.batch
        samples = max(1, _STRIPE_ROWS // d)                                                  # of a stripe
        whole = self._input_products(0, batch) if d > 1 else None  # (B, B) each, small beside K
        gram = np.empty((n, n))
        for first in range(0, batch, samples):
            last = min(first + samples, batch)
            top, bottom = first * d, last * d
            products = ([product[first:last] for product in whole] if whole
                        else self._input_products(first, last))
            stripe = 0.0
            for product, (_, delta, _, _) in zip(products, self.layers):
                share = delta[top:bottom] @ delta[:bottom].T                                 # (rows, columns)
                by_sample = share.reshape(last - first, d, last, d)                          # a view
                by_sample *= product[:, None, :last, None]
                stripe += share
            square = stripe[:, top:]  # on the diagonal of K, symmetric up to rounding
            stripe[:, top:] = np.tril(square) + np.tril(square, -1).T
            gram[top:bottom, :bottom] = stripe
            gram[:top, top:bottom] = stripe[:, :top].T
        return gram

    def _input_products(self, first, last):
        """A Aᵀ + 1 of each layer, (last − first, last): the samples first … last − 1 with 0 … last − 1."""
        return [(a[first:last] @ a[:last].T if kernel is not None else 0.0)
                + np.full((last - first, last), bias is not None) for a, _, kernel, bias in self.layers]

    def pullback(self, v):
        """Jᵀ v for v of shape (n,): a list of float64 arrays, shaped like the weights and in their order."""
        gradients = {}
        for a, delta, kernel, bias in self.layers:
            weighted = np.asarray(v, np.float64)[:, None] * delta                           # (n, out)
            per_sample = weighted.reshape(self.batch, self.d, -1).sum(axis=1)               # (B, out)
            gradients.update({kernel: a.T @ per_sample, bias: per_sample.sum(axis=0)})
        return [gradients[place] for place in self.places]

    def push(self, direction):
        """J d, (n,) float64, for a change d (p,) of the concatenated weights.

        A layer whose kernel changes by D contributes (A D) ∘ Δ, summed over its units.
        """
        parts, change = dict(zip(self.places, unflatten(direction, self.shapes))), 0.0
        for a, delta, kernel, bias in self.layers:
            sums = np.zeros((self.batch, delta.shape[1])) + parts.get(bias, 0.0)
            if kernel is not None:
                sums += a @ parts[kernel]
            change = change + np.einsum("bko,bo->bk", delta.reshape(self.batch, self.d, -1), sums)
        return change.ravel()

    def chunks_of_rows(self):
        """Yields J some samples at a time: (slice of rows, (rows, p) float64)."""
        samples = max(1, _CHUNK_BYTES // (8 * self.shape[1] * self.d))
        for first in range(0, self.batch, samples):
            where, blocks = slice(first * self.d, min(first + samples, self.batch) * self.d), {}
            for a, delta, kernel, bias in self.layers:
                delta = delta[where]
                repeated = np.repeat(a[first:first + samples], self.d, axis=0)              # (rows, in)
                blocks[kernel] = (repeated[:, :, None] * delta[:, None, :]).reshape(len(delta), -1)
                blocks[bias] = delta
            yield where, np.concatenate([blocks[place] for place in self.places], axis=1)


class RowsJacobian(_ByRows):
    """J as a matrix, for weights that act in any way.

    Args:
        matrix: J, (n, p) float64.
        shapes: list of the weights' shapes.

    Attributes:
        shape: (n, p).
    """

    def __init__(self, matrix, shapes):
        self.matrix, self.shapes, self.shape = matrix, shapes, matrix.shape

    def gram(self):
        """K = J Jᵀ, (n, n) float64."""
        n = len(self.matrix)
        if n <= _LARGEST_PRODUCT:
            return self.matrix @ self.matrix.T
        gram = np.empty((n, n))
        for first in range(0, n, _LARGEST_PRODUCT):
            rows = slice(first, min(first + _LARGEST_PRODUCT, n))
            gram[rows, rows] = self.matrix[rows] @ self.matrix[rows].T
            gram[rows, :first] = self.matrix[rows] @ self.matrix[:first].T
            gram[:first, rows] = gram[rows, :first].T
        return gram

    def pullback(self, v):
        """Jᵀ v for v of shape (n,): a list of float64 arrays, shaped like the weights and in their order."""
        return unflatten(self.matrix.T @ v, self.shapes)

    def push(self, direction):
        """J d, (n,) float64, for d of shape (p,)."""
        return self.matrix @ direction

    def chunks_of_rows(self):
        """Yields J: (slice of all rows, (n, p) float64)."""
        yield slice(0, len(self.matrix)), self.matrix


class PenalizedJacobian:
    """J, followed by the rows of quadratic penalties, which have one entry each; see `hig.penalties`.

    Args:
        jacobian: FactoredJacobian or RowsJacobian, J (n, p).
        columns: array (q,) of int, the column of each further row's entry.
        scales: array (q,) float64, the entries.

    Attributes:
        shape: (n + q, p).
    """

    def __init__(self, jacobian, columns, scales):
        self.jacobian, self.columns, self.scales = jacobian, columns, scales
        self.outcomes = jacobian.shape[0]                                                   # n
        self.shape = self.outcomes + len(columns), jacobian.shape[1]

    def gram(self):
        """K of all rows, (n + q, n + q) float64."""
        n = self.outcomes
        gram = np.diag(np.concatenate([np.zeros(n), self.scales**2]))
        gram[:n, :n] = self.jacobian.gram()
        for where, rows in self.jacobian.chunks_of_rows():
            gram[where, n:] = rows[:, self.columns] * self.scales
        gram[n:, :n] = gram[:n, n:].T
        return gram

    def normal(self, v):
        """JᵀJ (p, p) and Jᵀv (p,) of all rows, float64, for v of shape (n + q,)."""
        matrix, vector = self.jacobian.normal(v[:self.outcomes])
        matrix[self.columns, self.columns] += self.scales**2
        vector[self.columns] += self.scales * v[self.outcomes:]
        return matrix, vector

    def pullback(self, v):
        """Jᵀ v of all rows for v of shape (n + q,): a list of float64 arrays, shaped like the weights."""
        parts = self.jacobian.pullback(v[:self.outcomes])
        vector = flatten(parts)
        vector[self.columns] += self.scales * v[self.outcomes:]
        return unflatten(vector, [part.shape for part in parts])

    def push(self, direction):
        """J d of all rows, (n + q,) float64, for d of shape (p,)."""
        return np.concatenate([self.jacobian.push(direction),
                               self.scales * np.asarray(direction)[self.columns]])


def flatten(arrays):
    """Arrays flattened and concatenated to one vector."""
    return np.concatenate([np.ravel(array) for array in arrays])


def small_side(jacobian, gradient):
    """The smaller arguments for `gram_coefficients`: K and g if n ≤ p, JᵀJ and Jᵀg otherwise.

    Source: f(JᵀJ) Jᵀg = Jᵀ f(J Jᵀ) g.
    """
    n, p = jacobian.shape
    gradient = np.asarray(gradient)
    return (jacobian.gram(), gradient) if n <= p else jacobian.normal(gradient.astype(np.float64))


def unflatten(vector, shapes):
    """A vector of p numbers as a list of arrays of the given shapes, in that order."""
    ends = np.cumsum([np.prod(shape, dtype=int) for shape in shapes])
    return [piece.reshape(shape) for piece, shape in zip(np.split(vector, ends[:-1]), shapes)]
