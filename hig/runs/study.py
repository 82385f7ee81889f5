"""Many training runs as one command: a study varies settings and seeds to test a claim or answer a question.

Each run is a submit script, in a process of its own on this machine or in a job of Slurm (by submitit).

    <system>/studies/<name>/<setting>/seed_<n>/     results of one run, as its submit script writes them
    <system>/studies/<name>/study.txt               which study the folder belongs to
    <system>/studies/<name>/.jobs/                  what submitit writes: job files and logs

The files tell how far a study is, so that one that was killed goes on if its command is given again: a run
that has finished or diverged is left alone, an interrupted one is resumed, and the study waits for a run that
another process works on.
"""

import argparse
import itertools
import math
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
from tqdm import tqdm

from hig.runs import cli, locks, places
from hig.runs.files import write_atomically
from hig.runs.progress import last_known, say
from hig.runs.results import load_results


SLURM = {   # type, symbol and meaning of settings of sbatch
    "partition": (str, "NAME", "of the jobs"),
    "account": (str, "NAME", "that pays"),
    "time": (cli.positive_integer, "MINUTES", "limit of a job, which is requeued if it needs more (default: "
             "what --max-time takes, and ten minutes)"),
    "cpus_per_task": (cli.positive_integer, "N", "cores, and threads, of a job (default: 1)"),
    "gpus_per_task": (cli.positive_integer, "N", "of a job"),
    "mem": (lambda text: f"{round(1024 * cli.positive(text))}M", "GB", "memory of a job"),
}
THREADS = ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")     # BLAS, TensorFlow


def study(system, name, description, runs, *, seeds, max_time):
    """Parses the command line, runs what is left of the study, prints its table, and exits the process.

    Exit code 0 if every run has finished or diverged, 1 if one failed, 2 for bad input, 130 after Ctrl-C.

    Args:
        system: folder of the physical system, with its submit scripts.
        name: the study's name, which is also that of its folder in <system>/studies.
        description: text of --help: the script's docstring, which states the claim or question.
        runs: list of (optimizer, {setting: value}): the submit script of that name, and its flags.
        seeds, max_time: iterable of int, and seconds of training of each run; --seeds and --max-time replace
            them.
    """
    options = parse(system, name, description, seeds, max_time)
    folder = Path(__file__).resolve().parents[2] / system
    todo = [Run(options, folder, *run, seed) for run in runs for seed in options.seeds]
    owner = options.output / "study.txt"
    try:
        found = owner.read_text(errors="replace").strip() if owner.exists() else f"{system}/{name}"
        if found != f"{system}/{name}":
            raise cli.SettingsError(f"the folder {options.output} is that of the study {found}: choose "
                                    "another one with --output")
        if options.list:
            list_runs(todo, options)
            sys.exit(0)
        cli.check_writable(options.output)
        with locks.locked(options.output / "study"):
            write_atomically(owner, f"{system}/{name}\n".encode())
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
    for key, (kind, symbol, text) in SLURM.items():
        add(f"--{key.replace('_', '-')}", type=kind, metavar=symbol, help=f"with --cluster slurm: {text}")
    options = parser.parse_args(arguments)
    options.jobs = options.jobs or (1 if options.cluster == "local" else 1000)
    options.slurm = {key: value for key in SLURM if (value := getattr(options, key)) is not None}
    if options.slurm and options.cluster == "local":
        cli.fail(f"--{next(iter(options.slurm)).replace('_', '-')} is for --cluster slurm")
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


