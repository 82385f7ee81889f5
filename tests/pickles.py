"""What the tests of curves on disk share: a small curve, and pickles made by hand, instruction by
instruction.
"""

import struct

import numpy as np
import pytest

from hig.runs.results import load_results

LENGTH = 5


def curve(length=LENGTH, **more):
    """A small valid curve."""
    seconds = 0.5 * np.arange(length)
    return {"epochs": np.arange(length), "train_loss": np.exp(-seconds), "test_loss": 1.1 * np.exp(-seconds),
            "simulation_time": seconds, "epoch_time": np.diff(seconds),
            "sim_par": {"optimizer": "HIG", "learning_rate": 1.0, "batch_size": 128, "epochs": None}, **more}


def assert_equal(read, written):
    assert read.keys() == written.keys()
    for key, value in written.items():
        if isinstance(value, np.ndarray):
            np.testing.assert_array_equal(read[key], value)
        elif isinstance(value, dict):
            assert_equal(read[key], value)
        else:
            assert read[key] == value and type(read[key]) is type(value)


# Pickles by hand: every function gives the bytes of instructions that leave one value on the stack.

def text(value):
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def number(value):
    return b"J" + struct.pack("<i", value)


def content(data):
    return b"B" + struct.pack("<I", len(data)) + data


def entries(pairs):
    return b"}(" + b"".join(text(key) + value for key, value in pairs) + b"u"


def dtype(code="f8", order="<", rest=b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00"):
    return b"cnumpy\ndtype\n" + text(code) + b"K\x00K\x01\x87R(K\x03" + text(order) + rest + b"tb"


def array(data, shape=None, kind=None, start=b"K\x00\x85C\x01b"):
    """A float64 array as numpy 1.19 writes it in protocol 3, or one with something wrong in it."""
    shape = b"".join(map(number, shape if shape is not None else [len(data) // 8]))
    return (b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n" + start + b"\x87R(K\x01(" + shape +
            b"t"
            + (kind or dtype()) + b"\x89" + content(data) + b"tb")


def program(protocol=3, **replaced):
    """A published curve by hand, in which entries may be replaced by other instructions."""
    parts = {key: array(value.astype("<f8").tobytes()) for key, value in curve().items() if key != "sim_par"}
    parts["sim_par"] = entries([("batchsize", number(128)), ("lr", b"G" + struct.pack(">d", 1.0))])
    parts.update(replaced)
    return bytes([0x80, protocol]) + entries(parts.items()) + b"."


@pytest.fixture
def file(tmp_path):
    return tmp_path / "NLO_HIG_RESULTS.pickle"


def read(file, data):
    file.write_bytes(data)
    return load_results(file)
