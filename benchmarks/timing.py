"""What the benchmarks share: medians of calls taken in turn, time and memory of whole processes."""

import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def seconds(function, *arguments):
    """Wall-clock seconds of one call."""
    began = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - began


def in_turn(functions, rounds):
    """Median seconds of each function, called in turn after one round of warming up.

    A busy machine slows all of them.

    Args:
        functions: list of functions, or {name: function}.
        rounds: int.

    Returns:
        list of floats, or {name: float}.
    """
    if isinstance(functions, dict):
        return dict(zip(functions, in_turn(functions.values(), rounds)))
    for function in functions:
        function()
    times = [[seconds(function) for function in functions] for _ in range(rounds)]
    return [statistics.median(column) for column in zip(*times)]


def repeated(model, batch, target=None):
    """A function that takes `steps_per_execution` updates on the same batch, through Keras' compiled step.

    Args:
        model: compiled PhysicsModel.
        batch: tensor (B, …), what the model sees, and its target if there is no other.
        target: tensor (B, …) or None.
    """
    import tensorflow as tf
    steps = iter(tf.data.Dataset.from_tensors((batch, batch if target is None else target)).repeat())
    model.optimizer.build(model.trainable_variables)
    model.make_train_function()
    # looked up at each call, because the first may replace it (see PhysicsModel)
    return lambda: float(model.train_function(steps)["loss"])


def syevd(K):
    """{name: function} of LAPACK's eigendecomposition of K (n, n) by all BLAS threads and by one."""
    import scipy.linalg
    import threadpoolctl

    def decompose():
        scipy.linalg.eigh(K, driver="evd", check_finite=False)
    one_thread = threadpoolctl.ThreadpoolController().wrap(limits=1)
    return {"LAPACK eigh (syevd) of its K, all threads": decompose,
            "LAPACK eigh (syevd) of its K, 1 thread": one_thread(decompose)}


def print_times(medians):
    """Prints {name: seconds} as milliseconds, one name a line."""
    for name, median in medians.items():
        print(f"{name:44} {1e3 * median:8.1f} ms", flush=True)


def start_up(code):
    """Seconds from the start of a Python process to its end, which runs `code`."""
    return seconds(lambda: subprocess.run([sys.executable, "-c", code], check=True,
                                          stderr=subprocess.DEVNULL))


def print_start_and_memory(system, seed, optimizer, batch_size, epochs):
    """Prints the seconds from the start of a process to HIG's first update, and a run's peak memory.

    Args:
        system: its folder; data and model are those of this seed.
        optimizer: Python text, "hig.HIG(1.0, 1e-6)".
        batch_size: int.
        epochs: of the run whose memory is measured.
    """
    code = (f"from {system}.experiment import *; import hig; m = build_model({seed}); "
            f"m.compile(optimizer={optimizer}, loss=loss); x = draw_data({seed})[0][:{batch_size}]; "
            f"m.fit(x, x, batch_size={batch_size}, verbose=0)")
    print(f"HIG, process start to first update     {start_up(code):8.1f} s")
    print(f"HIG, peak memory of a run              "
          f"{peak_memory(f'{system}/submit_HIG.py', '--epochs', str(epochs)):8.2f} GB", flush=True)


def peak_memory(script, *flags):
    """Peak memory in GB of a submit script, or of a larger process that was run before it."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, ROOT / script, *flags, "--quiet", "--output", folder], check=True)
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 / 1e9
