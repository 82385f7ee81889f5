"""Powers J^κ of a Jacobian: the linear algebra of half-inverse gradients, on plain NumPy arrays.

Notation (Schnell, Holl, Thuerey: Half-Inverse Gradients for Physical Deep Learning, ICLR 2022)

    J  (n, p)   Jacobian ∂y/∂θ of a mini-batch: n = samples × outputs rows, p parameters
    g  (n,)     gradient ∂L/∂y of the loss with respect to the outputs
    κ           exponent in [−1, 1]: 1 gradient descent, −1/2 half-inverse gradient, −1 Gauss-Newton
    τ           truncation: a singular value σ takes part only if σ > τ σ_max
    μ           damping: every eigenvalue σ² that takes part is raised by μ; 0 in the paper
    K  (n, n)   Gram matrix J Jᵀ

With the singular value decomposition J = U Σ Vᵀ the power is J^κ = V Σ^κ Uᵀ, and the update is −η J^κ g.
`jacobian_power` computes J^κ by this definition and is the reference for the other functions.

A network usually has far more parameters than a mini-batch has outputs. The smaller K = U Σ² Uᵀ is then
enough, because V = Jᵀ U Σ⁻¹:

    J^κ g = V Σ^κ Uᵀ g = Jᵀ U Σ^(κ−1) Uᵀ g = Jᵀ v ,   v = f(K) g ,   f(λ) = λ^(−a) ,   a = (1 − κ)/2 ∈ [0, 1]

with f(λ) = 0 for the truncated eigenvalues λ ≤ τ² λ_max of K. `gram_coefficients` computes v by an
eigendecomposition of K if n is small, and from n = 180 on by the faster `hig.tridiagonal`, which needs no
eigenvectors. If no gap above rounding separates the kept eigenvalues from the truncated ones, the
eigendecomposition is used for any n.

With damping, f(λ) = (λ + μ)^(−a), which bounds the step where σ is small. For κ = −1 and without truncation
this is the step of Levenberg (1944) and Marquardt (1963): s = −Jᵀ (K + μ)⁻¹ g = −(JᵀJ + μ)⁻¹ Jᵀ g minimises
‖J s + g‖² + μ ‖s‖². A Cholesky decomposition is enough for it.

If even K is too large, `operator_power` approximates J^κ g from k products with J and k + 1 with Jᵀ. Golub
and Kahan's recurrence starts from u₁ = g/‖g‖ and makes orthonormal u_i and v_i,

    α_i v_i = Jᵀ u_i − β_i v_{i−1} ,     β_{i+1} u_{i+1} = J v_i − α_i u_i          (β₁ v₀ = 0)

so that J V_k = U_{k+1} B, where B (k + 1, k) is lower bidiagonal, with the α_i on its diagonal and the
β_{i+1} below. The power of B replaces that of J. With B = Q S Pᵀ and g = ‖g‖ u₁ = ‖g‖ U_{k+1} e₁,

    J^κ g ≈ V_k B^κ U_{k+1}ᵀ g = V_k P S^κ Qᵀ e₁ ‖g‖

For n ≤ p and κ > −1, L is used instead of B: its upper k rows. B gives Lanczos' approximation of f(JᵀJ) Jᵀg,
and L that of Jᵀ f(K) g, since U_kᵀ K U_k = L Lᵀ. L finds more of the small singular values in the same number
of steps. If g is not in the range of J, though, singular values of L fall to 0, while those of B are never
below the smallest one of J. Singular values of L below half the smallest one of B therefore count as that
half, or steps would explode. For κ = −1, B gives the iterate of LSQR (with damping, too).

The result is exact for κ = 1, or if the Krylov space is exhausted, which takes at most one step more than the
rank of J. Large singular values are found first; stopping after few steps leaves out the small ones.

Precision: all computations are in float64, whatever the dtype of the arguments. Eigenvalues of K have
absolute errors of about ε λ_max (ε = 2e-16). Singular values below 1e-8 σ_max are therefore lost in rounding;
a truncation τ < 1e-8 would keep only noise of them.
"""
from contextlib import nullcontext
from functools import cache
from typing import NamedTuple

import numpy as np
import scipy.linalg
import scipy.sparse.linalg
import threadpoolctl

from hig.tridiagonal import power_by_tridiagonal