class Run:
    """One run of a study.

    Args:
        options: as `parse` returns them.
        system: folder (Path) of the submit scripts.
        optimizer, settings: as in `study`.
        seed: int.
    """

    def __init__(self, options, system, optimizer, settings, seed):
        values = (f"{key}={value:g}" if isinstance(value, float) else f"{key}={value}"
                  for key, value in settings.items())
        self.folder = options.output / "_".join([optimizer, *values]) / f"seed_{seed}"
        flags = {**settings, "seed": seed, "max_time": f"{options.max_time:g}"}
        self.flags = [*(f"--{key.replace('_', '-')}={value}" for key, value in flags.items()), "--quiet"]
        self.script, self.max_time = system / f"submit_{optimizer}.py", options.max_time
        shared = options.cluster == "slurm" or options.jobs > 1
        self.threads = options.slurm.get("cpus_per_task", 1) if shared else None        # None: any number

    def results(self):
        """The content of its pickle; None if the pickle is missing or damaged."""
        for path in self.folder.glob("*_RESULTS.pickle"):
            with suppress(ValueError):
                return load_results(path)
        return None

    def state(self):
        """"new", "running", "interrupted", "failed", "finished" (with this budget) or "diverged"."""
        if any(map(locks.held, self.folder.glob(".*.lock"))):
            return "running"
        results = self.results()
        if results is None:
            return "new"
        state, budget = results["provenance"]["state"], results["sim_par"].get("max_time", self.max_time)
        killed, shorter = state == "running", state == "finished" and budget < self.max_time
        return "interrupted" if killed or shorter else state

    def done(self):
        """Whether nothing of it is left to do."""
        return self.state() in ("finished", "diverged")

    def start(self, **options):
        """Starts and returns a process that begins or continues the run; its output goes to stderr.txt."""
        self.folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, str(self.script), *self.flags, "--output", str(self.folder)]
        if self.results() and any(self.folder.glob("*_CHECKPOINT.npz")):
            command.append("--resume")
        threads = dict.fromkeys(THREADS, str(self.threads)) if self.threads else {}
        with open(self.folder / "stderr.txt", "wb") as log:
            return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                    env={**os.environ, **threads}, **options)

    def why(self):
        """The last line that the run has printed; if it has printed none, a clause with its state."""
        with suppress(OSError):
            if said := (self.folder / "stderr.txt").read_text(errors="replace").strip():
                return said.split("\n")[-1]
        return f"its process has ended, and it is {self.state()}"


def carry_out(runs, options):
    """Runs what is left of a study.

    Args:
        runs: list of Run.
        options: as `parse` returns them.

    Returns:
        {Run: why it failed, in a sentence}

    Raises:
        OSError: the study's folder cannot be written.
        SettingsError: Slurm does not take the jobs.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    left = [run for run in runs if not run.done()]
    place = (places.slurm if options.cluster == "slurm" else places.local)(left, options)
    try:
        with tqdm(total=len(left), desc="runs", disable=None, leave=False) as bar:
            for pause in itertools.chain(place, [0.0]):
                time.sleep(pause)
                for run in filter(Run.done, list(left)):
                    left.remove(run)
                    bar.update()
                    say(f"{' '.join(run.folder.parts[-2:])}: {run.state()} ({len(left)} runs left)")
    except KeyboardInterrupt:
        with suppress(KeyboardInterrupt):
            place.close()
        sys.exit(130)
    return {run: run.why() for run in left}


def list_runs(runs, options):
    """Prints what would run, and how long it takes."""
    for run in runs:
        print(f"{run.state():11} {run.folder}  {' '.join(run.flags)}")
    left = [run for run in runs if not run.done()]
    trained = sum(results["simulation_time"][-1] for run in left if (results := run.results()))
    seconds = max(0.0, len(left) * (places.START_UP + options.max_time) - trained)
    hours, minutes = divmod(math.ceil(seconds / max(1, min(options.jobs, len(left))) / 60), 60)
    print(f"{len(left)} of {len(runs)} runs are left; they take about {hours} h {minutes:02d} min, less if "
          "their epochs end before --max-time")


def print_table(runs, failures):
    """Prints for each setting how many runs there are, how many died and how many failed; median and range of
    the final test losses; the median of the final validation losses, by which settings are chosen; and the
    largest peak memory. A run that died counts with an infinite loss.
    """
    import pandas                   # half a second, which --help need not take

    def row(run):
        state, results = run.state(), run.results()
        died, measured = state == "diverged", results if state == "finished" else {"provenance": {}}
        return {"setting": run.folder.parent.name, "died": died, "failed": run in failures,
                **{key: np.inf if died else last_known(measured.get(key, ())) for key in
                   ("test_loss", "validation_loss")},
                "megabytes": measured["provenance"].get("peak_memory", np.nan) / 1e6}

    table = pandas.DataFrame(map(row, runs)).groupby("setting", sort=False).agg(
        runs=("died", "size"), died=("died", "sum"), failed=("failed", "sum"), median=("test_loss", "median"),
        lowest=("test_loss", "min"), highest=("test_loss", "max"), validation=("validation_loss", "median"),
        MB=("megabytes", "max"))
    print("test losses at the end")
    print(table.rename_axis(None).to_string(na_rep="–", float_format="{:.1e}".format,
                                            formatters={"MB": "{:.0f}".format}))
    for run, reason in failures.items():
        print(f"failed: {run.folder}: {reason}", file=sys.stderr)
