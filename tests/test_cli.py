"""The command line of the submit scripts: bad input is one sentence, exit code 2, and nothing written."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = sorted(path.relative_to(ROOT) for path in ROOT.glob("*/submit_*.py"))


def run(script, *flags, cwd):
    return subprocess.run([sys.executable, str(ROOT / script), *map(str, flags)], capture_output=True, text=True, cwd=cwd)


@pytest.mark.parametrize("script", SCRIPTS, ids=str)
def test_help_names_flags_and_published_settings_without_loading_tensorflow(script, tmp_path):
    watched = "import sys, runpy\nsys.argv = sys.argv[1:]\ntry:\n runpy.run_path(sys.argv[0], run_name='__main__')\n" \
              "finally:\n assert 'tensorflow' not in sys.modules"
    process = subprocess.run([sys.executable, "-c", watched, str(ROOT / script), "--help"], capture_output=True, text=True,
                             cwd=tmp_path, env={**os.environ, "COLUMNS": "200"})
    assert process.returncode == 0, process.stderr
    for flag in ("--max-time", "--epochs", "--seed", "--output", "--quiet", "--resume"):
        assert flag in process.stdout
    for flag in ("--batch-size", "--learning-rate"):
        assert (flag in process.stdout) == ("LBFGS" not in script.name)
    assert ("--damping" in process.stdout) == ("LM" in script.name) and ("--memory" in process.stdout) == ("LBFGS" in script.name)
    assert ("--truncation" in process.stdout) == any(name in script.name for name in ("HIG", "GN", "SIP", "Power"))


@pytest.mark.parametrize("flags, words", [
    (["--batch-size", "100"], "divide the 4096 training samples"), (["--batch-size", "0"], "--batch-size"),
    (["--batch-size", "1.5"], "--batch-size"), (["--learning-rate", "0"], "--learning-rate"),
    (["--learning-rate", "nan"], "--learning-rate"), (["--learning-rate", "inf"], "--learning-rate"),
    (["--learning-rate", "much"], "--learning-rate"), (["--truncation", "-1e-6"], "--truncation"),
    (["--truncation", "1"], "--truncation"), (["--max-time", "0"], "--max-time"), (["--epochs", "-3"], "--epochs"),
    (["--seed", "-1"], "--seed"), (["--seed", "4294967296"], "--seed"), (["--speed", "9"], "--speed"),
    (["--learn", "0.1"], "--learn"), (["--save-weights", "w.bin"], ".weights.h5"),
    (["--load-weights", "missing.weights.h5"], "missing.weights.h5"), (["--output", "file/inside"], "file/inside"),
])
def test_bad_input(tmp_path, flags, words):
    (tmp_path / "file").write_text("in the way of a folder")
    if "--output" not in flags:
        flags = [*flags, "--output", tmp_path]
    process = run("Nonlinear_Oscillators/submit_HIG.py", *flags, cwd=tmp_path)
    assert process.returncode == 2
    assert process.stdout == "" and len(process.stderr.splitlines()) == 1 and words in process.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("level, silent", [("3", True), ("0", False)])
def test_tensorflow_logs_at_its_start_only_if_the_user_wants_it(level, silent):
    """Level 3 is what `silent_start` itself leaves to the processes that a program starts."""
    code = "from hig.runs.cli import silent_start\nwith silent_start():\n    import tensorflow as tf\ntf.zeros(1) + 1"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                             env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": level})
    assert process.returncode == 0 and (process.stderr == "") is silent
