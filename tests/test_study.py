"""Studies: what is left runs, what was stopped goes on, what failed is told. The submit script is one without
TensorFlow."""

import os
import re
import runpy
import signal
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import numpy as np
import psutil
import pytest
import submitit  # its set-up of logging closes what a running test is captured with: import it before

from hig.runs import cli, places, study
from hig.runs.results import load_results, save_results
from tests.slurm import wait_for

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
    states = {"broken": "failed", "diverged": "diverged"}
    state = "interrupted" if stopped else states.get(options.outcome, "finished")
    save_results(folder / "NLO_Fake_RESULTS.pickle", {
        "epochs": np.arange(2), "train_loss": loss, "test_loss": loss, "validation_loss": 2 * loss,
        "simulation_time": np.arange(2.0), "epoch_time": np.ones(1),
        "sim_par": {"seed": int(options.seed), "max_time": float(options.max_time)},
        "provenance": {"state": state, "peak_memory": 5e8}})
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


@pytest.fixture(autouse=True)
def sigterm():
    """A study takes the handler over."""
    handler = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, handler)


def options(tmp_path, **changed):
    return Namespace(**{"output": tmp_path / "studies", "jobs": 2, "max_time": 5.0, "cluster": "local",
                        "cpus_per_task": None, **changed})


def make(system, chosen, outcomes, seeds=(1,)):
    return [study.make_run(chosen, system, "Fake", {"outcome": outcome}, seed) for outcome in outcomes
            for seed in seeds]


def starts(run):
    return (run.folder / "starts").read_text().splitlines()


def test_what_is_left_runs_and_what_failed_is_told(system, tmp_path, capfd):
    chosen = options(tmp_path)
    runs = make(system, chosen, ["finished", "diverged", "broken"])
    failures = study.carry_out(runs, chosen)
    assert list(failures.values()) == ["exit code 4: Fake stopped: no memory"] and list(failures) == [runs[2]]
    assert [run.state() for run in runs] == ["finished", "diverged", "failed"]
    study.carry_out(runs, chosen)
    assert [starts(run) for run in runs] == [["new 1"], ["new 1"], ["new 1", "resumed 1"]]
    study.print_table(runs, failures)
    assert [line.split() for line in capfd.readouterr().out.splitlines()[1:]] == [
        ["Fake_outcome=finished", "1", "0", "0", "1.0e-01", "1.0e-01", "1.0e-01", "2.0e-01", "500", "MB"],
        ["Fake_outcome=diverged", "1", "1", "0", "inf", *"––––"],
        ["Fake_outcome=broken", "1", "0", "1", *"–––––"]]


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
        runs = make(Path({str(system)!r}), chosen, ["slow"], (1, 2))
        raise SystemExit(len(study.carry_out(runs, chosen)))"""
    return subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stderr=subprocess.PIPE, text=True,
                            start_new_session=True)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_study_that_is_killed_goes_on_where_it_was(system, tmp_path, number):
    """After a kill its runs go on by themselves, and the next call, here with a larger budget, waits for them
    and resumes them; SIGTERM and Ctrl-C, which a terminal sends to the whole group, stop them in order.
    """
    chosen = options(tmp_path, max_time=5.0 if number != signal.SIGKILL else 9.0)
    runs = make(system, chosen, ["slow"], (1, 2))
    process = program(system, tmp_path)
    wait_for(lambda: all((run.folder / "begun").exists() for run in runs))
    os.killpg(process.pid, number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == (-9 if number == signal.SIGKILL else 130) and "Traceback" not in said
    assert number == signal.SIGKILL or said.splitlines()[-1] == "stopped; the same command goes on"
    assert study.carry_out(runs, chosen) == {}
    assert [starts(run) for run in runs] == [["new 1", "resumed 1"]] * 2
    assert [run.state() for run in runs] == ["finished"] * 2


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2])
def test_a_preempted_job_is_requeued_and_goes_on(system, tmp_path, number):
    """submitit's local executor in the place of Slurm."""
    run, = make(system, options(tmp_path, cluster="slurm", cpus_per_task=3), ["slow"])
    jobs = tmp_path / "jobs"
    job = submitit.LocalExecutor(jobs).submit(places.Job(run))
    wait_for((run.folder / "begun").exists)
    child, = (process for process in psutil.process_iter(["cmdline"])
              if {"submitit.core._submit", str(jobs)} <= set(process.info["cmdline"] or ()))
    child.send_signal(number)
    assert job.result() == "exit code 0: " and run.state() == "finished"
    assert starts(run) == ["new 3", "resumed 3"]


