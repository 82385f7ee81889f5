"""How the code hangs together: imports run downwards only, and a new system is a folder and one line."""

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from hig.figures.curves import SYSTEMS
from hig.runs.results import load_results

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
    """[(module, what it imports)] where a lower floor leans on a higher one: systems → wings → method."""
    wrong = []
    for path in [*root.glob("*.py"), *root.glob("hig/**/*.py"),
                 *(p for s in SYSTEMS.values() for p in root.glob(f"{s}/**/*.py"))]:
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
        wrong += [(module, name) for name in imported(path) if name.startswith(tuple(f"{u}." for u in upper))
                  or name in upper]
    return wrong


def test_imports_run_downwards():
    assert arrows(ROOT) == []


@pytest.mark.parametrize("file, line", [
    ("hig/powers.py", "import hig.runs.results"), ("hig/runs/cli.py", "import Poisson.network"),
    ("hig/figures/style.py", "from plot import main"), ("hig/runs/cli.py", "from hig import live"),
    ("Toy_Problem/panels.py", "def late():\n    import dashboard")])
def test_an_import_upwards_is_found(tmp_path, file, line):
    (tmp_path / file).parent.mkdir(parents=True)
    (tmp_path / file).write_text(line)
    assert len(arrows(tmp_path)) == 1


def clone(root, *paths):
    """Copies the project to `root` (Path) as git has it, without results, and makes a virtual environment
    there that finds what is installed here, and `paths`.
    """
    left_out = shutil.ignore_patterns(".*", "results", "build", "studies", "*.egg-info", "__pycache__",
                                      "*.pickle", "*_PARAMETERS.txt", "*.npz", "*.png")
    shutil.copytree(ROOT, root, ignore=left_out)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", root / ".venv"], check=True)
    packages, = (root / ".venv" / "lib").glob("*/site-packages")
    (packages / "packages.pth").write_text("\n".join(map(str, [Path(np.__file__).parents[1], *paths])))


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A copy of the project, installed as README says: its folder, and a function that runs its Python."""
    root = tmp_path_factory.mktemp("checkout") / "hig"
    clone(root)                                                         # TensorFlow and the rest, but not hig
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def python(*words, says=""):
        """What is printed; on stderr there is what it `says`, or nothing."""
        done = subprocess.run([root / ".venv/bin/python", *words], cwd=root, capture_output=True, text=True,
                              env=environment)
        assert done.returncode == 0 and (says in done.stderr if says else not done.stderr), done.stderr
        return done.stdout
    python("-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-build-isolation",
           "--no-deps", "-e", ".")
    return root, python


def add_system(root, old, new, old_prefix, new_prefix):
    """What README tells to do: a copy of a folder with other names in it, and one line."""
    shutil.copytree(root / old, root / new, ignore=shutil.ignore_patterns("__pycache__", "interactive"))
    for path in (root / new).glob("*.py"):
        path.write_text(path.read_text().replace(old, new).replace(f'"{old_prefix}"', f'"{new_prefix}"'))
    table = root / "hig/figures/curves.py"
    table.write_text(table.read_text().replace("SYSTEMS = {", f'SYSTEMS = {{"{new_prefix}": "{new}",', 1))


def test_a_new_system_with_fixed_data_trains_is_drawn_and_studied_without_installing_again(checkout):
    """As README says it; and so does a new optimizer, another name in a copy of submit_Adam.py."""
    root, python = checkout
    add_system(root, "Nonlinear_Oscillators", "Pendulum", "NLO", "PEN")
    panels = root / "Pendulum/panels.py"
    panels.write_text(panels.read_text().replace('"Nonlinear oscillators"', '"Pendulum of mine"'))
    python("Pendulum/submit_HIG.py", "--epochs", "2", "--quiet")
    assert load_results(root / "Pendulum/PEN_HIG_RESULTS.pickle")["epochs"].tolist() == [0, 1, 2]
    figure, _, row = python("plot.py", "Pendulum").splitlines()[:3]
    assert figure == "Pendulum/plot.png" and (root / figure).is_file()
    assert row.startswith("Pendulum of mine ")
    script = (root / "Pendulum/submit_Adam.py").read_text()
    assert script.count('"Adam"') == 1
    (root / "Pendulum/submit_Nadam.py").write_text(script.replace('"Adam"', '"Nadam"'))
    study = root / "Pendulum/study_optimizers.py"
    study.write_text(re.sub("OPTIMIZERS = .*", 'OPTIMIZERS = ("Nadam",)', study.read_text()))
    python(study, "--seeds", "3", "--max-time", "1", says="seed_3: finished")
    run = "Pendulum/studies/optimizers/Nadam/seed_3/PEN_Nadam_RESULTS.pickle"
    assert load_results(root / run)["sim_par"]["seed"] == 3
    assert "Nadam" in python("plot.py", run, "--output", "nadam.png") and (root / "nadam.png").is_file()


def test_a_new_system_with_fresh_data_trains_and_is_drawn_without_installing_again(checkout):
    root, python = checkout
    add_system(root, "Poisson", "Heat", "POISSON", "HEAT")
    python("Heat/submit_Adam.py", "--epochs", "2", "--quiet")
    assert load_results(root / "Heat/HEAT_Adam_RESULTS.pickle")["epochs"].tolist() == [0, 1, 2]
    assert python("plot.py", "Heat").startswith("Heat/plot.png\n") and (root / "Heat/plot.png").is_file()

