"""Results of a training run: the pickle of its curve, written atomically and read without executing anything.

The layout is that of the published code (`NLO_<X>_RESULTS.pickle`, `QMC_<X>_RESULTS.pickle`), a dict with

    epochs            (N,)    number of the epoch (Poisson: of the update); entry 0 is the untrained network
    train_loss        (N,)    loss on the training set; may be inf or NaN where a run died
    test_loss         (N,)    loss on the test set; NaN where it was not evaluated
    simulation_time   (N,)    seconds of training so far, without evaluation; entry 0 is 0
    epoch_time        (N-1,)  seconds of training of every single epoch
    sim_par           dict    settings: builtins only

to which this project adds `provenance` (a dict: versions, hardware, state of the run, singular values kept) and,
where an experiment measures more, further numeric arrays with one or two axes. All keys of dicts are strings.

A pickle is a program, and `pickle.load` runs it: it imports and calls whatever the file names. `load_results` does
not use the unpickler at all. It interprets the few instructions that arrays and builtins need on a stack of its own,
looks no name up, and builds arrays only from bytes whose number agrees with the shape and with a numeric dtype.

Example:
    >>> save_results("NLO_HIG_RESULTS.pickle", results)         # doctest: +SKIP
    >>> load_results("NLO_HIG_RESULTS.pickle")["test_loss"][-1]  # doctest: +SKIP
"""

import io
import itertools
import math
import os
import pickle
import pickletools
import stat
import time
from contextlib import suppress
from pathlib import Path

import numpy as np

STATES = ("running", "finished", "interrupted", "diverged")
MAX_BYTES = 16 * 2**20       # of a file; an hour of Adam on the oscillators takes 0.5 MB
MAX_INSTRUCTIONS = 200_000   # of a file, and of values in it: read in a fraction of a second
MAX_DEPTH = 16               # of dicts, lists and tuples within each other
CURVES = ("epochs", "train_loss", "test_loss", "simulation_time")


# ---------------------------------------------------------------------------------------------------- writing

