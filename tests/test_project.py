"""The project's own promises: one list of dependencies, README snippets that run, imports that stay light."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from hig.figures.curves import SYSTEMS
from hig.runs.results import load_results

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("pip._vendor.tomli", reason="Python 3.10 has no tomllib of its own")

ROOT = Path(__file__).resolve().parents[1]


def pins(path):
    """name → version of every requirement line; each must be an exact pin."""
    lines = [line for line in (ROOT / path).read_text().splitlines() if line.strip()
             and not line.startswith("#")]
    found = [re.fullmatch(r"([A-Za-z0-9_.-]+)==([0-9][0-9a-z.]*)", line) for line in lines]
    assert all(found), f"not an exact pin in {path}: {lines}"
    return {match[1].lower(): match[2] for match in found}


PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_every_pin_is_within_its_range():
    """requirements.txt pins everything that pyproject.toml gives a range for, extras included."""
    ranges = [Requirement(line) for line in sum(PROJECT["optional-dependencies"].values(),
                                                PROJECT["dependencies"])]
    found = pins("requirements.txt")
    assert {requirement.name for requirement in ranges} == set(found)
    for requirement in ranges:
        assert requirement.specifier.contains(found[requirement.name]), requirement
        assert {clause.operator for clause in requirement.specifier} == {">=", "<"}, requirement


def locked():
    """{name: version} of requirements.lock for this Python and machine."""
    lines = map(Requirement, (line for line in (ROOT / "requirements.lock").read_text().splitlines()
                              if line[0] != "#"))
    found = [(canonicalize_name(line.name), line.specifier) for line in lines if not line.marker
             or line.marker.evaluate()]
    assert len(found) == len(dict(found))
    return {name: str(specifier).removeprefix("==") for name, specifier in found}


def test_the_lock_has_every_pin_and_all_that_these_packages_need():
    lock, pinned = locked(), {**pins("requirements.txt"), **pins("tests/requirements.txt")}
    assert pinned.items() <= lock.items()
    for name in lock:
        for needed in map(Requirement, metadata.requires(name) or ()):
            if not needed.marker or needed.marker.evaluate({"extra": ""}):
                assert needed.specifier.contains(lock[canonicalize_name(needed.name)],
                                                 prereleases=True), (name, needed)


def test_every_folder_with_code_is_installed(tmp_path):
    """As a wheel: all packages and the pages' style sheet, and no test."""
    for path in (ROOT / "hig", *(ROOT / folder for folder in SYSTEMS.values())):
        shutil.copytree(path, tmp_path / path.name,
                        ignore=shutil.ignore_patterns("*.pickle", "__pycache__", "studies"))
    shutil.copytree(ROOT / "tests", tmp_path / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    subprocess.run([sys.executable, "-m", "pip", "wheel", "--quiet", "--no-build-isolation", "--no-deps",
                    "--wheel-dir", tmp_path / "wheel", tmp_path], check=True)
    wheel, = (tmp_path / "wheel").glob("*.whl")
    installed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert installed == {str(path.relative_to(tmp_path)) for folder in ("hig", *SYSTEMS.values())
                         for path in (tmp_path / folder).rglob("*") if path.suffix in (".py", ".css", ".js")}


def test_importing_hig_and_reading_results_does_not_load_tensorflow():
    code = ("import sys, hig, hig.runs.results, hig.runs.cli; hig.powers.gram_coefficients, hig.__version__; "
            "assert 'tensorflow' not in sys.modules")
    subprocess.run([sys.executable, "-c", code], check=True)


def test_another_backend_of_keras_is_one_sentence():
    process = subprocess.run([sys.executable, "-c", "import hig; hig.HIG"], capture_output=True, text=True,
                             env={**os.environ, "KERAS_BACKEND": "numpy"})
    assert re.fullmatch("ImportError: hig needs Keras with its TensorFlow backend, found: .+; set "
                        "KERAS_BACKEND=tensorflow",
                        process.stderr.splitlines()[-1])


@pytest.mark.slow
def test_the_oscillators_train_and_are_drawn_without_the_extras(tmp_path):
    """Neither phiflow nor dash; TensorFlow under another distribution name."""
    for script, *arguments in [("Nonlinear_Oscillators/submit_Adam.py", "--epochs", "1", "--quiet",
                                "--output", tmp_path),
                               ("plot.py", tmp_path)]:
        code = f"""if True:
            import runpy, sys
            from importlib import metadata
            sys.modules |= dict.fromkeys(["phi", "phiml", "dash"])
            version = metadata.version
            def of_others(name):
                if name in ("tensorflow", "phiflow"):
                    raise metadata.PackageNotFoundError(name)
                return version(name)
            metadata.version = of_others
            sys.argv[1:] = {[str(argument) for argument in arguments]!r}
            runpy.run_path({str(ROOT / script)!r}, run_name="__main__")"""
        process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                                 env={**os.environ, "MPLBACKEND": "agg"})
        assert process.returncode == 0, process.stderr
    found = load_results(tmp_path / "NLO_Adam_RESULTS.pickle")["provenance"]
    assert found["tensorflow"] == metadata.version("tensorflow") and found["phiflow"] == "unknown"


def test_a_checkout_of_somebody_else_is_not_ours(tmp_path):
    """hig installed in a virtual environment within another repository: its commit says nothing about hig."""
    for command in (["init", "-q"], ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-q",
                                     "--allow-empty", "-m", "x"]):
        subprocess.run(["git", "-C", str(tmp_path), *command], check=True)
    (tmp_path / "provenance.py").write_bytes((ROOT / "hig" / "runs" / "provenance.py").read_bytes())
    code = "import provenance; print(provenance._commit())"
    process = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True,
                             check=True)
    assert process.stdout == "None\n"


SNIPPETS = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)


@pytest.mark.slow
def test_readme_snippets_run(tmp_path):
    """One after the other in one process, as they are read; without warnings but for the routes."""
    assert len(SNIPPETS) == 4
    process = subprocess.run([sys.executable, "-W", "error::SyntaxWarning", "-c", "\n".join(SNIPPETS)],
                             cwd=tmp_path, text=True,
                             capture_output=True, env={**os.environ, "MPLBACKEND": "agg"})
    assert process.returncode == 0, process.stderr
    error = float(process.stdout.splitlines()[-2].split()[-1])          # of the physics-informed network
    assert error < 0.1                                                  # of exp(−t)
    assert process.stderr.count("UserWarning: The Jacobian takes the route") == 3
