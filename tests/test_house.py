"""How the code hangs together: imports run downwards only, and a new system is one line and a folder."""

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from hig.figures.curves import SYSTEMS
from hig.runs.results import save_results

ROOT = Path(__file__).resolve().parents[1]
WINGS = ("hig.runs", "hig.figures", "hig.live")
PROGRAMS = ("plot", "dashboard")


def imported(path):
    """Names of the modules that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{name.name}" for name in node.names)


def arrows(root):
    """[(module, what it imports)] where a lower floor would lean on a higher one: systems → wings → method."""
    wrong = []
    for path in [*root.glob("*.py"), *root.glob("hig/**/*.py"), *(p for s in SYSTEMS.values() for p in root.glob(f"{s}/**/*.py"))]:
        module = ".".join(path.relative_to(root).with_suffix("").parts)
        upper = PROGRAMS if module not in PROGRAMS else ()
        if module.startswith("hig."):
            upper += (*SYSTEMS.values(), "tests", "benchmarks")
        if module.startswith("hig.") and not module.startswith((*WINGS, "hig.doctor")):
            upper += WINGS
        if module.startswith("hig.runs."):
            upper += ("hig.live", "hig.figures")
        if module.startswith("hig.figures."):
            upper += ("hig.live",)
        wrong += [(module, name) for name in imported(path) if name.startswith(tuple(f"{u}." for u in upper)) or name in upper]
    return wrong


def test_imports_run_downwards():
    assert arrows(ROOT) == []


@pytest.mark.parametrize("file, line", [("hig/powers.py", "import hig.runs.results"), ("hig/runs/cli.py", "import Poisson.network"),
                                        ("hig/figures/style.py", "from plot import main"), ("hig/runs/cli.py", "from hig import live"),
                                        ("Toy_Problem/panels.py", "def late():\n    import dashboard")])
def test_an_import_upwards_is_found(tmp_path, file, line):
    (tmp_path / file).parent.mkdir(parents=True)
    (tmp_path / file).write_text(line)
    assert len(arrows(tmp_path)) == 1


def test_a_new_system_is_one_line_and_a_folder(tmp_path):
    """In a copy of the figures' code, a pendulum gets its title, its axis, its words and its panel."""
    shutil.copytree(ROOT / "hig", tmp_path / "hig", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "plot.py", tmp_path)
    table = tmp_path / "hig/figures/curves.py"
    table.write_text(table.read_text().replace("SYSTEMS = {", 'SYSTEMS = {"PEN": "Pendulum",', 1))
    (tmp_path / "Pendulum").mkdir()
    (tmp_path / "Pendulum/panels.py").write_text(
        "from hig.figures.curves import Panel, System\n"
        "def draw(ax, groups, colors, options):\n    print('drawn:', *groups, *colors.values())\n"
        "SYSTEM = System('Pendulum', thresholds=(0.5,), panels=(Panel(draw, arrays=('angle',)),))\n")
    losses = np.exp(-np.arange(5.0))
    save_results(tmp_path / "Pendulum/PEN_HIG_RESULTS.pickle", {
        "epochs": np.arange(5), "train_loss": losses, "test_loss": losses, "simulation_time": np.arange(5.0),
        "epoch_time": np.ones(4), "sim_par": {"seed": 1}, "angle": losses})
    done = subprocess.run([sys.executable, "plot.py"], cwd=tmp_path, capture_output=True, text=True)
    drawn, figure, head, row = done.stdout.splitlines()[:4]
    assert drawn == "drawn: HIG darkorchid" and figure.endswith("Pendulum/plot.png") and "to 0.5 [s]" in head
    assert row.split()[:4] == ["Pendulum", "HIG", "1", "4"] and not done.stderr


def test_a_new_optimizer_is_a_copy_of_a_script(tmp_path):
    """As README says it: another name and rate in a copy of submit_Adam.py, which trains, and its curve is drawn."""
    for folder in ("hig", "Nonlinear_Oscillators"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__", "*.pickle", "*.png"))
    for file in ("plot.py", "pyproject.toml"):
        shutil.copy(ROOT / file, tmp_path)
    script = (tmp_path / "Nonlinear_Oscillators/submit_Adam.py").read_text()
    assert script.count('"Adam"') == 1
    (tmp_path / "Nonlinear_Oscillators/submit_Nadam.py").write_text(script.replace('"Adam"', '"Nadam"'))
    for command in (["Nonlinear_Oscillators/submit_Nadam.py", "--epochs", "1", "--quiet"], ["plot.py", "Nonlinear_Oscillators"]):
        done = subprocess.run([sys.executable, *command], cwd=tmp_path, capture_output=True, text=True,
                              env={**os.environ, "PYTHONPATH": str(tmp_path)})
        assert done.returncode == 0 and not done.stderr, done.stderr
    assert "Nadam" in done.stdout and (tmp_path / "Nonlinear_Oscillators/plot.png").is_file()
    assert (tmp_path / "Nonlinear_Oscillators/NLO_Nadam_RESULTS.pickle").is_file()


def test_no_file_is_longer_than_a_reader_reads():
    """One subject each: 400 lines at most; the command lines, of which everything else is kept out, 150."""
    for path in (path for path in ROOT.glob("**/*.py") if not {".venv", "build"} & set(path.parts)):
        lines = len(path.read_text().splitlines())
        assert lines <= (150 if path.parent == ROOT else 400), f"{path}: {lines}"
