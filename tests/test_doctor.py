"""python -m hig.doctor: what a bug report needs is in its text, and a wrong J^κ is noticed."""

import re
from importlib import metadata

import numpy as np
import pytest

from hig import doctor


def test_the_report(monkeypatch, capsys):
    """As a program, without a word of TensorFlow's: test_readme.py."""
    monkeypatch.setattr(doctor, "CALLS", 1)
    assert doctor.main() == 0
    report = capsys.readouterr().out
    for package in ("tensorflow", "keras", "numpy", "scipy"):
        assert re.search(rf"^{package} +{re.escape(metadata.version(package))}$", report, re.MULTILINE)
    for name in ("hig", "system", "cpu", "memory", "gpu", "blas", "tensorflow threads", "environment",
                 "python"):
        assert re.search(rf"^{name} +\S", report, re.MULTILINE), name
    assert report.count("right") == 2 and "WRONG" not in report
    assert len(re.findall(r"^eigh, n = 512, .* BLAS threads?: +[0-9.]+ ms$", report, re.MULTILINE)) == 2
    assert re.search(r"^HIG with krylov=16, n = 4096, on [CG]PU:0: +[0-9.]+ ms$", report, re.MULTILINE)


@pytest.mark.parametrize("method", ["eigh", "tridiagonal"])
def test_a_wrong_power_is_noticed(monkeypatch, method):
    assert doctor.power_error(method) < doctor.TOLERANCE
    right = doctor.gram_coefficients

    def sloppy(*arguments):                                             # as if K had been rounded to float32
        return right(np.float32(arguments[0]), *arguments[1:])
    monkeypatch.setattr(doctor, "gram_coefficients", sloppy)
    assert doctor.power_error(method) > doctor.TOLERANCE


@pytest.mark.parametrize("error, all_threads, code, words", [
    (1e-3, 20.0, 1, "please report it"), (0.0, 500.0, 0, "OPENBLAS_NUM_THREADS=1"), (0.0, 20.0, 0, "")])
def test_what_is_wrong_is_said(monkeypatch, capsys, error, all_threads, code, words):
    """A wrong power fails; slow threads are only advice; without either nothing follows the times."""
    times = iter([20.0, all_threads, 10.0])
    for name, replaced in {"power_error": lambda method: error, "milliseconds": lambda function: next(times),
                           "machine": lambda: [], "krylov_update": lambda: (10.0, "CPU:0")}.items():
        monkeypatch.setattr(doctor, name, replaced)
    assert doctor.main() == code
    *_, last = report = capsys.readouterr().out.splitlines()
    assert sum("WRONG" in line for line in report) == 2 * code
    assert words in last and (words or last.startswith("HIG with krylov=16"))


def test_the_test_matrix_has_the_spectrum_it_says():
    J, g = doctor.matrix(20, 4)
    assert J.shape == (20, 40) and g.shape == (20,)
    # 1e-16 / 1e-4, with room
    np.testing.assert_allclose(np.linalg.svd(J)[1], 10 ** -np.linspace(0, 4, 20), rtol=1e-9)
