"""hig.powers against closed forms, constructed spectra, matrix functions and least squares by SciPy.

Tolerances: ROUNDING is what float64 leaves of well-conditioned products of at most some hundred rows. Results
of the Gram form carry the conditioning of K: `allowed_error` is the accuracy promised for every path.
"""
import numpy as np
import pytest
import scipy.linalg
import threadpoolctl

from hig import powers, tridiagonal
from hig.powers import check_settings, gram_coefficients, jacobian_power
from tests.reference import jacobian_of_spectrum, random_orthogonal, relative_error

pytestmark = pytest.mark.usefixtures("one_blas_thread")

METHODS = ("eigh", "tridiagonal")
EPS = np.finfo(np.float64).eps
ROUNDING = 1e-12
each_kappa = pytest.mark.parametrize("kappa", (1.0, 0.3, 0.0, -0.5, -1.0))
each_method = pytest.mark.parametrize("method", METHODS)


def gram_of_spectrum(eigenvalues, seed=6):
    """K = Q diag(λ) Qᵀ (n, n) with random Q (n, n), symmetric to the last bit, and a random g (n,)."""
    rng = np.random.default_rng(seed)
    Q = random_orthogonal(rng, len(eigenvalues))
    K = (Q * eigenvalues) @ Q.T
    return (K + K.T) / 2, Q, rng.standard_normal(len(eigenvalues))


def exact_coefficients(Q, eigenvalues, truncated, g, kappa):
    """v = Σ λ^((κ−1)/2) q qᵀ g over the eigenpairs K was built from, without the first ones."""
    return Q[:, truncated:] @ (eigenvalues[truncated:] ** ((kappa - 1) / 2) * (Q[:, truncated:].T @ g))


def allowed_error(condition):
    """1e-6 up to condition 1e8, the conditioning of the problem in float64 (with a factor 100) beyond."""
    return 1e-6 if condition <= 1e8 else 100 * EPS * condition


# --- J^κ by explicit singular value decomposition: closed forms ---

@pytest.mark.parametrize("shape", [(4, 4), (4, 7), (7, 4)])
@pytest.mark.parametrize("sigma, expected_spectrum", [([5.0, 2.0, 0.5, 0.0], (3, 5.0, 0.5)),
                                                      ([0.0] * 4, (0, 0.0, 0.0))])
@each_kappa
def test_power_of_a_diagonal_matrix_takes_each_entry_to_kappa(shape, kappa, sigma, expected_spectrum):
    J, expected = np.zeros(shape), np.zeros(shape[::-1])
    np.fill_diagonal(J, sigma)
    np.fill_diagonal(expected, [s**kappa if s else 0.0 for s in sigma])
    power, spectrum = jacobian_power(J, kappa, 1e-6)
    np.testing.assert_allclose(power, expected, atol=ROUNDING)
    assert spectrum == pytest.approx(expected_spectrum)


@pytest.mark.parametrize("shape", [(8, 13), (13, 8), (9, 9)])
def test_kappa_minus_one_is_the_moore_penrose_inverse(shape):
    rng = np.random.default_rng(3)
    J = rng.standard_normal((shape[0], 4)) @ rng.standard_normal((4, shape[1]))   # rank 4
    P, spectrum = jacobian_power(J, -1.0, 1e-9)
    np.testing.assert_allclose(P, np.linalg.pinv(J, rcond=1e-9), atol=ROUNDING)
    assert spectrum.rank == 4


@each_kappa
@pytest.mark.parametrize("factor", [1e-60, 0.1, 1e60])
def test_scaling_law(kappa, factor):
    """(cJ)^κ = c^κ J^κ, for the explicit form and both paths of the Gram form."""
    rng = np.random.default_rng(4)
    J, g = rng.standard_normal((12, 20)), rng.standard_normal(12)
    plain, scaled = (jacobian_power(c * J, kappa, 1e-6)[0] for c in (1.0, factor))
    np.testing.assert_allclose(scaled, factor**kappa * plain, rtol=1e-10)
    for method in METHODS:
        v = factor * J.T @ gram_coefficients(factor**2 * (J @ J.T), g, kappa, 1e-6, method)[0]
        # 1e-8: condition of K here (≈ 1e2) times rounding, plus the quadrature of the tridiagonal path
        assert relative_error(v, factor**kappa * plain @ g) < 1e-8


# --- the Gram form against the explicit one ---

