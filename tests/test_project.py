"""The project's own promises: one list of dependencies, README snippets that run, imports that stay light."""

import os
import re
import subprocess
import sys
from fnmatch import fnmatch
from importlib import metadata
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("pip._vendor.tomli", reason="Python 3.10 has no tomllib of its own")

ROOT = Path(__file__).resolve().parents[1]


def pins(path):
    """name → version of every requirement line; each must be an exact pin."""
    lines = [line for line in (ROOT / path).read_text().splitlines() if line.strip() and not line.startswith("#")]
    found = [re.fullmatch(r"([A-Za-z0-9_.-]+)==([0-9][0-9a-z.]*)", line) for line in lines]
    assert all(found), f"not an exact pin in {path}: {lines}"
    return {match[1].lower(): match[2] for match in found}


def test_dependencies_have_one_source():
    """pyproject.toml and hig_env.yaml name no versions: both take requirements.txt."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert set(project["project"]["dynamic"]) == {"dependencies", "optional-dependencies"}
    assert project["tool"]["setuptools"]["dynamic"]["dependencies"] == {"file": "requirements.txt"}
    environment = [line.strip() for line in (ROOT / "hig_env.yaml").read_text().splitlines() if not line.startswith("#")]
    assert environment[0] == "name: hig_env"
    listed = [line for line in environment if line.startswith("- ")]
    assert listed == ["- conda-forge", "- python=3.11", "- pip", "- pip:", "- -r requirements.txt", "- -e ."]


def test_what_is_installed_is_what_is_pinned():
    for name, version in {**pins("requirements.txt"), **pins("tests/requirements.txt")}.items():
        assert metadata.version(name) == version


def test_the_installed_package_asks_for_the_pins():
    asked = {line.split(";")[0].strip() for line in metadata.requires("hig") if "extra" not in line}
    assert asked == {f"{name}=={version}" for name, version in pins("requirements.txt").items()}


def test_every_folder_with_code_is_installed():
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]["find"]["include"]
    for path in ROOT.glob("[!.]*/**/__init__.py"):
        package = ".".join(path.parent.relative_to(ROOT).parts)
        assert package == "tests" or any(fnmatch(package, pattern) for pattern in patterns), package


def test_importing_hig_and_reading_results_does_not_load_tensorflow():
    code = "import sys, hig, hig.runs.results, hig.runs.cli, hig.powers; assert 'tensorflow' not in sys.modules; hig.HIG"
    subprocess.run([sys.executable, "-c", code], check=True)


SNIPPETS = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)


def test_readme_has_snippets():
    assert SNIPPETS


@pytest.mark.parametrize("snippet", SNIPPETS)
def test_readme_snippet_runs(snippet, tmp_path):
    subprocess.run([sys.executable, "-W", "error::SyntaxWarning", "-c", snippet], check=True, cwd=tmp_path,
                   env={**os.environ, "MPLBACKEND": "agg"})


def test_readme_commands_exist():
    """Every script and make target that README tells to run is there."""
    readme = (ROOT / "README.md").read_text()
    for script in re.findall(r"python ((?:[A-Za-z_]+/)?[A-Za-z_]+\.py)", readme):
        assert (ROOT / script).is_file(), script
    targets = re.findall(r"^([.a-z/]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for target in re.findall(r"^make ([.a-z]+)", readme, re.MULTILINE):
        assert target in targets


def test_no_private_tensorflow_or_keras_modules():
    for path in ROOT.glob("**/*.py"):
        if ".venv" not in path.parts:
            assert not re.search(r"^\s*(from|import) (tensorflow\.python|keras\.src)", path.read_text(), re.MULTILINE), path
