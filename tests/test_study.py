"""Studies: what is left runs, what was stopped goes on, what failed is told. The submit script is one without TensorFlow."""

import os
import signal
import subprocess
import sys
import time
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import submitit  # noqa: F401  its set-up of logging closes what a running test is captured with: import it before

from hig.runs import study
from hig.runs.results import load_results, save_results

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = sorted(ROOT.glob("*/study_*.py"))

SCRIPT = '''
import argparse, os, signal, sys, time
from pathlib import Path
import numpy as np
from hig.runs.locks import locked
from hig.runs.results import save_results
parser = argparse.ArgumentParser()
for flag in ("--outcome", "--seed", "--max-time", "--output"):
    parser.add_argument(flag)
parser.add_argument("--resume", action="store_true")
parser.add_argument("--quiet", action="store_true")
options = parser.parse_args()
stopped = []
signal.signal(signal.SIGTERM, lambda *_: stopped.append(1))
folder = Path(options.output)
with open(folder / "starts", "a") as file:
    print("resumed" if options.resume else "new", os.environ.get("OMP_NUM_THREADS"), file=file)
with locked(folder / "NLO_Fake"):
    (folder / "NLO_Fake_CHECKPOINT.npz").touch()
    (folder / "begun").touch()
    for _ in range(120 if options.outcome == "slow" and not options.resume else 0):
        time.sleep(0.1 * (not stopped))
    loss = np.array([1.0, np.inf if options.outcome == "diverged" else 0.1 * int(options.seed)])
    state = "interrupted" if stopped or options.outcome == "broken" else "diverged" if options.outcome == "diverged" else "finished"
    save_results(folder / "NLO_Fake_RESULTS.pickle", {
        "epochs": np.arange(2), "train_loss": loss, "test_loss": loss, "simulation_time": np.arange(2.0), "epoch_time": np.ones(1),
        "sim_par": {"seed": int(options.seed), "max_time": float(options.max_time)}, "provenance": {"state": state}})
if options.outcome == "broken":
    print("Fake stopped: no memory", file=sys.stderr)
    sys.exit(4)
sys.exit({"diverged": 3}.get(options.outcome, 0))
'''


@pytest.fixture
def system(tmp_path):
    """A folder with submit_Fake.py, whose --outcome says what becomes of it."""
    folder = tmp_path / "System"
    folder.mkdir()
    (folder / "submit_Fake.py").write_text(SCRIPT)
    return folder


def options(tmp_path, **changed):
    return Namespace(**{"output": tmp_path / "studies", "jobs": 2, "max_time": 5.0, "cluster": "local", **changed})


def make(system, chosen, outcomes, seeds=(1,)):
    return [study.make_run(chosen, system, "Fake", {"outcome": outcome}, seed) for outcome in outcomes for seed in seeds]


def starts(run):
    return (run.folder / "starts").read_text().splitlines()


def wait_for(condition):
    """Until it holds; a minute is far beyond what a busy machine takes."""
    for _ in range(600):
        if condition():
            return
        time.sleep(0.1)
    raise TimeoutError


def test_what_is_left_runs_and_what_failed_is_told(system, tmp_path, capfd):
    chosen = options(tmp_path)
    runs = make(system, chosen, ["finished", "diverged", "broken"])
    failures = study.carry_out(runs, chosen)
    assert list(failures.values()) == ["exit code 4: Fake stopped: no memory"] and list(failures) == [runs[2]]
    assert [run.state() for run in runs] == ["finished", "diverged", "interrupted"]
    study.carry_out(runs, chosen)
    assert [starts(run) for run in runs] == [["new 1"], ["new 1"], ["new 1", "resumed 1"]]
    study.print_table(runs, failures)
    assert [line.split()[:4] for line in capfd.readouterr().out.splitlines()[1:]] == [
        ["Fake_outcome=finished", "1", "0", "0"], ["Fake_outcome=diverged", "1", "1", "0"],
        ["Fake_outcome=broken", "1", "0", "1"]]


def test_a_larger_budget_continues_finished_runs_and_one_job_has_all_threads(system, tmp_path):
    short, long = options(tmp_path, jobs=1), options(tmp_path, jobs=1, max_time=9.0)
    run, = make(system, short, ["finished"])
    assert study.carry_out([run], short) == {}
    longer, = make(system, long, ["finished"])
    assert run.state() == "finished" and longer.state() == "interrupted"
    assert study.carry_out([longer], long) == {} and longer.state() == "finished"
    own = os.environ.get("OMP_NUM_THREADS")
    assert starts(run) == [f"new {own}", f"resumed {own}"]


def program(system, tmp_path):
    """A study of two slow runs as a process."""
    code = f"""if True:
        from pathlib import Path
        from hig.runs import study
        from tests.test_study import options, make
        chosen = options(Path({str(tmp_path)!r}))
        raise SystemExit(len(study.carry_out(make(Path({str(system)!r}), chosen, ["slow"], (1, 2)), chosen)))"""
    return subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_study_that_is_killed_goes_on_where_it_was(system, tmp_path, number):
    """After a kill its runs go on by themselves, and the next call waits for them; SIGTERM stops them in order."""
    chosen = options(tmp_path)
    runs = make(system, chosen, ["slow"], (1, 2))
    process = program(system, tmp_path)
    wait_for(lambda: all((run.folder / "begun").exists() for run in runs))
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == (-9 if number == signal.SIGKILL else 130)
    assert study.carry_out(runs, chosen) == {}
    again = [] if number == signal.SIGKILL else ["resumed 1"]
    assert [starts(run) for run in runs] == [["new 1", *again]] * 2
    assert [run.state() for run in runs] == ["finished"] * 2


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2])
def test_a_preempted_job_is_requeued_and_goes_on(system, tmp_path, number):
    chosen = options(tmp_path)
    run, = make(system, chosen, ["slow"])
    job = study.make_executor(chosen).submit(study.Job(run))
    wait_for((run.folder / "begun").exists)
    child = next(p for p in map(int, filter(str.isdigit, os.listdir("/proc")))
                 if f"{chosen.output}/.jobs" in (text := command_line(p)) and "submitit.core._submit" in text)
    os.kill(child, number)
    assert job.result() == (0, "") and starts(run) == ["new 1", "resumed 1"] and run.state() == "finished"


