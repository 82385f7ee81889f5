"""hig.powers.operator_power against the explicit power and SciPy's LSQR.

The recurrence promises 1e-9 when it has reached the rank, at condition 1e4 (it comes to 1e-12).
"""
import numpy as np
import pytest
import scipy.sparse.linalg

from hig import powers
from hig.powers import jacobian_power, operator_power
from tests.reference import jacobian_of_spectrum, random_orthogonal, relative_error
from tests.test_powers import each_kappa

pytestmark = pytest.mark.usefixtures("one_blas_thread")
both_shapes = pytest.mark.parametrize("n, p", [(30, 50), (50, 30)])


def jacobian(n, p, rank, condition=1e4):
    """J (n, p) of that rank with singular values from 3 to 3/condition, and g, also outside its range."""
    return jacobian_of_spectrum(n, p, np.geomspace(3.0, 3.0 / condition, rank))


SHAPES = {"n < p": (30, 50, 30), "n > p": (50, 30, 30), "square": (40, 40, 40),
          "rank-deficient, n < p": (30, 50, 12), "rank-deficient, n > p": (50, 30, 12),
          "far more rows": (200, 15, 15), "one row": (1, 20, 1), "one column": (20, 1, 1),
          "one number": (1, 1, 1)}


@pytest.mark.parametrize("damping", [0.0, 1e-3])
@each_kappa
@pytest.mark.parametrize("n, p, rank", SHAPES.values(), ids=SHAPES)
def test_all_steps_give_the_explicit_power(n, p, rank, kappa, damping):
    J, g = jacobian(n, p, rank)
    power, explicit = jacobian_power(J, kappa, 1e-7, damping)
    for steps in (None, 10**6):
        direction, spectrum = operator_power(J, g, kappa, 1e-7, damping, steps)
        assert direction.dtype == np.float64 and relative_error(direction, power @ g) < 1e-9
        assert spectrum[:3] == (rank, pytest.approx(explicit.sigma_max),
                                pytest.approx(explicit.sigma_min, rel=1e-6))
        # a rank-deficient J may take one step more, which finds the zero
        assert rank <= spectrum.steps <= min(rank + 1, n, p)


@both_shapes
@each_kappa
def test_truncation_and_filters_look_at_the_ritz_values(n, p, kappa):
    """A gap at the cut, so that the Ritz values of all steps are cut where the singular values are."""
    J, g = jacobian(n, p, 30)
    for settings in ((0.03, 0.0, None), (0.03, 1e-2, None), (0.0, 0.0, lambda s: s**2 / (s**2 + 1e-2))):
        power, explicit = jacobian_power(J, kappa, *settings)
        direction, spectrum = operator_power(J, g, kappa, settings[0], settings[1], None, settings[2])
        assert relative_error(direction, power @ g) < 1e-9 and spectrum.rank == explicit.rank


@pytest.mark.parametrize("damp", [0.0, 0.03])
@pytest.mark.parametrize("n, p", [(30, 50), (50, 30), (40, 40)])
def test_the_inverse_power_is_lsqr_step_by_step(n, p, damp):
    """κ = −1 with μ = damp² minimises ‖J s − g‖² + damp² ‖s‖² over the same space as SciPy's LSQR."""
    J, g = jacobian(n, p, 30, condition=10)
    for steps in range(1, 11):
        expected = scipy.sparse.linalg.lsqr(J, g, damp=damp, atol=0, btol=0, conlim=0, iter_lim=steps)[0]
        direction, spectrum = operator_power(J, g, -1.0, 0.0, damp**2, steps)
        # LSQR does not orthogonalise, so that it drifts away: 1e-9 in the first ten steps at condition 10
        assert spectrum.steps == steps and relative_error(direction, expected) < 1e-9


@both_shapes
def test_one_step_is_enough_for_gradient_descent(n, p):
    J, g = jacobian(n, p, 30)
    for steps in (1, 2, 7):
        direction, spectrum = operator_power(J, g, 1.0, 0.0, 0.0, steps)
        assert relative_error(direction, J.T @ g) < 1e-13 and spectrum.steps == steps
    assert spectrum.change < 1e-13  # after the first step nothing is left to do


def test_few_steps_come_near_and_the_change_tells_how_near():
    """The error falls from step to step; the change of the last step is within a factor of ten of it."""
    J, g = jacobian(60, 90, 60, condition=20)
    expected = jacobian_power(J, -0.5, 0.0)[0] @ g
    results = [operator_power(J, g, -0.5, 0.0, 0.0, steps) for steps in range(2, 41, 2)]
    errors = np.array([relative_error(direction, expected) for direction, _ in results])
    ratios = np.array([spectrum.change for _, spectrum in results]) / errors
    assert (np.diff(errors) < 0).all() and errors[-1] < 1e-3 and (ratios > 0.1).all() and (ratios < 10).all()