def test_a_damaged_pickle_is_a_new_run_and_a_killed_one_is_continued(system, tmp_path):
    run, = make(system, options(tmp_path), ["finished"])
    run.folder.mkdir(parents=True)
    pickle = run.folder / "NLO_Fake_RESULTS.pickle"
    pickle.write_bytes(b"no pickle")
    assert run.state() == "new" and "--resume" not in run.command()
    losses = np.ones(2)
    save_results(pickle, {
        "epochs": np.arange(2), "train_loss": losses, "test_loss": losses, "simulation_time": np.arange(2.0),
        "epoch_time": np.ones(1), "sim_par": {"seed": 1}, "provenance": {"state": "running"}})
    assert run.state() == "interrupted" and "--resume" not in run.command()           # nothing to resume from
    (run.folder / "NLO_Fake_CHECKPOINT.npz").touch()
    assert run.command()[-1] == "--resume" and load_results(pickle)["sim_par"] == {"seed": 1}


def run_study(monkeypatch, capsys, system, name, *flags, runs=(("Adam", {}),)):
    """Exit code, standard output and error of a study's command line, of whose runs none takes place."""
    monkeypatch.setattr(study, "carry_out", lambda runs, options: {})
    monkeypatch.setattr(sys, "argv", ["study.py", *map(str, flags)])
    with pytest.raises(SystemExit) as ended:
        study.study(system, name, "", list(runs), seeds=(1,), max_time=5.0)
    return ended.value.code, *capsys.readouterr()


def test_the_folder_of_another_study_is_refused(tmp_path, monkeypatch, capsys):
    """Of another system as well as of the same one; nothing of it is shown as one's own, not even by --list.
    """
    folder = ["--output", tmp_path / "s"]
    assert run_study(monkeypatch, capsys, "Poisson", "peers", *folder)[0] == 0
    for system, name, flags in (("Nonlinear_Oscillators", "peers", []), ("Poisson", "network", []),
                                ("Schroedinger", "peers", ["--list"])):
        code, out, err = run_study(monkeypatch, capsys, system, name, *folder, *flags)
        assert (code, out) == (2, "") and len(err.splitlines()) == 1
        assert f"the folder {tmp_path / 's'} is that of the study Poisson/peers: choose another one" in err
    assert run_study(monkeypatch, capsys, "Poisson", "peers", "--list", *folder)[0] == 0


def test_a_study_in_a_folder_at_which_another_process_is_is_refused(tmp_path, monkeypatch, capsys):
    """With whatever budget; the sentence names the process."""
    with study.owned(tmp_path / "s", "Poisson/peers"):
        flags = "--max-time", "9", "--output", tmp_path / "s"
        code, out, err = run_study(monkeypatch, capsys, "Poisson", "peers", *flags)
    assert (code, out) == (2, "") and len(err.splitlines()) == 1 and f"process {os.getpid()} on " in err


def test_what_a_study_cannot_do_is_a_sentence(tmp_path, monkeypatch, capsys):
    code, _, err = run_study(monkeypatch, capsys, "Poisson", "peers", "--output", tmp_path / "s",
                             runs=[("Adamm", {})])
    assert code == 2 and "there is no submit script" in err and "submit_Adamm.py" in err
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").touch()
    code, _, err = run_study(monkeypatch, capsys, "Poisson", "peers", "--output", tmp_path / "file" / "s")
    assert code == 2 and f"cannot write to the folder {tmp_path / 'file' / 's'}" in err.splitlines()[-1]


