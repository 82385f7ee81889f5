"""Results of a training run: the pickle of its curve, and a reader that executes nothing.

The layout is that of the published code (`NLO_<X>_RESULTS.pickle`, `QMC_<X>_RESULTS.pickle`), a dict with

    epochs            (N,)    number of the epoch (Poisson: of the update); entry 0 is the untrained network
    train_loss        (N,)    loss on the training set; may be inf or NaN where a run died
    test_loss         (N,)    loss on the test set; NaN where it was not evaluated
    simulation_time   (N,)    seconds of training so far, without evaluation; entry 0 is 0
    epoch_time        (N-1,)  seconds of training of every single epoch
    sim_par           dict    settings: builtins only

This project adds `provenance` (a dict: versions, hardware, state of the run, singular values kept) and, if an
experiment measures more, further numeric arrays with one or two axes. All keys of dicts are strings.
"""

import itertools
import pickle

import numpy as np

from hig.runs.files import write_atomically
from hig.runs.unpickling import MAX_INSTRUCTIONS, Made, Refused, expect, unpickle

MAX_BYTES = 16 * 2**20       # of a file; an hour of Adam on the oscillators takes 0.5 MB
MAX_DEPTH = 16               # of dicts, lists and tuples within each other
CURVES = ("epochs", "train_loss", "test_loss", "simulation_time")


def pickled(results):
    """The bytes of a curve's file, for `hig.runs.files.write_atomically`.

    It is pickle protocol 3 with numpy's names of before version 2, so that plain `pickle.load` of Python 3.8
    with numpy 1.19 (the published code's stack) reads it. Arrays are float64 or int64, numpy scalars
    builtins. `load_results` takes up to `MAX_BYTES`.

    Args:
        results: dict as in the module docstring; it is not changed.

    Raises:
        ValueError: `results` is not of that layout.
    """
    data = pickle.dumps(_checked(results), protocol=3)
    return data.replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")


def write_parameters(path, sim_par):
    """Write a dict of settings as `key: value` lines, atomically (the published `<name>_PARAMETERS.txt`).

    Raises:
        OSError: the file cannot be written; an earlier file is untouched.
    """
    lines = (" ".join(f"{key}: {value}".splitlines()) + "\n" for key, value in sim_par.items())
    write_atomically(path, "".join(lines).encode())


def load_results(path):
    """Read a curve of `pickled` or of the published code, without executing anything in the file.

    It reads pickle protocols 3 to 5 with numpy's names of version 1 or 2, and at most `MAX_BYTES`. A file
    cannot make arrays of more bytes than it holds.

    Args:
        path: file name (str or Path).

    Returns:
        dict as in the module docstring; arrays keep the dtype of the file (float16 to float64, integers,
        bool) in native byte order, numpy scalars come as builtins.

    Raises:
        ValueError: the file is missing, unreadable, truncated, of another layout, or contains anything except
            arrays and builtins. The message is one sentence with the file's name and the reason. Nothing else
            is raised, whatever the file holds.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
        expect(len(data) <= MAX_BYTES, f"it is larger than the {MAX_BYTES} bytes allowed")
        return unpickled(data)
    except FileNotFoundError:
        reason = "there is no such file"
    except OSError as error:
        reason = f"it cannot be read ({error.strerror})"
    except ValueError as error:
        reason = error
    raise ValueError(f"{path} cannot be used as a curve: {reason}")


def unpickled(data):
    """The curve in bytes of `pickled`, as `load_results` returns it; ValueError if there is none in them."""
    return _checked(unpickle(data))


def _checked(results):
    """A copy of a curve made of builtins and arrays; arrays have 64 bits unless `unpickle` made them.

    Raises:
        ValueError: it is not a curve as in the module docstring.
    """
    results = _plain(results, "results", itertools.count(1), 0)
    expect(type(results) is dict, "it is not a dict of arrays")
    expect("sim_par" in results, "it has no entry 'sim_par'")
    for key, value in results.items():
        if key in ("sim_par", "provenance"):
            expect(type(value) is dict, f"{key!r} is not a dict")
        else:
            expect(isinstance(value, np.ndarray) and value.ndim in (1, 2),
                   f"{key[:80]!r} is not a numeric array of one or two axes")
    length = len(results.get("epochs", ()))
    expect(length >= 1, "its curve is empty")
    for key, n in [*((key, length) for key in CURVES), ("epoch_time", length - 1)]:
        expect(np.shape(results.get(key)) == (n,), f"{key!r} does not hold {n} numbers in a row")
    return results


def _plain(value, name, count, depth):
    """A copy of the entry `name` for `_checked`; `count` counts the values, `depth` the levels above."""
    expect(next(count) <= MAX_INSTRUCTIONS, f"it has more than the {MAX_INSTRUCTIONS} values allowed")
    expect(depth <= MAX_DEPTH, f"it is nested deeper than {MAX_DEPTH} levels")
    if type(value) is Made and isinstance(value.value, np.ndarray):     # from a file
        return value.value
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or type(value) in (bool, int, float, str):
        return value
    if type(value) in (list, tuple):
        return type(value)(_plain(item, name, count, depth + 1) for item in value)
    if type(value) is dict:
        expect(all(type(key) is str for key in value), f"{name[:80]!r} has a key that is not a string")
        return {key: _plain(item, name if depth else key, count, depth + 1) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        wide = np.float64 if value.dtype.kind == "f" else np.int64
        expect(value.dtype.kind in "biuf" and np.can_cast(value.dtype, wide) and value.ndim <= 2,
               f"{name[:80]!r} holds an array of dtype {value.dtype} with {value.ndim} axes, allowed are "
               "integers, float16 to float64 and up to two axes")
        return np.array(value, dtype=wide, order="C", subok=False)
    raise Refused(f"{name[:80]!r} holds a {type(value).__name__}, neither a numeric array nor a builtin")