@pytest.mark.parametrize("damping", [1e-6, 1e-2, 10.0])
@each_kappa
@pytest.mark.parametrize("n, p", [(20, 30), (30, 20)])
def test_damped_power_equals_a_matrix_function(n, p, kappa, damping):
    """Jᵀ (J Jᵀ + μ)^((κ−1)/2), the power taken by SciPy; for κ = 1 that is Jᵀ."""
    J, _ = jacobian_of_spectrum(n, p, np.geomspace(1.0, 1e-4, 20))
    damped = scipy.linalg.fractional_matrix_power(J @ J.T + damping * np.eye(n), (kappa - 1) / 2)
    power, spectrum = jacobian_power(J, kappa, 1e-9, damping)
    assert relative_error(power, J.T @ damped.real) < 1e-9              # cond K = 1e8 times rounding
    assert spectrum == jacobian_power(J, kappa, 1e-9)[1]                # of J, not of the damped J


@each_method
@pytest.mark.parametrize("damping", [0.0, 1e-9, 1e-5, 1e-2])
@each_kappa
@pytest.mark.parametrize("n, p, rank, truncation", [(15, 40, 15, 1e-5), (40, 15, 6, 1e-5), (20, 20, 20, 0.0),
                                                    (40, 50, 40, 3e-3), (50, 40, 40, 3e-3)])
def test_both_gram_sides_equal_the_explicit_power(n, p, rank, truncation, kappa, damping, method):
    """Singular values over four decades, all kept or 15 of 40 truncated: the cut looks at undamped σ."""
    J, g = jacobian_of_spectrum(n, p, np.geomspace(1.0, 1e-4, rank))
    power, explicit = jacobian_power(J, kappa, truncation, damping)
    v, rows = gram_coefficients(J @ J.T, g, kappa, truncation, method, damping)
    direct, columns = gram_coefficients(J.T @ J, J.T @ g, kappa, truncation, method, damping)
    # cond K = 1e8 times rounding where nothing is truncated
    assert relative_error(J.T @ v, power @ g) < 1e-7 and relative_error(direct, power @ g) < 1e-7
    kept = 25 if truncation == 3e-3 else rank
    smallest = np.geomspace(1.0, 1e-4, rank)[kept - 1]                  # σ² to ε is σ_min to ε/1e-8
    for spectrum in (explicit, rows, columns):
        assert spectrum == (kept, pytest.approx(1.0, rel=1e-10), pytest.approx(smallest, rel=1e-6))


@pytest.mark.parametrize("truncated", [0, 1, 10, 110, 190], ids="{} truncated".format)
@pytest.mark.parametrize("condition", [1e2, 1e4, 1e6, 1e8, 1e10, 1e12, "dense"])
def test_every_path_reaches_the_promised_accuracy(condition, truncated):
    """Sharp truncation in a gap: kept eigenvalues in [1/condition, 1], the others 100 times below and at
    zero. "Dense" is the spectrum of trained oscillators: 14 decades, no gap but the 17 % between neighbours.
    """
    if condition == "dense":
        lam = np.geomspace(1e-14, 1.0, 200)
        truncated = min(truncated + 10, 150)
        cut = lam[truncated] * 0.92
        condition = 1 / cut
    else:
        below, cut = np.where(np.arange(truncated) % 2, 0.01 / condition, 0.0), 0.1 / condition
        lam = np.concatenate([below, np.geomspace(1 / condition, 1.0, 200 - truncated)])
    K, Q, g = gram_of_spectrum(lam)
    J = np.sqrt(lam)[:, None] * Q.T   # (n, n) transposed: Jᵀ v = J @ v
    for kappa in (1.0, 0.3, 0.0, -0.5, -1.0):
        expected = exact_coefficients(Q, lam, truncated, g, kappa)
        found = [gram_coefficients(K, g, kappa, np.sqrt(cut), method) for method in METHODS]
        for v, spectrum in found:
            assert spectrum.rank == 200 - truncated
            assert relative_error(v, expected) < allowed_error(condition)
        assert relative_error(J @ found[1][0], J @ found[0][0]) < allowed_error(condition)


