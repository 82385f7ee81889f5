"""Damped powers J (K + μ)^((κ−1)/2) and the step of Levenberg and Marquardt, against explicit matrices and
least squares.

Tolerances: 1e-9 where a quadrature of 1e-10 or cond K = 1e8 times rounding enters, ROUNDING where neither
    does.
"""
import numpy as np
import pytest
import scipy.linalg
import threadpoolctl

from hig import powers
from hig.powers import gram_coefficients, jacobian_power, levenberg_marquardt_coefficients

METHODS = ("eigh", "tridiagonal")
ROUNDING = 1e-12


@pytest.fixture(autouse=True)
def one_blas_thread():
    """Matrices here are small; several threads only make the tests slow on a busy machine."""
    with threadpoolctl.threadpool_limits(1, user_api="blas"):
        yield


def jacobian(n, p, smallest=1e-4, seed=0):
    """J (n, p) with singular values from 1 down to `smallest`, and a gradient g (n,)."""
    rng = np.random.default_rng(seed)
    U, V = (scipy.linalg.qr(rng.standard_normal((size, size)))[0] for size in (n, p))
    k = min(n, p)
    return (U[:, :k] * np.geomspace(1.0, smallest, k)) @ V[:, :k].T, rng.standard_normal(n)


def relative_error(value, expected):
    return np.linalg.norm(value - expected) / np.linalg.norm(expected)


@pytest.mark.parametrize("damping", [1e-6, 1e-2, 10.0])
@pytest.mark.parametrize("kappa", [1.0, 0.3, 0.0, -0.5, -1.0])
@pytest.mark.parametrize("n, p", [(20, 30), (30, 20)])
def test_damped_power_equals_a_matrix_function(n, p, kappa, damping):
    """Jᵀ (J Jᵀ + μ)^((κ−1)/2), the power taken by SciPy; for κ = 1 that is Jᵀ."""
    J, _ = jacobian(n, p)
    damped = scipy.linalg.fractional_matrix_power(J @ J.T + damping * np.eye(n), (kappa - 1) / 2)
    power, spectrum = jacobian_power(J, kappa, 0.0, damping)
    assert relative_error(power, J.T @ damped.real) < 1e-9
    assert spectrum == jacobian_power(J, kappa, 0.0)[1]                # of J, not of what damping makes of it


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("damping", [0.0, 1e-9, 1e-5, 1e-2])
@pytest.mark.parametrize("truncation", [0.0, 3e-3])
@pytest.mark.parametrize("kappa", [1.0, 0.3, -0.5, -1.0])
def test_both_gram_sides_equal_the_explicit_damped_power(kappa, truncation, damping, method):
    """40 singular values over four decades, 15 of them truncated or none; the cut looks at σ without the
    damping.
    """
    J, g = jacobian(40, 50)
    power, spectrum = jacobian_power(J, kappa, truncation, damping)
    assert spectrum.rank == (25 if truncation else 40)
    v, rows = gram_coefficients(J @ J.T, g, kappa, truncation, method, damping)
    assert relative_error(J.T @ v, power @ g) < 1e-7  # cond K = 1e8 times rounding, where not truncated
    assert rows.rank == spectrum.rank and rows.sigma_max == pytest.approx(1.0)
    J, g = jacobian(50, 40)
    direct, columns = gram_coefficients(J.T @ J, J.T @ g, kappa, truncation, method, damping)
    assert relative_error(direct, jacobian_power(J, kappa, truncation, damping)[0] @ g) < 1e-7
    assert columns.rank == spectrum.rank


def test_the_checks_above_notice_a_slightly_wrong_damping():
    """Negative control: one per cent more of μ, or μ on the truncated scale, is far outside these tolerances.
    """
    J, g = jacobian(40, 50)
    expected = jacobian_power(J, -0.5, 3e-3, 1e-5)[0] @ g
    for method in METHODS:
        assert relative_error(J.T @ gram_coefficients(J @ J.T, g, -0.5, 3e-3, method, 1.01e-5)[0],
                              expected) > 1e-4
        assert relative_error(J.T @ gram_coefficients(J @ J.T, g, -0.5, 3e-3, method, 0.0)[0],
                              expected) > 1e-2


