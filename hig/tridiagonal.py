"""(K + μ)^(−a) g for a symmetric matrix K by its tridiagonal form: the fast path of `hig.powers`.

The result is one vector f(K) g, with f(λ) = (λ + μ)^(−a) on the kept eigenvalues λ > cut·λ_max and f(λ) = 0
on the others. These four steps cost less than an eigendecomposition:

1. Householder reduction K = Q T Qᵀ to a tridiagonal T: f(K) g = Q f(T) Qᵀ g. This is nearly all of the work.
2. Bisection on T gives λ_max, the number of truncated eigenvalues, the largest truncated one and the smallest
   kept one in O(n) each.
3. Truncation is a product with a rational function of T that steps from 0 to 1 in the gap between these two
   (`_step_function`). It takes some tens of tridiagonal solves with complex shifts, O(n) each.
4. For the kept part z of Qᵀ g, f(T) z = Σ_j w_j (T + μ + s_j)⁻¹ z with positive shifts and weights
   (`_partial_fractions`), which takes some tens of tridiagonal solves more.
"""
from functools import lru_cache

import numpy as np
import scipy.special
from scipy.linalg import lapack

SMALLEST_WIDE_PANEL = 1200      # n from which 32 columns are reduced at a time; below, 16 are faster
QUADRATURE_ERROR = 1e-10        # relative, of the partial fractions at every kept eigenvalue
SMALLEST_GAP = 8 * np.finfo(np.float64).eps   # of T, whose norm is about 1: a narrower gap is rounding


def power_by_tridiagonal(K, g, exponent, cut, damping):
    """(K + μ)^(−a) g on the eigenvalues of K above cut·λ_max, by steps 1–4 of the module's docstring.

    Args:
        K: symmetric float64 (n, n), n ≥ 3; only one of its triangles is used.
        g: float64 (n,).
        exponent: a in [0, 1].
        cut: in [0, 1), relative to λ_max.
        damping: μ ≥ 0.

    Returns:
        (v, rank, λ_max, λ_min): v float64 (n,), the number of kept eigenvalues, the largest and the smallest
        of them.

    Raises:
        numpy.linalg.LinAlgError: there is no gap at the cut, a LAPACK routine failed, or numbers
            overflowed.
    """
    n = len(g)
    A = np.array(K.T if K.flags.c_contiguous else K, order="F")     # symmetric: a copy, not a transposition
    panel = 16 if n < SMALLEST_WIDE_PANEL else 32   # columns at a time; LAPACK's 1 is four times slower
    A, d, e, tau, info = lapack.dsytrd(A, lower=1, lwork=panel * n, overwrite_a=1)
    _check_info("dsytrd", info)
    scale = max(np.abs(d).max(), np.abs(e).max())
    if not np.isfinite(scale):
        raise np.linalg.LinAlgError("overflow in dsytrd")
    if scale == 0:
        return np.zeros(n), 0, 0.0, 0.0
    d, e = d / scale, e / scale   # T of norm at most 3, so that nothing below over- or underflows

    # LAPACK leaves column j of the reflectors of Q in A[j+1:, j]. A view from A[1, 0] on, with A's column
    # stride, has the layout of a QR decomposition, which `dormqr` takes.
    reflectors = A.ravel(order="K")[1:1 + n * (n - 1)].reshape((n, n - 1), order="F")

    def rotate(x, trans):   # Q x or Qᵀ x; workspace 1 means unblocked, four times faster for a single vector
        rotated, _, info = lapack.dormqr("L", trans, reflectors, tau, x[1:, None], 1)
        _check_info("dormqr", info)
        return np.concatenate([x[:1], rotated[:, 0]])

    lam_max = max(_eigenvalue(d, e, n - 1), 0.0)
    truncated = _count_eigenvalues(d, e, cut * lam_max)
    if truncated == n:
        return np.zeros(n), 0, scale * lam_max, 0.0
    lam_min = _eigenvalue(d, e, truncated)
    if lam_min <= 0:   # counted as positive, but found at zero; possible for τ = 0 only
        raise np.linalg.LinAlgError("the smallest kept eigenvalue is lost in rounding")
    z = rotate(g, "T")
    if truncated:
        step = _step_function(_eigenvalue(d, e, 0), _eigenvalue(d, e, truncated - 1), lam_min)
        z = z + _apply_fractions(d, e, z, *step)
    shift = damping / scale
    v = _inverse_power(d + shift, e, z, exponent, lam_min + shift, lam_max + shift)
    if truncated:   # removes rounding errors along truncated eigenvectors, amplified by up to 1/λ_min
        v = v + _apply_fractions(d, e, v, *step)
    v = rotate(v, "N") * scale**-exponent
    if not np.isfinite(v).all():
        raise np.linalg.LinAlgError("overflow on the tridiagonal path")
    return v, n - truncated, scale * lam_max, scale * lam_min


