"""plot.py and dashboard.py in surroundings that are not ours: outputs with few letters, no dash."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_plot import falling, save, save_toy

ROOT = Path(__file__).resolve().parents[1]
PLOT = f"{shlex.quote(sys.executable)} {shlex.quote(str(ROOT / 'plot.py'))}"


def shell(command, cwd, **environment):
    """A command as a user types it: its exit status, output and errors."""
    done = subprocess.run(["bash", "-c", f"set -o pipefail; {command}"], cwd=cwd, capture_output=True,
                          env={**os.environ, **environment})
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("settings", [{"PYTHONIOENCODING": "cp1252"},
                                      {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}])
def test_outputs_that_know_few_letters(tmp_path, settings):
    save_toy(tmp_path, "HIG", 0.01, falling(3))
    code, table, errors = shell(f"{PLOT} .", tmp_path, **settings)
    assert (code, errors) == (0, b"") and b" = 0.01 " in table
    assert shell(f"{PLOT} --help", tmp_path, **settings)[::2] == (0, b"")
    code, _, errors = shell(f"{PLOT} λ.pickle", tmp_path, **settings)
    assert code == 2 and errors.count(b"\n") == 1 and b"there is no such file" in errors


def test_the_user_s_matplotlibrc_changes_nothing(tmp_path):
    """usetex would need LaTeX, and sizes of a talk would break the layout."""
    save(tmp_path / "NLO_HIG_RESULTS.pickle", falling())
    (tmp_path / "matplotlibrc").write_text(
        "text.usetex: True\nfont.size: 30\nbackend: TkAgg\nsavefig.transparent: True\n")
    assert shell(f"{PLOT} . --output plain.svg", tmp_path, MATPLOTLIBRC="/dev/null")[0] == 0
    code, _, errors = shell(f"{PLOT} . --output theirs.svg", tmp_path, MATPLOTLIBRC=str(tmp_path))
    assert code == 0 and not errors and (tmp_path / "plain.svg").read_text() == (tmp_path /
                                                                                 "theirs.svg").read_text()


def test_without_dash_there_is_a_sentence(tmp_path):
    (tmp_path / "dash.py").write_text("raise ModuleNotFoundError('No module named dash', name='dash')")
    program = f"{shlex.quote(sys.executable)} {shlex.quote(str(ROOT / 'dashboard.py'))}"
    code, output, errors = shell(f"{program} --help", tmp_path, PYTHONPATH=str(tmp_path))
    assert code == 0 and output
    code, output, errors = shell(f"{program} .", tmp_path, PYTHONPATH=str(tmp_path))
    assert (code, output) == (2, b"") and errors.count(b"\n") == 1 and b"hig[live]" in errors