def test_seeds():
    assert study.seed_range("1-3") == [1, 2, 3] and study.seed_range("4,1-2,2") == [4, 1, 2]


@pytest.mark.parametrize("flags, words", [
    (["--seeds", "3-1"], "names no seeds"), (["--seeds", "a"], "names no seeds"), (["--jobs", "0"], "--jobs"),
    (["--partition", "gpu"], "--partition is for --cluster slurm"), (["--cluster", "moon"], "--cluster"),
    (["--cpus-per-task", "2"], "--cpus-per-task is for")])
def test_bad_input(tmp_path, monkeypatch, capsys, flags, words):
    code, out, err = run_study(monkeypatch, capsys, "Poisson", "peers", *flags, "--output", tmp_path / "x")
    assert (code, out) == (2, "") and len(err.splitlines()) == 1 and words in err
    assert not list(tmp_path.iterdir())


# ------------------------------------------------------------------------------ Slurm by scripts in its place

@pytest.fixture
def commands(tmp_path, monkeypatch):
    """A function that puts shell scripts into the place of Slurm's; each call of one is a line in its log."""
    folder = tmp_path / "commands"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")

    def put(**texts):
        for name, text in {"srun": "exit 1", **texts}.items():
            (folder / name).write_text(f'#!/bin/sh\necho "$@" >>{tmp_path}/{name}.log\n{text}\n')
            (folder / name).chmod(0o755)
    return put


def slurm_study(system, tmp_path, seeds, **changed):
    unset = dict.fromkeys(("jobs", "partition", "account", "time", "gpus_per_task", "mem"))
    chosen = options(tmp_path, cluster="slurm", **{**unset, **changed})
    return make(system, chosen, ["finished"], seeds), chosen


def test_a_study_on_slurm_is_one_array_and_one_question(system, tmp_path, commands, monkeypatch):
    """420 jobs, which end when squeue has been asked for the fifth time; the flags reach the job file. Slurm
    wants a number of tasks beside --gpus-per-task (man sbatch).
    """
    count = f"$(wc -l <{tmp_path}/squeue.log)"
    commands(sbatch=f'cat "$1" >{tmp_path}/job; echo Submitted batch job 17',
             squeue=f"[ {count} -gt 4 ] || for i in $(seq 0 419); do echo 17_$i RUNNING; done")
    pauses = []
    monkeypatch.setattr(study.time, "sleep", pauses.append)
    runs, chosen = slurm_study(system, tmp_path, range(420), partition="gpu", account="me", time=7,
                               gpus_per_task=2, mem=1.5, cpus_per_task=4)
    failures = study.carry_out(runs, chosen)
    assert set(failures.values()) == {"the job ended while the run was new"} and len(failures) == 420
    assert len((tmp_path / "sbatch.log").read_text().splitlines()) == 1
    asked = (tmp_path / "squeue.log").read_text().splitlines()
    assert len(asked) == 5 and all(line.endswith("--jobs=17") for line in asked)
    assert pauses == [places.Slurm.poll] * 5
    asked = {line.removeprefix("#SBATCH --") for line in (tmp_path / "job").read_text().splitlines()
             if line.startswith("#SBATCH")}
    assert {"partition=gpu", "account=me", "time=7", "gpus-per-task=2", "ntasks-per-node=1",
            "cpus-per-task=4", "mem=1536M", "requeue", "array=0-419%420"} <= asked
    assert {run.threads for run in runs} == {4} and (runs[7].folder / "slurm_job.txt").read_text() == "17_7"


