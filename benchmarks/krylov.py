"""Time, memory and loss of Krylov updates, next to exact updates and next to gradients.

    python benchmarks/krylov.py                all parts, half an hour on a quiet machine
    python benchmarks/krylov.py poisson rows   some of: poisson, rows, gradient, estimate

poisson     milliseconds of an update at n = 4096 and the held-out loss after --updates of them, exact and
            with k steps, on the same fields and from the same weights
rows        milliseconds of an update with k = 16 and peak memory, from n = 512 to 262,144 rows, each in a
            process of its own, beside Adam's
gradient    an update next to the gradient of the same batch: oscillators and Poisson, each way of taking
            products
estimate    the change of J^κ g by the last step, next to the distance of the result from the exact J^κ g

Times are medians of calls taken in turn, so that a busy machine slows all.
"""

import subprocess
import sys

import numpy as np

from hig.runs.cli import make_parser, silent_start
from timing import ROOT, in_turn, seconds

with silent_start():
    import tensorflow as tf

    from hig.krylov import KrylovSpace, Products
    from hig.optimizers import HIG
    from hig.powers import gram_coefficients
    from Nonlinear_Oscillators import experiment as oscillators
    from Poisson.experiment import build_model
    from Poisson.fields import held_out_fields, training_fields
    from Schroedinger import experiment as dipole

ETA, TRUNCATION = 0.01, 1e-5            # of HIG on the Poisson problem
STEPS = 8, 16, 32
ROWS = 512, 4096, 16384, 65536, 262144  # batches of 8 × 8 fields
ONE_SIZE = """
import re, sys, time, keras, tensorflow as tf
from hig.optimizers import HIG
from Poisson.experiment import build_model
from Poisson.fields import training_fields
samples, name = int(sys.argv[1]), sys.argv[2]
model = build_model(8, 0, HIG(0.01, 1e-5, krylov=16) if name == "krylov" else keras.optimizers.Adam(1e-3))
batch = next(iter(training_fields(0, samples, 8)))[1]
times = []
for _ in range(7):
    began = time.perf_counter()
    model.train_on_batch(batch, batch)
    times.append(time.perf_counter() - began)
peak, = re.findall(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())  # ru_maxrss counts the parent
print(1e3 * sorted(times[2:])[2], int(peak) / 1024)
"""


def poisson(updates):
    """The exact update and those with k steps, at the published n = 4096."""
    _, target = held_out_fields(256, 8)
    print(f"{'':>6} {'update':>12} {'loss after ' + str(updates):>16} updates, held out")
    settings = {str(k): HIG(ETA, TRUNCATION, krylov=k) for k in STEPS}
    for name, optimizer in {**settings, "exact": HIG(ETA, TRUNCATION)}.items():
        model, times = build_model(8, 0, optimizer), []
        batches = iter(training_fields(0, 64, 8))
        for _ in range(updates):
            batch = next(batches)[1]
            times.append(seconds(model.train_on_batch, batch, batch))
        loss = float(model.compute_loss(target, target, model(target), training=False)) / len(target)
        print(f"{name:>6} {1e3 * np.median(times[2:]):9.1f} ms {loss:16.2f}", flush=True)


