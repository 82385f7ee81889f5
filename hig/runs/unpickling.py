"""Pickles of numeric arrays and builtins, read without executing anything in them.

A pickle is a program, and `pickle.load` runs it: it imports and calls whatever the file names. Here one pass
over the instructions refuses those that no curve needs, among them the extension registry, which `find_class`
does not see. Python's own unpickler runs the rest. For every name in it, it gets a function of this module
instead of an import, and arrays are built only from bytes whose number agrees with shape and numeric dtype.

Source: Python's documents of `pickle`, "Restricting Globals", and of `pickletools`.
"""

import io
import math
import pickle
import pickletools

import numpy as np

MAX_INSTRUCTIONS = 200_000   # of a pickle: read in a fraction of a second
_ALLOWED = set("""PROTO FRAME STOP MARK NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 BINFLOAT BINUNICODE
    SHORT_BINUNICODE BINUNICODE8 BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8 EMPTY_TUPLE TUPLE TUPLE1 TUPLE2
    TUPLE3 EMPTY_LIST APPEND APPENDS EMPTY_DICT SETITEM SETITEMS GLOBAL STACK_GLOBAL REDUCE BUILD
    BINPUT LONG_BINPUT MEMOIZE BINGET LONG_BINGET""".split())
_DTYPES = {"b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"}


class Refused(ValueError):
    """Why the content is not that of a curve: "it is empty"."""


def expect(condition, otherwise="it is truncated or damaged"):
    """Raises Refused with that reason unless the condition holds."""
    if not condition:
        raise Refused(otherwise)


def unpickle(data):
    """The value of a pickle (bytes) of protocol 3 to 5: builtins, and arrays as `Made`.

    Raises:
        Refused: it is damaged, or contains anything else. Nothing else is raised, whatever the bytes are.
    """
    try:
        for count, (opcode, argument, position) in enumerate(pickletools.genops(data)):
            expect(opcode.name in _ALLOWED and (opcode.name != "PROTO" or position == 0),
                   f"it contains the pickle instruction {opcode.name}, which no curve needs")
            expect(count < MAX_INSTRUCTIONS, f"it has more than {MAX_INSTRUCTIONS} pickle instructions")
            expect(opcode.name != "LONG_BINPUT" or argument <= MAX_INSTRUCTIONS)    # the memo gets that long
        expect(position == len(data) - 1)
        return _Unpickler(data).load()
    except Refused:
        raise
    except Exception:                                                   # a dozen kinds, of damaged files
        raise Refused("it is truncated or damaged") from None


class Made:
    """What the program gets for an array or a dtype: `value`, which numpy's pickles set by `state(...)`."""
    __slots__ = ("value", "state")

    def __init__(self, value, state=None):
        self.value, self.state = value, state

    def __setstate__(self, state):
        self.value = self.state(*state)


class _Unpickler(pickle.Unpickler):
    """Python's unpickler; the names that numpy writes stand for functions of this class."""

    def __init__(self, data):
        super().__init__(io.BytesIO(data))
        self.unspent = len(data)

    def find_class(self, module, name):
        made = {    # new functions every time, since the program can set attributes of those that it gets
            "numpy ndarray": ...,                                       # is only passed on
            "numpy dtype": lambda code, *_: self.dtype(code),
            "numpy.core.multiarray _reconstruct": lambda *_: Made(None, self.array),
            "numpy.core.multiarray scalar": lambda dtype, data: self.array(1, (), dtype, 0, data).item(),
            "numpy.core.numeric _frombuffer": lambda content, dtype, shape, order: Made(
                self.array(1, shape, dtype, order == "F", content))}
        key = f"{module} {name}".replace("numpy._core", "numpy.core")   # called so since numpy 2
        expect(key in made, f"it refers to {f'{module}.{name}'[:80]!r}; only arrays and builtins are allowed")
        return made[key]

    def dtype(self, code):
        expect(code in _DTYPES, "it contains an array that is not numeric")
        return Made(None, lambda version, order, *_: np.dtype(code).newbyteorder(order))

    def array(self, version, shape, dtype, fortran, content):
        expect(type(shape) is tuple and len(shape) <= 2 and all(type(n) is int and n >= 0 for n in shape)
               and math.prod(shape) * dtype.value.itemsize == len(content),
               "it contains an array whose shape and size disagree")
        self.unspent -= len(content)            # the program may use a few bytes of the file again and again
        expect(self.unspent >= 0, "its arrays are larger than the file")
        flat = np.frombuffer(content, "u1" if dtype.value.kind == "b" else dtype.value)
        return flat.astype(dtype.value.newbyteorder("=")).reshape(shape, order="F" if fortran else "C")
