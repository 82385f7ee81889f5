"""What an update on the Poisson problem costs: HIG next to LAPACK's `syevd` of its K, and Adam.

    python benchmarks/poisson.py            n up to 1024 and Adam, about two minutes
    python benchmarks/poisson.py --large    also the published n = 4096, a few minutes more

Prints the milliseconds of a whole HIG update (without drawing the fields), of its parts, and of `syevd`
(`scipy.linalg.eigh`, driver "evd", the faster of one and all threads) for the same K with n = batch ·
resolution² rows; the same for networks with more and more weights p at n = 1024; an update by Adam with its
data; and with --large the peak memory of a run. Times are medians of calls taken in turn, so that a busy
machine slows all.
"""

import threadpoolctl

from hig.runs.cli import make_parser, silent_start
from timing import in_turn, peak_memory, repeated, seconds, syevd

with silent_start():
    import keras
    import tensorflow as tf

    from hig.optimizers import HIG
    from hig.powers import gram_coefficients
    from Poisson.experiment import build_model
    from Poisson.fields import training_fields

TRUNCATION = 1e-5           # τ
ROUNDS = {256: 15, 1024: 7, 4096: 2}
WIDER = (64, 128, 64), (192, 256, 128), (448, 512, 256)     # hidden layers: 25, 100 and 400 thousand weights
ADAM_UPDATES = 2000
COLUMNS = ("update", "derivatives", "gram", "f(K) g", "pullback", "syevd")


def measure(model, batch_size):
    """Median milliseconds for each name of COLUMNS, of a model compiled with HIG."""
    batch = next(iter(training_fields(0, batch_size, 8)))[1]
    derivatives = model.derivatives_for(batch, batch, None)
    *_, gradient, jacobian = derivatives.linearise(batch, batch, None)
    one_thread, gram = threadpoolctl.ThreadpoolController().wrap(limits=1), jacobian.gram()
    v = gram_coefficients(gram, gradient, -0.5, TRUNCATION)[0]
    all_threads, single = syevd(gram).values()
    functions = {"update": repeated(model, batch),
                 "derivatives": lambda: derivatives.linearise(batch, batch, None),
                 "gram": one_thread(jacobian.gram),
                 "f(K) g": lambda: gram_coefficients(gram, gradient, -0.5, TRUNCATION),
                 "pullback": one_thread(lambda: jacobian.pullback(v)), "syevd": all_threads,
                 **({"one": single} if len(gram) < 2000 else {})}                   # slower there, by seconds
    medians = {name: 1e3 * t for name, t in in_turn(functions, ROUNDS[len(gram)]).items()}
    return {**medians, "syevd": min(medians["syevd"], medians.get("one", medians["syevd"]))}


def table(label, rows):
    """Prints rows of (label, medians)."""
    print(f"{label:>12}" + "".join(f"{column:>12}" for column in COLUMNS) + "  ms   update/syevd")
    for name, medians in rows:
        print(f"{name:>12}" + "".join(f"{medians[column]:12.1f}" for column in COLUMNS)
              + f"{medians['update'] / medians['syevd']:19.2f}", flush=True)


def adam():
    """Milliseconds of an update by Adam, data included: with one entry per update, and in one epoch."""
    model = build_model(8, 0, keras.optimizers.Adam(3e-4))
    batches = training_fields(0, 64, 8).map(lambda x_gt, target: (target, target))
    model.fit(batches, steps_per_epoch=1, verbose=0)
    for label, steps, epochs in (("entry per update", 1, ADAM_UPDATES), ("one epoch", ADAM_UPDATES, 1)):
        took = seconds(lambda: model.fit(batches, steps_per_epoch=steps, epochs=epochs, verbose=0))
        print(f"Adam update with data, {label:18} {1e3 * took / ADAM_UPDATES:6.2f} ms")
    iterator = iter(batches)
    next(iterator)
    print("its data alone                            "
          f"{1e3 * seconds(lambda: [next(iterator) for _ in range(ADAM_UPDATES)]) / ADAM_UPDATES:6.2f} ms")


def main():
    """Measures and prints the tables."""
    tf.get_logger().setLevel("ERROR")  # many models in one process: traced again
    parser = make_parser(__doc__)
    parser.add_argument("--large", action="store_true", help="also n = 4096 and the peak memory")
    large = parser.parse_args().large
    adam()
    sizes = (256, 1024, 4096) if large else (256, 1024)
    table("n", ((n, measure(build_model(8, 0, HIG(0.01, TRUNCATION)), n // 64)) for n in sizes))
    models = (build_model(8, 0, HIG(0.01, TRUNCATION), hidden) for hidden in WIDER)
    table("p, n = 1024", ((model.network.count_params(), measure(model, 16)) for model in models))
    if large:
        print("peak memory of a HIG run, n = 4096: "
              f"{peak_memory('Poisson/submit_HIG.py', '--steps', '2'):.2f} GB")


if __name__ == "__main__":
    main()
