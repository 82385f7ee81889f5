"""Curves on disk: the published layout, and atomic writes."""

import base64
import errno
import functools
import math
import os
import pickle
import pickletools
import zlib

import numpy as np
import pytest

from hig.runs import results as reader
from hig.runs.files import keep_earlier
from hig.runs.results import load_results, save_results, write_parameters
from tests.pickles import curve, file, read  # noqa: F401


def assert_equal(read, written):
    assert read.keys() == written.keys()
    for key, value in written.items():
        if isinstance(value, np.ndarray):
            np.testing.assert_array_equal(read[key], value)
        elif isinstance(value, dict):
            assert_equal(read[key], value)
        else:
            assert read[key] == value and type(read[key]) is type(value)


def test_what_is_written_is_read_back(file):
    written = curve(x_distance_l1=np.linspace(0, 1, 5), paths=np.arange(6.0).reshape(2, 3), provenance={
        "state": "running", "updates_per_epoch": 32, "versions": {"numpy": "2.2.6"}, "threads": [1, 2],
        "shape": (2, 3), "rank": np.array([510, 511]), "commit": None, "yes": True, "seconds": -1.5})
    written["train_loss"][-2:] = np.inf, np.nan
    written["test_loss"][1:] = np.nan
    save_results(file, written)
    assert_equal(load_results(file), written)


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


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
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


def test_the_file_holds_names_that_numpy_1_knows(file):
    save_results(file, curve(provenance={"rank": np.arange(3)}))
    data = file.read_bytes()
    names = {argument for opcode, argument, _ in pickletools.genops(data) if opcode.name == "GLOBAL"}
    assert names == {"numpy.core.multiarray _reconstruct", "numpy ndarray", "numpy dtype"}
    assert data[:2] == b"\x80\x03"
    assert not any(opcode.proto > 3 for opcode, _, _ in pickletools.genops(data))
    assert_equal(pickle.loads(data), load_results(file))


def test_arrays_are_written_as_float64_or_int64(file):
    save_results(file, curve(single=np.float32([0.1, 0.2]), flags=np.array([True, False]),
                             bytes_=np.uint8([200])))
    found = load_results(file)
    assert {found[key].dtype.name for key in ("single", "epochs", "flags", "bytes_")} == {"float64", "int64"}
    np.testing.assert_array_equal(found["single"], np.float32([0.1, 0.2]).astype(float))


def without(key):
    return {name: value for name, value in curve().items() if name != key}


WRONG_LAYOUTS = [
    ("it is not a dict", [1, 2]),
    ("no entry 'sim_par'", without("sim_par")),
    ("no entry 'test_loss'", without("test_loss")),
    ("'epoch_time' 5 where 4 are expected", curve(epoch_time=np.zeros(5))),
    ("'train_loss' 4 where 5 are expected", curve(train_loss=np.zeros(4))),
    ("'epochs' is not a numeric array", curve(epochs=[0, 1, 2, 3, 4])),
    ("'test_loss' is not a numeric array of 1 axes", curve(test_loss=np.zeros((5, 1)))),
    ("'x' is not a numeric array of 1 or 2 axes", curve(x=np.array(3.0))),
    ("'sim_par' is not a dict", curve(sim_par=3)),
    ("'provenance' is not a dict", curve(provenance=None)),
    ("its curve is empty", curve(1) | dict.fromkeys(reader.CURVES, np.zeros(0))),
    ("state of the run is 'dead'", curve(provenance={"state": "dead"})),
    ("'updates_per_epoch' is nan", curve(provenance={"updates_per_epoch": math.nan})),
    ("nested deeper", curve(provenance={"a": functools.reduce(lambda inner, _: [inner], range(20))})),
    ("key that is not a string", curve(sim_par={1: 2})),
]


@pytest.mark.parametrize("reason,results", WRONG_LAYOUTS, ids=[reason for reason, _ in WRONG_LAYOUTS])
def test_another_layout_is_refused_in_writing_and_in_reading(file, reason, results):
    with pytest.raises(ValueError) as writing:
        save_results(file, results)
    assert not list(file.parent.iterdir())
    with pytest.raises(ValueError) as reading:
        read(file, pickle.dumps(results, 3))
    for error in (writing, reading):
        assert reason in str(error.value) and str(file) in str(error.value)


@pytest.mark.parametrize("value", [np.array([None]), np.array(["a"]), np.array([1j]), np.zeros((1, 1, 1)),
                                   {1}, b"", 1j, np.longdouble([1]), np.array([2**63], np.uint64), print])
def test_what_the_reader_would_refuse_is_not_written(file, value):
    for results in (curve(extra=value), curve(provenance={"deep": [value]})):
        with pytest.raises(ValueError, match="extra|provenance"):
            save_results(file, results)
    assert not list(file.parent.iterdir())


def save(file):
    save_results(file, curve(20))


@pytest.mark.parametrize("failing, change", [("fsync", save), ("replace", save), ("replace", keep_earlier)])
def test_a_failing_disk_leaves_the_earlier_file(file, monkeypatch, failing, change):
    save_results(file, curve())
    earlier = file.read_bytes()

    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr(os, failing, fail)
    with pytest.raises(OSError, match="No space left"):
        change(file)
    assert [path.name for path in file.parent.iterdir()] == [file.name] and file.read_bytes() == earlier


def test_what_is_larger_than_the_reader_takes_is_not_written(file, monkeypatch):
    monkeypatch.setattr(reader, "MAX_BYTES", 2000)
    with pytest.raises(ValueError, match="cannot be saved: it takes .* bytes, more than the 2000 allowed"):
        save_results(file, curve(200))
    assert not file.exists()


def test_earlier_curves_are_kept_under_their_date(file):
    assert keep_earlier(file) is None
    file.write_bytes(b"")
    assert keep_earlier(file) is None
    kept = []
    for i in range(3):  # with one date for all
        file.write_bytes(bytes([i]))
        os.utime(file, (1_700_000_000, 1_700_000_000))
        kept.append(keep_earlier(file))
        assert not file.exists()
    assert [path.read_bytes() for path in kept] == [b"\0", b"\1", b"\2"]
    assert all(path.parent == file.parent for path in kept)
    assert all(path.match("NLO_HIG_RESULTS_2023-11-1[45]_????20*.pickle") for path in kept)
    assert not any(path.name.endswith("_RESULTS.pickle") for path in kept)


def test_parameters_are_lines(tmp_path):
    file = tmp_path / "NLO_HIG_PARAMETERS.txt"
    write_parameters(file, {"optimizer": "HIG", "learning_rate": 1.0, "note": "two\nlines", "η": None})
    assert file.read_bytes().decode() == "optimizer: HIG\nlearning_rate: 1.0\nnote: two lines\nη: None\n"
