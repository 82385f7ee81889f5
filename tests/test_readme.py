"""README's commands run as they are printed, one after the other in a copy of the project, with small
budgets.
"""

import os
import re
import select
import signal
import subprocess
import time

import pytest

from tests.browser import PATIENCE, ROOT
from tests.test_house import clone

README = (ROOT / "README.md").read_text()
PROSE = re.sub(r"```python\n.*?```", "", README, flags=re.DOTALL)
COMMANDS = re.findall(r"^    ((?:make|python3?|source|pip|git|cd) .*)$", PROSE, re.MULTILINE)
BUDGETS = ((r"^make reproduce$", "make reproduce SECONDS_EACH=1"), (r"--max-time \d+", "--max-time 1"),
           (r"--epochs \d+", "--epochs 1"),
           (r"^(python dashboard.py.*)$", r"\1 --port 0"))      # that of another program may be taken
NOT_RUN = {
    "git clone": "needs the network", "cd ": "the copy is where we are", "pip install": "needs the network",
    "python3 -m venv": "the copy has one, on the packages of this environment",
    "make test": "is what runs this",
}


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """The project as a clone has it, with the virtual environment that `make` sets up."""
    copy = tmp_path_factory.mktemp("clone") / "hig"
    clone(copy, copy)
    (copy / ".venv" / "installed").touch()  # newer than the requirements: make has nothing to do
    return copy


def shell(command, folder, activated):
    """A process of bash in a folder, for a command as it is typed there."""
    command = f"source .venv/bin/activate; exec {command}" if activated else f"exec {command}"
    environment = {key: value for key, value in os.environ.items()
                   if key not in ("VIRTUAL_ENV", "PYTHONPATH", "MAKEFLAGS")}
    return subprocess.Popen(["bash", "-c", command], cwd=folder, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True,
                            env={**environment, "MPLBACKEND": "agg"}, start_new_session=True)


def serves(process):
    """Waits for the address, then Ctrl-C; seconds until the program has ended."""
    assert select.select([process.stdout], [], [],
                         PATIENCE)[0] and "http://127.0.0.1" in process.stdout.readline()
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all its processes
    start = time.monotonic()
    process.wait(PATIENCE)
    return time.monotonic() - start


@pytest.mark.slow
def test_the_commands_run_as_printed(copy):
    """Nothing else is typed. A server is a command that prints an address and runs until Ctrl-C, which it
    answers soon: 2 s on an idle machine; 10 are left to a busy one.
    """
    activated, ran = False, []
    for command in COMMANDS:
        if any(command.startswith(start) for start in NOT_RUN):
            continue
        if command.startswith("source "):
            assert (copy / command.split()[1]).is_file()
            activated = True
            continue
        assert activated or command.startswith("make"), f"{command} comes before the environment is activated"
        short = command
        for pattern, small in BUDGETS:
            short = re.sub(pattern, small, short)
        process = shell(short, copy, activated)
        if command.startswith("python dashboard.py"):
            assert serves(process) < 10
        output, errors = process.communicate(timeout=5 * PATIENCE)
        assert process.returncode == 0, f"{short}: {errors}"
        assert "Traceback" not in errors
        assert errors == "" or "hig.doctor" not in command, errors          # not a word of TensorFlow's
        ran.append(command)
    assert len(ran) >= 10
    for written in ("Nonlinear_Oscillators/plot.png", "curves.pdf", "hig.weights.h5", "hig_trajectories.png"):
        assert (copy / written).exists(), written


def test_every_skipped_command_is_one_of_README():
    for start in set(NOT_RUN) - {"git clone", "cd "}:  # there is no address to clone from yet
        assert any(command.startswith(start) for command in COMMANDS), start


def test_make_says_what_there_is(copy):
    """And `make test` would run the tests."""
    make = subprocess.run(["make"], cwd=copy, capture_output=True, text=True, check=True).stdout
    assert all(f"make {target}" in make for target in ("reproduce", "test", ".venv"))
    plan = subprocess.run(["make", "-n", "test"], cwd=copy, capture_output=True, text=True, check=True).stdout
    assert "-m pytest" in plan and "pip" not in plan
