"""The reader of curves: nothing in a file can lead it astray, and every damage is noticed."""

import contextlib
import os
import pickle
import pickletools
import random
import struct
import sys
import tracemalloc

import numpy as np
import pytest
from hypothesis import example, given, settings, strategies as st

from hig.runs import results as reader
from hig.runs.results import load_results, save_results
from tests.pickles import curve, file, read  # noqa: F401


# Pickles by hand: every function gives the bytes of instructions that leave one value on the stack.

def text(value):
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def number(value):
    return b"J" + struct.pack("<i", value)


def content(data):
    return b"B" + struct.pack("<I", len(data)) + data


def entries(pairs):
    return b"}(" + b"".join(text(key) + value for key, value in pairs) + b"u"


def call(name, *arguments):
    """A call of "module\\nname\\n" with arguments given as instructions."""
    return b"c" + name + b"(" + b"".join(arguments) + b"tR"


def dtype(code="f8", order="<", rest=b"NNN" + 2 * number(-1) + b"K\x00"):
    return call(b"numpy\ndtype\n", text(code), b"K\x00K\x01") + b"(K\x03" + text(order) + rest + b"tb"


def array(data, shape=None, kind=None):
    """A float64 array as numpy 1.19 writes it in protocol 3, or one with something wrong in it."""
    shape = b"".join(map(number, shape if shape is not None else [len(data) // 8]))
    return EMPTY + b"(K\x01(" + shape + b"t" + (kind or dtype()) + b"\x89" + content(data) + b"tb"


def program(protocol=3, **replaced):
    """A published curve by hand, in which entries may be replaced by other instructions."""
    parts = {key: array(value.astype("<f8").tobytes()) for key, value in curve().items() if key != "sim_par"}
    parts["sim_par"] = entries([("batchsize", number(128)), ("lr", b"G" + struct.pack(">d", 1.0))])
    return bytes([0x80, protocol]) + entries((parts | replaced).items()) + b"."


FROMBUFFER, SCALAR = b"numpy.core.numeric\n_frombuffer\n", b"numpy.core.multiarray\nscalar\n"
RECONSTRUCT = b"numpy.core.multiarray\n_reconstruct\n"
EMPTY = call(RECONSTRUCT, b"cnumpy\nndarray\nK\x00\x85C\x01b")


# -------------------------------------------------------------------------------- reading what is not a curve

def test_missing_and_special_files_are_refused(tmp_path):
    pipe, large = tmp_path / "pipe", tmp_path / "large"
    os.mkfifo(pipe)
    with open(large, "wb") as file:
        file.truncate(reader.MAX_BYTES + 1)                            # sparse
    for path, reason in [(tmp_path / "none", "no such file"), (tmp_path, "cannot be read"),
                         (pipe, "not a regular file"), (large, "larger than"), (tmp_path / "nul\0", "null")]:
        with pytest.raises(ValueError, match=reason) as error:
            load_results(path)
        assert str(error.value).startswith(str(path)) and "\n" not in str(error.value)


def dangerous(marker):
    """Programs that plain pickle.load executes: each creates the file `marker`."""
    command = text(f"open({str(marker)!r}, 'w').close()")
    evaluate, touch = call(b"builtins\neval\n", command), text(f"touch '{marker}'") + b"tR"
    return {
        "REDUCE": program(extra=evaluate),
        "STACK_GLOBAL": program(4, extra=text("builtins") + text("eval") + b"\x93(" + command + b"tR"),
        "dotted name": program(4, extra=text("numpy.ctypeslib") + text("os.system") + b"\x93(" + touch),
        "within an array": program(extra=array(b"", [], kind=evaluate + b"0" + dtype())),
        "in the settings": program(sim_par=entries([("lr", evaluate)])),
        "numpy's own way": program(extra=call(b"numpy.testing._private.utils\nrunstring\n", command, b"}")),
    }


@pytest.mark.parametrize("name", dangerous("marker"))
def test_no_program_is_executed(tmp_path, file, name):
    marker = tmp_path / "marker"
    data = dangerous(marker)[name]
    with pytest.raises(ValueError, match="cannot be used as a curve: it "):
        read(file, data)
    assert not marker.exists()
    with contextlib.suppress(Exception):        # negative control: plain pickle executes it, whatever follows
        pickle.loads(data)
    assert marker.exists()


def test_no_module_is_imported(file):
    for name in (b"this\nd\n", b"numpy.distutils\ncore\n", b"antigravity\nwebbrowser\n"):
        before = set(sys.modules)
        with pytest.raises(ValueError, match="it refers to"):
            read(file, program(extra=b"c" + name))
        assert set(sys.modules) == before


UNUSUAL = {
    "object array": array(b"\0" * 8, [1], dtype("O8", "|", b"NNN" + 2 * number(-1) + b"K\x3f")),
    "structured dtype": array(b"\0" * 8, [1], dtype("V8", "|", b"N" + text("a") + b"\x85}K\0K\0K\0")),
    "text array": array(b"\0" * 8, [1], dtype("U2")),
    "shape too large": array(b"\0" * 8, [2]),
    "shape too small": array(b"\0" * 16, [1]),
    "negative shape": array(b"\0" * 8, [-1]),
    "overflowing shape": array(b"", [0]).replace(number(0), b"\x8a\x09" + b"\0" * 8 + b"\1", 1),
    "many axes": array(b"\0" * 8, [1] * 100),
    "bool in the shape": array(b"\0" * 8, [1]).replace(number(1), b"\x88", 1),
    "array without content": EMPTY,
    "array that holds itself": b"(" + EMPTY + b"q\x01(K\x01K\x01\x85" + dtype() + b"\x89h\x01tbe",
    "array subclass": array(b"\0" * 8, [1]).replace(b"cnumpy\nndarray\n", b"cnumpy\nmatrix\n"),
    "ndarray itself": b"cnumpy\nndarray\n",
    "dtype itself": dtype(),
    "call of ndarray": call(b"numpy\nndarray\n", b"J\xff\xff\xff\x7f\x85"),
    "frombuffer of too much": call(FROMBUFFER, content(b""), dtype(), b"J\xff\xff\xff\x7f\x85", text("C")),
    "wildcard": call(b"numpy\nfromfile\n", text("/etc/passwd")),
    "import under another name": b"cnumpy.core.multiarray\nos.system\n",
    "builtin type": b"cbuiltins\ndict\n",
    "state of a dict": b"}}" + text("a") + b"K\x01sb",
    "state of a global": b"cnumpy\nndarray\n}" + text("__doc__") + b"K\x01sb",
    "new object": b"cnumpy\nndarray\nK\x01\x85\x81",
    "persistent number": b"K\x01Q",
    "extension 1": b"\x82\x01",
    "set": b"\x8f",
    "long number in digits": b"L" + b"9" * 100_000 + b"L\n",
    "giant bytes": b"\x8e" + b"\xff" * 7 + b"\x7f",
    "not UTF-8": b"X\x01\0\0\0\xff",
    "bytes": content(b"abc"),
    "unknown instruction": b"\xff",
    "another protocol within": b"\x80\x03N",
    "number as a key": b"}K\x01K\x01s",
    "giant memo": b"Nr\xff\xff\xff\x7f",
    "list of itself": b"]q\x01h\x01a",
    "nested lists": b"]" * 100_000 + b"a" * 99_999,
    "billion laughs": b"](]q\x01" + b"".join(
        b"](" + (b"h" + bytes([i])) * 10 + b"eq" + bytes([i + 1]) for i in range(1, 12)) + b"e",
    "too many instructions": b"(" + b"N" * 300_000 + b"t",
}


@pytest.mark.parametrize("name", UNUSUAL)
def test_unusual_pickles_are_refused(file, name):
    for parts in ({"extra": UNUSUAL[name]}, {"sim_par": entries([("lr", UNUSUAL[name])])}):
        with pytest.raises(ValueError) as error:
            read(file, program(**parts))
        message = str(error.value)
        assert message.startswith(f"{file} cannot be used as a curve: ")
        assert "\n" not in message and len(message) < 500


@pytest.mark.parametrize("part,expected", [
    (array(b"\0" * 16), [0.0, 0.0]),
    (array(b"\0\1", [2], dtype("b1", "|")), [False, True]),
    (call(FROMBUFFER, content(b"\0" * 8), dtype(), b"K\x01\x85", text("C")), [0.0]),
    (call(SCALAR, dtype("i4"), content(b"\2\0\0\0")), 2),
])
def test_the_parts_by_hand_are_valid_without_what_is_unusual(file, part, expected):
    np.testing.assert_array_equal(read(file, program(sim_par=entries([("lr", part)])))["sim_par"]["lr"],
                                  expected)


ROOM = reader.MAX_BYTES - 100


@pytest.mark.parametrize("data, allowed", [
    (b"\x80\x03](" + content(bytes(2**20)) + b"q\x01" + (
        EMPTY + b"(K\x01" + number(2**17) + b"\x85" + dtype() + b"\x89h\x01tb") * 1000 + b"e.", False),
    (b"\x80\x03" + text("a" * (ROOM - 4) + "\U0001f600") + b".", False),
    (program(extra=array(bytes(8 * (ROOM // 8 - 1000)))), True)],
    ids=["many arrays of one content", "four bytes per letter", "an array as large as the file"])
def test_memory_is_bounded(file, data, allowed):
    file.write_bytes(data)
    tracemalloc.start()
    with contextlib.nullcontext() if allowed else pytest.raises(ValueError):
        load_results(file)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 170e6                         # which leaves 30 MB of the 200 MB for Python and numpy


# ---------------------------------------------------------------------------------------- damaged files

@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    """Valid files: ours, the published one by hand, and plain pickles."""
    file = tmp_path_factory.mktemp("samples") / "curve.pickle"
    whole = curve(3, provenance={"state": "finished", "rank": np.arange(2), "threads": [1, 2]})
    save_results(file, whole)
    return [file.read_bytes(), program(), *(pickle.dumps(whole, protocol) for protocol in (2, 3, 4, 5))]


def check_damaged(file, data):
    """Only ValueError may come out, or a curve; True if it was one."""
    try:
        found = read(file, data)
    except ValueError as error:
        assert str(error).startswith(f"{file} cannot be used as a curve: ")
        return False
    assert type(found) is dict and type(found["sim_par"]) is dict
    for key in ("train_loss", "test_loss", "epochs", "simulation_time"):
        assert type(found[key]) is np.ndarray and found[key].dtype.kind in "biuf"
        assert found[key].shape == found["epochs"].shape
    return True


def test_truncation_anywhere_is_noticed_and_what_follows_the_end(file, samples):
    for data in samples:
        assert check_damaged(file, data) and not check_damaged(file, data + b"N")
        for length in {*range(0, len(data), 7), len(data) - 1}:
            assert not check_damaged(file, data[:length])


def mutate(data, random):
    """A few random changes of bytes: others, gaps, repetitions, pieces from elsewhere, opcodes put in."""
    for _ in range(random.choice((1, 1, 2, 5))):
        i, k = random.randrange(len(data) + 1), random.randrange(len(data) + 1)
        j = i + random.choice((0, 1, 4, 40))
        new = random.choice((b"", bytes([random.randrange(256)]), data[i:j] * 2, data[k:k + 40],
                             random.choice(pickletools.opcodes).code.encode("latin-1")))
        data = data[:i] + new + data[j:]
    return data


@pytest.mark.slow
def test_ten_thousand_mutations(file, samples):
    source = random.Random(0)
    kept = sum(check_damaged(file, mutate(source.choice(samples), source)) for _ in range(10_000))
    assert 100 < kept < 5000    # some changes only touch numbers or names: they reach deep into the reader


PIECES = [part for part in UNUSUAL.values() if len(part) < 1000] + [
    bytes([code]) for code in b"(.0t\x85\x86\x87]})aesuRbN\x88\x94"] + [
    b"K\x00", b"K\x01", b"q\x00", b"h\x00", b"q\x01", b"h\x01", text("f8"), text("lr"), dtype(), EMPTY,
    array(b"\0" * 40), array(b"\0" * 32), text("epochs"), text("sim_par"), b"cnumpy\nndarray\n",
    b"cnumpy\ndtype\n", b"c" + RECONSTRUCT, b"c" + SCALAR, b"c" + FROMBUFFER]


@pytest.mark.slow
@settings(max_examples=1500, deadline=None)
@given(pieces=st.lists(st.sampled_from(PIECES) | st.binary(max_size=8), max_size=40), place=st.integers(0, 2))
@example(pieces=[array(b"\0" * 40)], place=1)
def test_random_programs(tmp_path_factory, pieces, place):
    file = tmp_path_factory.getbasetemp() / "random_RESULTS.pickle"
    part = b"".join(pieces)
    check_damaged(file, [b"\x80\x03" + part, program(extra=part), program(sim_par=part)][place])


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3), max_leaves=10)


@settings(max_examples=100, deadline=None)
@given(sim_par=st.dictionaries(st.text(), plain, max_size=4))
def test_settings_of_any_builtins_come_back(tmp_path_factory, sim_par):
    file = tmp_path_factory.getbasetemp() / "settings_RESULTS.pickle"
    save_results(file, curve(sim_par=sim_par))
    assert load_results(file)["sim_par"] == sim_par