def test_jobs_of_an_earlier_call_are_waited_for_and_then_done_again(system, tmp_path, commands, monkeypatch):
    """A run that has not finished is submitted anew. While squeue does not answer, its job counts as living."""
    count = f"$(wc -l <{tmp_path}/squeue.log)"
    commands(sbatch="echo Submitted batch job 18",
             squeue=f"case {count} in 1) echo 17_0 PENDING;; 2) echo refused >&2; exit 1;; 3) echo 17_0 "
                    "RUNNING;; esac")
    monkeypatch.setattr(study.time, "sleep", lambda seconds: None)
    (run,), chosen = slurm_study(system, tmp_path, [1])
    run.folder.mkdir(parents=True)
    (run.folder / "slurm_job.txt").write_text("17_0")
    assert study.carry_out([run], chosen) == {run: "the job ended while the run was new"}
    assert (run.folder / "slurm_job.txt").read_text() == "18"
    assert re.findall("--jobs=(.*)", (tmp_path / "squeue.log").read_text()) == ["17"] * 5 + ["18"]


@pytest.mark.parametrize("sbatch, words", [
    ("echo invalid partition >&2; exit 1", "Slurm does not take the jobs: invalid partition"),
    ("echo what", "Slurm does not take the jobs: Could not make sense of sbatch output")])
def test_jobs_that_slurm_does_not_take_are_a_sentence(system, tmp_path, commands, capfd, sbatch, words):
    commands(sbatch=sbatch, squeue="exit 0")
    with pytest.raises(cli.SettingsError, match=words):
        study.carry_out(*slurm_study(system, tmp_path, [1, 2]))
    assert capfd.readouterr() == ("", "")


def test_a_full_disk_for_the_jobs_is_a_sentence(system, tmp_path, commands, monkeypatch):
    commands(sbatch="echo Submitted batch job 17", squeue="exit 0")

    def full(*_):
        raise OSError(28, "No space left on device")
    monkeypatch.setattr(submitit.core.utils.DelayedSubmission, "dump", full)
    with pytest.raises(OSError, match=f"cannot write to the folder {tmp_path}/studies/.jobs: No space left"):
        study.carry_out(*slurm_study(system, tmp_path, [1, 2]))


def test_half_a_slurm_is_none(tmp_path, monkeypatch, capsys):
    """submitit calls srun and we squeue: without them a sentence, not their traceback."""
    (tmp_path / "sbatch").write_text("#!/bin/sh\n")
    (tmp_path / "sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    flags = "--cluster", "slurm", "--output", tmp_path / "x"
    code, _, err = run_study(monkeypatch, capsys, "Poisson", "peers", *flags)
    assert code == 2 and err.endswith("the command srun is missing\n") and len(err.splitlines()) == 1
    assert not (tmp_path / "x").exists()


def test_without_submitit_it_says_which_extra_to_install(system, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(cli.SettingsError, match=r"pip install 'hig\[cluster\]'"):
        places.Slurm(options(tmp_path))


# --------------------------------------------------------------------------------- the studies of the systems

@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_studies_name_their_claim_and_their_flags_are_of_the_submit_scripts(script, tmp_path, monkeypatch):
    """Each setting has a folder of its own."""
    found = []
    monkeypatch.setattr(study, "study", lambda *arguments, **options: found.append((arguments, options)))
    runpy.run_path(str(script), run_name="__main__")
    (system, name, description, runs), given = found[0]
    assert (system, name) == (script.parent.name, script.stem.removeprefix("study_"))
    assert description.startswith(("Claim: ", "Question: ")) and given["max_time"] > 0
    made = [study.make_run(options(tmp_path), script.parent, *run, 7) for run in runs]
    assert len({run.folder for run in made}) == len(made)
    monkeypatch.setattr(cli, "submit", lambda *words, **settings: cli.parse(
        *words, **settings, arguments=[*run.flags, "--output", str(tmp_path / "x")]))
    for run in made:
        runpy.run_path(str(run.script), run_name="__main__")  # ends the process if a flag is unknown or bad