def rows():
    """Time and memory over n, each size in a process of its own, because a process keeps its peak."""
    print(f"{'n':>8} {'update':>12} {'per row':>10} {'peak':>9} {'Adam':>12} {'peak':>9}")
    for n in ROWS:
        measured = []
        for name in ("krylov", "adam"):
            answer = subprocess.run([sys.executable, "-c", ONE_SIZE, str(n // 64), name], cwd=ROOT,
                                    check=True, capture_output=True, text=True).stdout
            measured += map(float, answer.split()[-2:])
        took, peak, adam_took, adam_peak = measured
        print(f"{n:8} {took:9.1f} ms {1e3 * took / n:7.2f} µs {peak:6.0f} MB {adam_took:9.1f} ms "
              f"{adam_peak:6.0f} MB", flush=True)


def gradient():
    """An update next to a gradient, by each way of taking products."""
    problems = {"oscillators": (oscillators.build_model(22), oscillators.loss,
                                tf.constant(oscillators.draw_data(22)[0][:128])),
                "Poisson": (build_model(8, 0, "sgd"), None, next(iter(training_fields(0, 64, 8)))[1])}
    for name, (model, loss, batch) in problems.items():
        model.compile(HIG(1e-6, 1e-6, krylov=16, krylov_tolerance=0), loss or model.loss)
        functions = model.derivatives_for(batch, batch, None).functions
        vjp = functions.compiler.function(functions._trace_vjp, "A gradient")

        def one_gradient():
            _, _, g = functions.loss(batch, batch, None)
            return vjp(batch, g)[0].numpy()

        def update(way):
            products = Products(functions, way)

            def run():
                _, _, g, jacobian = products.linearise(batch, batch, None)
                return KrylovSpace(jacobian, g, 16, 0.0, -0.5, 1e-6).power()[0].numpy()
            return run
        ways = "through the network", "forward mode", "double backward"
        base, *took = in_turn([one_gradient, *map(update, ways)], 15)
        print(f"{name}: gradient {1e3 * base:.2f} ms; 16 steps " + ", ".join(
            f"{way} {1e3 * t:.1f} ms ({t / base:.0f})" for way, t in zip(ways, took)), flush=True)


def estimate():
    """The logged estimate next to the truth, at the initial weights."""
    problems = {"oscillators": (oscillators.build_model(22), oscillators.loss,
                                oscillators.draw_data(22)[0][:128], 1e-6),
                "dipole": (dipole.build_model(1), dipole.loss, dipole.draw_data(1)[0][:16], 1e-5),
                "Poisson": (build_model(8, 0, "sgd"), None, next(iter(training_fields(0, 16, 8)))[1].numpy(),
                            1e-5)}
    for name, (model, loss, batch, truncation) in problems.items():
        batch, loss = tf.constant(batch), loss or model.loss
        model.compile(HIG(1e-6, truncation), loss)
        _, _, g, jacobian = model.derivatives_for(batch, batch, None).linearise(batch, batch, None)
        small, vector = (jacobian.gram(), g) if jacobian.shape[0] <= jacobian.shape[1] else jacobian.normal(
            np.float64(g))
        v = gram_coefficients(small, vector, -0.5, truncation)[0]
        exact = np.concatenate([np.ravel(part) for part in jacobian.pullback(v)]) if len(v) == len(g) else v
        model.compile(HIG(1e-6, truncation, krylov=1, krylov_tolerance=0), loss, jit_compile=False)
        print(f"{name}, n, p = {jacobian.shape}:    k    change  distance from the exact J^κ g")
        for k in (8, 16, 32, 64, 128, 256):
            model.optimizer.krylov = k                                  # compiled for each
            _, _, g, jacobian = model.derivatives_for(batch, batch, None).linearise(batch, batch, None)
            direction, spectrum = KrylovSpace(jacobian, g, k, 0.0, -0.5, truncation).power()
            distance = np.linalg.norm(direction - exact) / np.linalg.norm(exact)
            print(f"{k:33} {spectrum.change:9.1e} {distance:9.1e}", flush=True)


PARTS = {"poisson": poisson, "rows": rows, "gradient": gradient, "estimate": estimate}

if __name__ == "__main__":
    parser = make_parser(__doc__)
    parser.add_argument("parts", nargs="*", choices=PARTS, metavar="PART")
    parser.add_argument("--updates", type=int, default=80, metavar="N",
                        help="of the part poisson (default: %(default)s)")
    options = parser.parse_args()
    for part in options.parts or PARTS:
        PARTS[part](*([options.updates] if part == "poisson" else []))
