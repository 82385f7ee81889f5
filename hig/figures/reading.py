"""Curves from files: found below a folder, read, and sorted into cases and groups.

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
from hig.figures.style import COLORS, SYMBOLS
from hig.runs.results import load_results

LOG = re.compile(r"log_loss_(.*)_0\.txt")           # a loss in a PhiFlow scene, of the optimizer in brackets
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


def sort_into_cases(runs):
    """{title: runs}: an entry for each case of each system, in the order of SYSTEMS; unknown systems last."""
    def case(run):
        return system(run.system).case(run.results["sim_par"])
    cases = {}
    for run in sorted(runs, key=lambda run: ([*SYSTEMS, ""].index(run.system), case(run)[0])):
        cases.setdefault(", ".join(filter(None, (system(run.system).title, case(run)[1]))), []).append(run)
    return cases


def settings_table(runs):
    """DataFrame with a row for each of some runs, in the order of legends.

    Columns: "Run"; "Optimizer"; "Group", the name of the curve that the run is part of; and its settings as
    texts, – where a file does not have one. A group is named after the optimizer and the settings in which
    its runs differ, budget included, but not the seed. If there are more than two of them (the published
    files have other names for their settings), it is named after the folder instead (`folder_name`), and the
    largest group after the optimizer alone.
    """
    import pandas

    def place(run):
        name, seed = run.label.split()[0], run.results["sim_par"].get("seed")
        return ([*COLORS["paper"], name].index(name), run.label, numeric(str(seed)), numeric(str(run.path)))

    rows = [{**settings_of(run), "Run": run, "Optimizer": run.label} for run in sorted(runs, key=place)]
    parts = []
    for label, own in pandas.DataFrame(rows).fillna("–").groupby("Optimizer", sort=False):
        keys = varied_settings(own)
        found = dict(list(own.groupby(keys or ["Optimizer"], sort=False)))
        words = {values: ", ".join(map(setting, keys, values)) for values in found}
        order = sorted(found, key=lambda values: [numeric(value) for value in values])
        if len(keys) > 2:
            *_, second, most = sorted(found, key=lambda values: len(found[values]))
            words = {values: folder_name(few["Run"].iloc[0]) for values, few in found.items()}
            order = sorted(found, key=words.get)
            words[most] = "" if len(found[most]) > len(found[second]) else words[most]
        parts += [found[values].assign(Group=f"{label} ({words[values]})" if words[values] else label)
                  for values in order]
    return pandas.concat(parts)


def varied_settings(table):
    """Names of the settings in which the runs of a `settings_table` differ, the learning rate last."""
    texts = table.drop(columns=["Run", "Optimizer", "Group", "Loss"], errors="ignore")
    return sorted(texts.columns[texts.nunique() > 1], key=lambda key: (key == "learning_rate", key))


def group_runs(runs):
    """{name of a group in `settings_table`: its runs, by seed}, in the order of legends."""
    return {group: list(own["Run"]) for group, own in settings_table(runs).groupby("Group", sort=False)}


def folder_name(run):
    """Name of a run's folder; in a study the setting, for instance "krylov=8 batch size=64", not "seed_0"."""
    folder = run.path.resolve().parent
    if not re.fullmatch(r"seed_\d+", folder.name):
        return folder.name
    return folder.parent.name.removeprefix(f"{run.label}_").replace("_", " ")


def setting(key, value):
    """A setting as legends name it: `κ=-0.5`, `batch=64`, `60 s`."""
    return f"{value} s" if key == "max_time" else f"{SYMBOLS.get(key, key)}={value[:20]}"


def settings_of(run):
    """{name: text} of the settings of a run, without its seed, files and folders."""
    return {key: f"{value:g}" if isinstance(value, (int, float)) else str(value)
            for key, value in run.results["sim_par"].items()
            if not re.search("seed|output|folder|path", key, re.IGNORECASE)}


def numeric(text):
    """A key that sorts numbers by size and before other texts, and other texts by the numbers in them."""
    try:
        return 0, float(text), []
    except ValueError:
        return 1, 0.0, [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", text)]
