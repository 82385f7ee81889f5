"""Curves on disk: the published layout, atomic writes, and a reader that nothing in a file leads astray."""

import base64
import contextlib
import functools
import os
import pickle
import pickletools
import random
import re
import tracemalloc
import zlib

import numpy as np
import pytest

from hig.runs import results as reader
from hig.runs.files import keep_earlier
from hig.runs.results import load_results, pickled, write_parameters


def curve(length=5, **more):
    """A small valid curve."""
    seconds = 0.5 * np.arange(length)
    return {"epochs": np.arange(length), "train_loss": np.exp(-seconds), "test_loss": 1.1 * np.exp(-seconds),
            "simulation_time": seconds, "epoch_time": np.diff(seconds),
            "sim_par": {"optimizer": "HIG", "learning_rate": 1.0, "batch_size": 128, "epochs": None}, **more}


@pytest.fixture
def file(tmp_path):
    return tmp_path / "NLO_HIG_RESULTS.pickle"


def read(file, data):
    file.write_bytes(data)
    return load_results(file)


def assert_equal(read, written):
    np.testing.assert_equal(read, written)
    assert list(map(type, read["sim_par"].values())) == list(map(type, written["sim_par"].values()))


def test_what_is_written_is_read_back_here_and_by_numpy_1(file):
    """Arrays as float64 or int64, in a pickle of protocol 3 with names that numpy 1 knows."""
    written = curve(x_distance_l1=np.linspace(0, 1, 5), paths=np.arange(6.0).reshape(2, 3), provenance={
        "state": "running", "updates_per_epoch": 32, "versions": {"numpy": "2.2.6"}, "threads": [1, 2],
        "shape": (2, 3), "rank": np.array([510, 511]), "commit": None, "yes": True, "seconds": -1.5})
    written["train_loss"][-2:] = np.inf, np.nan
    written["test_loss"][1:] = np.nan
    data = pickled(written | {"single": np.float32([0.1, 0.2]), "flags": np.array([True, False])})
    found = read(file, data)
    assert_equal(found, written | {"single": np.float32([0.1, 0.2]).astype(float), "flags": np.array([1, 0])})
    assert {value.dtype.name for value in found.values() if type(value) is np.ndarray} == {"float64", "int64"}
    names = {argument for opcode, argument, _ in pickletools.genops(data) if opcode.name == "GLOBAL"}
    assert names == {"numpy.core.multiarray _reconstruct", "numpy ndarray", "numpy dtype"}
    assert data[:2] == b"\x80\x03" and not any(opcode.proto > 3 for opcode, _, _ in pickletools.genops(data))
    assert_equal(pickle.loads(data), found)


def test_a_pickle_of_the_published_stack_is_read(file):
    # written by Python 3.8.18 with numpy 1.19.5: pickle.dumps(curve, 3)
    written = (
        'c-nQ6xo^}!6vlmo9Og)X0Lztd<8UlDEQjz)TLiGQ60W8|T8$keTk_ibjmO0XMWk6mDjFL2Bd9^5K-BO@Py-STHOzQs3l#B+c{9&5'
        '-|w5}S-00<xMb2WjCfE)NeMH`tNvivj0zSv`&GtM$`~CwJr+krUUF7N+<~QbIr)nE3fnhEnCO@xwryZCz?AEozCFUU-nhbtgV@0g'
        'u>>k@!P$Jdf$afyxV}wHQM-qo-EQ~M9})H78yvgB%}&G6Vd`w@j9HGkkT_z>8BOzER+J@nCstB>*^>w(djrgCBl{A?e%iu*$vzOE'
        'A=t@Q>Oo2U`bEYM@9i5IAG~Mt@0P!<zV>j4<8Vl3BsDI%f*u(|k4or5fJF^GmNbOc;^_P1_X|J0r6;dG|8_rm%KxwDIL>iG-JouM'
        'kEi_@C&yx^q}b^IXQY@l!dWRcrw*rWmG8IVax8^pRxHX?{4dJWB3DZ1#!Ba<(uDvQwXJ4t%lId>;-{>QOB|O&GNlxI1Iln^4OiW|'
        'eHp{G|Gbbgq8Vilt|yJow7#Q<8!vD(z^%GtA?4zUrK>So{yLcum7EHnw}~yL4<0V#jw%*;jJw^cYW@X_H^-R')
    assert_equal(read(file, zlib.decompress(base64.b85decode(written))), {
        "epochs": np.arange(3), "train_loss": np.array([0.9, 0.1, 0.02]),
        "test_loss": np.array([0.91, 0.11, np.inf]), "epoch_time": np.array([200.0, 30.0]),
        "simulation_time": np.array([0.0, 200.0, 230.0]),
        "sim_par": {"lr": 1.0, "batchsize": 128, "name": "HIG", "none": None}})


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_pickles_of_plain_pickle_are_read_in_every_protocol(file, protocol):
    written = curve(
        fortran=np.asfortranarray(np.arange(6.0).reshape(2, 3)), big=np.array([1.5, 2.5], ">f4"),
        half=np.array([0.5], np.float16), small=np.array([255], np.uint8), yes=np.array([True, False]),
        long=np.arange(10000.0), strided=np.arange(10.0)[::3], empty=np.zeros((0, 3)))
    written["sim_par"] |= {"numpy": np.float64(0.25), "flag": np.bool_(True), "large": 2**70, "ü": "é"}
    found = read(file, pickle.dumps(written, protocol))
    written["sim_par"] |= {"numpy": 0.25, "flag": True}
    assert_equal(found, written)
    assert all(value.dtype.isnative for value in found.values() if isinstance(value, np.ndarray))


