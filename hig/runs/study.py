"""Many training runs as one command: a study varies settings and seeds, and answers one claim.

Each run is a submit script, in a process of its own on this machine, or in a job of Slurm (by submitit).

    <system>/studies/<name>/<setting>/seed_<n>/     results of one run, as its submit script writes them
    <system>/studies/<name>/study.txt               which study the folder belongs to
    <system>/studies/<name>/.jobs/                  what submitit writes: job files and logs

The files tell how far a study is. If its command is given again, a run that has finished or diverged is left
alone, an interrupted one is resumed, and one that another process works on is waited for. So a study that was
killed goes on. A job of Slurm that gets SIGTERM, or the USR2 by which Slurm announces the end of its time,
lets the run write its checkpoint and is requeued.
"""

import argparse
import shutil
import signal
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from hig.runs import cli, locks, places
from hig.runs.files import write_atomically
from hig.runs.results import load_results

DONE = ("finished", "diverged")


def study(system, name, description, runs, *, seeds, max_time):
    """Parses the command line, runs what is left of the study, prints its table, and exits the process.

    Exit code 0 if every run has finished or diverged, 1 if one failed, 2 for bad input, 130 after Ctrl-C.

    Args:
        system: folder of the physical system, with its submit scripts.
        name: of the study, a folder in <system>/studies.
        description: text of --help, the script's docstring, which names the claim.
        runs: list of (optimizer, {setting: value}): the submit script of that name, and its flags.
        seeds, max_time: iterable of int, and seconds of training of each run; flags replace them.
    """
    cli.standard_streams()
    options = parse(system, name, description, seeds, max_time)
    folder = Path(__file__).resolve().parents[2] / system
    todo = [make_run(options, folder, *run, seed) for run in runs for seed in options.seeds]
    try:
        for run in todo:
            if not run.script.is_file():
                raise cli.SettingsError(f"there is no submit script {run.script}")
        check_owner(options.output, f"{system}/{name}")
        if options.list:
            list_runs(todo, options)
            sys.exit(0)
        with owned(options.output, f"{system}/{name}"):
            failures = carry_out(todo, options)
    except (cli.SettingsError, OSError) as error:
        cli.fail(str(error))
    print_table(todo, failures)
    sys.exit(1 if failures else 0)


def parse(system, name, description, seeds, max_time, arguments=None):
    """The options of a study as an argparse.Namespace; bad input ends the process with exit code 2."""
    parser = cli.make_parser(description)
    add = parser.add_argument
    add("--jobs", type=cli.positive_integer, metavar="N",
        help="runs at a time (default: 1 here, all of them on Slurm)")
    add("--seeds", type=seed_range, default=list(seeds), metavar="1-5",
        help=f"one run of each setting per seed, 1-5 or 1,4,9 (default: {','.join(map(str, seeds))})")
    add("--max-time", type=cli.positive, default=max_time, metavar="SECONDS",
        help=f"of training in each run (default: {max_time:g})")
    add("--output", type=Path, metavar="DIR", help=f"folder of the study (default: {system}/studies/{name})")
    add("--list", action="store_true", help="only say what would run and how long it takes")
    add("--cluster", choices=("local", "slurm"), default="local",
        help="where the runs take place (default: local)")
    slurm = [add("--partition", metavar="NAME", help="of Slurm"),
             add("--account", metavar="NAME", help="of Slurm"),
             add("--time", type=cli.positive_integer, metavar="MINUTES",
                 help="limit of a Slurm job, which is requeued when it needs more (default: what --max-time "
                      "takes, and ten minutes)"),
             add("--cpus-per-task", type=cli.positive_integer, metavar="N",
                 help="cores, and threads, of a Slurm job (default: 1)"),
             add("--gpus-per-task", type=cli.positive_integer, metavar="N", help="of Slurm"),
             add("--mem", type=cli.positive, metavar="GB", help="memory of a Slurm job")]
    options = parser.parse_args(arguments)
    for flag in slurm:
        if options.cluster == "local" and getattr(options, flag.dest) is not None:
            cli.fail(f"{flag.option_strings[0]} is for --cluster slurm")
    missing = [command for command in ("sbatch", "srun", "squeue") if not shutil.which(command)]
    if options.cluster == "slurm" and missing:
        cli.fail(f"there is no Slurm on this machine: the command {missing[0]} is missing")
    options.output = (options.output or cli.default_output(system) / "studies" / name).absolute()
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


def check_owner(folder, name):
    """Raises SettingsError if the folder (Path) is not that of the study `name` ("Poisson/network")."""
    path = folder / "study.txt"
    found = path.read_text(encoding="utf-8", errors="replace").strip() if path.exists() else name
    if found != name:
        raise cli.SettingsError(f"the folder {folder} is that of the study {found}: choose another one with "
                                "--output")


@contextmanager
def owned(folder, name):
    """Marks the folder (Path) with the name of its study, and holds it while the block runs.

    Raises:
        SettingsError: it is that of another study, or cannot be written.
        BlockingIOError: another process holds it.
    """
    cli.check_writable(folder)
    with locks.locked(folder / "study"):
        check_owner(folder, name)
        write_atomically(folder / "study.txt", f"{name}\n".encode())
        yield


# ---------------------------------------------------------------------------------------------------- one run

