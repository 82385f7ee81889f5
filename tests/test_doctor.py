"""python -m hig.doctor: what a bug report needs is in its text, and a wrong J^κ is noticed."""

import re
from importlib import metadata

import numpy as np
import pytest

from hig import doctor


def test_the_report(capsys):
    """As a program, without a word of TensorFlow's: test_readme.py."""
    assert doctor.main() == 0
    report = capsys.readouterr().out
    for package in ("tensorflow", "keras", "numpy", "scipy"):
        assert re.search(rf"^{package} +{re.escape(metadata.version(package))}$", report, re.MULTILINE)
    for name in ("hig", "system", "cpu", "memory", "gpu", "blas", "tensorflow threads", "environment",
                 "python"):
        assert re.search(rf"^{name} +\S", report, re.MULTILINE), name
    assert report.count("right") == 2 and "WRONG" not in report
    assert len(re.findall(r"^eigh, .* TensorFlow (?:idle|busy): +[0-9.]+ ms$", report, re.MULTILINE)) == 4
    assert re.search(r"^HIG with krylov=16, n = 4096, on [CG]PU:0: +[0-9.]+ ms$", report, re.MULTILINE)
    assert re.search(r"^advice\n(- .+\n)+$|^advice\nnothing: all is well\n$", report, re.MULTILINE)


@pytest.mark.parametrize("method", ["eigh", "tridiagonal"])
def test_a_wrong_power_is_noticed(monkeypatch, method):
    assert doctor.power_error(method) < doctor.TOLERANCE
    right = doctor.gram_coefficients

    def sloppy(*arguments):                                             # as if K had been rounded to float32
        return right(np.float32(arguments[0]), *arguments[1:])
    monkeypatch.setattr(doctor, "gram_coefficients", sloppy)
    assert doctor.power_error(method) > doctor.TOLERANCE


def test_a_wrong_power_fails(monkeypatch, capsys):
    monkeypatch.setattr(doctor, "power_error", lambda method: 1e-3)
    monkeypatch.setattr(doctor, "machine", lambda: [])
    monkeypatch.setattr(doctor, "krylov_update", lambda: (10.0, "CPU:0"))
    monkeypatch.setattr(doctor, "thread_fight",
                        lambda K: {(t, b): 20.0 for t in (1, None) for b in (False, True)})
    assert doctor.main() == 1
    report = capsys.readouterr().out
    assert report.count("WRONG") == 2 and "please report it" in report and "all is well" not in report


def test_the_test_matrix_has_the_spectrum_it_says():
    J, g = doctor.matrix(20, 4)
    assert J.shape == (20, 40) and g.shape == (20,)
    # 1e-16 / 1e-4, with room
    np.testing.assert_allclose(np.linalg.svd(J)[1], 10 ** -np.linspace(0, 4, 20), rtol=1e-9)


@pytest.mark.parametrize("changed, words", [
    ({(None, True): 500.0}, "OPENBLAS_NUM_THREADS=1"), ({(None, False): 500.0}, "OPENBLAS_NUM_THREADS=1"),
    ({(1, True): 100.0, (None, True): 100.0}, "busy machine"), ({key: 300.0 for key in [(1, False),
        (1, True)]}, "optimised")])
def test_advice(changed, words):
    healthy = {(threads, busy): 20.0 for threads in (1, None) for busy in (False, True)}
    assert not list(doctor.advice(healthy, 10.0, 2**34))
    assert any(words in sentence for sentence in doctor.advice({**healthy, **changed}, 10.0, 2**34))


@pytest.mark.parametrize("power, free, words", [(50.0, 2**34, "J^κ g takes longer"), (10.0, 2**20, "memory")])
def test_advice_on_power_and_memory(power, free, words):
    healthy = {(threads, busy): 20.0 for threads in (1, None) for busy in (False, True)}
    [sentence] = doctor.advice(healthy, power, free)
    assert words in sentence