@pytest.mark.parametrize("duplicated", [False, True])
@pytest.mark.parametrize("kappa", [-0.3, -0.5, -0.9])
def test_a_gradient_outside_the_range_of_j_does_not_make_steps_explode(monkeypatch, kappa, duplicated):
    """J of rank 40 and 25 with 50 rows, the second with every sample twice and other targets: for no k is the
    step more than 2.5 times as long as the exact one, and its error falls to that of rounding. Negative
    control: without SMALLEST_RITZ some steps are more than three times as long.
    """
    J, g = jacobian(50, 80, 40, condition=100)
    J = np.vstack([J[:25]] * 2) if duplicated else J
    expected = jacobian_power(J, kappa, 1e-7)[0] @ g

    def longest_and_last():
        steps = [operator_power(J, g, kappa, 1e-7, 0.0, k)[0] for k in range(1, 42)]
        return max(map(np.linalg.norm, steps)) / np.linalg.norm(expected), steps[-1]
    longest, last = longest_and_last()
    assert longest < 2.5 and relative_error(last, expected) < 1e-9
    monkeypatch.setattr(powers, "SMALLEST_RITZ", 0.0)
    assert longest_and_last()[0] > 3


@pytest.mark.parametrize("n, p", [(20, 30), (30, 20)])
def test_where_the_space_is_exhausted_the_recurrence_ends(n, p):
    """g of three singular vectors, or orthogonal to the range, or zero: exact, without NaN, and no warning.
    """
    rng = np.random.default_rng(1)
    U, V = (random_orthogonal(rng, size) for size in (n, p))
    J = (U[:, :10] * np.geomspace(1, 0.1, 10)) @ V[:, :10].T
    g = U[:, 1:4] @ [1.0, 2.0, -1.0]
    with np.errstate(all="raise"):
        direction, spectrum = operator_power(J, g, -0.5, 1e-9)
        assert spectrum.steps == 3 and spectrum.change == 0
        assert relative_error(direction, jacobian_power(J, -0.5, 1e-9)[0] @ g) < 1e-12
        assert np.abs(operator_power(J, U[:, 12], -0.5, 1e-9)[0]).max() < 1e-12
        for zero in (operator_power(J, 0 * g, -0.5, 1e-9), operator_power(0 * J, g, -0.5, 0.0)):
            assert (zero[0] == 0).all() and zero[1] == (0, 0.0, 0.0, 0, 0.0)


@pytest.mark.parametrize("n, p", [(150, 200), (200, 150)])
def test_without_orthogonalisation_the_check_fails(monkeypatch, n, p):
    """Negative control: Krylov vectors that lose their orthogonality find the same singular values twice."""
    J, g = jacobian(n, p, 150)
    expected = jacobian_power(J, -0.5, 1e-7)[0] @ g
    assert relative_error(operator_power(J, g, -0.5, 1e-7)[0], expected) < 1e-9
    monkeypatch.setattr(powers, "_orthogonal", lambda vector, others: vector)
    assert relative_error(operator_power(J, g, -0.5, 1e-7)[0], expected) > 1e-3


def test_any_linear_operator():
    """Dense, sparse, and functions; float32 goes in and float64 comes out."""
    J, g = jacobian(20, 30, 20, condition=10)
    expected = operator_power(J, g, -0.5, 0.0, steps=8)[0]
    functions = scipy.sparse.linalg.LinearOperator(J.shape, matvec=lambda v: J @ v, rmatvec=lambda u: J.T @ u,
                                                   dtype=J.dtype)
    for operator in (functions, scipy.sparse.csr_array(J), scipy.sparse.linalg.aslinearoperator(J)):
        np.testing.assert_allclose(operator_power(operator, g, -0.5, 0.0, steps=8)[0], expected, rtol=1e-10)
    single, _ = operator_power(J.astype(np.float32), g.astype(np.float32), -0.5, 0.0, steps=8)
    assert single.dtype == np.float64 and relative_error(single, expected) < 1e-5


@pytest.mark.parametrize("arguments, message", [
    ((np.ones(4), -0.5, 0.1), r"g must have one entry per row of J: got shapes \(4,\) and \(3, 5\)"),
    (([1.0, np.inf, 0.0], -0.5, 0.1), "g is not finite"),
    ((np.ones(3), 1.5, 0.1), "kappa must lie"),
    ((np.ones(3), -0.5, 1.0), "truncation must lie"),
    ((np.ones(3), -0.5, 0.1, -1.0), "damping must be at least 0"),
    ((np.ones(3), -0.5, 0.1, 0.0, 0), "number of steps must be a whole number of at least 1, got 0"),
    ((np.ones(3), -0.5, 0.1, 0.0, 2.5), "number of steps must be a whole number of at least 1, got 2.5"),
])
def test_bad_input_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        operator_power(np.ones((3, 5)), *arguments)
