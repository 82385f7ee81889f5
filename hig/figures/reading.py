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

APART = ("studies", "Peers", "Published_Budgets")   # each folder in them has a figure of its own


def find_files(folder):
    """Files of curves below a folder, sorted; not hidden ones, dated ones, or those in APART."""
    found = []
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in APART)
        found += [Path(place, name) for name in sorted(files)
                  if name.endswith("_RESULTS.pickle") and name[0] != "." or is_log(name)]
    return found


def read_run(path):
    """The run in a pickle, or in a log of a PhiFlow scene.

    Raises:
        ValueError: the file is not a curve; the message is one sentence with its name and the reason.
    """
    if is_log(path.name):
        return read_log(path)
    return Run(*describe(path.name), path, {"provenance": {}, **load_results(path)})


def is_log(name):
    """Whether a file has the name of a loss in a PhiFlow scene."""
    return name.startswith("log_loss_") and name.endswith("_0.txt")


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
    return Run("POISSON", path.name[len("log_loss_"):-len("_0.txt")], path, {
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


def varied_settings(runs):
    """The settings in which runs of one optimizer differ, besides the seed.

    Returns:
        {optimizer: (its runs by seed, DataFrame)} in the order of legends. The DataFrame has a row for each
        of these runs and a column for each setting that differs, the learning rate last. The entries are
        texts; – stands where a file does not have the setting.
    """
    import pandas

    def place(run):
        name, seed = run.label.split()[0], run.results["sim_par"].get("seed")
        return ([*COLORS["paper"], name].index(name), run.label, numeric(str(seed)), numeric(str(run.path)))

    found = {}
    for run in sorted(runs, key=place):
        found.setdefault(run.label, []).append(run)
    for label, own in found.items():
        texts = pandas.DataFrame(map(settings_of, own)).fillna("–")
        varied = sorted(texts.columns[texts.nunique() > 1], key=lambda key: (key == "learning_rate", key))
        found[label] = own, texts[varied]
    return found


def group_runs(runs):
    """{label: runs of one curve, by seed}, in the order of optimizers and of their settings.

    The label of a group names the settings in which runs of its optimizer differ, budget included. If there
    are more than two of them (the published files have other names for their settings), it names the folder
    instead (`folder_name`), and the label of the largest group is the optimizer's name alone.
    """
    groups = {}
    for label, (own, settings) in varied_settings(runs).items():
        found = {}
        for run, (_, *values) in zip(own, settings.itertuples(name=None)):
            found.setdefault(tuple(values), []).append(run)
        words = {values: ", ".join(map(setting, settings, values)) for values in found}
        order = sorted(found, key=lambda values: [numeric(value) for value in values])
        if len(settings.columns) > 2:
            *_, second, most = sorted(found, key=lambda values: len(found[values]))
            words = {values: folder_name(few[0]) for values, few in found.items()}
            order = sorted(found, key=words.get)
            words[most] = "" if len(found[most]) > len(found[second]) else words[most]
        for values in order:
            name = f"{label} ({words[values]})" if words[values] else label
            groups.setdefault(name, []).extend(found[values])
    return groups


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