METHODS = ("auto", "eigh", "tridiagonal", "cholesky")
# n from which "tridiagonal" is faster: measured 120 without truncation, 240 with it (benchmarks/powers.py)
SMALLEST_TRIDIAGONAL = 180
SMALLEST_RITZ = 0.5             # times the smallest singular value of B: the least that one of L counts as
EXHAUSTED = 100                 # times ε σ_max: an α or β up to this is a rounding error
SMALLEST_THREADED = 1200        # n from which more than one BLAS thread pays (benchmarks/powers.py)


class Spectrum(NamedTuple):
    """What the truncation has kept of J: numbers to log at each step.

    Attributes:
        rank: int, number of singular values kept.
        sigma_max: float, the largest singular value of J.
        sigma_min: float, the smallest one kept; 0.0 if none is.
    """

    rank: int
    sigma_max: float
    sigma_min: float


def jacobian_power(J, kappa, truncation, damping=0.0, spectral_filter=None):
    """J^κ = V Σ^κ Uᵀ as the paper defines it, by a singular value decomposition of J.

    With damping μ it is V Σ (Σ² + μ)^((κ−1)/2) Uᵀ; for κ = −1 that is Jᵀ (J Jᵀ + μ)⁻¹.

    Args:
        J: array (n, p) of any real dtype, any n and p.
        kappa: exponent κ in [−1, 1].
        truncation: τ in [0, 1); singular values σ ≤ τ σ_max are dropped. Zeros are dropped for any τ.
        damping: μ ≥ 0, in units of σ²; truncation looks at the undamped σ.
        spectral_filter: see `spectral_weights`.

    Returns:
        (P, spectrum): P = J^κ, float64 (p, n), and its `Spectrum`.

    Raises:
        ValueError: J is not a matrix or not finite; κ, τ or μ out of range.
        TypeError: J is not real.
        numpy.linalg.LinAlgError: LAPACK did not converge.
    """
    kappa, truncation, damping = check_settings(kappa, truncation, damping)
    J = _check_array("J", J, ("n", "p"))
    U, sigma, Vt = scipy.linalg.svd(J, full_matrices=False, check_finite=False)
    kept, weights, spectrum = spectral_weights(sigma, truncation, spectral_filter)
    sigma = sigma[kept]
    to_kappa = sigma * (sigma**2 + damping)**((kappa - 1) / 2) if damping else sigma**kappa
    return (Vt[kept].T * (weights * to_kappa)) @ U[:, kept].T, spectrum          # V Σ^κ Uᵀ


def gram_coefficients(K, g, kappa, truncation, method="auto", damping=0.0, spectral_filter=None):
    """The coefficients v with J^κ g = Jᵀ v, from the Gram matrix K = J Jᵀ alone: v = f(K) g.

    If p < n, JᵀJ (p, p) and Jᵀg (p,) are smaller. Given these instead of K and g, the function returns
    J^κ g itself, because V Σ^(κ−1) Vᵀ Jᵀ g = V Σ^(κ−1) Σ Uᵀ g = J^κ g.

    Args:
        K: symmetric array (n, n) of any real dtype, best formed in float64 (see the module's docstring).
        g: array (n,) of any real dtype.
        kappa, truncation, damping, spectral_filter: κ, τ, μ and f as in `jacobian_power`. Eigenvalues
            λ ≤ τ² λ_max of K are dropped, and zero and negative ones (rounding) for any τ.
        method: "eigh", a full eigendecomposition; "tridiagonal", that of `hig.tridiagonal`; or "auto", the
            faster one for this n. They agree to 1e-9 or to the conditioning ε λ_max/λ_min, whichever is
            larger. A spectral filter needs "eigh". "cholesky" is for κ = −1 with damping and without
            truncation or filter; if K + μ is not positive definite, which rounding can cause, "eigh" follows.

    Returns:
        (v, spectrum): v float64 (n,), and the `Spectrum` of J, or None from "cholesky".

    Raises:
        ValueError: arrays not finite or of the wrong shape; κ, τ or μ out of range; unknown method, or one
            that has no such κ, τ or filter.
        TypeError: K or g not real.
        numpy.linalg.LinAlgError: none of three LAPACK drivers converged.

    During the call BLAS runs on one thread if n < 1200 (see `blas_threads`). This affects the whole process,
    so do not call this function from two Python threads at once.
    """
    kappa, truncation, damping = check_settings(kappa, truncation, damping)
    if method not in METHODS:
        raise ValueError(f"method must be one of {METHODS}, got {method!r}")
    if method == "tridiagonal" and spectral_filter is not None:
        raise ValueError('method "tridiagonal" has only the hard cut: use "eigh" with a spectral_filter')
    if method == "cholesky" and (kappa, truncation, spectral_filter) != (-1.0, 0.0, None):
        raise ValueError('method "cholesky" is for kappa = -1 without truncation and spectral_filter')
    K, g = _check_system(K, g)
    n, exponent = len(g), (1 - kappa) / 2   # a
    if method == "auto":
        method = "tridiagonal" if n >= SMALLEST_TRIDIAGONAL and spectral_filter is None else "eigh"
    with blas_threads(n):
        try:
            if method == "cholesky":
                return _solve(K, g, damping), None
            if method == "tridiagonal" and n > 2:   # 1 × 1 and 2 × 2 are tridiagonal, with nothing to reduce
                v, rank, *ends = power_by_tridiagonal(K, g, exponent, truncation**2, damping)
                return v, Spectrum(rank, *map(float, np.sqrt(ends)))
        except np.linalg.LinAlgError:
            pass
        return _power_by_eigh(K, g, exponent, truncation, damping, spectral_filter)


