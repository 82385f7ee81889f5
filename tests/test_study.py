"""Studies: what is left runs, what was stopped goes on, what failed is told. The submit script is one without
TensorFlow."""

import os
import runpy
import signal
import subprocess
import sys
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
SCRIPT = """
import os, signal, sys, threading
import numpy as np
from hig.runs import cli, locks
from hig.runs.files import write_atomically
from hig.runs.results import pickled
options = cli.parse("System", "Fake", "", seed=0, max_time=1.0, flags=lambda p: p.add_argument("--outcome"))
folder, outcome, stopped, one = options.output, options.outcome, threading.Event(), np.ones(1)
signal.signal(signal.SIGTERM, lambda *_: stopped.set())
with open(folder / "starts", "a") as file:
    print("resumed" if options.resume else "new", os.environ.get("OMP_NUM_THREADS"), file=file)

def save(state):
    write_atomically(folder / "NLO_Fake_RESULTS.pickle", pickled({
        "epochs": one, "train_loss": one, "test_loss": 0.1 * one, "validation_loss": 0.2 * one,
        "simulation_time": one, "epoch_time": one[1:], "sim_par": {"max_time": options.max_time},
        "provenance": {"state": state, "peak_memory": 5e8}}))

with locks.locked(folder / "NLO_Fake"):
    save("running")
    (folder / "NLO_Fake_CHECKPOINT.npz").touch()
    stopped.wait({"short": 4, "slow": 12, "endless": 600}.get(outcome, 0) * (not options.resume))
    save("interrupted" if stopped.is_set() else outcome if outcome in ("failed", "diverged") else "finished")
if outcome == "failed":
    print("Fake stopped: no memory", file=sys.stderr)
sys.exit({"failed": 4, "diverged": 3}.get(outcome, 0))
"""


@pytest.fixture
def folder(tmp_path):
    """A folder with System/submit_Fake.py, whose --outcome says what becomes of it, and the studies' handler
    of SIGTERM taken back in the end.
    """
    handler = signal.getsignal(signal.SIGTERM)
    (tmp_path / "System").mkdir()
    (tmp_path / "System/submit_Fake.py").write_text(SCRIPT)
    yield tmp_path
    signal.signal(signal.SIGTERM, handler)


def prepared(folder, *outcomes, flags=""):
    """The runs of a study of System with these outcomes, and its options by the flags of its command line."""
    chosen = study.parse("System", "fakes", "", [1], 5.0, ["--output", f"{folder}/studies", *flags.split()])
    return [study.Run(chosen, folder / "System", "Fake", {"outcome": outcome}, seed) for outcome in outcomes
            for seed in chosen.seeds], chosen


def starts(run):
    return (run.folder / "starts").read_text().splitlines()


def wait_for_checkpoint(run):
    slurm.wait_for((run.folder / "NLO_Fake_CHECKPOINT.npz").exists)


def signal_job(run, number):
    """Sends a signal to both processes of a run's job, its script and submitit's, as Slurm does."""
    wait_for_checkpoint(run)
    script, = (process for process in psutil.process_iter(["cmdline"])
               if str(run.folder) in (process.info["cmdline"] or ()))
    for process in (script.parent(), script):
        process.send_signal(number)


def test_what_is_left_runs_and_what_failed_is_told(folder, capfd):
    """A damaged pickle is no run that could be resumed."""
    runs, chosen = prepared(folder, "finished", "diverged", "failed", flags="--jobs 2")
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


@pytest.mark.parametrize("number, outcome, read", [
    (signal.SIGKILL, "short", True), (signal.SIGTERM, "slow", True), (signal.SIGINT, "slow", True),
    (signal.SIGINT, "slow", False)])
def test_a_study_that_is_killed_goes_on_where_it_was(folder, number, outcome, read):
    """After a kill its runs go on by themselves, and the next call, here with a larger budget, waits for them
    and resumes them. SIGTERM and Ctrl-C, which a terminal sends to the whole group, stop them in order.
    Ctrl-C may also have ended a `tee` that read what the study prints.
    """
    code = f"""if True:
        from pathlib import Path
        from tests.test_study import prepared, study
        study.carry_out(*prepared(Path({str(folder)!r}), {outcome!r}, flags="--jobs 2 --seeds 1,2"))"""
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stderr=subprocess.PIPE, text=True,
                               start_new_session=True)
    runs, chosen = prepared(folder, outcome, flags="--jobs 2 --seeds 1,2"
                            + " --max-time 9" * (number == signal.SIGKILL))
    for run in runs:
        wait_for_checkpoint(run)
    if not read:
        process.stderr.close()
        process.stderr = None
    os.killpg(process.pid, number)
    said = process.communicate(timeout=300)[1] or "stopped; the same command goes on"
    assert process.returncode == (-9 if number == signal.SIGKILL else 130) and "Traceback" not in said
    assert number == signal.SIGKILL or said.splitlines()[-1] == "stopped; the same command goes on"
    assert study.carry_out(runs, chosen) == {}
    assert [starts(run) for run in runs] == [["new 1", "resumed 1"]] * 2
    assert [run.state() for run in runs] == ["finished"] * 2


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
    assert code == 0 and out.endswith("1 of 1 runs are left; they take about 0 h 01 min, less if their "
                                      "epochs end before --max-time\n")
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
    (tmp_path / "commands").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path}/commands:{os.environ['PATH']}")
    monkeypatch.setattr(places, "PAUSE", 0.0)

    def put(**texts):
        for name, text in {"srun": "exit 1", **texts}.items():
            path = tmp_path / "commands" / name
            path.write_text(f'#!/bin/sh\necho "$@" >>{tmp_path}/{name}.log\n{text}\n')
            path.chmod(0o755)
    return put


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2])
def test_a_preempted_job_is_requeued_and_goes_on(folder, commands, number):
    """submitit's local executor in the place of Slurm."""
    commands(squeue="echo RUNNING")
    (run,), _ = prepared(folder, "slow", flags="--cluster slurm --cpus-per-task 3")
    job = submitit.LocalExecutor(folder / "jobs").submit(places.Job(run))
    signal_job(run, number)
    assert job.result() == 0 and run.state() == "finished" and starts(run) == ["new 3", "resumed 3"]