def without(key):
    return {name: value for name, value in curve().items() if name != key}


WRONG_LAYOUTS = [
    ("it is not a dict", [1, 2]),
    ("no entry 'sim_par'", without("sim_par")),
    ("'test_loss' does not hold 5 numbers", without("test_loss")),
    ("'epoch_time' does not hold 4 numbers", curve(epoch_time=np.zeros(5))),
    ("'train_loss' does not hold 5 numbers", curve(train_loss=np.zeros(4))),
    ("'test_loss' does not hold 5 numbers in a row", curve(test_loss=np.zeros((5, 1)))),
    ("'epochs' is not a numeric array", curve(epochs=[0, 1, 2, 3, 4])),
    ("'x' is not a numeric array of one or two axes", curve(x=np.array(3.0))),
    ("'provenance' is not a dict", curve(provenance=None)),
    ("its curve is empty", curve(1) | dict.fromkeys(reader.CURVES, np.zeros(0))),
    ("nested deeper", curve(provenance={"a": functools.reduce(lambda inner, _: [inner], range(20))})),
    ("key that is not a string", curve(sim_par={1: 2})),
]


@pytest.mark.parametrize("reason,results", WRONG_LAYOUTS, ids=[reason for reason, _ in WRONG_LAYOUTS])
def test_another_layout_is_refused_in_writing_and_in_reading(file, reason, results):
    with pytest.raises(ValueError, match=reason):
        pickled(results)
    with pytest.raises(ValueError, match=f"{file} cannot be used as a curve: .*{reason}"):
        read(file, pickle.dumps(results, 3))