def write_atomically(path, data):
    """Write a file so that its name always refers to the complete old or the complete new content.

    Args:
        path: file name (str or Path); its folder must exist.
        data: bytes, the whole content.

    Raises:
        OSError: the folder is missing or not writable, the disk is full; an earlier file is then untouched and
            the temporary file beside it is removed.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())  # the content must be on the disk before the name points to it
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    with suppress(OSError):  # the new name, too, outlives a power cut; some file systems cannot promise it
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def save_results(path, results):
    """Write a curve atomically, in the published layout (module docstring).

    The file is pickle protocol 3 with numpy's names of before version 2, so that plain `pickle.load` of Python 3.8
    with numpy 1.19 (the published code's stack) reads it. Arrays are written as float64 or int64, numpy scalars as
    builtins.

    Args:
        path: file name (str or Path).
        results: dict as in the module docstring; it is not changed.

    Raises:
        ValueError: `results` is not of that layout; nothing is written.
        OSError: the file cannot be written; an earlier file is untouched.
    """
    try:
        plain = _plain(results)
        _check_schema(plain)
        data = _old_numpy_names(pickle.dumps(plain, protocol=3))
        if len(data) > MAX_BYTES:
            raise ValueError(f"it takes {len(data)} bytes, more than the {MAX_BYTES} allowed")
    except ValueError as error:
        raise ValueError(f"results for {path} cannot be saved: {error}") from None
    write_atomically(path, data)


def _old_numpy_names(data):
    """Write `numpy.core` for `numpy._core` in a pickle of protocol 3, which says nowhere how long its names are."""
    pieces, copied = [], 0
    for opcode, argument, position in pickletools.genops(data):
        if opcode.name == "GLOBAL" and argument.startswith("numpy._core."):
            pieces += data[copied:position], b"cnumpy.core."
            copied = position + len(b"cnumpy._core.")
    return b"".join([*pieces, data[copied:]])


def write_parameters(path, sim_par):
    """Write settings as `key: value` lines, atomically (the published `<name>_PARAMETERS.txt`).

    Args:
        path: file name (str or Path).
        sim_par: dict of settings, written in its order.

    Raises:
        OSError: the file cannot be written; an earlier file is untouched.
    """
    lines = (" ".join(f"{key}: {value}".splitlines()) + "\n" for key, value in sim_par.items())
    write_atomically(path, "".join(lines).encode())


def keep_earlier(path):
    """Move an earlier curve out of the way, to a name with its date: `X_RESULTS_2026-11-23_093012.pickle`.

    Anything that is not empty is kept, readable or not. The date is that of its last change, in local time.

    Args:
        path: file name (str or Path).

    Returns:
        The new name (Path), or None if there was nothing to keep. A name in use is never taken; `…_093012-2.pickle`
        follows.

    Raises:
        OSError: the file cannot be moved.
    """
    path = Path(path)
    if not path.is_file() or path.stat().st_size == 0:
        return None
    date = time.strftime("%Y-%m-%d_%H%M%S", time.localtime(path.stat().st_mtime))
    for count in itertools.count(1):
        kept = path.with_name(f"{path.stem}_{date}{f'-{count}' if count > 1 else ''}{path.suffix}")
        try:
            open(kept, "xb").close()  # reserves the name, so that no other process can take it
            break
        except FileExistsError:
            continue
    try:
        os.replace(path, kept)
    except BaseException:
        kept.unlink()
        raise
    return kept


# ---------------------------------------------------------------------------------------------------- reading

def load_results(path):
    """Read a curve of `save_results` or of the published code, without executing anything in the file.

    Pickle protocols 2 to 5 with numpy's names of version 1 or 2 are understood. At most `MAX_BYTES` are read, and
    a file cannot make arrays of more bytes than it holds.

    Args:
        path: file name (str or Path).

    Returns:
        dict as in the module docstring; arrays keep the dtype of the file (float16 to float64, integers, bool) in
        native byte order, numpy scalars come as builtins.

    Raises:
        ValueError: the file is missing, unreadable, truncated, of another layout, or contains anything but arrays
            and builtins; one sentence that names it and the reason. Nothing else is raised, whatever the file holds.
    """
    try:
        results = _plain(_interpret(_read(path)))
        _check_schema(results)
    except ValueError as error:
        raise ValueError(f"{path} cannot be used as a curve: {error}") from None
    return results


def _read(path):
    """Content of a regular file of at most MAX_BYTES."""
    def opener(name, flags):
        return os.open(name, flags | getattr(os, "O_NONBLOCK", 0))  # a pipe would wait for its other end
    try:
        with open(path, "rb", opener=opener) as file:
            _expect(stat.S_ISREG(os.fstat(file.fileno()).st_mode), "it is not a regular file")
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise ValueError("there is no such file") from None
    except OSError as error:
        raise ValueError(f"it cannot be read ({error.strerror})") from None
    _expect(len(data) <= MAX_BYTES, f"it is larger than the {MAX_BYTES} bytes allowed")
    _expect(data, "it is empty")
    return data


class _Global:
    """A name the file refers to; it stays a name."""
    __slots__ = ("name",)


class _Dtype:
    """A numpy dtype in the making."""
    __slots__ = ("value",)


class _Array:
    """A numpy array in the making: `value` is None until its content has been read."""
    __slots__ = ("value",)


_INSTRUCTIONS = {opcode.code.encode("latin-1"): opcode for opcode in pickletools.opcodes}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_LITERALS = {"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "SHORT_BINUNICODE", "BINUNICODE",
             "BINUNICODE8", "SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "BYTEARRAY8"}
_TAKES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3, "APPEND": 1, "SETITEM": 2, "STACK_GLOBAL": 2, "REDUCE": 2, "BUILD": 2}
_TAKES_ALL = {"TUPLE", "APPENDS", "SETITEMS"}  # down to the last mark
_ALLOWED = {"FRAME", "STOP", "MARK", "EMPTY_LIST", "EMPTY_DICT", "BINPUT", "LONG_BINPUT", "MEMOIZE", "BINGET",
            "LONG_BINGET", "GLOBAL", *_CONSTANTS, *_LITERALS, *_TAKES, *_TAKES_ALL}

_GLOBALS = {"numpy ndarray", "numpy dtype", "_codecs encode", "numpy.core.multiarray _reconstruct",
            "numpy.core.multiarray scalar", "numpy.core.numeric _frombuffer"}
_DTYPES = {"b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"}


def _interpret(data):
    """Run the program that a pickle is, as far as arrays and builtins need it; arrays stay wrapped in `_Array`."""
    _expect(len(data) > 2 and data[0] == 0x80 and 2 <= data[1] <= 5, "it is not a pickle of protocol 2 to 5")
    stream = io.BytesIO(data)
    stream.seek(2)
    stack, outer, memo = [], [], {}  # outer: the stacks below the marks
    unspent = [2 * len(data)]  # bytes that may still be made: an array, and before it (protocol 2) its decoded text
    try:
        for _ in range(MAX_INSTRUCTIONS):
            opcode = _next_instruction(stream)
            name = opcode.name
            try:
                argument = _read_argument(stream, opcode)
            except (ValueError, OverflowError):
                raise ValueError("it is truncated or damaged") from None
            if name in _TAKES:
                items = _pop(stack, _TAKES[name])
            elif name in _TAKES_ALL:
                items, stack = stack, outer.pop()
            if name in _LITERALS:
                stack.append(argument)
            elif name in _CONSTANTS:
                stack.append(_CONSTANTS[name])
            elif name in ("BINPUT", "LONG_BINPUT"):
                memo[argument] = stack[-1]
            elif name == "MEMOIZE":
                memo[len(memo)] = stack[-1]
            elif name in ("BINGET", "LONG_BINGET"):
                stack.append(memo[argument])
            elif name == "MARK":
                outer.append(stack)
                stack = []
            elif name.startswith("TUPLE"):
                stack.append(tuple(items))
            elif name == "EMPTY_LIST":
                stack.append([])
            elif name == "EMPTY_DICT":
                stack.append({})
            elif name in ("APPEND", "APPENDS"):
                _expect(type(stack[-1]) is list)
                stack[-1].extend(items)
            elif name in ("SETITEM", "SETITEMS"):
                _expect(type(stack[-1]) is dict and len(items) % 2 == 0)
                # Numbers can be chosen so that they collide in a dict, which then takes for ever; strings cannot.
                _expect(all(type(key) is str for key in items[::2]), "it has a key that is not a string")
                stack[-1].update(zip(items[::2], items[1::2]))
            elif name == "GLOBAL":
                stack.append(_global(argument))
            elif name == "STACK_GLOBAL":
                _expect(all(type(part) is str for part in items))
                stack.append(_global(" ".join(items)))
            elif name == "REDUCE":
                stack.append(_call(*items, unspent))
            elif name == "BUILD":
                stack.append(_build(*items, unspent))
            elif name == "STOP":
                _expect(len(stack) == 1 and not outer and not stream.read(1))
                return stack[0]
        raise ValueError(f"it has more than the {MAX_INSTRUCTIONS} pickle instructions allowed")
    except (IndexError, KeyError):  # of stack, outer and memo
        raise ValueError("it is damaged") from None


def _next_instruction(stream):
    """The next opcode, refused before its argument is decoded if no curve needs it."""
    code = stream.read(1)
    _expect(code, "it is truncated")
    opcode = _INSTRUCTIONS.get(code)
    _expect(opcode)
    _expect(opcode.name in _ALLOWED, f"it contains the pickle instruction {opcode.name}, which no curve needs")
    return opcode


def _read_argument(stream, opcode):
    """The argument that follows an opcode in the file; of GLOBAL "module name", of many None."""
    if opcode.name == "GLOBAL":  # two lines, in which pickletools would look for escapes
        lines = [stream.readline(1000) for _ in range(2)]
        _expect(all(line.endswith(b"\n") for line in lines))
        return b" ".join(line[:-1] for line in lines).decode("ascii")
    return opcode.arg.reader(stream) if opcode.arg else None


def _expect(condition, otherwise="it is damaged"):
    if not condition:
        raise ValueError(otherwise)


def _pop(stack, count):
    _expect(len(stack) >= count)
    items = stack[-count:]
    del stack[-count:]
    return items


def _global(name):
    """A `_Global` for an allowed name "module name"."""
    result = _Global()
    result.name = "numpy.core." + name[12:] if name.startswith("numpy._core.") else name
    _expect(result.name in _GLOBALS,
            f"it refers to {name[:80].replace(' ', '.')!r}, and only arrays and builtins are allowed")
    return result


def _call(function, arguments, unspent):
    """What calling an allowed global gives; only the forms that numpy itself writes are known."""
    _expect(type(function) is _Global and type(arguments) is tuple)
    name, count = function.name, len(arguments)
    if name == "numpy.core.multiarray _reconstruct" and count == 3:  # (ndarray, (0,), b"b"): an array to be filled
        kind, shape, code = arguments
        _expect(type(kind) is _Global and kind.name == "numpy ndarray" and _is_shape(shape) and shape == (0,)
                and type(code) is bytes and code == b"b", "it contains an array of an unusual kind")
        result = _Array()
        result.value = None
    elif name == "numpy dtype" and count == 3:  # ("f8", align=False, copy=True)
        code, align, copy = arguments
        _expect(type(code) is str and code in _DTYPES and align in (False, 0) and copy in (True, 1),
                "it contains an array that is not numeric")
        result = _Dtype()
        result.value = np.dtype(code)
    elif name == "numpy.core.multiarray scalar" and count == 2:  # (dtype, bytes)
        result = _array((), *arguments, "C", unspent).item()
    elif name == "numpy.core.numeric _frombuffer" and count == 4:  # (bytes, dtype, shape, order), protocol 5
        content, dtype, shape, order = arguments
        result = _Array()
        result.value = _array(shape, dtype, content, order, unspent)
    elif name == "_codecs encode" and count == 2:  # (text, "latin1"): bytes in protocol 2
        text, encoding = arguments
        _expect(type(text) is str and type(encoding) is str and encoding == "latin1")
        _spend(len(text), unspent)
        result = text.encode("latin-1")
    else:
        raise ValueError(f"it calls {name.replace(' ', '.')!r} in an unusual way")
    return result


def _build(value, state, unspent):
    """`value` after it was completed: a dtype by its byte order, or an array by its content."""
    if type(value) is _Dtype:  # (version, byte order, subarray, names, fields, item size, alignment, flags)
        _expect(type(state) is tuple and len(state) == 8 and state[0] in (3, 4) and type(state[1]) is str
                and state[1] in tuple("<>|=") and state[2:] == (None, None, None, -1, -1, 0),
                "it contains an array that is not numeric")
        value.value = value.value.newbyteorder(state[1])
    elif type(value) is _Array:  # (version, shape, dtype, is Fortran order, content)
        _expect(type(state) is tuple and len(state) == 5 and type(state[3]) in (bool, int) and value.value is None,
                "it contains an array of an unusual kind")
        _, shape, dtype, fortran, content = state
        value.value = _array(shape, dtype, content, "F" if fortran else "C", unspent)
    else:
        raise ValueError("it changes the state of something that is not an array")
    return value


def _is_shape(shape):
    return type(shape) is tuple and len(shape) <= 2 and all(type(n) is int and 0 <= n <= MAX_BYTES for n in shape)


def _spend(count, unspent):
    """A few bytes in a file may be used again and again; what grows out of them is limited by the file's length."""
    unspent[0] -= count
    _expect(unspent[0] >= 0, "its arrays are larger than the file")


def _array(shape, dtype, content, order, unspent):
    """A new array in native byte order, if the number of bytes agrees with shape and dtype."""
    _expect(_is_shape(shape) and type(dtype) is _Dtype and type(content) in (bytes, bytearray)
            and type(order) is str and order in ("C", "F"), "it contains an array of an unusual kind")
    _expect(math.prod(shape) * dtype.value.itemsize == len(content),
            "it contains an array whose shape and size disagree")
    _spend(len(content), unspent)
    flat = np.frombuffer(content, np.uint8 if dtype.value.kind == "b" else dtype.value)
    return flat.astype(dtype.value.newbyteorder("=")).reshape(shape, order=order)


# ----------------------------------------------------------------------------------------------------- layout

def _plain(value, name="results", count=None, depth=0):
    """A copy made of builtins and arrays: what `_interpret` has made, or what `save_results` was given, as 64 bit."""
    count = count or itertools.count(1)
    _expect(next(count) <= MAX_INSTRUCTIONS, f"it has more than the {MAX_INSTRUCTIONS} values allowed")
    _expect(depth <= MAX_DEPTH, f"it is nested deeper than {MAX_DEPTH} levels")
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or type(value) in (bool, int, float, str):
        return value
    if type(value) in (list, tuple):
        return type(value)(_plain(item, name, count, depth + 1) for item in value)
    if type(value) is dict:
        _expect(all(type(key) is str for key in value), f"{name[:80]!r} has a key that is not a string")
        return {key: _plain(item, name if depth else key, count, depth + 1) for key, item in value.items()}
    if type(value) is _Array and value.value is not None:
        return value.value
    if isinstance(value, np.ndarray):
        wide = np.float64 if value.dtype.kind == "f" else np.int64
        _expect(value.dtype.kind in "biuf" and np.can_cast(value.dtype, wide) and value.ndim <= 2,
                f"{name[:80]!r} holds an array of dtype {value.dtype} with {value.ndim} axes,"
                " allowed are integers, float16 to float64 and up to two axes")
        return np.array(value, dtype=wide, order="C", subok=False)
    kind = type(value).__name__.lstrip("_")
    raise ValueError(f"{name[:80]!r} holds a value of type {kind}, which is neither a numeric array nor a builtin")


def _check_schema(results):
    """Raise ValueError if `results` is not a curve as the module docstring describes it."""
    _expect(type(results) is dict, "it is not a dict of arrays")
    for key in (*CURVES, "epoch_time", "sim_par"):
        _expect(key in results, f"it has no entry {key!r}")
    for key, value in results.items():
        if key in ("sim_par", "provenance"):
            _expect(type(value) is dict, f"{key!r} is not a dict")
        else:
            axes = (1,) if key in CURVES or key == "epoch_time" else (1, 2)
            _expect(isinstance(value, np.ndarray) and value.ndim in axes,
                    f"{key[:80]!r} is not a numeric array of {' or '.join(map(str, axes))} axes")
    length = len(results["epochs"])
    _expect(length >= 1, "its curve is empty")
    for key, expected in [*((key, length) for key in CURVES), ("epoch_time", length - 1)]:
        found = len(results[key])
        _expect(found == expected, f"'epochs' has {length} entries and {key!r} {found} where {expected} are expected")
    provenance = results.get("provenance", {})
    state, updates = provenance.get("state", "finished"), provenance.get("updates_per_epoch", 1)
    _expect(type(state) is str and state in STATES,
            f"the state of the run is {str(state)[:80]!r}, allowed are {', '.join(STATES)}")
    _expect(type(updates) in (int, float) and 0 < updates < 1e15,
            f"'updates_per_epoch' is {str(updates)[:80]}, allowed are positive numbers")