def _inverse_power(d, e, z, exponent, lam_min, lam_max):
    """T^(−a) z for 0 ≤ a ≤ 1 and z in the span of T's eigenvectors with eigenvalues in [λ_min, λ_max].

    Source: x^(−a) = sin(πa)/π ∫₀^∞ s^(−a)/(s + x) ds; for a = 1 the geometric series
    1/x = Σ_k s^k/(x + s)^(k+1), whose remainder after k terms is below (s/x)^k: 1e-10 after five terms with
    s = λ_min/100. The shift keeps T + s regular if T has truncated eigenvalues at zero.
    """
    if exponent < 1e-12:   # λ^(−a) = 1 to more digits than asked for
        return z.copy()
    if exponent > 1 - 1e-12:
        shift = 0.01 * lam_min
        term = _solve_shifted(d, e, shift, z)
        total = term.copy()
        for _ in range(4):
            term = shift * _solve_shifted(d, e, shift, term)
            total += term
        return total
    return _apply_fractions(d, e, z, *_partial_fractions(exponent, lam_min, lam_max))


def _step_function(lowest, below, above):
    """Complex shifts s_j and weights w_j of a step function 1 + Re Σ_j w_j/(x + s_j).

    It is ≈ 0 for x in [lowest, below], and ≈ 1 for x ≥ above.

    Source: w = (y − c)/(y + c), y = x − lowest, takes these intervals to [−1, −k] and [k, 1]. There the step
    function is (1 + sign w)/2, and sign w = w (w²)^(−1/2) = Σ_j ω_j w/(w² + t_j²) = Re Σ_j ω_j/(w + i t_j)
    with the shifts t_j² and weights ω_j of `_partial_fractions` on [k², 1]. Each term is a fraction in x
    again, and they add up to 1 at infinity.

    Returns: (shifts, weights), complex128 arrays of the same length, some 30 for gaps of a few per cent.

    Raises:
        numpy.linalg.LinAlgError: the gap between `below` and `above` is narrower than rounding.
    """
    if above - below <= SMALLEST_GAP:
        raise np.linalg.LinAlgError("no gap separates the kept eigenvalues from the truncated ones")
    high = above - lowest
    low = max(below - lowest, 0.01 * high)   # a wider gap saves nothing; keeps c and k above 0
    centre = np.sqrt(low * high)
    k = (high - low) / (np.sqrt(high) + np.sqrt(low))**2
    squares, weights = _partial_fractions(0.5, k**2, 1.0)
    turn = 1 / (1 + 1j * np.sqrt(squares))
    return -lowest - centre * turn / turn.conj(), weights * centre * turn**2


