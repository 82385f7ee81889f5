"""Results of a training run: the pickle of its curve, written atomically and read without executing anything.

The layout is the one of the published code (`NLO_<X>_RESULTS.pickle`, `QMC_<X>_RESULTS.pickle`): a dict with

    epochs            (N,)    number of the epoch (Poisson: of the update); entry 0 is the untrained network
    train_loss        (N,)    loss on the training set; may be inf or NaN where a run died
    test_loss         (N,)    loss on the test set; NaN where it was not evaluated
    simulation_time   (N,)    seconds of training so far, without evaluation; entry 0 is 0
    epoch_time        (N-1,)  seconds of training of every single epoch
    sim_par           dict    settings: builtins only

to which this project adds `provenance` (a dict: versions, hardware, state of the run, singular values kept) and, where an
experiment measures more, further numeric arrays with one or two axes. Dicts have strings as keys everywhere.

A pickle is a program, and `pickle.load` runs it, importing and calling whatever the file names. `load_results` therefore does
not use the unpickler at all: it interprets the few instructions that arrays and builtins need on a stack of its own, looks no
name up, and builds arrays only from bytes whose number agrees with the shape and with a numeric dtype.

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
from pathlib import Path

import numpy as np

STATES = ("running", "finished", "interrupted", "diverged")
MAX_BYTES = 32 * 2**20       # of a file; an hour of Adam on the oscillators takes 0.5 MB
MAX_INSTRUCTIONS = 200_000   # of a file, and of values in it: read in a fraction of a second
MAX_DEPTH = 16               # of dicts, lists and tuples within each other
CURVES = ("epochs", "train_loss", "test_loss", "simulation_time")


# ---------------------------------------------------------------------------------------------------------------- writing

def write_atomically(path, data):
    """Write a file so that its name always refers to the complete old or the complete new content.

    Args:
        path: file name (str or Path); its folder must exist.
        data: bytes, the whole content.

    Raises:
        OSError: the folder is missing or not writable, the disk is full; an earlier file is then untouched and the temporary
            file beside it is removed.
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


