"""Jacobian powers J^κ, the pure linear algebra of half-inverse gradients (paper §3; Schnell, Holl, Thuerey 2022)."""
from typing import NamedTuple

import numpy as np
import scipy.linalg


class Spectrum(NamedTuple):
    """Which singular values of J took part: rank (kept), size (n), the largest, the smallest kept (0.0 if none)."""

    rank: int
    size: int
    sigma_max: float
    sigma_min: float


def jacobian_power(J, kappa, truncation):
    """J^κ = V Σ^κ Uᵀ by an explicit singular value decomposition in float64: the reference.

    Args: J (n, p); kappa in [−1, 1]; truncation 0 ≤ τ < 1, singular values σ ≤ τ σ_max are dropped.
    Returns: (P, Spectrum) with P (p, n) float64.
    Raises: ValueError naming the argument at fault.
    """
    kappa, truncation = _check_exponent(kappa, truncation)
    J = _check_array("J", J, 2)
    U, sigma, Vt = scipy.linalg.svd(J, full_matrices=False, check_finite=False)
    kept = (sigma > truncation * sigma.max(initial=0.0)) & (sigma > 0)
    power = (Vt[kept].T * sigma[kept] ** kappa) @ U[:, kept].T
    return power, _spectrum(sigma[kept], sigma.max(initial=0.0), len(J))


def gram_coefficients(K, g, kappa, truncation, method="auto"):
    """v (n,) with J^κ g = Jᵀ v from K = J Jᵀ (n, n) and g (n,): v = f(K) g, f(λ) = λ^((κ−1)/2) on λ > τ² λ_max.

    Applied to (JᵀJ, Jᵀg) the same function returns J^κ g itself: the small side when p < n.
    Returns: (v, Spectrum) with v float64.
    Raises: ValueError naming the argument at fault; numpy.linalg.LinAlgError if LAPACK does not converge.
    """
    kappa, truncation = _check_exponent(kappa, truncation)
    if method not in ("auto", "eigh", "tridiagonal"):
        raise ValueError(f"method must be 'auto', 'eigh' or 'tridiagonal', got {method!r}")
    K, g = _check_array("K", K, 2), _check_array("g", g, 1)
    if K.shape != (len(g), len(g)):
        raise ValueError(f"K must be square with one row per entry of g {g.shape}, got shape {K.shape}")
    lam, Q = scipy.linalg.eigh(K, driver="evd", check_finite=False)
    kept = (lam > truncation**2 * lam.max(initial=0.0)) & (lam > 0)
    Q = Q[:, kept]
    v = Q @ (lam[kept] ** ((kappa - 1) / 2) * (Q.T @ g))
    return v, _spectrum(np.sqrt(lam[kept]), np.sqrt(max(lam.max(initial=0.0), 0.0)), len(g))


def _check_exponent(kappa, truncation):
    kappa, truncation = float(kappa), float(truncation)
    if not -1 <= kappa <= 1:
        raise ValueError(f"kappa must lie in [-1, 1], got {kappa}")
    if not 0 <= truncation < 1:
        raise ValueError(f"truncation must lie in [0, 1), got {truncation}")
    return kappa, truncation


def _check_array(name, a, rank):
    a = np.asarray(a, dtype=np.float64)
    if a.ndim != rank:
        raise ValueError(f"{name} must be an array of rank {rank}, got shape {a.shape}")
    if not np.isfinite(a).all():
        raise ValueError(f"{name} contains inf or NaN")
    return a


def _spectrum(kept, largest, size):
    return Spectrum(len(kept), size, float(largest), float(kept.min()) if len(kept) else 0.0)
