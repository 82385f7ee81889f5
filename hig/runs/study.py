"""Many training runs as one command: a study varies settings and seeds, and answers one claim.

Each run is a submit script in a process of its own, started by submitit: on this machine, or as a job of Slurm.

    <system>/studies/<name>/<setting>/seed_<n>/     results of one run, as its submit script writes them
    <system>/studies/<name>/.jobs/                  what submitit writes: job files and logs

The files tell how far a study is. A run that has finished or diverged is left alone, an interrupted one is resumed, one
that another process is at is waited for; so a study that was killed goes on when its command is given again.
A job that gets SIGTERM, or the USR2 by which Slurm announces the end of its time, lets the run write its checkpoint and
is requeued.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from hig.runs import cli, locks
from hig.runs.results import load_results

POLL = 1.0                  # seconds between two looks at the jobs
START_UP = 15.0             # seconds that a run takes besides its training, for estimates
ONE_THREAD = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "TF_NUM_INTRAOP_THREADS",
                                     "TF_NUM_INTEROP_THREADS")}
DONE = ("finished", "diverged")


def study(system, name, description, runs, *, seeds, max_time):
    """Parses the command line, runs what is left of the study, prints its table, and exits the process.

    Exit code 0 if every run has finished or diverged, 1 if one failed, 2 for bad input, 130 after Ctrl-C.

    Args:
        system: folder of the physical system, with its submit scripts.
        name: of the study, a folder in <system>/studies.
        description: text of --help, the script's docstring, which names the claim.
        runs: list of (optimizer, {setting: value}): the submit script of that name, and its flags.
        seeds: iterable of int, and max_time: seconds of training of each run; flags replace them.
    """
    cli.standard_streams()
    options = parse(system, name, description, seeds, max_time)
    root = Path(__file__).resolve().parents[2]
    todo = [make_run(options, root / system, *run, seed) for run in runs for seed in options.seeds]
    if options.list:
        for run in todo:
            print(f"{run.state():11} {run.folder}  {' '.join(run.flags)}")
        left = [run for run in todo if run.state() not in DONE]
        print(f"{len(left)} of {len(todo)} runs are left; they take about {in_words(seconds_left(left, options.jobs))}")
        sys.exit(0)
    failures = carry_out(todo, options)
    print_table(todo, failures)
    sys.exit(1 if failures else 0)


def parse(system, name, description, seeds, max_time, arguments=None):
    """The options of a study as an argparse.Namespace; bad input ends the process with exit code 2."""
    parser = cli.make_parser(description)
    add = parser.add_argument
    add("--jobs", type=cli.positive_integer, metavar="N", help="runs at a time (default: 1 here, all of them on Slurm)")
    add("--seeds", type=seed_range, default=list(seeds), metavar="1-5", help="one run of each setting per seed, 1-5 or 1,4,9 "
        f"(default: {','.join(map(str, seeds))})")
    add("--max-time", type=cli.positive, default=max_time, metavar="SECONDS", help=f"of training in each run (default: {max_time:g})")
    add("--output", type=Path, metavar="DIR", help=f"folder of the study (default: {system}/studies/{name})")
    add("--list", action="store_true", help="only say what would run and how long it takes")
    add("--cluster", choices=("local", "slurm"), default="local", help="where the runs take place (default: local)")
    add("--partition", metavar="NAME", help="of Slurm")
    add("--account", metavar="NAME", help="of Slurm")
    add("--time", type=cli.positive_integer, metavar="MINUTES", help="limit of a Slurm job, which is requeued when it needs "
        "more (default: what --max-time takes, and ten minutes)")
    add("--gpus-per-task", type=cli.positive_integer, metavar="N", help="of Slurm")
    add("--mem", type=cli.positive, metavar="GB", help="memory of a Slurm job")
    options = parser.parse_args(arguments)
    for flag in ("partition", "account", "time", "gpus_per_task", "mem"):
        if options.cluster == "local" and getattr(options, flag) is not None:
            cli.fail(f"--{flag.replace('_', '-')} is for --cluster slurm")
    missing = [command for command in ("sbatch", "srun", "squeue") if not shutil.which(command)]
    if options.cluster == "slurm" and missing:
        cli.fail(f"there is no Slurm on this machine: the command {missing[0]} is missing")
    options.output = (options.output or cli.default_output(system) / "studies" / name).absolute()
    options.jobs = options.jobs or (1 if options.cluster == "local" else sys.maxsize)
    return options


def seed_range(text):
    """The seeds in "1-5" or "1,4,9-11", without repetition."""
    try:
        seeds = [seed for part in text.split(",") for low, _, high in [part.partition("-")]
                 for seed in range(int(low), int(high or low) + 1)]
    except ValueError:
        seeds = []
    if not seeds or max(seeds) >= 2**32:
        raise argparse.ArgumentTypeError(f"{text!r} names no seeds, as 1-5 or 1,4,9 do")
    return list(dict.fromkeys(seeds))


# ---------------------------------------------------------------------------------------------------- one run

class Run(NamedTuple):
    """One run: its submit script, its flags but for --output and --resume, folder of its results, seconds of training,
    whether it is held to one thread."""
    script: Path
    flags: tuple
    folder: Path
    max_time: float
    one_thread: bool

    @property
    def setting(self):
        """Name of its setting."""
        return self.folder.parent.name

    def results(self):
        """Its pickle and what it holds; (None, None) where there is none, or a damaged one."""
        for path in self.folder.glob(f"*_{self.script.stem.removeprefix('submit_')}_RESULTS.pickle"):
            try:
                return path, load_results(path)
            except ValueError:
                pass
        return None, None

    def state(self):
        """"new", "running", "interrupted", "finished" (with this budget) or "diverged"."""
        if any(locks.held(path.with_name(path.name[1:-len(".lock")])) for path in self.folder.glob(".*.lock")):
            return "running"
        path, results = self.results()
        if results is None:
            return "new"
        state = locks.state_of(path, results)
        shorter = state == "finished" and results["sim_par"].get("max_time", self.max_time) < self.max_time
        return "interrupted" if shorter else state

    def command(self):
        """The command that begins or continues it."""
        path, results = self.results()
        checkpoint = path and path.with_name(path.name.replace("_RESULTS.pickle", "_CHECKPOINT.npz"))
        resume = ["--resume"] if results is not None and checkpoint.exists() else []
        return [sys.executable, str(self.script), *self.flags, "--output", str(self.folder), *resume]


def make_run(options, system, optimizer, settings, seed):
    """The `Run` of one setting and seed; arguments as in `study`, with the options of the command line."""
    setting = "_".join([optimizer, *(f"{key}={value:g}" if isinstance(value, float) else f"{key}={value}"
                                     for key, value in settings.items())])
    flags = {**settings, "seed": seed, "max_time": f"{options.max_time:g}"}
    words = [word for key, value in flags.items() for word in (f"--{key.replace('_', '-')}={value}",)]
    return Run(system / f"submit_{optimizer}.py", (*words, "--quiet"), options.output / setting / f"seed_{seed}",
               options.max_time, options.jobs > 1)


class Job:
    """What submitit calls in the process of a job: trains one run, and stops it in order when the job has to go.

    Args:
        run: Run.
    """

    def __init__(self, run):
        self.run, self.process = run, None

    def __call__(self):
        """Exit code of the submit script, and the last line on its stderr."""
        from submitit import JobEnvironment
        self.run.folder.mkdir(parents=True, exist_ok=True)
        preemption = JobEnvironment._usr_sig()                         # to which submitit answers by `checkpoint`
        signal.signal(signal.SIGTERM, lambda *_: os.kill(os.getpid(), preemption) if wanted() else self.stop())
        environment = {**os.environ, **(ONE_THREAD if self.run.one_thread else {})}
        with open(self.run.folder / "stderr.txt", "a+", encoding="utf-8") as log:
            begin = log.tell()
            self.process = subprocess.Popen(
                self.run.command(), stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=environment,
                preexec_fn=lambda: signal.signal(preemption, signal.SIG_IGN))   # Slurm sends it to the whole job
            try:
                code = self.process.wait()
            except KeyboardInterrupt:
                self.process.send_signal(signal.SIGTERM)
                raise
            log.seek(begin)
            return code, (log.read().strip().splitlines() or [""])[-1]

    def stop(self):
        """Lets the run write its checkpoint after the epoch under way, and waits for that."""
        for number in (signal.SIGTERM, signal.SIGUSR2):                # once is enough
            signal.signal(number, signal.SIG_IGN)
        with suppress(ChildProcessError, AttributeError):              # it has ended; it has not begun
            self.process.send_signal(signal.SIGTERM)
            os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOWAIT)     # `wait` is interrupted while it holds its lock

    def checkpoint(self):
        """What submitit is to do once the job runs again: the same, from the checkpoint."""
        from submitit.helpers import DelayedSubmission
        self.stop()
        return DelayedSubmission(Job(self.run))


def wanted():
    """Whether a job that got SIGTERM goes on later: not if its user cancelled it."""
    number = os.environ.get("SLURM_JOB_ID")
    return number is None or _slurm_state(number) in ("RUNNING", "PREEMPTED", "UNKNOWN")


def _slurm_state(number):
    """State of a Slurm job, "RUNNING" for instance; empty if Slurm does not know it any more."""
    command = ["squeue", "--noheader", "--states=all", "--jobs", str(number), "--format=%T"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    return "UNKNOWN" if answer.returncode and "Invalid job id" not in answer.stderr else answer.stdout.strip()


# ---------------------------------------------------------------------------------------------------- all of them

def carry_out(runs, options):
    """Runs what is left of a study, at most `options.jobs` at a time.

    Args:
        runs: list of Run.
        options: as `parse` returns them.

    Returns:
        {Run: why it failed, in a sentence}
    """
    executor = make_executor(options)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    waiting = [run for run in runs if run.state() not in DONE]
    active, failures = {}, {}
    lines = Lines(waiting, options.jobs)
    try:
        while waiting or active:
            for run in waiting[:max(0, options.jobs - len(active))]:
                waiting.remove(run)
                active[run] = earlier_job(run, options) or executor.submit(Job(run))
                if options.cluster == "slurm" and not isinstance(active[run], Run):
                    run.folder.mkdir(parents=True, exist_ok=True)
                    (run.folder / "slurm_job.txt").write_text(active[run].job_id)
            time.sleep(POLL)
            for run in [run for run, job in active.items() if ended(job)]:
                if run.state() == "running":                           # another process was faster
                    active[run] = run
                    continue
                reason = why_failed(run, active.pop(run))
                failures.update({run: reason} if reason else {})
                lines.end(run, reason or run.state())
            lines.update(active, waiting)
    except KeyboardInterrupt:
        for job in active.values():
            if options.cluster == "local" and not isinstance(job, Run):
                job.cancel()
        print("stopping after the epochs under way", file=sys.stderr)
        while options.cluster == "local" and any(run.state() == "running" for run in active):
            time.sleep(POLL)
        print("stopped; the same command goes on" + " (the Slurm jobs do, too: scancel ends them)" * (options.cluster == "slurm"),
              file=sys.stderr)
        sys.exit(130)
    finally:
        lines.close()
    return failures


def earlier_job(run, options):
    """The job of an earlier call of the same study that is still at this run, the run itself where it has none; or None."""
    if options.cluster == "slurm":
        from submitit import SlurmJob
        path = run.folder / "slurm_job.txt"
        number = path.read_text() if path.exists() else ""
        return SlurmJob(options.output / ".jobs", number) if number and _slurm_state(number) in ALIVE else None
    return run if run.state() == "running" else None


ALIVE = ("PENDING", "RUNNING", "SUSPENDED", "CONFIGURING", "COMPLETING", "REQUEUED", "REQUEUE_HOLD", "PREEMPTED",
         "UNKNOWN")         # the last where Slurm does not answer


def make_executor(options):
    """submitit's executor for the options of the command line."""
    try:
        import submitit
    except ModuleNotFoundError:
        cli.fail("the package submitit is not installed: pip install 'hig[cluster]'")
    minutes = int((options.max_time + START_UP) // 60) + 10
    folder = options.output / ".jobs"
    try:
        cli.check_writable(options.output)
    except cli.SettingsError as error:
        cli.fail(str(error))
    if options.cluster == "local":
        executor = submitit.LocalExecutor(folder)
        executor.update_parameters(timeout_min=60 * 24 * 30)          # the run's own budget ends it
        return executor
    executor = submitit.SlurmExecutor(folder, max_num_timeout=100)
    given = {"partition": options.partition, "account": options.account, "gpus_per_task": options.gpus_per_task,
             "mem": options.mem and f"{round(1024 * options.mem)}M"}
    executor.update_parameters(job_name=options.output.name[:40], time=options.time or minutes, cpus_per_task=1, ntasks_per_node=1,
                               additional_parameters={"requeue": True},
                               **{key: value for key, value in given.items() if value is not None})
    return executor


def ended(job):
    """Whether a job will do no more."""
    if isinstance(job, Run):
        return job.state() != "running"
    if job.paths.result_pickle.exists():
        return True
    state = getattr(job, "state", "") if type(job).__name__ == "LocalJob" else _slurm_state(job.job_id)
    return state != "RUNNING" if type(job).__name__ == "LocalJob" else state not in ALIVE


def why_failed(run, job):
    """Why a run whose job has ended is neither finished nor diverged; empty if it is."""
    state = run.state()
    if state in DONE:
        return ""
    if isinstance(job, Run) or not job.paths.result_pickle.exists():
        return f"the job ended while the run was {state}"
    error = job.exception()
    if error is not None:
        return str(error).strip().splitlines()[-1]
    code, last = job.result()
    return f"exit code {code}: {last}"


# ---------------------------------------------------------------------------------------------------- what is shown

class Lines:
    """Progress on stderr: on a terminal one bar for each running job and one for all; else a line for each run that ends."""

    def __init__(self, runs, jobs):
        self.left, self.jobs, self.bars = len(runs), jobs, {}
        self.total = tqdm(total=len(runs), desc="runs", disable=None, leave=False, bar_format="{desc} {n_fmt}/{total_fmt} {bar} {postfix}")

    def update(self, active, waiting):
        """Shows how far the active runs are."""
        if self.total.disable:
            return
        for run in active:
            if run not in self.bars:
                self.bars[run] = tqdm(total=run.max_time, leave=False, desc=f"{run.setting} {run.folder.name}", position=self._free(),
                                      bar_format="{desc} {bar} {postfix}")
            _, results = run.results()
            if results is not None:
                done = float(results["simulation_time"][-1])
                self.bars[run].n = min(done, run.max_time)
                self.bars[run].set_postfix_str(f"{done:.0f} of {run.max_time:.0f} s, loss {results['train_loss'][-1]:.1e}")
        self.total.set_postfix_str(f"{in_words(seconds_left([*active, *waiting], self.jobs))} left")

    def _free(self):
        taken = {abs(bar.pos) for bar in self.bars.values()}
        return next(place for place in range(1, len(taken) + 2) if place not in taken)

    def end(self, run, words):
        """One run has ended."""
        if run in self.bars:
            self.bars.pop(run).close()
        self.left -= 1
        self.total.update(1)
        tqdm.write(f"{run.setting} {run.folder.name}: {words} ({self.left} runs left)", file=sys.stderr)

    def close(self):
        """Takes the bars away."""
        for bar in [*self.bars.values(), self.total]:
            bar.close()


def seconds_left(runs, jobs):
    """How long these runs still take, jobs at a time."""
    def left(run):
        _, results = run.results()
        return START_UP + max(0.0, run.max_time - (results["simulation_time"][-1] if results else 0.0))
    return sum(map(left, runs)) / max(1, min(jobs, len(runs)))


def in_words(seconds):
    """A time as text, "2 h 05 min" for instance."""
    minutes = int(seconds // 60) + (seconds % 60 > 0)
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min"


def print_table(runs, failures):
    """For each setting: how many runs there are, died and failed, and median and range of the final test losses."""
    width = max(20, *(len(run.setting) for run in runs))
    print(f"{'test loss at the end':{width}} runs died failed  median  lowest highest")
    for setting in dict.fromkeys(run.setting for run in runs):
        own = [run for run in runs if run.setting == setting]
        states = [run.state() for run in own]
        losses = [run.results()[1]["test_loss"] for run, state in zip(own, states) if state == "finished"]
        finals = [loss[np.isfinite(loss)][-1] for loss in losses if np.isfinite(loss).any()]
        died = states.count("diverged")
        middle = np.median(finals + [np.inf] * died) if finals or died else np.nan
        spread = f" {min(finals):7.1e} {max(finals):7.1e}" if finals else ""
        print(f"{setting:{width}} {len(own):4} {died:4} {sum(run in failures for run in own):6} {middle:7.1e}{spread}")
    for run, reason in failures.items():
        print(f"failed: {run.folder}: {reason}", file=sys.stderr)