class Run(NamedTuple):
    """One run: submit script, flags without --output and --resume, folder, seconds, threads (None: any)."""
    script: Path
    flags: tuple
    folder: Path
    max_time: float
    threads: int | None

    @property
    def setting(self):
        """Name of its setting."""
        return self.folder.parent.name

    def results(self):
        """(path, content) of its pickle; (None, None) if there is none, or a damaged one."""
        for path in self.folder.glob(f"*_{self.script.stem.removeprefix('submit_')}_RESULTS.pickle"):
            with suppress(ValueError):
                return path, load_results(path)
        return None, None

    def state(self):
        """"new", "running", "interrupted", "failed", "finished" (with this budget) or "diverged"."""
        if any(locks.held(path.with_name(path.name[1:-len(".lock")]))
               for path in self.folder.glob(".*.lock")):
            return "running"
        path, results = self.results()
        if results is None:
            return "new"
        state = locks.state_of(path, results)
        shorter = state == "finished" and results["sim_par"].get("max_time", self.max_time) < self.max_time
        return "interrupted" if shorter else state

    def seconds_left(self):
        """About how long it still takes."""
        _, results = self.results()
        return places.START_UP + max(0.0,
                                     self.max_time - (results["simulation_time"][-1] if results else 0.0))

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
    words = [f"--{key.replace('_', '-')}={value}" for key, value in flags.items()]
    threads = 1 if (options.jobs or 1) > 1 else None
    if options.cluster == "slurm":
        threads = options.cpus_per_task or 1
    return Run(system / f"submit_{optimizer}.py", (*words, "--quiet"),
               options.output / setting / f"seed_{seed}", options.max_time, threads)


# ------------------------------------------------------------------------------------------------ all of them

def carry_out(runs, options):
    """Runs what is left of a study.

    Args:
        runs: list of Run.
        options: as `parse` returns them.

    Returns:
        {Run: why it failed, in a sentence}

    Raises:
        OSError: its folder cannot be written.
        SettingsError: Slurm does not take the jobs.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    place = places.Slurm(options) if options.cluster == "slurm" else places.Here(options)
    waiting = [run for run in runs if run.state() not in DONE]
    left = {run: run.seconds_left() for run in waiting}
    active, failures = {}, {}               # active: Run → its job, None for another process'
    with tqdm(total=len(waiting), desc="runs", disable=None, leave=False,
              bar_format="{desc} {n_fmt}/{total_fmt} {bar} {postfix}") as bar:
        try:
            while waiting or active:
                now, waiting = waiting[:place.free(active)], waiting[place.free(active):]
                active |= place.start(now)
                seconds = sum(left.values()) / max(1, min(place.jobs, len(left)))
                bar.set_postfix_str(f"{in_words(seconds)} left")
                time.sleep(place.poll)
                for run in place.ended(active):
                    job, state = active.pop(run), run.state()
                    if state == "running" or (job is None and state not in DONE):
                        waiting.append(run)  # another process was at it, or still is
                        continue
                    if state not in DONE:
                        failures[run] = place.why(job, state)
                    left.pop(run)
                    bar.update(1)
                    tqdm.write(f"{run.setting} {run.folder.name}: {failures.get(run, state)} ({len(left)} "
                               "runs left)", file=sys.stderr)
        except KeyboardInterrupt:
            tqdm.write(place.stop(active), file=sys.stderr)
            sys.exit(130)
    return failures


# ---------------------------------------------------------------------------------------------- what is shown

def list_runs(runs, options):
    """Prints what would run, and how long it takes."""
    for run in runs:
        print(f"{run.state():11} {run.folder}  {' '.join(run.flags)}")
    left = [run.seconds_left() for run in runs if run.state() not in DONE]
    at_once = max(1, min(options.jobs or (1 if options.cluster == "local" else sys.maxsize), len(left)))
    print(f"{len(left)} of {len(runs)} runs are left; they take about {in_words(sum(left) / at_once)}")


def in_words(seconds):
    """A time as text, "2 h 05 min" for instance."""
    minutes = int(seconds // 60) + (seconds % 60 > 0)
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min"


def print_table(runs, failures):
    """For each setting: how many runs there are, died and failed, median and range of the final test losses,
    the median of the final validation losses, by which settings are chosen, and the largest peak memory.
    """
    width = max(20, *(len(run.setting) for run in runs))
    columns = "median", "lowest", "highest", "validation", "memory"
    print(f"{'test loss at the end':{width}} runs died failed" + "".join(map("{:>11}".format, columns)))
    for setting in dict.fromkeys(run.setting for run in runs):
        own = [run for run in runs if run.setting == setting]
        states = [run.state() for run in own]
        results = [run.results()[1] for run, state in zip(own, states) if state == "finished"]
        finals = [loss[np.isfinite(loss)][-1] for loss in (each["test_loss"] for each in results)
                  if np.isfinite(loss).any()]
        chosen_by = [each["validation_loss"][-1] for each in results if "validation_loss" in each]
        died, failed = states.count("diverged"), sum(run in failures for run in own)
        lost = [np.inf] * died
        losses = [(finals + lost, np.median), (finals, min), (finals, max),
                  (chosen_by and chosen_by + lost, np.median)]
        cells = [f"{function(values):.1e}" if values else "–" for values, function in losses]
        peak = max((each["provenance"].get("peak_memory", 0) for each in results), default=0)
        cells.append(f"{peak / 1e6:.0f} MB" if peak else "–")
        print(f"{setting:{width}} {len(own):4} {died:4} {failed:6}" + "".join(map("{:>11}".format, cells)))
    for run, reason in failures.items():
        print(f"failed: {run.folder}: {reason}", file=sys.stderr)
