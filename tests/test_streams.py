"""Programs whose standard output or error is closed, read by nobody, full, or in an encoding without η, τ and the bar."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = f"{sys.executable} {ROOT}/Nonlinear_Oscillators/submit_HIG.py"
TALK = f'{sys.executable} -c "from hig.runs.cli import standard_streams; standard_streams(); import sys; {{}}"'


def shell(command, cwd, **environment):
    """(exit code, standard output, standard error) of a shell command."""
    process = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, cwd=cwd,
                             env={**os.environ, **environment})
    return process.returncode, process.stdout, process.stderr


@pytest.mark.parametrize("environment", [{"PYTHONIOENCODING": "ascii"}, {"PYTHONIOENCODING": "cp1252"},
                                         {"PYTHONIOENCODING": "ascii:strict"}, {"LC_ALL": "C"},
                                         {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}], ids=str)
def test_help_and_messages_in_any_encoding(tmp_path, environment):
    code, out, err = shell(f"{SCRIPT} --help", tmp_path, **environment)
    assert (code, err) == (0, b"") and b"--learning-rate" in out
    code, out, err = shell(f"{SCRIPT} --learning-rate η", tmp_path, **environment)
    assert (code, out) == (2, b"") and len(err.splitlines()) == 1 and b"--learning-rate" in err


def test_help_whose_reader_goes_away(tmp_path):
    code, out, err = shell(f"{SCRIPT} --help | head -1", tmp_path)
    assert (code, err) == (0, b"") and out.startswith(b"usage")


@pytest.mark.parametrize("redirection, out", [("2>&-", b"said\n"), (">&-", b""), (">&- 2>&-", b""), ("<&- >&- 2>&-", b"")])
def test_closed_streams_lead_nowhere(tmp_path, redirection, out):
    """Not into the files that the program writes, which get the free numbers otherwise."""
    code = "file = open('file', 'w'); print('said'); print('said', file=sys.stderr); sys.stderr.flush(); file.write('kept')"
    assert shell(TALK.format(code) + f" {redirection}", tmp_path) == (0, out, b"said\n" if "2>&-" not in redirection else b"")
    assert (tmp_path / "file").read_text() == "kept"


def test_a_sentence_to_closed_streams_is_an_exit_code(tmp_path):
    assert shell(f"{SCRIPT} --seed -1 2>&-", tmp_path) == (2, b"", b"")


def test_who_no_longer_reads_does_not_stop_the_program(tmp_path):
    """A hundred thousand lines to `head`, on either stream; the program comes to its end."""
    code = "[print('line', file={}) for _ in range(10**5)]; open('end', 'w')"
    for stream, redirection in (("sys.stdout", ""), ("sys.stderr", "2>&1")):
        assert shell(TALK.format(code.format(stream)) + f" {redirection} | head -2", tmp_path) == (0, b"line\nline\n", b"")
        (tmp_path / "end").unlink()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_full_disk(tmp_path):
    """What the program was asked for cannot be written: a sentence. What it says beside that: it goes on."""
    code, _, err = shell(TALK.format("print('table')") + " > /dev/full", tmp_path)
    assert code == 2 and err == b"-c: error: cannot write to the standard output: No space left on device\n"
    assert shell(TALK.format("print('log', file=sys.stderr); print('end')") + " 2> /dev/full", tmp_path) == (0, b"end\n", b"")


def test_training_with_a_closed_stderr_or_one_that_nobody_reads(tmp_path):
    """The whole program; nothing but the results comes into their folder, and the exit code is that of the training."""
    for redirection, folder in (("2>&-", "closed"), ("2>&1 | head -1", "head")):
        command = f"{SCRIPT.replace('HIG', 'Adam')} --epochs 2 --output {folder} {redirection}"
        code, out, err = shell(command, tmp_path, PYTHONIOENCODING="ascii")
        assert (code, err) == (0, b"") and out == (b"Adam: compiling\n" if folder == "head" else b"")
        assert sorted(path.name for path in (tmp_path / folder).iterdir()) == [
            "NLO_Adam_CHECKPOINT.npz", "NLO_Adam_PARAMETERS.txt", "NLO_Adam_RESULTS.pickle"]


REJECTED = "Keras rejects its settings in {}/keras.json"


@pytest.mark.parametrize("floatx, words", [("float64", "float32, but Keras' default is float64"),
                                           ("float16", "float32, but Keras' default is float16"), ("bfloat16", REJECTED)])
def test_another_default_dtype_of_keras_is_refused(tmp_path, floatx, words):
    (tmp_path / "keras.json").write_text(f'{{"floatx": "{floatx}", "backend": "tensorflow"}}')
    code, out, err = shell(f"{SCRIPT} --epochs 1 --output results", tmp_path, KERAS_HOME=str(tmp_path))
    assert (code, out) == (2, b"") and len(err.splitlines()) == 1
    assert words.format(tmp_path).encode() in err and not list((tmp_path / "results").iterdir())


def test_the_older_keras_beside_tensorflow_changes_nothing(tmp_path):
    """TF_USE_LEGACY_KERAS moves the name tf.keras, which nothing here uses."""
    assert shell(f"{SCRIPT.replace('HIG', 'SGD')} --epochs 1 --quiet --output .", tmp_path, TF_USE_LEGACY_KERAS="1") == (0, b"", b"")


DOCTOR = f"{sys.executable} -m hig.doctor"


@pytest.mark.parametrize("flags, environment, expected, words", [
    ("", {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "KERAS_HOME": "."}, 0, b"J^? g by eigh"),
    ("--help", {"PYTHONIOENCODING": "ascii"}, 0, b"python -m hig.doctor"), ("--fast", {}, 2, b"--fast"),
    ("", {"KERAS_BACKEND": "jax"}, 2, b"set KERAS_BACKEND=tensorflow")])
def test_the_doctor_anywhere(tmp_path, flags, environment, expected, words):
    (tmp_path / "keras.json").write_text('{"floatx": "float64", "backend": "tensorflow"}')
    code, out, err = shell(f"{DOCTOR} {flags}", tmp_path, **environment)
    assert code == expected and len(err.splitlines()) == (expected == 2) and words in (err if expected else out)
    assert ("KERAS_HOME" not in environment) or b"float64" in out and b"set it to float32" in out


def test_the_doctor_with_settings_that_keras_rejects(tmp_path):
    (tmp_path / "keras.json").write_text('{"floatx": "bfloat16"}')
    code, out, err = shell(DOCTOR, tmp_path, KERAS_HOME=str(tmp_path))
    assert (code, out) == (2, b"") and len(err.splitlines()) == 1 and REJECTED.format(tmp_path).encode() in err