def command_line(process):
    try:
        return Path(f"/proc/{process}/cmdline").read_text().replace("\0", " ")
    except OSError:
        return ""


def test_a_damaged_pickle_is_a_new_run_and_a_killed_one_is_continued(system, tmp_path):
    run, = make(system, options(tmp_path), ["finished"])
    run.folder.mkdir(parents=True)
    pickle = run.folder / "NLO_Fake_RESULTS.pickle"
    pickle.write_bytes(b"no pickle")
    assert run.state() == "new" and "--resume" not in run.command()
    losses = np.ones(2)
    save_results(pickle, {"epochs": np.arange(2), "train_loss": losses, "test_loss": losses, "simulation_time": np.arange(2.0),
                          "epoch_time": np.ones(1), "sim_par": {"seed": 1}, "provenance": {"state": "running"}})
    assert run.state() == "interrupted" and "--resume" not in run.command()           # nothing to resume from
    (run.folder / "NLO_Fake_CHECKPOINT.npz").touch()
    assert run.command()[-1] == "--resume" and load_results(pickle)["sim_par"] == {"seed": 1}


def test_seeds():
    assert study.seed_range("1-3") == [1, 2, 3] and study.seed_range("4,1-2,2") == [4, 1, 2]


@pytest.mark.parametrize("flags, words", [
    (["--seeds", "3-1"], "names no seeds"), (["--seeds", "a"], "names no seeds"), (["--jobs", "0"], "--jobs"),
    (["--partition", "gpu"], "--partition is for --cluster slurm"), (["--cluster", "moon"], "--cluster")])
def test_bad_input(tmp_path, flags, words):
    process = subprocess.run([sys.executable, SCRIPTS[0], *flags, "--output", tmp_path / "x"], capture_output=True, text=True)
    assert process.returncode == 2 and len(process.stderr.splitlines()) == 1 and words in process.stderr
    assert not list(tmp_path.iterdir())


def test_flags_of_slurm_reach_the_job_file(tmp_path):
    """With an sbatch that keeps what it gets; the jobs end at once, so that the study says which failed. Slurm wants a number of
    tasks beside --gpus-per-task (man sbatch)."""
    for name, text in (("sbatch", f'cat "$1" >{tmp_path}/job; echo Submitted batch job 17'), ("squeue", "exit 0"), ("srun", "exit 1")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    flags = "--cluster slurm --partition gpu --account me --time 7 --gpus-per-task 2 --mem 1.5 --seeds 1 --output"
    study_size = ROOT / "Nonlinear_Oscillators" / "study_network_size.py"
    process = subprocess.run([sys.executable, study_size, *flags.split(), tmp_path / "s"], capture_output=True, text=True,
                             env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"})
    assert process.returncode == 1 and process.stderr.count("failed: ") == 10, process.stderr
    asked = {line.removeprefix("#SBATCH --") for line in (tmp_path / "job").read_text().splitlines() if line.startswith("#SBATCH")}
    assert {"partition=gpu", "account=me", "time=7", "gpus-per-task=2", "ntasks-per-node=1", "mem=1536M", "requeue"} <= asked


def test_half_a_slurm_is_none(tmp_path):
    """submitit calls srun and we squeue: without them a sentence, not their traceback."""
    (tmp_path / "sbatch").write_text("#!/bin/sh\n")
    (tmp_path / "sbatch").chmod(0o755)
    process = subprocess.run([sys.executable, SCRIPTS[0], "--cluster", "slurm", "--output", tmp_path / "x"], capture_output=True,
                             text=True, env={**os.environ, "PATH": str(tmp_path)})
    assert process.returncode == 2 and process.stderr.endswith("the command srun is missing\n"), process.stderr
    assert len(process.stderr.splitlines()) == 1 and not (tmp_path / "x").exists()


def test_without_submitit_it_says_which_extra_to_install(system, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(SystemExit, match="2"):
        study.make_executor(options(tmp_path))
    assert "pip install 'hig[cluster]'" in capsys.readouterr().err


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_studies_name_their_claim_and_their_flags_are_those_of_the_submit_scripts(script, tmp_path):
    assert script.read_text().startswith(('"""Claim: ', '"""Question: ')) and len(script.read_text().splitlines()) < 40
    listed = subprocess.run([sys.executable, script, "--list", "--seeds", "7", "--output", tmp_path / "s"], capture_output=True, text=True)
    assert listed.returncode == 0 and not listed.stderr and not list(tmp_path.iterdir())
    *lines, total = listed.stdout.splitlines()
    assert total.startswith(f"{len(lines)} of {len(lines)} runs are left")
    folders = [line.split()[1] for line in lines]
    assert len(set(folders)) == len(folders)
    submits = sorted(script.parent.glob("submit_*.py"), key=lambda path: len(path.stem))
    for submit, line in {[path for path in submits if line.split("/")[-2].startswith(path.stem[7:])][-1]: line for line in lines}.items():
        state, _, *flags = line.split()                                 # one of each optimizer
        checked = subprocess.run([sys.executable, submit, *flags, "--help"], capture_output=True, text=True)
        assert checked.returncode == 0 and state == "new" and "--seed=7" in flags, checked.stderr
