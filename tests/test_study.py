"""Studies: what is left runs, what was stopped goes on, what failed is told. The submit script is one without
TensorFlow."""

import os
import runpy
import signal
import subprocess
import sys
from argparse import Namespace
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
import submitit  # its set-up of logging closes what a running test is captured with: import it before

from hig.runs import cli, places, study
from hig.runs.locks import locked
from tests import slurm

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = sorted(ROOT.glob("*/study_*.py"))
SCRIPT = '''
import os, signal, sys, time
from argparse import ArgumentParser
from pathlib import Path
import numpy as np
from hig.runs.locks import locked
from hig.runs.files import write_atomically
from hig.runs.results import pickled
parser = ArgumentParser()
for flag, kind in {"--outcome": str, "--seed": int, "--max-time": float, "--output": Path}.items():
    parser.add_argument(flag, type=kind)
parser.add_argument("--resume", action="store_true")
options, _ = parser.parse_known_args()
stopped = []
signal.signal(signal.SIGTERM, lambda *_: stopped.append(1))
folder, outcome = options.output, options.outcome
with open(folder / "starts", "a") as file:
    print("resumed" if options.resume else "new", os.environ.get("OMP_NUM_THREADS"), file=file)

def save(state):
    loss = np.array([1.0, np.inf if state == "diverged" else 0.1 * options.seed])
    write_atomically(folder / "NLO_Fake_RESULTS.pickle", pickled({
        "epochs": np.arange(2), "train_loss": loss, "test_loss": loss, "validation_loss": 2 * loss,
        "simulation_time": np.arange(2.0), "epoch_time": np.ones(1),
        "sim_par": {"max_time": options.max_time}, "provenance": {"state": state, "peak_memory": 5e8}}))

with locked(folder / "NLO_Fake"):
    save("running")
    (folder / "NLO_Fake_CHECKPOINT.npz").touch()
    for _ in range({"short": 40, "slow": 120, "endless": 6000}.get(outcome, 0) * (not options.resume)):
        time.sleep(0.1 * (not stopped))
    save("interrupted" if stopped else outcome if outcome in ("failed", "diverged") else "finished")
if outcome == "failed":
    print("Fake stopped: no memory", file=sys.stderr)
sys.exit({"failed": 4, "diverged": 3}.get(outcome, 0))
'''


@pytest.fixture
def system(tmp_path):
    """A folder with submit_Fake.py, whose --outcome says what becomes of it; a study takes a handler over."""
    handler, folder = signal.getsignal(signal.SIGTERM), tmp_path / "System"
    folder.mkdir()
    (folder / "submit_Fake.py").write_text(SCRIPT)
    yield folder
    signal.signal(signal.SIGTERM, handler)


def options(tmp_path, **changed):
    return Namespace(**{"output": tmp_path / "studies", "jobs": 2, "max_time": 5.0, "cluster": "local",
                        "slurm": {}, **changed})


def make(system, chosen, outcomes, seeds=(1,)):
    return [study.make_run(chosen, system, "Fake", {"outcome": outcome}, seed) for outcome in outcomes
            for seed in seeds]


def starts(run):
    return (run.folder / "starts").read_text().splitlines()


def signal_job(run, number):
    """Sends a signal to both processes of a run's job, its script and submitit's, as Slurm does."""
    slurm.wait_for((run.folder / "NLO_Fake_CHECKPOINT.npz").exists)
    script, = (process for process in psutil.process_iter(["cmdline"])
               if str(run.folder) in (process.info["cmdline"] or ()))
    for process in (script.parent(), script):
        process.send_signal(number)


def test_what_is_left_runs_and_what_failed_is_told(system, tmp_path, capfd):
    """A damaged pickle is no run that could be resumed."""
    chosen = options(tmp_path)
    runs = make(system, chosen, ["finished", "diverged", "failed"])
    runs[0].folder.mkdir(parents=True)
    for name in ("NLO_Fake_RESULTS.pickle", "NLO_Fake_CHECKPOINT.npz"):
        (runs[0].folder / name).write_bytes(b"damaged")
    assert [run.state() for run in runs] == ["new"] * 3
    failures = study.carry_out(runs, chosen)
    assert failures == {runs[2]: "Fake stopped: no memory"}
    assert [run.state() for run in runs] == ["finished", "diverged", "failed"]
    study.carry_out(runs, chosen)
    assert [starts(run) for run in runs] == [["new 1"], ["new 1"], ["new 1", "resumed 1"]]
    study.print_table(runs, failures)
    assert [line.split() for line in capfd.readouterr().out.splitlines()[2:]] == [
        ["Fake_outcome=finished", "1", "0", "0", "1.0e-01", "1.0e-01", "1.0e-01", "2.0e-01", "500"],
        ["Fake_outcome=diverged", "1", "1", "0", "inf", "inf", "inf", "inf", "–"],
        ["Fake_outcome=failed", "1", "0", "1", *["–"] * 5]]


