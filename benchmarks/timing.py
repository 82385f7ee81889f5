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
    """Median seconds of each function, called in turn after one round of warming up."""
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


def start_up(code):
    """Seconds from the start of a Python process to its end, which runs `code`."""
    return seconds(lambda: subprocess.run([sys.executable, "-c", code], check=True,
                                          stderr=subprocess.DEVNULL))


def peak_memory(script, *flags):
    """Peak memory in GB of a submit script, or of a larger process that was run before it."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, ROOT / script, *flags, "--quiet", "--output", folder], check=True)
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 / 1e9