@each_method
def test_the_accuracy_check_notices_a_slightly_wrong_power(method):
    """Negative control: an exponent off by 1e-5, one eigenvalue too many dropped, or one per cent more of
    damping, is far outside the promise.
    """
    lam = np.geomspace(1e-8, 1.0, 200)
    K, Q, g = gram_of_spectrum(lam)
    expected = exact_coefficients(Q, lam, 0, g, -0.5)
    assert relative_error(gram_coefficients(K, g, -0.5, 0.0, method)[0], expected) < 1e-7
    assert relative_error(gram_coefficients(K, g, -0.5 + 1e-5, 0.0, method)[0], expected) > 1e-5
    one_less, spectrum = gram_coefficients(K, g, -0.5, np.sqrt(1.05e-8), method)
    assert spectrum.rank == 199 and relative_error(one_less, expected) > 1e-2
    damped, more = (gram_coefficients(K, g, -0.5, 0.0, method, mu)[0] for mu in (1e-5, 1.01e-5))
    assert relative_error(more, damped) > 1e-4


@pytest.mark.parametrize("exponent", [1e-9, 1e-3, 0.25, 0.5, 0.75, 0.999, 1 - 1e-9])
@pytest.mark.parametrize("ratio", [1.0, 1.5, 1e4, 1e8, 1e16])
def test_partial_fractions_equal_the_power_on_the_whole_interval(exponent, ratio):
    shifts, weights = tridiagonal._partial_fractions(exponent, 3.0, 3.0 * ratio)
    x = np.geomspace(3.0, 3.0 * ratio, 1001)
    approximation = (weights / (shifts + x[:, None])).sum(axis=1)
    # QUADRATURE_ERROR is an estimate of the order of magnitude: the constant is below 4
    np.testing.assert_allclose(approximation, x**-exponent, rtol=4 * tridiagonal.QUADRATURE_ERROR)
    assert (shifts > 0).all() and (weights >= 0).all()   # no cancellation


@pytest.mark.parametrize("gap", [1e-10, 1e-6, 1e-2, 1.0, 1e6])
@pytest.mark.parametrize("lowest", [-1e-9, 0.0, 1e-3])
def test_step_function_is_zero_below_the_gap_and_one_above(gap, lowest):
    below, above = 2e-3, 2e-3 * (1 + gap)
    shifts, weights = tridiagonal._step_function(lowest, below, above)
    x = np.concatenate([np.linspace(lowest, below, 501), np.geomspace(above, 1e3 * above, 501)])
    step = 1 + (weights / (shifts + x[:, None])).real.sum(axis=1)
    # the quadrature's error, as above, and rounding of x + s, which is as small as the gap
    allowed = 4 * tridiagonal.QUADRATURE_ERROR + 20 * EPS / gap
    np.testing.assert_allclose(step, x > (below + above) / 2, atol=allowed)


def test_without_a_gap_at_the_cut_the_eigendecomposition_decides():
    """101 eigenvalues a rounding error apart, the cut in their middle: both paths keep the same ones."""
    K, _, g = gram_of_spectrum(np.concatenate([
        np.geomspace(1e-6, 1e-3, 20), 1e-2 + EPS * np.arange(-50.0, 51.0), np.geomspace(0.1, 1.0, 20)]))
    with pytest.raises(np.linalg.LinAlgError, match="no gap"):
        tridiagonal.power_by_tridiagonal(K, g, 0.75, 0.01, 0.0)
    (v, spectrum), (expected, same) = (gram_coefficients(K, g, -0.5, 0.1, method) for method in METHODS)
    assert spectrum == same and 20 < spectrum.rank < 121
    np.testing.assert_array_equal(v, expected)


@each_kappa
@pytest.mark.parametrize("K", [
    np.eye(5), np.diag([3.0, 0.0, 0.0, 2.0, 1.0]), np.diag(np.arange(5.0, 0.0, -1.0)), np.ones((6, 6)),
    scipy.linalg.block_diag(np.ones((2, 2)), np.zeros((3, 3)), [[2.0, 1.0], [1.0, 2.0]]),
    np.kron(np.eye(4), [[2.0, -1.0], [-1.0, 2.0]]), np.array([[4.0]]), np.array([[2.0, 1.0], [1.0, 2.0]]),
    np.diag([1.0, 0.25, -1e-17, 0.0]), np.zeros((7, 7))],
    ids=["identity", "diagonal with zeros", "diagonal", "rank one", "blocks", "repeated", "1 × 1", "2 × 2",
         "rounding below zero", "zero"])