def _power_by_eigh(K, g, exponent, truncation, damping, spectral_filter=None):
    """v = U (Λ + μ)^(−a) Uᵀ g by all eigenvectors U of K, and the `Spectrum` of J."""
    for driver in ("evd", "evr"):   # divide and conquer; if that fails, relatively robust representations
        try:
            if driver == "evd" and len(g) >= SMALLEST_THREADED:
                lam, U = np.linalg.eigh(K)      # the same routine, but other threads may run
            else:
                lam, U = scipy.linalg.eigh(K, driver=driver, check_finite=False)
            break
        except np.linalg.LinAlgError:
            continue
    else:
        raise np.linalg.LinAlgError(f"K {K.shape}: no LAPACK eigendecomposition (evd, evr) converged")
    kept, weights, spectrum = spectral_weights(np.sqrt(np.maximum(lam, 0.0)), truncation, spectral_filter)
    lam, U = lam[kept], U[:, kept]
    return U @ (weights * (lam + damping)**-exponent * (U.T @ g)), spectrum


def _solve(K, g, damping):
    """(K + μ)⁻¹ g by a Cholesky decomposition; numpy.linalg.LinAlgError if K + μ is not positive definite."""
    damped = np.array(K.T if K.flags.c_contiguous else K, order="F")  # symmetric: a copy, not a transposition
    damped.flat[::len(g) + 1] += damping
    factor = scipy.linalg.cho_factor(damped, lower=True, overwrite_a=True, check_finite=False)
    v = scipy.linalg.cho_solve(factor, g, check_finite=False)
    if not np.isfinite(v).all():
        raise np.linalg.LinAlgError("overflow in the Cholesky decomposition")
    return v


def spectral_weights(sigma, truncation, spectral_filter=None):
    """The weight of each singular value in the power J^κ: by truncation, or by a user's filter.

    The paper's rule is a hard cut: the weight is 1 where σ > τ σ_max and 0 elsewhere. It makes J^κ g jump
    when a singular value crosses the cut. A spectral filter f can avoid this: singular values that the cut
    keeps (all for τ = 0) get the weight f(σ/σ_max). Two examples:

        smooth      lambda s: 1 / (1 + (tau / s) ** 6)
        Tikhonov    lambda s: s ** 2 / (s ** 2 + tau ** 2)

    Args:
        sigma: float64 (k,), singular values σ ≥ 0, ascending or descending.
        truncation: τ in [0, 1). Zeros have weight 0 for any τ.
        spectral_filter: function of an array of s = σ/σ_max in (0, 1] → the weights, an array of the same
            shape.

    Returns:
        (kept, weights, spectrum): the slice of σ from the first to the last weight that is not 0, the weights
        in it, float64, and the `Spectrum`.

    Raises:
        ValueError: the filter gives another shape, or weights that are not finite.
    """
    sigma_max = sigma.max(initial=0.0)
    above = sigma > truncation * sigma_max
    weights = above.astype(np.float64)
    if spectral_filter is not None and above.any():
        given = np.asarray(spectral_filter(sigma[above] / sigma_max), np.float64)
        if given.shape != sigma[above].shape or not np.isfinite(given).all():
            raise ValueError("spectral_filter must give one finite weight for each of "
                             f"{np.count_nonzero(above)} singular values, got {given}")
        weights[above] = given
    indices = np.flatnonzero(weights)
    kept = slice(indices[0], indices[-1] + 1) if len(indices) else slice(0, 0)
    sigma_min = sigma[kept].min() if len(indices) else 0.0
    return kept, weights[kept], Spectrum(len(indices), float(sigma_max), float(sigma_min))