def test_a_study_on_slurm_is_one_array_and_one_question_at_a_time(folder, commands):
    """There are jobs of an earlier call until squeue has been asked for the third time; then 420 are
    submitted, which end when it has been asked for the sixth time. The second and the fifth question have no
    answer. The flags reach the job file, with the number of tasks that --gpus-per-task needs (man sbatch).
    """
    commands(sbatch=f'cat "$1" >{folder}/job; wc -l <{folder}/squeue.log; echo Submitted batch job 17',
             squeue=(f"case $(wc -l <{folder}/squeue.log) in [25]) echo refused >&2; exit 1;; "
                     "[14]) for i in $(seq 0 419); do echo RUNNING; done;; esac"))
    runs, chosen = prepared(folder, "finished", flags="--cluster slurm --seeds 0-419 --partition=gpu "
                            "--account=me --time=7 --gpus-per-task=2 --mem=1.5 --cpus-per-task=4")
    failures = study.carry_out(runs, chosen)
    assert set(failures.values()) == {"its process has ended, and it is new"} and len(failures) == 420
    assert len((folder / "sbatch.log").read_text().splitlines()) == 1
    asked = (folder / "squeue.log").read_text().splitlines()
    flags = {line.removeprefix("#SBATCH --") for line in (folder / "job").read_text().splitlines()
             if line.startswith("#SBATCH")}
    assert {"partition=gpu", "account=me", "time=7", "gpus-per-task=2", "ntasks-per-node=1",
            "cpus-per-task=4", "mem=1536M", "requeue", "array=0-419%420"} <= flags
    name, = (flag.removeprefix("job-name=") for flag in flags if flag.startswith("job-name="))
    assert len(asked) == 6 and all(line.endswith(f"--name={name}") for line in asked)
    assert {run.threads for run in runs} == {4} and name.startswith("studies_")


@pytest.mark.parametrize("sbatch, squeue, package, words", [
    ("echo invalid partition >&2; exit 1", 0, submitit, "Slurm does not take the jobs: invalid partition"),
    ("echo what", 0, submitit, "Slurm does not take the jobs: Could not make sense of sbatch output"),
    ("", 1, submitit, "Slurm does not answer: see what the command squeue says"),
    ("", 0, None, r"pip install 'hig\[cluster\]'"),
    (None, 0, submitit, "there is no Slurm on this machine: the command sbatch is missing")])
def test_what_slurm_does_not_take_is_a_sentence(folder, commands, monkeypatch, capfd, sbatch, squeue, package,
                                                words):
    commands(squeue=f"exit {squeue}", **{"sbatch": sbatch} if sbatch is not None else {})
    if sbatch is None:
        monkeypatch.setenv("PATH", str(folder / "commands"))
    monkeypatch.setitem(sys.modules, "submitit", package)
    with pytest.raises(cli.SettingsError, match=words):
        study.carry_out(*prepared(folder, "finished", flags="--cluster slurm --seeds 1,2"))
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
@pytest.mark.skipif(slurm.missing() != "", reason=slurm.missing())
def test_a_real_slurm_preempts_one_run_of_four_and_cancels_another(folder, tmp_path_factory, monkeypatch):
    """The one goes on by itself, and the other when the command is given again."""
    runs, chosen = prepared(folder, "endless", "finished",
                            flags="--cluster slurm --seeds 1,2 --jobs 9 --partition test --time 5")
    preempted, cancelled = runs[:2]
    monkeypatch.setattr(places, "PAUSE", 1.0)

    def interfere():
        signal_job(preempted, signal.SIGTERM)
        wait_for_checkpoint(cancelled)
        array = subprocess.run(["squeue", "--noheader", "--format=%F"], check=True, capture_output=True,
                               text=True).stdout.split()[0]
        subprocess.run(["scancel", f"{array}_1"], check=True)

    short = tmp_path_factory.mktemp("s")  # sockets have names of 108 bytes at most
    with slurm.running(short) as configuration, ThreadPoolExecutor() as pool:
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
    made = [study.Run(prepared(tmp_path)[1], script.parent, *run, 7) for run in runs]
    assert len({run.folder for run in made}) == len(made)
    monkeypatch.setattr(cli, "submit", lambda *words, **settings: cli.parse(
        *words, **settings, arguments=[*run.flags, "--output", str(tmp_path / "x")]))
    for run in made:
        runpy.run_path(str(run.script), run_name="__main__")  # ends the process if a flag is unknown or bad