def test_degenerate_matrices(K, kappa):
    """Repeated and zero eigenvalues, and reductions that fall apart into blocks. Reference: K^((κ−1)/2) by
    `pinvh` and `fractional_matrix_power`, both without any of our code.
    """
    g = np.random.default_rng(8).standard_normal(len(K))
    projector = scipy.linalg.pinvh(K) @ K
    shifted = K + (np.eye(len(K)) - projector)   # the null space moved to eigenvalue 1
    expected = projector @ np.real(scipy.linalg.fractional_matrix_power(shifted, (kappa - 1) / 2)) @ g
    exact = np.array_equal(K, np.diag(np.diag(K)))           # then zeros stay zeros, for τ = 0 as well
    for truncation, method in [(tau, method) for tau in [1e-6] + [0.0] * exact for method in METHODS]:
        v, spectrum = gram_coefficients(K, g, kappa, truncation, method)
        np.testing.assert_allclose(v, expected, atol=1e-9)   # quadrature 1e-10, entries of order 1
        assert spectrum.rank == np.linalg.matrix_rank(K) and (spectrum.sigma_min > 0) == (spectrum.rank > 0)


# --- filters in the place of the hard cut ---

def smooth(s):
    return 1 / (1 + (1e-2 / s) ** 6)


@pytest.mark.parametrize("spectral_filter", [smooth, lambda s: s**2 / (s**2 + 1e-4), lambda s: s > 0.02],
                         ids=["smooth", "Tikhonov", "cut"])
@pytest.mark.parametrize("damping", [0.0, 1e-3])
@each_kappa
@pytest.mark.parametrize("n, p", [(20, 35), (35, 20)])
def test_a_filter_weighs_each_singular_value(n, p, kappa, damping, spectral_filter):
    """Against V f(Σ/σ_max) Σ (Σ² + μ)^((κ−1)/2) Uᵀ of a spectrum from 4 to 4e-4 that J is made of."""
    rng = np.random.default_rng(16)
    U, V = random_orthogonal(rng, n)[:, :20], random_orthogonal(rng, p)[:, :20]
    sigma = np.geomspace(4e-4, 4.0, 20)
    J, g, weights = (U * sigma) @ V.T, rng.standard_normal(n), spectral_filter(sigma / 4.0)
    expected = (V * (weights * sigma * (sigma**2 + damping) ** ((kappa - 1) / 2))) @ U.T
    power, spectrum = jacobian_power(J, kappa, 1e-9, damping, spectral_filter)
    assert relative_error(power, expected) < 1e-10                       # σ_min is known to ε·1e4
    assert spectrum == (np.sum(weights > 0), pytest.approx(4.0), pytest.approx(sigma[weights > 0][0]))
    v, _ = gram_coefficients(J @ J.T, g, kappa, 1e-6, "auto", damping, spectral_filter)
    direct, _ = gram_coefficients(J.T @ J, J.T @ g, kappa, 1e-6, "auto", damping, spectral_filter)
    # 1e-7: eigenvalues of K to ε·1e8; another filter in its place would be off by more than 1e-3
    assert max(relative_error(J.T @ v, expected @ g), relative_error(direct, expected @ g)) < 1e-7


def test_a_large_matrix_with_a_filter_takes_the_eigendecomposition():
    """Where the tridiagonal form would be faster for the hard cut, which alone it knows."""
    lam = np.geomspace(1e-4, 1.0, powers.SMALLEST_TRIDIAGONAL)
    K, Q, g = gram_of_spectrum(lam)
    v, _ = gram_coefficients(K, g, -0.5, 0.0, spectral_filter=smooth)
    assert relative_error(v, Q @ (smooth(np.sqrt(lam)) * lam**-0.75 * (Q.T @ g))) < 1e-10


# --- Levenberg and Marquardt ---

def solve(K, g, damping):
    return gram_coefficients(K, g, -1.0, 0.0, "cholesky", damping)[0]


