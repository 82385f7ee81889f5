"""Cost and accuracy of v = f(K) g, the inner step of an update: `hig.powers` and LAPACK's eigendecomposition.

    python benchmarks/powers.py            n = 256, 512, 1024: about 20 s
    python benchmarks/powers.py --large    also n = 4096: about two minutes more

The matrices K (n, n) have spectra as in training, and κ = −1/2. Prints the median time of each method with
one and with all BLAS threads, and its ratio to the time of `syevd` (`scipy.linalg.eigh`, driver "evd", with
the faster of one and all threads; other drivers are slower) for the same K in the same run. Prints also the
difference of v from the exact result, which is known by construction. `SMALLEST_TRIDIAGONAL` and
`SMALLEST_THREADED` of `hig.powers` are read off this table.
"""

import numpy as np
import scipy.linalg
import threadpoolctl

from hig import powers
from hig.runs.cli import make_parser
from timing import in_turn, syevd

KAPPA = -0.5


def oscillator_spectrum(n):
    """Eigenvalues as of trained oscillators: 16 decades without a gap, a third of them below τ² = 1e-12."""
    truncated = n // 3
    return np.concatenate([np.geomspace(1e-16, 0.97e-12, truncated),
                           np.geomspace(1.03e-12, 1.0, n - truncated)]), 1e-6


def poisson_spectrum(n):
    """Condition 5e7 with τ² = 1e-10: nothing is truncated."""
    return np.geomspace(1 / 5e7, 1.0, n), 1e-5


def measure(n, eigenvalues, truncation, rounds):
    """{method: median seconds} and {method: relative error} of v."""
    rng = np.random.default_rng(n)
    Q = scipy.linalg.qr(rng.standard_normal((n, n)), overwrite_a=True, check_finite=False)[0]
    K, g = (Q * eigenvalues) @ Q.T, rng.standard_normal(n)
    kept = eigenvalues > truncation**2
    exact = Q[:, kept] @ (eigenvalues[kept] ** ((KAPPA - 1) / 2) * (Q[:, kept].T @ g))
    functions, errors = syevd(K), {}
    for method in ("eigh", "tridiagonal"):
        def power(method=method):
            return powers.gram_coefficients(K, g, KAPPA, truncation, method)[0]
        errors[method] = np.linalg.norm(power() - exact) / np.linalg.norm(exact)
        one_thread = threadpoolctl.ThreadpoolController().wrap(limits=1)
        functions |= {f"{method}, all threads": power, f"{method}, 1 thread": one_thread(power)}
    smallest, powers.SMALLEST_THREADED = powers.SMALLEST_THREADED, 0    # the threads are set here
    medians = in_turn(functions, rounds)
    powers.SMALLEST_THREADED = smallest
    return medians, errors


def main():
    """Measures and prints the table."""
    parser = make_parser(__doc__)
    parser.add_argument("--large", action="store_true", help="also n = 4096")
    sizes = [256, 512, 1024] + [4096] * parser.parse_args().large
    print(f"{'spectrum':12}{'n':>6}  {'method':44}{'seconds':>9}{'ratio':>7}{'error':>10}")
    for n in sizes:
        for spectrum in (oscillator_spectrum, poisson_spectrum):
            medians, errors = measure(n, *spectrum(n), rounds=1 if n > 2000 else 7)
            fastest = min(list(medians.values())[:2])
            for name, median in medians.items():
                error = errors.get(name.split(",")[0])
                print(f"{spectrum.__name__.split('_')[0]:12}{n:6}  {name:44}{median:9.4f}"
                      f"{median / fastest:7.2f}{'' if error is None else f'{error:10.1e}'}", flush=True)


if __name__ == "__main__":
    main()
