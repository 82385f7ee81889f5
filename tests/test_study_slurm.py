"""A study on a real Slurm: four runs, of which one is pre-empted and goes on bit for bit, and one is
cancelled and does not.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from hig.runs import study
from tests import slurm, tiny
from tests.test_study import options

ROOT = Path(__file__).resolve().parents[1]
EPOCHS = 25
SCRIPT = f"""
import argparse, sys, time
sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path
from hig.runs.cli import EXIT_CODES
from tests import tiny
parser = argparse.ArgumentParser()
parser.add_argument("--seed", type=int)
parser.add_argument("--output", type=Path)
parser.add_argument("--resume", action="store_true")
options, _ = parser.parse_known_args()

def simulator(x, u):            # slow while the test has something in mind with the run
    time.sleep(0.5 * (options.output / "hold").exists())
    return x + u * [1.0, 0.1]

state = tiny.run(options.output, options.seed, {EPOCHS}, simulator=simulator, resume=options.resume)
sys.exit(EXIT_CODES[state])
"""
STUDY = """
import sys
from pathlib import Path
from hig.runs import study
from tests.test_study_slurm import make
options, runs = make(Path(sys.argv[1]))
sys.exit(len(study.carry_out(runs, options)))
"""


def make(folder):
    """Options and runs of the study."""
    chosen = options(folder, jobs=None, cluster="slurm", slurm={"partition": "test", "time": 5})
    return chosen, [study.make_run(chosen, folder, "HIG", {}, seed) for seed in (1, 2, 3, 4)]


def epochs(run):
    """Number of epochs in the pickle of a run."""
    return len(results["epochs"]) - 1 if (results := run.results()) else 0


@pytest.mark.skipif(slurm.missing() != "", reason=slurm.missing())
def test_four_runs_of_which_one_is_preempted_and_one_cancelled(tmp_path_factory):
    folder = tmp_path_factory.mktemp("s")  # short: sockets have names of 108 bytes at most
    (folder / "submit_HIG.py").write_text(SCRIPT)
    _, runs = make(folder)
    with slurm.running(folder) as configuration:
        environment = {**os.environ, "SLURM_CONF": str(configuration)}

        def go():
            return subprocess.Popen([sys.executable, "-c", STUDY, folder], cwd=ROOT, env=environment,
                                    stderr=subprocess.PIPE, text=True)

        def ask(*command):
            return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout

        for run in runs[:2]:
            run.folder.mkdir(parents=True)
            (run.folder / "hold").touch()
        process = go()
        preempted, cancelled = runs[:2]
        slurm.wait_for(lambda: 2 <= min(epochs(preempted), epochs(cancelled)))
        jobs = [(run.folder / "slurm_job.txt").read_text() for run in runs[:2]]
        ask("scancel", jobs[1])
        slurm.wait_for(lambda: "JobState=CANCELLED" in ask("scontrol", "show", "job", jobs[1]))
        number = re.match(r"JobId=(\d+)", ask("scontrol", "show", "job", jobs[0]))[1]
        ask("scancel", "--signal=TERM", number)      # its own number: scancel repeats signals to an array
        slurm.wait_for(lambda: "Restarts=1" in ask("scontrol", "show", "job", number))
        for run in (preempted, cancelled):
            (run.folder / "hold").unlink()
        output = process.communicate(timeout=240)[1]
        assert process.returncode == 1, output  # one run failed: that which was cancelled
        assert [run.state() for run in runs] == ["finished", "interrupted", "finished", "finished"]
        process = go()                                                   # the same command goes on
        assert process.communicate(timeout=240) and process.returncode == 0
    for seed, run in enumerate(runs, 1):
        whole = folder / f"whole_{seed}"                                 # without a break, in this process
        whole.mkdir()
        tiny.run(whole, seed, EPOCHS)
        assert run.state() == "finished" and epochs(run) == EPOCHS
        np.testing.assert_array_equal(run.results()["train_loss"],
                                      tiny.losses(whole / "TINY_HIG_RESULTS.pickle"))