@pytest.mark.parametrize("n, p", [(30, 45), (45, 30), (30, 30)])
@pytest.mark.parametrize("damping", [1e-7, 1e-3, 1.0])
def test_levenberg_marquardt_solves_the_augmented_least_squares_problem(n, p, damping):
    """s = −Jᵀ v minimises ‖J s + g‖² + μ ‖s‖² = ‖(J, √μ) s + (g, 0)‖², here by LAPACK's SVD on that matrix.
    """
    J, g = jacobian_of_spectrum(n, p, np.geomspace(1.0, 1e-3, 30))
    augmented, target = np.vstack([J, np.sqrt(damping) * np.eye(p)]), -np.concatenate([g, np.zeros(p)])
    expected = scipy.linalg.lstsq(augmented, target)[0]
    small = solve(J.T @ J, J.T @ g, damping)
    step, more = (-J.T @ solve(J @ J.T, g, mu) for mu in (damping, 1.01 * damping))
    # cond of K + μ is 1e6 at most
    assert relative_error(step, expected) < 1e-8 and relative_error(-small, expected) < 1e-8
    assert relative_error(more, expected) > 1e-8                        # negative control


@pytest.mark.filterwarnings("error")
def test_levenberg_marquardt_without_damping_on_a_singular_matrix():
    """Cholesky fails on K of rank 5 in 8, in exact binary arithmetic; the eigendecomposition gives the
    pseudo-inverse.
    """
    K = np.diag([4.0, 2.0, 1.0, 0.5, 0.25, 0.0, 0.0, 0.0])
    expected = [0.25, 0.5, 1.0, 2.0, 4.0, 0.0, 0.0, 0.0]
    np.testing.assert_allclose(solve(K, np.ones(8), 0.0), expected, atol=ROUNDING)
    assert (solve(np.zeros((3, 3)), np.ones(3), 0.0) == 0).all()


# --- inputs ---

@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("rank", [1, 20, 60, 99])
@each_method
def test_without_truncation_rounding_noise_gives_a_finite_result(method, rank):
    """τ = 0 on a rank-deficient K keeps positive rounding noise. What comes out means little, but is a
    result.
    """
    rng = np.random.default_rng(13)
    for _ in range(10):
        J = rng.standard_normal((100, rank))
        v, spectrum = gram_coefficients(J @ J.T, rng.standard_normal(100), -0.5, 0.0, method)
        assert np.isfinite(v).all() and rank <= spectrum.rank <= 100 and spectrum.sigma_min > 0


@pytest.mark.parametrize("method", (*METHODS, "cholesky"))
def test_any_real_dtype_and_layout_gives_float64_and_leaves_the_input_alone(method):
    rng = np.random.default_rng(10)
    J = rng.integers(-9, 9, (8, 12))   # K is exact in every type used here
    K, g = J @ J.T, rng.integers(-9, 9, 8)
    expected = np.linalg.solve(K + 2.0 * np.eye(8), g)
    spaced = np.zeros((16, 16))
    spaced[::2, ::2] = K
    for matrix in (K, K.astype(np.float32), np.asfortranarray(K, dtype=float), K.astype(float),
                   spaced[::2, ::2], K.tolist()):
        before = np.array(matrix)
        v = gram_coefficients(matrix, g, -1.0, 0.0, method, 2.0)[0]
        assert v.dtype == np.float64 and relative_error(v, expected) < 1e-9
        assert (np.array(matrix) == before).all()
    spectrum = gram_coefficients(K, g, -0.5, 1e-6)[1]
    assert list(map(type, spectrum)) == [int, float, float]
    assert jacobian_power(J.astype(np.float32), -0.5, 1e-6)[0].dtype == np.float64


@pytest.mark.parametrize("less, method", [(1, "eigh"), (0, "tridiagonal")])
def test_auto_takes_the_faster_path_on_both_sides_of_the_cross_over(less, method):
    K, _, g = gram_of_spectrum(np.geomspace(1e-4, 1.0, powers.SMALLEST_TRIDIAGONAL - less))
    np.testing.assert_array_equal(*(gram_coefficients(K, g, -0.5, 1e-6, m)[0] for m in ("auto", method)))


J, K, g = np.ones((3, 4)), np.eye(3), np.ones(3)
three_values = "spectral_filter must give one finite weight for each of 3 singular values"


