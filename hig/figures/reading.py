"""Curves from files: found below a folder, and read.

A pickle is named `<prefix>_<X>_RESULTS.pickle`, where the prefix is one of `hig.figures.curves.SYSTEMS` and X
is the name in the legend. A text file `log_loss_<X>_0.txt` is a curve of the published Poisson code; PhiFlow
writes it into the folder of a run, which it calls a scene.
"""

import os
import re
import sys
from pathlib import Path

import numpy as np

from hig.figures.curves import SYSTEMS, Run, system, x_values
from hig.runs.results import load_results

LOG = re.compile(r"log_loss_(.*)_0\.txt")           # losses in a PhiFlow scene, of this optimizer
APART = ("studies", "Peers", "Published_Budgets")   # each folder in them has a figure of its own


def find_files(folder):
    """Files of curves below a folder, sorted; not hidden ones, dated ones, or those in APART."""
    found = []
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in APART)
        found += [Path(place, name) for name in sorted(files)
                  if name.endswith("_RESULTS.pickle") and name[0] != "." or LOG.fullmatch(name)]
    return found


def read_run(path):
    """The run in a pickle, or in a log of a PhiFlow scene.

    Raises:
        ValueError: the file is not a curve; the message is one sentence with its name and the reason.
    """
    if LOG.fullmatch(path.name):
        return read_log(path)
    return Run(*describe(path.name), path, {"provenance": {}, **load_results(path)})


def read_log(path):
    """The run in a loss file of a PhiFlow scene.

    Its lines are step and loss; those of `log_step_time.txt` beside it are step and seconds. PhiFlow counts
    the steps that have ended: the loss at step 0 is that of the untrained network.

    Raises:
        ValueError: one of the two files does not have this form.
    """
    def columns(file):
        try:
            *lines, last = file.read_text().split("\n")      # a line without end is still being written
            table = np.loadtxt(lines or [last], ndmin=2, usecols=(0, 1))
        except (OSError, ValueError) as error:
            raise ValueError(f"{file} cannot be used as a curve: {str(error).splitlines()[0]}") from None
        return table[np.argsort(table[:, 0], kind="stable")].T
    ended, seconds = columns(path.with_name("log_step_time.txt"))
    steps, losses = columns(path)
    times = np.append(0.0, np.cumsum(seconds))[np.searchsorted(ended, steps, side="right")]
    return Run("POISSON", LOG.fullmatch(path.name)[1], path, {
        "epochs": steps, "train_loss": losses, "test_loss": np.full(len(losses), np.nan),
        "simulation_time": times, "epoch_time": np.diff(times), "sim_par": {},
        "provenance": {"updates_per_epoch": 1}})


def describe(filename):
    """Prefix of the system and legend name in a file's name: `NLO_HIG_RESULTS.pickle` → ("NLO", "HIG")."""
    prefix = filename.split("_")[0]
    start = rf"{prefix}_(?:{system(prefix).in_names}_)?" if prefix in SYSTEMS else ""
    match = re.fullmatch(rf"{start}(.+?)(?i:[_-]seed[_-]?\d+)?_RESULTS(_\d+-\d+-\d+_.+)?\.pickle", filename)
    if not match:
        return "", Path(filename).stem
    label, date = match.groups(default="")
    label = "L-BFGS" if label == "LBFGS" else label
    return prefix if start else "", label + date.replace("_", " ", 1)


def collect(paths, axis):
    """Runs of files, which must be readable, and of folders, where unreadable files are only reported."""
    runs = {}
    for path in map(Path, paths):
        for file in find_files(path) if path.is_dir() else [path]:
            try:
                run = read_run(file)
                x_values(run, axis)         # raises ValueError if the file does not have them
                runs.setdefault(file.resolve(), run)
            except ValueError as error:
                if not path.is_dir():
                    raise
                print(f"plot.py: {error}", file=sys.stderr)
    return list(runs.values())
