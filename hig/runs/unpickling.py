"""Pickles of numeric arrays and builtins, read without executing anything in them.

A pickle is a program, and `pickle.load` runs it: it imports and calls whatever the file names. Here Python's
own
unpickler runs it, but gets for the names in it a few functions from here: nothing is looked up, and arrays
are built only from bytes whose number agrees with shape and numeric dtype. Before that, one pass over the
instructions (`_check`) refuses those that no curve needs, among them the extension registry, which
`find_class` does not see.

Source: Python's documents of `pickle`, "Restricting Globals", and of `pickletools`.
"""

import io
import math
import pickle
import pickletools

import numpy as np

MAX_INSTRUCTIONS = 200_000   # of a pickle: read in a fraction of a second
_ALLOWED = set("""PROTO FRAME STOP MARK NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 BINFLOAT SHORT_BINUNICODE
    BINUNICODE BINUNICODE8 SHORT_BINBYTES BINBYTES BINBYTES8 BYTEARRAY8 EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_LIST
    APPEND APPENDS EMPTY_DICT SETITEM SETITEMS GLOBAL STACK_GLOBAL REDUCE BUILD BINPUT LONG_BINPUT MEMOIZE BINGET
    LONG_BINGET""".split())
_DTYPES = {"b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"}


class Refused(ValueError):
    """Why the content is not that of a curve: "it is empty"."""


def expect(condition, otherwise="it is damaged"):
    """Raises Refused with that reason unless the condition holds."""
    if not condition:
        raise Refused(otherwise)


def unpickle(data):
    """The value of a pickle (bytes) of protocol 2 to 5: builtins, numpy scalars as builtins, arrays as
    `Made`.

    Raises:
        Refused: it is damaged, or contains anything else. Nothing else is raised, whatever the bytes are.
    """
    expect(len(data) > 2 and data[0] == 0x80 and 2 <= data[1] <= 5, "it is not a pickle of protocol 2 to 5")
    try:
        _check(data)
        return _Unpickler(data).load()
    except Refused:
        raise
    except Exception:                                                   # a dozen kinds, of damaged files
        raise Refused("it is truncated or damaged") from None


def _check(data):
    """Refuses instructions that no curve needs, too many of them, and what follows the end."""
    for count, (opcode, argument, position) in enumerate(pickletools.genops(data)):
        if opcode.name not in _ALLOWED or (opcode.name == "PROTO" and position):
            raise Refused(f"it contains the pickle instruction {opcode.name}, which no curve needs")
        expect(count < MAX_INSTRUCTIONS,
               f"it has more than the {MAX_INSTRUCTIONS} pickle instructions allowed")
        if opcode.name == "LONG_BINPUT":  # the unpickler's memo gets as long as that
            expect(argument <= MAX_INSTRUCTIONS)
    expect(position == len(data) - 1)


class _Name:
    """What the program gets for a name in it: it can be called, not changed."""
    __slots__, __setstate__ = ("call",), None

    def __init__(self, call):
        self.call = call

    def __call__(self, *arguments):
        return self.call(*arguments)


class Made:
    """What the program gets for an array or a dtype: `value`, which `fill` makes of the value before and a
    state."""
    __slots__ = ("value", "fill")

    def __init__(self, value, fill=None):
        self.value, self.fill = value, fill

    def __setstate__(self, state):
        self.value = self.fill(self.value, *state)


class _Unpickler(pickle.Unpickler):
    """Python's unpickler, in which the names that numpy writes mean methods of this class; their arguments
    are checked."""

    def __init__(self, data):
        super().__init__(io.BytesIO(data))
        # bytes: arrays, and (protocol 2) their decoded text
        self.longest, self.unspent = len(data), 2 * len(data)
        self.names = {"numpy ndarray": _Name(None), "numpy dtype": _Name(self.dtype),
                      "_codecs encode": _Name(self.encode)}
        for core in ("numpy.core", "numpy._core"):                      # before and since version 2
            self.names |= {f"{core}.multiarray _reconstruct": _Name(self.reconstruct),
                           f"{core}.multiarray scalar": _Name(self.scalar),
                           f"{core}.numeric _frombuffer": _Name(self.from_buffer)}

    def find_class(self, module, name):
        if (found := self.names.get(f"{module} {name}")) is None:
            raise Refused(f"it refers to {f'{module}.{name}'[:80]!r}, and only arrays and builtins are "
                          "allowed")
        return found

    def spend(self, count):
        """A few bytes of a file may be used again and again; what grows out of them is limited by its
        length."""
        self.unspent -= count
        expect(self.unspent >= 0, "its arrays are larger than the file")

    def encode(self, text, encoding):
        expect(type(text) is str and type(encoding) is str and encoding == "latin1")
        self.spend(len(text))
        return text.encode("latin-1")

    def dtype(self, code, align, copy):
        expect(type(code) is str and code in _DTYPES and align in (False, 0) and copy in (True, 1),
               "it contains an array that is not numeric")
        return Made(np.dtype(code), self.byte_order)

    def byte_order(self, dtype, version, order, *rest):
        expect(version in (3, 4) and type(order) is str and order in tuple("<>|=") and rest == (None, None,
            None, -1, -1, 0),
               "it contains an array that is not numeric")
        return dtype.newbyteorder(order)

    def reconstruct(self, kind, shape, code):
        expect(type(kind) is _Name and kind.call is None and type(shape) is tuple and shape == (0,)
               and type(code) is bytes and code == b"b", "it contains an array of an unusual kind")
        return Made(None, self.content)

    def scalar(self, dtype, content):
        return self.array((), dtype, content, "C").item()

    def from_buffer(self, content, dtype, shape, order):
        return Made(self.array(shape, dtype, content, order))

    def content(self, array, version, shape, dtype, fortran, content):
        expect(array is None and type(fortran) in (bool, int), "it contains an array of an unusual kind")
        return self.array(shape, dtype, content, "F" if fortran else "C")

    def array(self, shape, dtype, content, order):
        expect(type(shape) is tuple and len(shape) <= 2 and all(type(n) is int and 0 <= n <= self.longest
                                                                for n in shape)
               and type(dtype) is Made and isinstance(dtype.value, np.dtype) and type(content) in (bytes,
                                                                                                   bytearray)
               and type(order) is str and order in ("C", "F"), "it contains an array of an unusual kind")
        expect(math.prod(shape) * dtype.value.itemsize == len(content),
               "it contains an array whose shape and size disagree")
        self.spend(len(content))
        flat = np.frombuffer(content, np.uint8 if dtype.value.kind == "b" else dtype.value)
        return flat.astype(dtype.value.newbyteorder("=")).reshape(shape, order=order)
