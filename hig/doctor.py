"""What a bug report should contain: versions, hardware, threads, and a self-check of some seconds.

    python -m hig.doctor

The exit code is 0 if J^κ is right on this machine, 1 if it is not, and 2 with a message if Keras does not run
on TensorFlow here. It does not depend on the speeds, because other programs change these.
"""

import os
import platform
import signal
import statistics
import sys
import timeit

import numpy as np
import scipy.linalg
import threadpoolctl

from hig.memory import available_memory
from hig.powers import gram_coefficients, jacobian_power
from hig.runs.cli import load_keras, make_parser
from hig.runs.provenance import provenance

N = 512                    # rows of the Gram matrix that is timed: batch 128 of the oscillators
CALLS = 9                  # of which a median time is taken
TOLERANCE = 1e-8  # of J^κ g: ε λ_max/λ_cut = 2e-16·1e6 = 2e-10 at τ = 1e-3, with room for its constant


def machine():
    """Lines "name  value" about versions, hardware and threads; loads TensorFlow."""
    keras = load_keras()
    import tensorflow as tf

    found = provenance()
    threads = tf.config.threading
    lines = {
        "hig": found.pop("commit") or "not from a checkout",
        "system": f"{platform.platform()}, libc {' '.join(platform.libc_ver()) or 'unknown'}",
        "cpu": f"{found.pop('cpu')}, {found.pop('cores')} cores for this process, of {os.cpu_count()}",
        "memory": f"{available_memory() / 2**30:.1f} GiB free",
        "gpu": ", ".join(found.pop("gpus")) or "none that TensorFlow sees",
        "tf32": f"{'on' if tf.config.experimental.tensor_float_32_execution_enabled() else 'off'} on GPUs "
                "that have it; hig switches it off during its updates",
        "blas": ", ".join(f"{name} with {count} threads" for name,
                          count in found.pop("blas_threads").items()),
        "tensorflow threads": f"{threads.get_intra_op_parallelism_threads() or 'all cores'} within an "
                              f"operation, {threads.get_inter_op_parallelism_threads() or 'all cores'} "
                              "between them (as set)",
        "environment": ", ".join(f"{key}={value}" for key, value in sorted(os.environ.items())
                                 if key.startswith(("TF_ENABLE", "TF_NUM", "TF_XLA", "TF_GPU", "OMP_", "MKL_",
                                                    "OPENBLAS_", "XLA_", "CUDA_VISIBLE"))) or "nothing set",
        "keras' default": keras.config.floatx(),
        **found}
    return [f"{name:20}{value}" for name, value in lines.items()]


def matrix(n, decades, seed=0):
    """J (n, 2n) with singular values from 1 down to 10^−decades, evenly in the logarithm, and g (n,)."""
    random = np.random.default_rng(seed)
    left, right = (np.linalg.qr(random.standard_normal((rows, n)))[0] for rows in (n, 2 * n))
    return left * 10 ** -np.linspace(0, decades, n) @ right.T, random.standard_normal(n)


def power_error(method):
    """Largest relative error of Jᵀ gram_coefficients(J Jᵀ, g) for κ = −1/2 and −1, by comparison with SVD."""
    J, g = matrix(150, 6)
    truncation, errors = 1e-3, []                                       # midway between two singular values
    for kappa in (-0.5, -1.0):
        expected = jacobian_power(J, kappa, truncation)[0] @ g
        found = J.T @ gram_coefficients(J @ J.T, g, kappa, truncation, method)[0]
        errors.append(np.linalg.norm(found - expected) / np.linalg.norm(expected))
    return max(errors)


def milliseconds(function):
    """Median time in ms of some calls; a first one is not counted."""
    return 1e3 * statistics.median(timeit.repeat(function, number=1, repeat=1 + CALLS)[1:])


def krylov_update():
    """(milliseconds of an update of hig.HIG with krylov=16 and n = 4096 rows, the device's name)."""
    keras = load_keras()
    import hig
    network = keras.Sequential([keras.Input((64,)), keras.layers.Dense(128, "tanh"), keras.layers.Dense(64)])
    model = hig.PhysicsModel(network, lambda x, u: u)
    model.compile(hig.HIG(0.01, 1e-5, krylov=16, krylov_tolerance=0.0), "mse")
    x = np.random.default_rng(0).standard_normal((64, 64)).astype("float32")
    y = np.sin(x)
    model.train_on_batch(x, y)                                          # compiles
    device = keras.ops.convert_to_tensor(x).device.rpartition("device:")[2]
    return milliseconds(lambda: model.train_on_batch(x, y)), device


def main(arguments=()):
    """Prints the report; returns the exit code."""
    make_parser(__doc__).parse_args(arguments)
    print("\n".join(machine()))
    with threadpoolctl.threadpool_limits(1, user_api="blas"):
        errors = {method: power_error(method) for method in ("eigh", "tridiagonal")}
        J, g = matrix(N, 6)
        K = J @ J.T
        one_thread = milliseconds(lambda: scipy.linalg.eigh(K, driver="evd"))
    all_threads = milliseconds(lambda: scipy.linalg.eigh(K, driver="evd"))
    update, device = krylov_update()
    times = {f"J^κ g, n = {N}": milliseconds(lambda: gram_coefficients(K, g, -0.5, 1e-5)),
             f"eigh, n = {N}, 1 BLAS thread": one_thread, f"eigh, n = {N}, all BLAS threads": all_threads,
             f"HIG with krylov=16, n = 4096, on {device}": update}

    print("\nself-check")
    for method, error in errors.items():
        print(f"J^κ g by {method:11} against SVD: relative error {error:.1e}, "
              f"{'right' if error < TOLERANCE else 'WRONG'} (allowed {TOLERANCE:.0e})")
    for name, time_taken in times.items():
        print(f"{name}:".ljust(49) + f" {time_taken:7.1f} ms")
    right = all(error < TOLERANCE for error in errors.values())
    if not right:
        print("J^κ is wrong here: please report it with this text. Another version of numpy or "
              "scipy may help.")
    if all_threads > 2 * one_thread:
        print("BLAS with all its threads fights for the cores with other programs. hig takes one thread for "
              "small matrices; in code of your own, set OPENBLAS_NUM_THREADS=1 or use threadpoolctl.")
    if (default := load_keras().config.floatx()) != "float32":
        print(f"Keras' default is {default}: the experiments need float32; set it to float32 in keras.json.")
    return 0 if right else 1


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)                       # `| head` ends it without a traceback
    sys.exit(main(sys.argv[1:]))