def _partial_fractions(exponent, lam_min, lam_max):
    """Shifts s_j > 0 and weights w_j > 0 with x^(−a) ≈ Σ_j w_j/(s_j + x) on [λ_min, λ_max], 0 < a < 1.

    The integral x^(−a) = sin(πa)/π ∫₀^∞ s^(−a)/(s + x) ds is cut at λ_min and λ_max into three, each with its
    Gaussian quadrature. An m-point rule converges like ρ^(−2m), where ρ is the sum of the semi-axes of the
    ellipse around the interval (taken as [−1, 1]) through the nearest singularity s = −x of the integrand:

        s = λ_min t, 0 ≤ t ≤ 1            Gauss-Jacobi, weight t^(−a);   t ≤ −1:       ρ = 3 + √8
        s = e^u, ln λ_min ≤ u ≤ ln λ_max  Gauss-Legendre;                u = ln x ± iπ: ρ = b + √(1 + b²)
        s = λ_max/t, 0 ≤ t ≤ 1            Gauss-Jacobi, weight t^(a−1);  t ≤ −1:       ρ = 3 + √8

    with b = 2π/ln(λ_max/λ_min). The number of nodes grows with ln(λ_max/λ_min): 44 for 1e6, 69 for 1e12.
    Source of the rate: Trefethen, Approximation Theory and Approximation Practice, theorem 19.3.

    Returns: (shifts, weights), float64 arrays of the same length.
    """
    def points(rho):
        return int(np.ceil(np.log(QUADRATURE_ERROR) / (-2 * np.log(rho)))) + 1

    def jacobi(q):   # nodes and weights of ∫₀¹ t^(q−1) h(t) dt, which is 1/q times a weighted mean of h
        t, w = _gauss_rule(points(3 + np.sqrt(8)), q - 1)
        return (t + 1) / 2, w / w.sum() / q

    a = exponent
    low, low_weight = jacobi(1 - a)
    high, high_weight = jacobi(a)
    length = np.log(lam_max / lam_min)
    b = 2 * np.pi / max(length, 1e-3)
    t, w = _gauss_rule(points(b + np.sqrt(1 + b**2)), 0.0)
    middle = np.sqrt(lam_min) * np.sqrt(lam_max) * np.exp(t * length / 2)

    shifts = np.concatenate([lam_min * low, middle, lam_max / high])
    weights = np.concatenate([lam_min**(1 - a) * low_weight, length / 2 * w * middle**(1 - a),
                              lam_max**(1 - a) * high_weight / high])
    return shifts, np.sin(np.pi * min(a, 1 - a)) / np.pi * weights   # sin πa = sin π(1−a), exact near 1 too


@lru_cache(maxsize=64)   # a training run asks for the same few rules at every step
def _gauss_rule(points, power):
    """Nodes and weights of Gaussian quadrature on [−1, 1] with weight (1 + t)^power."""
    return scipy.special.roots_jacobi(points, 0.0, power)


def _apply_fractions(d, e, z, shifts, weights):
    """Re Σ_j w_j (T + s_j)⁻¹ z, float64 (n,), with real or complex shifts and weights."""
    total = np.zeros_like(z)
    for shift, weight in zip(shifts, weights):
        total += (weight * _solve_shifted(d, e, shift, z)).real
    return total


def _solve_shifted(d, e, shift, z):
    """(T + s)⁻¹ z for real or complex s; with pivoting, because rounding may make T + s indefinite."""
    solve = lapack.zgtsv if isinstance(shift, complex) else lapack.dgtsv
    *_, x, info = solve(e, d + shift, e, z, overwrite_d=1)
    _check_info("gtsv", info)
    return x


def _count_eigenvalues(d, e, bound):
    """Number of eigenvalues λ ≤ bound of T, by a bisection that stops at once."""
    gershgorin = -4.0   # T is scaled: no eigenvalue is below −3
    count, *_, info = lapack.dstebz(d, e, 1, gershgorin, bound, 1, 1, 8.0, "B")
    _check_info("dstebz", info)
    return count


def _eigenvalue(d, e, index):
    """The eigenvalue of T with this 0-based index, ascending, by bisection."""
    _, lam, _, _, info = lapack.dstebz(d, e, 2, 0.0, 0.0, index + 1, index + 1, 0.0, "E")
    _check_info("dstebz", info)
    return lam[0]


def _check_info(routine, info):
    if info != 0:
        raise np.linalg.LinAlgError(f"LAPACK's {routine} failed with info = {info}")