class KrylovSpectrum(NamedTuple):
    """What k steps of Golub and Kahan's recurrence have found of J.

    Attributes:
        rank, sigma_max, sigma_min: as in `Spectrum`, of B, whose singular values (Ritz values) are at most
            the largest singular value of J.
        steps: int, number of steps taken; fewer than asked for if the Krylov space was exhausted.
        change: float, relative change of J^κ g by the last step, an estimate of what further steps would
            change. 1.0 after the first step; 0.0 if the Krylov space is exhausted: the result is exact.
    """

    rank: int
    sigma_max: float
    sigma_min: float
    steps: int
    change: float


def operator_power(J, g, kappa, truncation, damping=0.0, steps=None, spectral_filter=None):
    """J^κ g from products with J and Jᵀ alone, by the recurrence of the module's docstring.

    The u_i (or the v_i if p < n) are kept, and each new one is orthogonalised against them twice. Memory:
    steps · min(n, p) float64. `hig.krylov` does the same in TensorFlow for a model.

    Args:
        J: scipy.sparse.linalg.LinearOperator (n, p) of any real dtype, or a dense or sparse matrix. With
            automatic differentiation `matvec` is a Jacobian-vector product and `rmatvec` a vector-Jacobian
            product.
        g: array (n,) of any real dtype.
        kappa, truncation, damping, spectral_filter: κ, τ, μ (in units of σ²) and f as in `jacobian_power`; τ
            and f look at the Ritz values.
        steps: k ≥ 1, the number of steps. None, or a number above min(n, p), means min(n, p), for which the
            result is exact.

    Returns:
        (direction, spectrum): float64 (p,) and its `KrylovSpectrum`.

    Raises:
        ValueError: g not finite or not of J's shape; κ, τ or μ out of range; steps below 1.
        TypeError: g is not real.

    Source: Golub and Kahan, SIAM J. Numer. Anal. B 2 (1965) 205; Arrigo, Benzi and Fenu, SIAM J. Matrix Anal.
    Appl. 37 (2016) 836, for functions of singular values; Simon and Zha, SIAM J. Sci. Comput. 21 (2000) 2257,
    for keeping one side.
    """
    settings = check_settings(kappa, truncation, damping)
    J, g = scipy.sparse.linalg.aslinearoperator(J), _check_array("g", g, ("n",))
    n, p = J.shape
    if len(g) != n:
        raise ValueError(f"g must have one entry per row of J: got shapes {g.shape} and {J.shape}")
    if steps is not None and (not steps >= 1 or steps != int(steps)):
        raise ValueError(f"the number of steps must be a whole number of at least 1, got {steps}")
    steps = min(n, p) if steps is None else min(int(steps), n, p)
    norm, tiny = np.linalg.norm(g), EXHAUSTED * np.finfo(np.float64).eps
    u, v, beta, largest = g / norm if norm > 0 else g, np.zeros(p), 0.0, 0.0
    kept, alphas, betas = np.empty((steps, min(n, p))), [], []          # rows u_i or v_i
    for i in range(steps):
        w = np.asarray(J.rmatvec(u), np.float64) - beta * v
        w = w if n <= p else _orthogonal(w, kept[:i])
        alpha = np.linalg.norm(w)
        exhausted = alpha <= tiny * largest
        if exhausted:
            break
        v = w / alpha
        kept[i] = u if n <= p else v
        u = np.asarray(J.matvec(v), np.float64) - alpha * u
        u = _orthogonal(u, kept[:i + 1]) if n <= p else u
        beta = np.linalg.norm(u)
        largest = max(largest, alpha, beta)
        exhausted = beta <= tiny * largest
        alphas.append(alpha)
        betas.append(0.0 if exhausted else beta)
        if exhausted:
            break
        u = u / beta
    if not alphas:
        return np.zeros(p), KrylovSpectrum(0, 0.0, 0.0, 0, 0.0)
    by_u, by_v, spectrum = bidiagonal_power(alphas, betas, norm, exhausted, (n, p), *settings,
                                            spectral_filter)
    kept = kept[:spectrum.steps]
    if n > p:
        return by_v @ kept, spectrum
    return np.asarray(J.rmatvec(by_u[:-1] @ kept), np.float64) + by_u[-1] * betas[-1] * v, spectrum