@pytest.mark.parametrize("method", METHODS)
def test_no_damping_is_the_undamped_power_to_the_last_bit(method):
    J, g = jacobian(60, 80)
    for kappa in (0.3, -0.5, -1.0):
        np.testing.assert_array_equal(jacobian_power(J, kappa, 1e-3)[0],
                                      jacobian_power(J, kappa, 1e-3, 0.0)[0])
        np.testing.assert_array_equal(gram_coefficients(J @ J.T, g, kappa, 1e-3, method)[0],
                                      gram_coefficients(J @ J.T, g, kappa, 1e-3, method, damping=0.0)[0])


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_damping_scales_with_the_eigenvalues(scale):
    """(cJ, c²μ) gives c^κ times the power of (J, μ), on the paths that scale their matrices too."""
    J, g = jacobian(40, 50)
    plain = gram_coefficients(J @ J.T, g, -0.5, 0.0, "tridiagonal", 1e-4)[0]
    scaled = gram_coefficients(scale * (J @ J.T), g, -0.5, 0.0, "tridiagonal", scale * 1e-4)[0]
    assert relative_error(scaled * scale**0.75, plain) < 1e-9


@pytest.mark.parametrize("n, p", [(30, 45), (45, 30), (30, 30)])
@pytest.mark.parametrize("damping", [1e-7, 1e-3, 1.0])
def test_levenberg_marquardt_solves_the_augmented_least_squares_problem(n, p, damping):
    """s = −Jᵀ v minimises ‖J s + g‖² + μ ‖s‖² = ‖(J, √μ) s + (g, 0)‖², here by LAPACK's SVD on that matrix.
    """
    J, g = jacobian(n, p, smallest=1e-3)
    augmented, target = np.vstack([J, np.sqrt(damping) * np.eye(p)]), -np.concatenate([g, np.zeros(p)])
    expected = scipy.linalg.lstsq(augmented, target)[0]
    v = levenberg_marquardt_coefficients(J @ J.T, g, damping)
    assert relative_error(-J.T @ v, expected) < 1e-8                   # cond of K + μ is 1e6 at most
    small = levenberg_marquardt_coefficients(J.T @ J, J.T @ g, damping)
    assert relative_error(-small, expected) < 1e-8
    assert relative_error(J.T @ v, J.T @ gram_coefficients(J @ J.T, g, -1.0, 0.0, "eigh", damping)[0]) < 1e-8
    assert relative_error(-J.T @ levenberg_marquardt_coefficients(J @ J.T, g, 1.01 * damping),
                          expected) > 1e-8


def test_levenberg_marquardt_leaves_its_input_alone_and_takes_any_layout():
    rng = np.random.default_rng(1)
    J = rng.integers(-9, 9, (8, 12))
    K, g = J @ J.T, rng.integers(-9, 9, 8)
    expected = np.linalg.solve(K + 2.0 * np.eye(8), g)
    for matrix in (K, K.astype(np.float32), np.asfortranarray(K, dtype=float), K.astype(float), K.tolist()):
        before = np.array(matrix)
        v = levenberg_marquardt_coefficients(matrix, g, 2.0)
        assert v.dtype == np.float64 and relative_error(v, expected) < ROUNDING
        assert (np.array(matrix) == before).all()


@pytest.mark.filterwarnings("error")
def test_levenberg_marquardt_without_damping_on_a_singular_matrix():
    """Cholesky fails on K of rank 5 in 8, in exact binary arithmetic; the eigendecomposition gives the
    pseudo-inverse.
    """
    K = np.diag([4.0, 2.0, 1.0, 0.5, 0.25, 0.0, 0.0, 0.0])
    np.testing.assert_allclose(levenberg_marquardt_coefficients(K, np.ones(8), 0.0),
                               [0.25, 0.5, 1.0, 2.0, 4.0, 0.0, 0.0, 0.0], atol=ROUNDING)
    assert (levenberg_marquardt_coefficients(np.zeros((3, 3)), np.ones(3), 0.0) == 0).all()


@pytest.mark.parametrize("damping", [-1e-9, np.inf, np.nan])
def test_damping_out_of_range_is_named(damping):
    for call in (lambda: jacobian_power(np.ones((3, 4)), -0.5, 0.1, damping),
                 lambda: gram_coefficients(np.eye(3), np.ones(3), -0.5, 0.1, damping=damping),
                 lambda: levenberg_marquardt_coefficients(np.eye(3), np.ones(3), damping),
                 lambda: powers.check_damping(damping)):
        with pytest.raises(ValueError, match="damping must be at least 0 and finite"):
            call()


def test_levenberg_marquardt_names_what_does_not_fit():
    with pytest.raises(ValueError, match=r"K must be square with one row per entry of g"):
        levenberg_marquardt_coefficients(np.eye(3), np.ones(4), 1.0)
    with pytest.raises(ValueError, match="g is not finite"):
        levenberg_marquardt_coefficients(np.eye(2), [1.0, np.nan], 1.0)
    with pytest.raises(TypeError, match="K must be real"):
        levenberg_marquardt_coefficients(1j * np.eye(2), np.ones(2), 1.0)