def save_results(path, results):
    """Write a curve atomically, in the published layout (module docstring).

    The file is pickle protocol 3 with numpy's names of before version 2, so that plain `pickle.load` of Python 3.8 with
    numpy 1.19 (the published code's stack) reads it. Arrays are written as float64 or int64, numpy scalars as builtins.

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
    """Replace `numpy._core` by `numpy.core` in the global names of a protocol-3 pickle (no frames, so lengths are free)."""
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

    Anything that is not empty is kept, readable or not. The date is that of the file's last change, in local time.

    Args:
        path: file name (str or Path).

    Returns:
        The new name (Path), or None if there was nothing to keep. A name in use is never taken: `…_093012-2.pickle` follows.

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


# ---------------------------------------------------------------------------------------------------------------- reading

def load_results(path):
    """Read a curve written by `save_results` or by the published code, without executing anything in the file.

    Pickle protocols 2 to 5 with numpy's names of version 1 or 2 are understood. At most `MAX_BYTES` are read, and a file
    cannot make arrays of more bytes than it holds.

    Args:
        path: file name (str or Path).

    Returns:
        dict as in the module docstring; arrays keep the dtype of the file (float16 to float64, integers, bool) in native byte
        order, numpy scalars come as builtins.

    Raises:
        ValueError: the file is missing, unreadable, truncated, of another layout, or contains anything but arrays and builtins;
            one sentence that names the file and the reason. Nothing else is raised, whatever the file holds.
    """
    try:
        results = _plain(_interpret(_read(path)))
        _check_schema(results)
    except ValueError as error:
        raise ValueError(f"{path} cannot be used as a curve: {error}") from None
    return results


def _read(path):
    """Content of a regular file of at most MAX_BYTES."""
    try:
        # Opening a pipe would block for ever, so it is opened without waiting and asked what it is.
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | getattr(os, "O_NONBLOCK", 0))) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise ValueError("it is not a regular file")
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise ValueError("there is no such file") from None
    except OSError as error:
        raise ValueError(f"it cannot be read ({error.strerror})") from None
    if len(data) > MAX_BYTES:
        raise ValueError(f"it is larger than the {MAX_BYTES} bytes allowed")
    if not data:
        raise ValueError("it is empty")
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


_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_LITERALS = {"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8",
             "SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "BYTEARRAY8"}
_OTHERS = {"FRAME", "STOP", "MARK", "EMPTY_LIST", "APPEND", "APPENDS", "EMPTY_DICT", "SETITEM", "SETITEMS",
           "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "BINPUT", "LONG_BINPUT", "MEMOIZE", "BINGET", "LONG_BINGET",
           "GLOBAL", "STACK_GLOBAL", "REDUCE", "BUILD"}
_INSTRUCTIONS = {opcode.code.encode("latin-1"): opcode for opcode in pickletools.opcodes}
_ALLOWED = _LITERALS | _OTHERS | set(_CONSTANTS)

_GLOBALS = {"numpy ndarray", "numpy dtype", "_codecs encode", "numpy.core.multiarray _reconstruct",
            "numpy.core.multiarray scalar", "numpy.core.numeric _frombuffer"}
_DTYPES = {"b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"}


def _interpret(data):
    """Run the program that a pickle is, as far as arrays and builtins need it; arrays remain wrapped in `_Array`."""
    if data[0] != 0x80 or len(data) < 2 or not 2 <= data[1] <= 5:
        raise ValueError("it is not a pickle of protocol 2 to 5")
    stream = io.BytesIO(data)
    stream.seek(2)
    stack, outer, memo = [], [], {}  # outer: the stacks below the marks
    unspent = [2 * len(data)]        # bytes that arrays may still take: once as decoded text (protocol 2), once as an array
    try:
        for _ in range(MAX_INSTRUCTIONS):
            code = stream.read(1)
            opcode = _INSTRUCTIONS.get(code)
            if not code or opcode is None:
                raise ValueError("it is truncated" if not code else "it is damaged")
            name = opcode.name
            if name not in _ALLOWED:  # refused before its argument is decoded
                raise ValueError(f"it contains the pickle instruction {name}, which no curve needs")
            try:
                argument = opcode.arg.reader(stream) if opcode.arg else None
            except (ValueError, OverflowError):
                raise ValueError("it is truncated or damaged") from None
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
            elif name == "TUPLE":
                items, stack = stack, outer.pop()
                stack.append(tuple(items))
            elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
                stack.append(tuple(_pop(stack, int(name[-1]))))
            elif name == "EMPTY_LIST":
                stack.append([])
            elif name == "EMPTY_DICT":
                stack.append({})
            elif name in ("APPEND", "APPENDS"):
                if name == "APPENDS":
                    items, stack = stack, outer.pop()
                else:
                    items = _pop(stack, 1)
                _expect(type(stack[-1]) is list)
                stack[-1].extend(items)
            elif name in ("SETITEM", "SETITEMS"):
                if name == "SETITEMS":
                    items, stack = stack, outer.pop()
                else:
                    items = _pop(stack, 2)
                # Strings only: numbers can be chosen to collide in a dict and take for ever.
                _expect(type(stack[-1]) is dict and len(items) % 2 == 0 and all(type(key) is str for key in items[::2]),
                        "a key in it is not a string")
                stack[-1].update(zip(items[::2], items[1::2]))
            elif name in ("GLOBAL", "STACK_GLOBAL"):
                # GLOBAL's two lines come joined by a space; a name with a space in it cannot match either way.
                stack.append(_global(argument if name == "GLOBAL" else _pop(stack, 2)))
            elif name == "REDUCE":
                function, arguments = _pop(stack, 2)
                _expect(type(function) is _Global and type(arguments) is tuple)
                stack.append(_call(function.name, arguments, unspent))
            elif name == "BUILD":
                value, state = _pop(stack, 2)
                _build(value, state, unspent)
                stack.append(value)
            elif name == "STOP":
                _expect(len(stack) == 1 and not outer and not stream.read(1))
                return stack[0]
        raise ValueError(f"it has more than the {MAX_INSTRUCTIONS} pickle instructions allowed")
    except (IndexError, KeyError):  # of stack, outer and memo
        raise ValueError("it is damaged") from None


def _expect(condition, otherwise="it is damaged"):
    if not condition:
        raise ValueError(otherwise)


def _pop(stack, count):
    _expect(len(stack) >= count)
    items = stack[-count:]
    del stack[-count:]
    return items


def _global(name):
    """A `_Global` for an allowed name, given as "module name" or [module, name]."""
    if type(name) is list:
        _expect(all(type(part) is str for part in name))
        name = " ".join(name)
    result = _Global()
    result.name = name.replace("numpy._core.", "numpy.core.", 1) if name.startswith("numpy._core.") else name
    if result.name not in _GLOBALS:
        raise ValueError(f"it refers to {name.replace(' ', '.')[:80]!r}, and only arrays and builtins are allowed")
    return result


def _call(name, arguments, unspent):
    """What the call of an allowed global gives; only the forms that numpy itself writes are known."""
    if name == "numpy.core.multiarray _reconstruct" and len(arguments) == 3:  # (ndarray, (0,), b"b"): an empty array
        kind, shape, code = arguments
        _expect(type(kind) is _Global and kind.name == "numpy ndarray" and _is_shape(shape) and shape == (0,)
                and type(code) is bytes and code == b"b", "it contains an array of an unusual kind")
        result = _Array()
        result.value = None
    elif name == "numpy dtype" and len(arguments) == 3:  # ("f8", align=False, copy=True)
        code, align, copy = arguments
        _expect(type(code) is str and code in _DTYPES and align in (False, 0) and copy in (True, 1),
                "it contains an array that is not numeric")
        result = _Dtype()
        result.value = np.dtype(code)
    elif name == "numpy.core.multiarray scalar" and len(arguments) == 2:  # (dtype, bytes)
        result = _array((), arguments[0], arguments[1], "C", unspent).item()
    elif name == "numpy.core.numeric _frombuffer" and len(arguments) == 4:  # (bytes, dtype, shape, order): protocol 5
        result = _Array()
        result.value = _array(arguments[2], arguments[1], arguments[0], arguments[3], unspent)
    elif name == "_codecs encode" and len(arguments) == 2:  # (text, "latin1"): bytes in protocol 2
        _expect(type(arguments[0]) is str and type(arguments[1]) is str and arguments[1] == "latin1")
        _spend(len(arguments[0]), unspent)
        result = arguments[0].encode("latin-1")
    else:
        raise ValueError(f"it calls {name.replace(' ', '.')} in an unusual way")
    return result


def _build(value, state, unspent):
    """Complete a dtype by its byte order, or an array by its content."""
    _expect(type(state) is tuple)
    if type(value) is _Dtype:  # (version, byte order, subarray, names, fields, item size, alignment, flags)
        _expect(len(state) == 8 and type(state[1]) is str and state[1] in ("<", ">", "|", "=") and state[2:5] == (None,) * 3
                and state[0] in (3, 4) and state[5:] == (-1, -1, 0), "it contains an array that is not numeric")
        value.value = value.value.newbyteorder(state[1])
    elif type(value) is _Array:  # (version, shape, dtype, is Fortran order, content)
        _expect(value.value is None and len(state) == 5 and type(state[3]) in (bool, int))
        value.value = _array(state[1], state[2], state[4], "F" if state[3] else "C", unspent)
    else:
        raise ValueError("it changes the state of something that is not an array")


def _is_shape(shape):
    return type(shape) is tuple and len(shape) <= 2 and all(type(n) is int and 0 <= n <= MAX_BYTES for n in shape)


def _spend(count, unspent):
    """Few bytes in a file may be referred to often; what grows out of them is limited by the length of the file."""
    unspent[0] -= count
    _expect(unspent[0] >= 0, "its arrays are larger than the file")


def _array(shape, dtype, content, order, unspent):
    """A new array in native byte order, if the number of bytes agrees with shape and dtype."""
    _expect(_is_shape(shape) and type(dtype) is _Dtype and type(content) in (bytes, bytearray)
            and type(order) is str and order in ("C", "F"), "it contains an array of an unusual kind")
    _expect(math.prod(shape) * dtype.value.itemsize == len(content), "it contains an array whose shape and size disagree")
    _spend(len(content), unspent)
    flat = np.frombuffer(content, np.uint8 if dtype.value.kind == "b" else dtype.value)
    return flat.astype(dtype.value.newbyteorder("=")).reshape(shape, order=order)


# ----------------------------------------------------------------------------------------------------------------- layout

def _plain(value, name="results", count=None, depth=0):
    """A copy that consists of arrays (float64 or int64 if they were given as such to `save_results`) and builtins."""
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
        _expect(all(type(key) is str for key in value), f"{name} has a key that is not a string")
        return {key: _plain(item, key if depth == 0 else name, count, depth + 1) for key, item in value.items()}
    if type(value) is _Array and value.value is not None:
        return value.value
    if isinstance(value, np.ndarray):
        wide = np.float64 if value.dtype.kind == "f" else np.int64
        _expect(value.dtype.kind in "biuf" and np.can_cast(value.dtype, wide) and value.ndim <= 2,
                f"{name[:80]!r} holds an array of dtype {value.dtype} with {value.ndim} axes,"
                " allowed are integers, float16 to float64 and up to two axes")
        return np.array(value, dtype=wide, order="C", subok=False)
    raise ValueError(f"{name[:80]!r} holds a value of type {type(value).__name__.lstrip('_')}, not an array or a builtin")


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
                    f"{key[:80]!r} is not a numeric array with {'one axis' if axes == (1,) else 'one or two axes'}")
    length = len(results["epochs"])
    _expect(length >= 1, "its curve is empty")
    for key, expected in [*((key, length) for key in CURVES), ("epoch_time", length - 1)]:
        _expect(len(results[key]) == expected,
                f"{key!r} has {len(results[key])} entries where 'epochs' has {length}, expected {expected}")
    provenance = results.get("provenance", {})
    state, updates = provenance.get("state", "finished"), provenance.get("updates_per_epoch", 1)
    _expect(type(state) is str and state in STATES, f"the state of the run is {str(state)[:80]!r}, allowed are {', '.join(STATES)}")
    _expect(type(updates) in (int, float) and 0 < updates < math.inf,
            f"'updates_per_epoch' is {str(updates)[:80]}, allowed are positive numbers")
