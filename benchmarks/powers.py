"""Cost and accuracy of v = f(K) g, the inner step of an update: `hig.powers` and LAPACK's eigendecomposition.

    python benchmarks/powers.py            n = 256, 512, 1024: about 20 s
    python benchmarks/powers.py --large    and n = 4096: about two minutes more

For matrices K (n, n) with the spectra met in training (κ = −1/2), prints the median time of each method, its
ratio to the faster of `syevd` on one and on all threads (`scipy.linalg.eigh`, driver "evd"; the other drivers
are slower) of the same K in the same run, the memory allocated on top of K, and the difference of v from the
exact result, known by construction. A star marks the method and thread count that "auto" uses. The calls of
one n are interleaved, so that a busy moment of the machine hits all methods.
"""
import argparse
import time
import tracemalloc

import numpy as np
import scipy.linalg
import threadpoolctl

from hig import powers
from hig.runs.cli import standard_streams

KAPPA = -0.5


def oscillator_spectrum(n):
    """Eigenvalues as of trained oscillators: 16 decades without a gap, a third of them below τ² = 1e-12."""
    truncated = n // 3
    return np.concatenate([np.geomspace(1e-16, 0.97e-12, truncated),
                           np.geomspace(1.03e-12, 1.0, n - truncated)]), 1e-6


def poisson_spectrum(n):
    """Condition 5e7 with τ² = 1e-10: nothing is truncated."""
    return np.geomspace(1 / 5e7, 1.0, n), 1e-5


def measure(n, eigenvalues, truncation, repeats):
    """Rows (method, median seconds, bytes allocated, relative error) of all methods, times interleaved."""
    rng = np.random.default_rng(n)
    Q = scipy.linalg.qr(rng.standard_normal((n, n)), overwrite_a=True, check_finite=False)[0]
    K, g = (Q * eigenvalues) @ Q.T, rng.standard_normal(n)
    kept = eigenvalues > truncation**2
    exact = Q[:, kept] @ (eigenvalues[kept] ** ((KAPPA - 1) / 2) * (Q[:, kept].T @ g))
    del Q
    all_threads = max(pool["num_threads"] for pool in threadpoolctl.threadpool_info())

    def syevd():
        scipy.linalg.eigh(K, driver="evd", check_finite=False)

    def ours(method):
        return powers.gram_coefficients(K, g, KAPPA, truncation, method)[0]

    chosen = "tridiagonal" if n >= powers.SMALLEST_TRIDIAGONAL else "eigh"
    threaded_from = powers.SMALLEST_THREADED
    runs = []   # name, function, threads
    for threads in (1, all_threads):
        star = "*" if (threads > 1) == (n >= threaded_from) or all_threads == 1 else ""
        label = f"{threads} thread{'s' * (threads > 1)}"
        runs.append((f"syevd, {label}", syevd, threads))
        for method in ("eigh", "tridiagonal"):
            runs.append((f"{method}, {label}{star * (method == chosen)}", lambda m=method: ours(m), threads))
    times, memory, errors = ([[] for _ in runs] for _ in range(3))
    powers.SMALLEST_THREADED = 0   # the thread counts are set here
    for repeat in range(repeats):
        for i, (_, function, threads) in enumerate(runs):
            with threadpoolctl.threadpool_limits(threads, user_api="blas"):
                if repeat == 0:   # tracing costs time, so this call is not counted if there are others
                    tracemalloc.start()
                start = time.perf_counter()
                v = function()
                times[i].append(time.perf_counter() - start)
                if repeat == 0:
                    memory[i] = tracemalloc.get_traced_memory()[1]
                    tracemalloc.stop()
                    errors[i] = np.nan if v is None else np.linalg.norm(v - exact) / np.linalg.norm(exact)
    powers.SMALLEST_THREADED = threaded_from
    return [(name, np.median(times[i][1:] or times[i]), memory[i], errors[i])
            for i, (name, _, _) in enumerate(runs)]


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--large", action="store_true", help="also n = 4096")
    sizes = [256, 512, 1024] + [4096] * parser.parse_args().large
    print(f"{'spectrum':12}{'n':>6}  {'method':26}{'seconds':>9}{'ratio':>7}{'MB':>7}{'error':>10}")
    for n in sizes:
        for spectrum in (oscillator_spectrum, poisson_spectrum):
            rows = measure(n, *spectrum(n), repeats=1 if n > 2000 else 7)
            syevd = min(seconds for name, seconds, *_ in rows if name.startswith("syevd"))
            for name, seconds, allocated, error in rows:
                accuracy = "" if np.isnan(error) else f"{error:10.1e}"
                print(f"{spectrum.__name__.split('_')[0]:12}{n:6}  "
                      f"{name:26}{seconds:9.4f}{seconds / syevd:7.2f}"
                      f"{allocated / 1e6:7.0f}{accuracy}", flush=True)


if __name__ == "__main__":
    standard_streams()
    main()