class Call:
    """Its pickle calls a function."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


ITSELF = []
ITSELF.append(ITSELF)
UNUSUAL = [np.array([None]), np.array(["a"]), np.array([1j]), np.zeros((1, 1, 1)), np.zeros(1, "f8,i4"),
           np.longdouble([1]), {1}, b"", 1j, print, np.ndarray, np.dtype("f8"),
           Call(np.fromfile, "/etc/passwd"), Call(np.ndarray, 2**31 - 1), [None] * 300_000, ITSELF,
           functools.reduce(lambda inner, _: [inner] * 10, range(12), [])]            # 10^12 lists


@pytest.mark.parametrize("value", UNUSUAL, ids=lambda value: type(value).__name__)
def test_unusual_values_are_neither_written_nor_read(file, value):
    for results in (curve(extra=value), curve(provenance={"deep": [value]})):
        with pytest.raises(ValueError, match="holds a|allowed|nested"):
            pickled(results)
        for protocol in (3, 4, 5):
            with pytest.raises(ValueError, match=f"{file} cannot be used as a curve: "):
                read(file, pickle.dumps(results, protocol))


def test_earlier_curves_are_kept_under_their_date(file):
    assert keep_earlier(file) is None
    kept = []
    for i in range(3):  # with one date for all
        file.write_bytes(bytes([i]))
        os.utime(file, (1_700_000_000, 1_700_000_000))
        kept.append(keep_earlier(file))
        assert not file.exists()
    assert [path.read_bytes() for path in kept] == [b"\0", b"\1", b"\2"]
    assert all(path.match("NLO_HIG_RESULTS_2023-11-1[45]_????20*.pickle") for path in kept)
    assert all(path.parent == file.parent and not path.name.endswith("_RESULTS.pickle") for path in kept)


def test_parameters_are_lines(tmp_path):
    file = tmp_path / "NLO_HIG_PARAMETERS.txt"
    write_parameters(file, {"optimizer": "HIG", "learning_rate": 1.0, "note": "two\nlines", "η": None})
    assert file.read_bytes().decode() == "optimizer: HIG\nlearning_rate: 1.0\nnote: two lines\nη: None\n"


# ----------------------------------------------------------------------------------- files that are no curves

@pytest.mark.parametrize("name, reason", [("none", "there is no such file"), (".", "it cannot be read"),
                                          ("large", "it is larger than"), ("empty", "it is truncated")])
def test_missing_large_and_empty_files_are_refused(tmp_path, name, reason):
    (tmp_path / "empty").touch()
    with open(tmp_path / "large", "wb") as file:
        file.truncate(reader.MAX_BYTES + 1)                            # sparse
    with pytest.raises(ValueError) as error:
        load_results(tmp_path / name)
    assert str(error.value).startswith(f"{tmp_path / name} cannot be used as a curve: {reason}")


@pytest.mark.parametrize("protocol", [3, 4, 5])
@pytest.mark.parametrize("function, command", [(eval, "open({!r}, 'w').close()"), (os.system, "touch {!r}")])
def test_no_program_is_executed(tmp_path, file, protocol, function, command):
    marker = tmp_path / "marker"
    program = Call(function, command.format(str(marker)))
    for results in (curve(extra=program), curve(sim_par={"lr": program}), [program]):
        data = pickle.dumps(results, protocol)
        with pytest.raises(ValueError, match="cannot be used as a curve: it refers to"):
            read(file, data)
        assert not marker.exists()
        pickle.loads(data)                      # negative control: plain pickle executes it
        marker.unlink()


def program(instructions):
    """The pickle of a curve, in which these instructions stand for the value of a setting."""
    whole = pickle.dumps(curve(sim_par={"setting": None}), 3)
    return re.sub(rb"(?s)(setting.{2})N", lambda found: found[1] + instructions, whole)


INSTRUCTIONS = {
    "import": b"cantigravity\nwebbrowser\n",
    "array without content": b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R",
    "state of a global": b"cnumpy\nndarray\n}X\x01\0\0\0aK\x01sb",
    "new object": b"cnumpy\nndarray\nK\x01\x85\x81",
    "persistent number": b"K\x01Q",
    "extension 1": b"\x82\x01",
    "long number in digits": b"L" + b"9" * 100_000 + b"L\n",
    "giant bytes": b"\x8e" + b"\xff" * 7 + b"\x7f",
    "not UTF-8": b"X\x01\0\0\0\xff",
    "another protocol within": b"\x80\x03N",
    "giant memo": b"Nr\xff\xff\xff\x7f",
    "nested lists": b"]" * 100_000 + b"a" * 99_999,
}
WHOLE = program(b"K\x01")
SHAPES = {name: WHOLE.replace(b"K\x05\x85", shape + b"\x85") for name, shape in [
    ("as it was", b"K\x05"), ("too large", b"K\x06"), ("negative", b"J\xfb\xff\xff\xff"),
    ("a bool", b"\x88")]}


@pytest.mark.parametrize("data", [*map(program, INSTRUCTIONS.values()), *SHAPES.values()],
                         ids=[*INSTRUCTIONS, *SHAPES])
def test_unusual_programs_are_refused(file, data):
    if data == WHOLE:                           # negative control
        assert read(file, data)["sim_par"] == {"setting": 1}
        return
    with pytest.raises(ValueError) as error:
        read(file, data)
    message = str(error.value)
    assert message.startswith(f"{file} cannot be used as a curve: ")
    assert "\n" not in message and len(message) < 500


MEGABYTE, FROM_BUFFER = bytes(2**20), np.zeros(1).__reduce_ex__(5)[0]


@pytest.mark.parametrize("results, allowed", [
    (curve(deep=[Call(FROM_BUFFER, MEGABYTE, np.dtype("f8"), (2**17,), "C") for _ in range(1000)]), False),
    (curve(large=np.zeros(reader.MAX_BYTES // 8 - 1000)), True)], ids=["one content in many", "as large"])
def test_arrays_take_no_more_memory_than_a_few_times_the_file(file, results, allowed):
    file.write_bytes(pickle.dumps(results, 4))
    tracemalloc.start()
    with contextlib.nullcontext() if allowed else pytest.raises(ValueError):
        load_results(file)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10 * reader.MAX_BYTES


# ---------------------------------------------------------------------------------------- damaged files

@pytest.fixture(scope="module")
def samples():
    """Valid files: ours, and plain pickles."""
    whole = curve(3, provenance={"state": "finished", "rank": np.arange(2), "threads": [1, 2]})
    return [pickled(whole), *(pickle.dumps(whole, protocol) for protocol in (3, 4, 5))]


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


PIECES = [part for part in INSTRUCTIONS.values() if len(part) < 1000] + [
    opcode.code.encode("latin-1") for opcode in pickletools.opcodes] + [
    b"q\x00", b"h\x00", b"q\x01", b"h\x01", b"cnumpy\ndtype\n", b"cnumpy.core.multiarray\nscalar\n",
    b"cnumpy.core.numeric\n_frombuffer\n"]


def mutate(data, source):
    """A few random changes: other bytes, gaps, repetitions, pieces from elsewhere, instructions put in."""
    for _ in range(source.choice((1, 1, 2, 5))):
        i, k = source.randrange(len(data) + 1), source.randrange(len(data) + 1)
        j = i + source.choice((0, 1, 4, 40))
        new = source.choice((b"", bytes([source.randrange(256)]), data[i:j] * 2, data[k:k + 40],
                             source.choice(PIECES)))
        data = data[:i] + new + data[j:]
    return data


@pytest.mark.slow
def test_ten_thousand_mutations(file, samples):
    source = random.Random(0)
    kept = sum(check_damaged(file, mutate(source.choice(samples), source)) for _ in range(10_000))
    assert 100 < kept < 5000    # some changes only touch numbers or names: they reach deep into the reader