@pytest.mark.parametrize("number, outcome", [(signal.SIGKILL, "short"), (signal.SIGTERM, "slow"),
                                             (signal.SIGINT, "slow")])
def test_a_study_that_is_killed_goes_on_where_it_was(system, tmp_path, number, outcome):
    """After a kill its runs go on by themselves, and the next call, here with a larger budget, waits for them
    and resumes them; SIGTERM and Ctrl-C, which a terminal sends to the whole group, stop them in order.
    """
    chosen = options(tmp_path, max_time=5.0 if number != signal.SIGKILL else 9.0)
    runs = make(system, chosen, [outcome], (1, 2))
    code = f"""if True:
        from pathlib import Path
        from hig.runs import study
        from tests.test_study import options, make
        chosen = options(Path({str(tmp_path)!r}))
        study.carry_out(make(Path({str(system)!r}), chosen, [{outcome!r}], (1, 2)), chosen)"""
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stderr=subprocess.PIPE, text=True,
                               start_new_session=True)
    slurm.wait_for(lambda: all((run.folder / "NLO_Fake_CHECKPOINT.npz").exists() for run in runs))
    os.killpg(process.pid, number)
    _, said = process.communicate(timeout=300)
    assert process.returncode == (-9 if number == signal.SIGKILL else 130) and "Traceback" not in said
    assert number == signal.SIGKILL or said.splitlines()[-1] == "stopped; the same command goes on"
    assert study.carry_out(runs, chosen) == {}
    assert [starts(run) for run in runs] == [["new 1", "resumed 1"]] * 2
    assert [run.state() for run in runs] == ["finished"] * 2


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2])
def test_a_preempted_job_is_requeued_and_goes_on(system, tmp_path, number):
    """submitit's local executor in the place of Slurm."""
    run, = make(system, options(tmp_path, cluster="slurm", slurm={"cpus_per_task": 3}), ["slow"])
    job = submitit.LocalExecutor(tmp_path / "jobs").submit(places.Job(run))
    signal_job(run, number)
    assert job.result() == 0 and run.state() == "finished" and starts(run) == ["new 3", "resumed 3"]


# ------------------------------------------------------------------------------------------- the command line

def run_study(monkeypatch, capsys, system, name, *flags):
    """Exit code, standard output and error of a study's command line, of whose runs none takes place."""
    monkeypatch.setattr(study, "carry_out", lambda runs, options: {})
    monkeypatch.setattr(sys, "argv", ["study.py", *map(str, flags)])
    with pytest.raises(SystemExit) as ended:
        study.study(system, name, "", [("Adam", {})], seeds=(1,), max_time=5.0)
    return ended.value.code, *capsys.readouterr()


def test_the_folder_of_another_study_is_refused(tmp_path, monkeypatch, capsys):
    """Of another system as well as of the same one; --list shows nothing of it as one's own."""
    folder = ["--output", tmp_path / "s"]
    assert run_study(monkeypatch, capsys, "Poisson", "peers", *folder)[0] == 0
    code, out, _ = run_study(monkeypatch, capsys, "Poisson", "peers", "--list", *folder)
    assert code == 0 and out.endswith("1 of 1 runs are left; they take about 0 h 01 min\n")
    with locked(tmp_path / "s" / "study"):
        for system, name, flags, words in (
                ("Nonlinear_Oscillators", "peers", [], "is that of the study Poisson/peers: choose another"),
                ("Poisson", "network", [], "is that of the study Poisson/peers: choose another one"),
                ("Schroedinger", "peers", ["--list"], "is that of the study Poisson/peers: choose another"),
                ("Poisson", "peers", [], f"process {os.getpid()} on ")):
            code, out, err = run_study(monkeypatch, capsys, system, name, *folder, *flags)
            assert (code, out) == (2, "") and len(err.splitlines()) == 1 and words in err


@pytest.mark.parametrize("flags, words", [
    (["--seeds", "3-1"], "names no seeds"), (["--seeds", "a"], "names no seeds"), (["--jobs", "0"], "--jobs"),
    (["--cpus-per-task", "5"], "--cpus-per-task is for --cluster slurm"),
    (["--cluster", "moon"], "--cluster"),
    (["--cluster", "slurm", "--mem", "much"], "'much' is not a positive"),
    (["--output", "file/x"], "cannot write to the folder")])