def bidiagonal_power(alphas, betas, norm, exhausted, sides, kappa, truncation, damping=0.0,
                     spectral_filter=None):
    """The coefficients of J^κ g in the Krylov space, from the recurrence's α and β.

    With B = Q S Pᵀ and f(S) the filtered S^(κ−1), damped if μ > 0, they are by_v = P S f(S) Qᵀ e₁ ‖g‖ for the
    v_i, and by_u = Q f(S) Qᵀ e₁ ‖g‖ for the u_i: Bᵀ by_u = by_v. Since Jᵀ u_i = α_i v_i + β_i v_{i−1},

        J^κ g ≈ V_k by_v = Jᵀ (U_k by_u[:k]) + by_u[k] β_{k+1} v_k          (by_u[k] = 0 if L replaces B)

    Args:
        alphas, betas: α_1 … α_k and β_2 … β_{k+1}, k ≥ 1 each.
        norm: ‖g‖.
        exhausted: whether β_{k+1} or α_{k+1} is 0, so that no further step is possible.
        sides: (n, p).
        kappa, truncation, damping, spectral_filter: as in `operator_power`.

    Returns:
        (by_u, by_v, spectrum): float64 (k + 1,) and (k,), and the `KrylovSpectrum`.
    """
    k, (n, p) = len(alphas), sides
    whole = exhausted or n > p or kappa == -1                           # B is used, else its upper rows L
    B = np.zeros((k + 1, k))
    np.fill_diagonal(B, alphas)
    np.fill_diagonal(B[1:], betas)

    def power(k):
        B_k = B[:k + whole, :k]
        Q, sigma, _ = scipy.linalg.svd(B_k, full_matrices=False, check_finite=False)
        kept, weights, spectrum = spectral_weights(sigma, truncation, spectral_filter)
        least = 0.0 if whole else SMALLEST_RITZ * scipy.linalg.svdvals(B[:k + 1, :k], check_finite=False)[-1]
        values = weights * (np.maximum(sigma[kept], least)**2 + damping)**((kappa - 1) / 2)
        by_u = norm * (Q[:, kept] @ (values * Q[0, kept]))
        return by_u, B_k.T @ by_u, spectrum

    by_u, by_v, spectrum = power(k)
    previous = np.append(power(k - 1)[1], 0.0) if k > 1 else np.zeros(1)
    size = np.linalg.norm(by_v)
    change = 0.0 if exhausted or size == 0 else float(np.linalg.norm(by_v - previous) / size)
    return by_u if whole else np.append(by_u, 0.0), by_v, KrylovSpectrum(*spectrum, k, change)


def _orthogonal(vector, others):
    """A vector (n,) minus its components along orthonormal others (k, n); twice, because of rounding."""
    for _ in range(2):
        vector = vector - (others @ vector) @ others
    return vector


def blas_threads(n):
    """A context in which BLAS has one thread for n × n matrices with n < SMALLEST_THREADED, else all.

    For small matrices a second thread saves at most a quarter of the time on an idle machine. On a busy
    machine the threads wait for each other: next to TensorFlow's threads a product of milliseconds took
    seconds. The setting affects the whole process.
    """
    return _blas_controller().limit(limits=1, user_api="blas") if n < SMALLEST_THREADED else nullcontext()


@cache
def _blas_controller():
    """Handle on the BLAS thread pools of NumPy and SciPy, kept because finding them takes 7 ms."""
    return threadpoolctl.ThreadpoolController()


def check_settings(kappa=0.0, truncation=0.0, damping=0.0):
    """κ, τ and μ as floats. Raises ValueError naming the one that is out of range."""
    kappa, truncation, damping = float(kappa), float(truncation), float(damping)
    if not -1 <= kappa <= 1:
        raise ValueError(f"kappa must lie in [-1, 1], got {kappa}")
    if not 0 <= truncation < 1:
        raise ValueError(f"truncation must lie in [0, 1), got {truncation}")
    if not 0 <= damping < np.inf:
        raise ValueError(f"damping must be at least 0 and finite, got {damping}")
    return kappa, truncation, damping


def _check_system(K, g):
    K, g = _check_array("K", K, ("n", "n")), _check_array("g", g, ("n",))
    if K.shape != (len(g), len(g)):
        raise ValueError(f"K must be square with one row per entry of g: got shapes {K.shape} and {g.shape}")
    return K, g


def _check_array(name, array, shape):
    if np.iscomplexobj(array):
        raise TypeError(f"{name} must be real, got a complex array")
    array = np.asarray(array, dtype=np.float64)
    if array.ndim != len(shape):
        raise ValueError(f"{name} must have {len(shape)} axes ({', '.join(shape)}), got shape {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} is not finite: it contains inf or NaN")
    return array
