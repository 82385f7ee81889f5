"""The command line of the submit scripts: bad input is one sentence, exit code 2, and nothing written."""

import os
import runpy
import subprocess
import sys
import warnings
from argparse import Namespace
from pathlib import Path

import keras
import pytest

from hig.runs import cli
from hig.runs.cli import load, parse
from tests.test_plot import falling, save, save_toy
from tests.tiny import submit

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = sorted(path.relative_to(ROOT) for path in ROOT.glob("*/submit_*.py"))


@pytest.mark.parametrize("script", SCRIPTS, ids=str)
def test_help_names_the_flags_of_the_optimizer(script, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(sys, "argv", [str(script), "--help"])
    with pytest.raises(SystemExit, match="0"):
        runpy.run_path(str(ROOT / script), run_name="__main__")
    text = capsys.readouterr().out
    for flag in ("--max-time", "--epochs", "--seed", "--output", "--quiet", "--resume"):
        assert flag in text
    for flag in ("--batch-size", "--learning-rate"):
        assert (flag in text) == ("LBFGS" not in script.name)
    assert ("--damping" in text) == ("LM" in script.name) and ("--memory" in text) == ("LBFGS" in script.name)
    assert ("--truncation" in text) == any(name in script.name for name in ("HIG", "GN", "SIP", "Power"))


def test_the_command_line_is_checked_before_tensorflow_loads(tmp_path):
    """In the one process that this needs."""
    code = (f"import sys, runpy\nsys.argv = ['submit_HIG.py', '--seed', '-1']\ntry:\n runpy.run_path("
            f"{str(ROOT / SCRIPTS[0])!r}, run_name='__main__')\nfinally:\n"
            " assert 'tensorflow' not in sys.modules")
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert process.returncode == 2 and "argument --seed: '-1' is not a whole number" in process.stderr
    assert len(process.stderr.splitlines()) == 1 and not list(tmp_path.iterdir())


@pytest.mark.parametrize("script, words", [
    *(("Nonlinear_Oscillators/submit_HIG.py", words) for words in (
        "--batch-size 0", "--batch-size 1.5", "--learning-rate 0", "--learning-rate nan",
        "--learning-rate inf", "--learning-rate much", "--truncation -1e-6", "--truncation nan",
        "--truncation 1", "--max-time 0", "--epochs -3", "--seed -1", "--seed 4294967296", "--speed 9",
        "--learn 0.1", "--save-weights w.bin", "--load-weights missing.weights.h5", "--output file/inside",
        "--hidden 20,,20", "--hidden 0", "--hidden ,")),
    *(("Nonlinear_Oscillators/submit_Power.py", f"--kappa {value}") for value in ("2", "nan", "half")),
    *(("Toy_Problem/submit_HIG.py", f"--lambda {value}") for value in ("0", "-1", "nan", "inf", "much")),
    ("Poisson/submit_HIG.py", "--resolution 1"), ("Regression/submit_HIG.py", "--task cubic"),
    ("Cart_Pole/submit_HIG.py", "--poles 5"),
    pytest.param("Toy_Problem/submit_HIG.py", "--output /sys", marks=pytest.mark.skipif(
        not os.path.ismount("/sys"), reason="/sys is a folder in which nobody can write a file"))])
def test_bad_input(tmp_path, monkeypatch, capsys, script, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("in the way of a folder")
    monkeypatch.setattr(sys, "argv", [script, "--output", ".", *words.split()])
    with pytest.raises(SystemExit, match="2"):
        runpy.run_path(str(ROOT / script), run_name="__main__")
    out, err = capsys.readouterr()
    flag, value = words.split()
    assert out == "" and len(err.splitlines()) == 1 and (flag in err or value in err)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_setting_that_does_not_exist_is_the_programmers_mistake():
    with pytest.raises(TypeError, match="dampening"):
        parse("Poisson", "LM", "", seed=1, max_time=1.0, dampening=1.0, arguments=[])


@pytest.mark.parametrize("state, code", [("finished", 0), ("terminated", 0), ("diverged", 3), ("failed", 4),
                                         ("interrupted", 130)])
def test_the_exit_code_tells_how_a_run_ended(tmp_path, monkeypatch, state, code):
    """And its warnings are sentences, which name no file of TensorFlow; those of others stay as they are."""
    def run(settings):
        assert warnings.formatwarning(*warning) == "SGD: warning: τ is small\n"
        return state
    warning = "τ is small", UserWarning, "keras.py", 70
    monkeypatch.setattr(cli, "load", lambda module: Namespace(run=run))
    assert submit("Nonlinear_Oscillators/submit_SGD.py", "--output", tmp_path) == code
    assert warnings.formatwarning(*warning) == "keras.py:70: UserWarning: τ is small\n"


# ---------------------------------------------------------------------------------------- the surroundings

def program(*words, cwd, **environment):
    """(exit code, standard output, standard error) of a command line in a process of its own."""
    process = subprocess.run([sys.executable, *map(str, words)], capture_output=True, cwd=cwd,
                             env={**os.environ, **environment})
    return process.returncode, process.stdout, process.stderr


def test_tensorflow_logs_at_its_start_if_the_user_wants_it(tmp_path):
    """Without that, the processes of test_training.py and test_house.py print nothing."""
    code = "from hig.runs.cli import load_keras\nload_keras()\nimport tensorflow as tf\ntf.zeros(1) + 1"
    assert program("-c", code, cwd=tmp_path, TF_CPP_MIN_LOG_LEVEL="0")[2] != b""


@pytest.mark.parametrize("environment", [{"PYTHONIOENCODING": "cp1252"},
                                         {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}])
@pytest.mark.parametrize("script, bad, words", [
    ("Nonlinear_Oscillators/submit_HIG.py", ["--learning-rate", "η"], b"argument --learning-rate: '"),
    ("plot.py", ["λ.pickle"], b"there is no such file")])
def test_outputs_that_know_few_letters(tmp_path, environment, script, bad, words):
    save_toy(tmp_path, "HIG", 0.01, falling(3))
    code, out, err = program(ROOT / script, "--help", cwd=tmp_path, **environment)
    assert (code, err) == (0, b"") and b"--output" in out
    code, out, err = program(ROOT / script, *bad, cwd=tmp_path, **environment)
    assert (code, out) == (2, b"") and len(err.splitlines()) == 1 and words in err
    code, table, err = program(ROOT / "plot.py", ".", cwd=tmp_path, **environment)
    assert (code, err) == (0, b"") and b" = 0.01 " in table


@pytest.mark.parametrize("floatx", ["float64", "float16"])
def test_another_default_dtype_of_keras_is_refused(monkeypatch, capsys, floatx):
    monkeypatch.setattr(keras.config, "floatx", lambda: floatx)
    with pytest.raises(SystemExit, match="2"):
        load("Poisson.experiment")
    assert f"float32, but Keras' default is {floatx}" in capsys.readouterr().err


CHAIN = "Linear_Chain/submit_Adam.py --output ."


@pytest.mark.parametrize("command, environment, missing, words", [
    (CHAIN, {"KERAS_HOME": "."}, "none", "Keras rejects its settings in ./keras.json"),
    (CHAIN, {"PYTHONOPTIMIZE": "2"}, "none", "leave out -OO and PYTHONOPTIMIZE=2"),
    (CHAIN, {"KERAS_BACKEND": "numpy"}, "none", "set KERAS_BACKEND=tensorflow"),
    (CHAIN, {"KERAS_BACKEND": "nonsense"}, "none", "set KERAS_BACKEND=tensorflow"),
    ("Poisson/submit_Adam.py --output .", {"TF_CPP_MIN_LOG_LEVEL": "3"}, "phi",
     "the package phi is not installed: pip install 'hig[poisson]'"),
    ("dashboard.py .", {}, "dash", "the page needs the package dash: pip install 'hig[live]'")])
def test_what_a_program_lacks_is_a_sentence(tmp_path, command, environment, missing, words):
    """Level 3 of TensorFlow's log is what `silent_start` leaves to the processes that a program starts."""
    (tmp_path / "keras.json").write_text('{"floatx": "bfloat16"}')
    code, out, err = program("-c", f"import runpy, sys; sys.modules[{missing!r}] = None; sys.argv = "
                             f"{command.split()}; runpy.run_path({str(ROOT)!r} + '/' + sys.argv[0], "
                             "run_name='__main__')", cwd=tmp_path, **environment)
    *before, sentence = err.splitlines()
    assert (code, out) == (2, b"") and words.encode() in sentence
    assert not before or environment.keys() & {"KERAS_HOME", "PYTHONOPTIMIZE"}      # Keras' own words first
    assert b"Traceback" not in err and [path.name for path in tmp_path.iterdir()] == ["keras.json"]


def test_the_user_s_matplotlibrc_changes_nothing(tmp_path):
    """usetex would need LaTeX, and sizes of a talk would break the layout."""
    save(tmp_path / "NLO_HIG_RESULTS.pickle", falling())
    (tmp_path / "matplotlibrc").write_text(
        "text.usetex: True\nfont.size: 30\nbackend: TkAgg\nsavefig.transparent: True\n")
    for name, settings in (("plain.svg", "/dev/null"), ("theirs.svg", str(tmp_path))):
        assert program(ROOT / "plot.py", ".", "--output", name, cwd=tmp_path,
                       MATPLOTLIBRC=settings)[::2] == (0, b"")
    assert (tmp_path / "plain.svg").read_text() == (tmp_path / "theirs.svg").read_text()