def test_bad_input(tmp_path, monkeypatch, capsys, flags, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    code, out, err = run_study(monkeypatch, capsys, "Poisson", "peers", "--output", "x", *flags)
    assert (code, out) == (2, "") and len(err.splitlines()) == 1 and words in err
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert study.seed_range("1-3") == [1, 2, 3] and study.seed_range("4,1-2,2") == [4, 1, 2]


# ------------------------------------------------------------------------------ Slurm by scripts in its place

@pytest.fixture
def commands(tmp_path, monkeypatch):
    """A function that puts shell scripts into the place of Slurm's; each call of one is a line in its log."""
    folder = tmp_path / "commands"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setattr(study.time, "sleep", lambda seconds: None)

    def put(**texts):
        for name, text in {"srun": "exit 1", **texts}.items():
            (folder / name).write_text(f'#!/bin/sh\necho "$@" >>{tmp_path}/{name}.log\n{text}\n')
            (folder / name).chmod(0o755)
    return put


def slurm_study(system, tmp_path, seeds, *slurm):
    words = ["--cluster", "slurm", "--output", str(tmp_path / "studies"), *slurm]
    chosen = study.parse("System", "fakes", "", [1], 5.0, words)
    return make(system, chosen, ["finished"], seeds), chosen


def test_a_study_on_slurm_is_one_array_and_one_question_at_a_time(system, tmp_path, commands):
    """There are jobs of an earlier call until squeue has been asked for the third time; then 420 are
    submitted, which end when it has been asked for the sixth time. The second and the fifth question have no
    answer. The flags reach the job file, with the number of tasks that --gpus-per-task needs (man sbatch).
    """
    commands(sbatch=f'cat "$1" >{tmp_path}/job; wc -l <{tmp_path}/squeue.log; echo Submitted batch job 17',
             squeue=(f"case $(wc -l <{tmp_path}/squeue.log) in [25]) echo refused >&2; exit 1;; "
                     "[14]) for i in $(seq 0 419); do echo RUNNING; done;; esac"))
    runs, chosen = slurm_study(system, tmp_path, range(420), "--partition=gpu", "--account=me", "--time=7",
                               "--gpus-per-task=2", "--mem=1.5", "--cpus-per-task=4")
    failures = study.carry_out(runs, chosen)
    assert set(failures.values()) == {"its process has ended, and it is new"} and len(failures) == 420
    assert len((tmp_path / "sbatch.log").read_text().splitlines()) == 1
    asked = (tmp_path / "squeue.log").read_text().splitlines()
    flags = {line.removeprefix("#SBATCH --") for line in (tmp_path / "job").read_text().splitlines()
             if line.startswith("#SBATCH")}
    assert {"partition=gpu", "account=me", "time=7", "gpus-per-task=2", "ntasks-per-node=1",
            "cpus-per-task=4", "mem=1536M", "requeue", "array=0-419%420"} <= flags
    name, = (flag.removeprefix("job-name=") for flag in flags if flag.startswith("job-name="))
    assert len(asked) == 6 and all(line.endswith(f"--name={name}") for line in asked)
    assert {run.threads for run in runs} == {4} and name.startswith("studies_")


@pytest.mark.parametrize("sbatch, words", [
    ("echo invalid partition >&2; exit 1", "Slurm does not take the jobs: invalid partition"),
    ("echo what", "Slurm does not take the jobs: Could not make sense of sbatch output")])
def test_what_slurm_does_not_take_is_a_sentence(system, tmp_path, commands, capfd, sbatch, words):
    commands(sbatch=sbatch, squeue="exit 0")
    with pytest.raises(cli.SettingsError, match=words):
        study.carry_out(*slurm_study(system, tmp_path, [1, 2]))
    assert capfd.readouterr() == ("", "")


def test_without_submitit_or_slurm_a_sentence_says_what_is_missing(tmp_path, commands, monkeypatch):
    commands(sbatch="", squeue="")
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(cli.SettingsError, match=r"pip install 'hig\[cluster\]'"):
        places.Slurm([], options(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(cli.SettingsError, match="the command sbatch is missing"):
        places.Slurm([], options(tmp_path))


@pytest.mark.slow
@pytest.mark.skipif(slurm.missing() != "", reason=slurm.missing())
def test_a_real_slurm_preempts_one_run_of_four_and_cancels_another(system, tmp_path_factory, monkeypatch):
    """The one goes on by itself, and the other when the command is given again."""
    folder = tmp_path_factory.mktemp("s")  # short: sockets have names of 108 bytes at most
    chosen = options(folder, jobs=9, cluster="slurm", slurm={"partition": "test", "time": 5})
    runs = make(system, chosen, ["endless", "finished"], (1, 2))
    preempted, cancelled = runs[:2]
    monkeypatch.setattr(places.Slurm, "poll", 1.0)

    def interfere():
        signal_job(preempted, signal.SIGTERM)
        slurm.wait_for((cancelled.folder / "NLO_Fake_CHECKPOINT.npz").exists)
        array = subprocess.run(["squeue", "--noheader", "--format=%F"], check=True, capture_output=True,
                               text=True).stdout.split()[0]
        subprocess.run(["scancel", f"{array}_1"], check=True)

    with slurm.running(folder) as configuration, ThreadPoolExecutor() as pool:
        monkeypatch.setenv("SLURM_CONF", str(configuration))
        interference = pool.submit(interfere)
        assert study.carry_out(runs, chosen) == {cancelled: "its process has ended, and it is interrupted"}
        assert interference.result() is None and starts(cancelled) == ["new 1"]
        assert study.carry_out(runs, chosen) == {}
    assert [run.state() for run in runs] == ["finished"] * 4
    assert [starts(run) for run in runs] == [["new 1", "resumed 1"]] * 2 + [["new 1"]] * 2


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