@pytest.mark.parametrize("call, message", [
    (lambda: jacobian_power(np.ones(3), -0.5, 0.1), r"J must have 2 axes \(n, p\), got shape \(3,\)"),
    (lambda: jacobian_power(J * np.nan, -0.5, 0.1), "J is not finite"),
    (lambda: jacobian_power(J, 1.5, 0.1), r"kappa must lie in \[-1, 1\], got 1.5"),
    (lambda: gram_coefficients(np.ones((3, 4)), g, -0.5, 0.1), r"K must be square .* \(3, 4\)"),
    (lambda: gram_coefficients(K, np.ones(4), -0.5, 0.1), r"K must be square with one row per entry of g"),
    (lambda: gram_coefficients(np.ones(9), g, -0.5, 0.1), r"K must have 2 axes \(n, n\), got shape \(9,\)"),
    (lambda: gram_coefficients(K, g[:, None], -0.5, 0.1), r"g must have 1 axes \(n\), got shape \(3, 1\)"),
    (lambda: gram_coefficients(K + np.inf, g, -0.5, 0.1), "K is not finite"),
    (lambda: gram_coefficients(K, [1.0, np.nan, 0.0], -0.5, 0.1), "g is not finite"),
    (lambda: gram_coefficients(K, g, -0.5, 0.1, "svd"), "method must be one of .*'svd'"),
    (lambda: gram_coefficients(K, g, -0.5, 0.0, "tridiagonal", 0.0, smooth), "has only the hard cut"),
    (lambda: gram_coefficients(K, g, -1.01, 0.1), "kappa must lie"),
    *((lambda wrong=wrong: gram_coefficients(K, g, *wrong[:2], "cholesky", 1.0, *wrong[2:]),
       '"cholesky" is for kappa = -1 without') for wrong in ((-0.5, 0.0), (-1.0, 0.1), (-1.0, 0.0, smooth))),
    *((lambda kappa=kappa: check_settings(kappa=kappa), "kappa must lie") for kappa in (1.5, np.nan)),
    *((lambda tau=tau: check_settings(truncation=tau), rf"truncation must lie in \[0, 1\), got {tau}")
      for tau in (-1e-09, 1.0, np.nan)),
    *((lambda mu=mu: check_settings(damping=mu), "damping must be at least 0 and finite")
      for mu in (-1e-9, np.inf, np.nan)),
    (lambda: jacobian_power(J, -0.5, 0.1, -1.0), "damping must be"),
    (lambda: gram_coefficients(K, g, -0.5, 0.1, damping=-1.0), "damping must be"),
    *((lambda wrong=wrong: jacobian_power(np.diag([3.0, 2.0, 1.0, 0.0]), -0.5, 0.0, 0.0, wrong), three_values)
      for wrong in (lambda s: 1.0, lambda s: s[:-1], lambda s: s * np.inf, lambda s: s[:, None])),
])
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_complex_input_is_refused():
    with pytest.raises(TypeError, match="K must be real"):
        gram_coefficients(1j * K, g, -0.5, 0.1)
    with pytest.raises(TypeError, match="J must be real"):
        jacobian_power(1j * J, -0.5, 0.1)


# --- failing LAPACK, threads ---

def test_a_driver_that_fails_is_replaced_by_the_next(monkeypatch):
    """dsytrd, then evd, then evr are made to fail; the results stay right until nothing is left."""
    lam = np.geomspace(0.01, 1.0, 20)
    K, Q, g = gram_of_spectrum(lam)
    expected = exact_coefficients(Q, lam, 0, g, -0.5)
    eigh, broken, tried = scipy.linalg.eigh, [], []

    def failing_eigh(*args, driver, **kwargs):
        tried.append(driver)
        if driver in broken:
            raise np.linalg.LinAlgError("does not converge")
        return eigh(*args, driver=driver, **kwargs)

    monkeypatch.setattr(scipy.linalg, "eigh", failing_eigh)
    monkeypatch.setattr(tridiagonal.lapack, "dsytrd", lambda a, **_: (a, a[0], a[0, 1:], a[0, 1:], 1))
    for drivers in (["evd"], ["evd", "evr"]):   # one more tried each time
        tried.clear()
        assert relative_error(gram_coefficients(K, g, -0.5, 1e-6, "tridiagonal")[0], expected) < ROUNDING
        assert tried == drivers
        broken.append(drivers[-1])
    with pytest.raises(np.linalg.LinAlgError, match=r"K \(20, 20\): no LAPACK eigendecomposition"):
        gram_coefficients(K, g, -0.5, 1e-6)


def test_the_thread_setting_of_the_process_is_restored():
    def threads():
        return {pool["filepath"]: pool["num_threads"] for pool in threadpoolctl.threadpool_info()}
    with threadpoolctl.threadpool_limits(2, user_api="blas"):
        before = threads()
        gram_coefficients(np.eye(200), np.ones(200), -0.5, 1e-6)
        assert threads() == before
