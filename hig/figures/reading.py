"""Curves from files: found below a folder, read, and sorted into cases and groups.

A pickle is named `<prefix>_<X>_RESULTS.pickle`, with a prefix of `hig.figures.curves.SYSTEMS` and X for the
legend. A folder with `log_step_time.txt` is a scene of PhiFlow's, as the published Poisson code wrote it.
"""

import os
import re
import sys
from pathlib import Path

import numpy as np

from hig.figures.curves import SYSTEMS, Run, system, x_values
from hig.runs.results import load_results

OPTIMIZERS = ("Adam", "GN", "HIG", "SGD", "Adagrad", "Adadelta", "RMSprop", "SIP", "Muon", "L-BFGS",
              "HIG_Krylov", "HIG_adaptive", "LM")   # in the order of legends
SYMBOLS = {"kappa": "κ", "learning_rate": "η", "truncation": "τ", "damping": "μ", "krylov": "k",
           "batch_size": "batch"}
APART = ("studies", "Peers", "Published_Budgets")   # each folder in them has a figure of its own


def find_files(folder):
    """Pickles and PhiFlow scenes below a folder, sorted; none under a date, hidden, or in one of APART."""
    found = []
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in APART)
        found += [Path(place, name) for name in sorted(files)
                  if name.endswith("_RESULTS.pickle") and name[0] != "."]
        found += [Path(place)] if "log_step_time.txt" in files else []
    return found


def read_runs(path):
    """The runs in a pickle (one) or in a PhiFlow scene folder (one for each logged loss).

    Raises:
        ValueError: the file is not a curve; one sentence that names it and the reason.
    """
    path = Path(path)
    if path.is_dir():
        return read_scene(path)
    system, label = describe(path.name)
    return [Run(system, label, path, load_results(path))]


def describe(filename):
    """Prefix of the system and legend name in a file's name: `NLO_HIG_RESULTS.pickle` → ("NLO", "HIG")."""
    prefix = filename.split("_")[0] if filename.split("_")[0] in SYSTEMS else ""
    more = f"(?:{system(prefix).in_names}_)?" if prefix else ""
    start = f"{prefix}_" if prefix else ""
    match = re.fullmatch(rf"{start}{more}(.+)_RESULTS(?:_(\d+-\d+-\d+_\d+.*))?\.pickle", filename)
    label, date = match.groups() if match else (Path(filename).stem, None)
    label = re.sub(r"(?i)(?<=.)[_-]seed[_-]?\d+$", "", "L-BFGS" if label == "LBFGS" else label)
    return prefix if match else "", f"{label} {date}" if date else label


def read_scene(folder):
    """The runs of a PhiFlow scene.

    log_step_time.txt has step and seconds, log_loss_<X>_0.txt step and loss. PhiFlow counts the steps that
    have ended: loss 0 is that of the untrained network.

    Raises:
        ValueError: a file is not of that form.
    """
    def columns(file):
        try:
            *lines, last = file.read_text().split("\n")      # a last line without end is still being written
            table = np.loadtxt(lines or [last], ndmin=2, usecols=(0, 1))
        except (OSError, ValueError) as error:
            raise ValueError(f"{file} cannot be used as a curve: {str(error).splitlines()[0]}") from None
        return table[np.argsort(table[:, 0], kind="stable")].T
    ended, seconds = columns(folder / "log_step_time.txt")
    clock, runs = np.concatenate([[0.0], np.cumsum(seconds)]), []
    for file in sorted(folder.glob("log_loss_*_0.txt")):
        steps, losses = columns(file)
        times = clock[np.searchsorted(ended, steps, side="right")]
        results = {"epochs": steps, "train_loss": losses, "test_loss": np.full(len(losses), np.nan),
                   "simulation_time": times, "epoch_time": np.diff(times), "sim_par": {},
                   "provenance": {"updates_per_epoch": 1}}
        runs.append(Run("POISSON", file.name[len("log_loss_"):-len("_0.txt")], folder, results))
    if not runs:
        raise ValueError(f"{folder} cannot be used as a curve: it has no file log_loss_<X>_0.txt")
    return runs


def collect(paths, axis):
    """Runs of pickles, which must be readable, and of folders, where unreadable ones are only reported."""
    runs, seen = [], set()
    for path in map(Path, paths):
        for file in find_files(path) if path.is_dir() else [path]:
            if file.resolve() in seen:
                continue
            seen.add(file.resolve())
            try:
                found = read_runs(file)
                runs += [run for run in found if len(x_values(run, axis))]
            except ValueError as error:
                if not path.is_dir():
                    raise
                print(f"plot.py: {error}", file=sys.stderr)
    return runs


def sort_into_cases(runs):
    """{title: runs}, one entry for each case of each system, in the order of SYSTEMS, unknown ones last."""
    def case(run):
        return system(run.system).case(run.results["sim_par"])
    cases = {}
    for run in sorted(runs, key=lambda run: ([*SYSTEMS, ""].index(run.system), case(run)[0])):
        cases.setdefault(", ".join(filter(None, (system(run.system).title, case(run)[1]))), []).append(run)
    return cases


def varied_settings(runs):
    """The settings in which runs of one optimizer differ, besides the seed.

    Returns:
        {optimizer: DataFrame} in the order of legends: a row for each run, its index the place in `runs`,
        sorted by seed; a column of texts for each setting that differs, – where a file does not tell it, the
        learning rate last.
    """
    import pandas

    def place(i):
        label, seed = runs[i].label, runs[i].results["sim_par"].get("seed")
        name = label.split()[0]
        return (OPTIMIZERS.index(name) if name in OPTIMIZERS else len(OPTIMIZERS), label, numeric(str(seed)),
                numeric(str(runs[i].path)))

    order = sorted(range(len(runs)), key=place)
    labels = pandas.Series([runs[i].label for i in order], index=order)
    settings = pandas.DataFrame([settings_of(runs[i]) for i in order], index=order)
    return {label: own[sorted(own.columns[own.nunique() > 1], key=lambda key: (key == "learning_rate", key))]
            for label, own in settings.fillna("–").groupby(labels, sort=False)}


def group_runs(runs):
    """{label: runs of one curve, by seed}, in the order of optimizers and of their settings.

    Runs of one optimizer are told apart by the settings that differ, budget included. Where more than two
    differ (the published files name them in their own way), the folder names a group (`folder_name`), and
    the largest group has the optimizer's name alone.
    """
    groups = {}
    for label, own in varied_settings(runs).items():
        found = {}
        for place, *values in own.itertuples(name=None):
            found.setdefault(tuple(values), []).append(runs[place])
        words = {values: ", ".join(map(setting, own, values)) for values in found}
        order = sorted(found, key=lambda values: [numeric(value) for value in values])
        if len(own.columns) > 2:
            *_, second, most = sorted(found, key=lambda values: len(found[values]))
            words = {values: folder_name(few[0]) for values, few in found.items()}
            order = sorted(found, key=words.get)
            words[most] = "" if len(found[most]) > len(found[second]) else words[most]
        for values in order:
            name = f"{label} ({words[values]})" if words[values] else label
            groups.setdefault(name, []).extend(found[values])
    return groups


def folder_name(run):
    """Name of a run's folder; in a study that of the setting, "krylov=8 batch size=64", not "seed_0"."""
    folder = run.path.resolve().parent
    if not re.fullmatch(r"seed_\d+", folder.name):
        return folder.name
    return folder.parent.name.removeprefix(f"{run.label}_").replace("_", " ")


def setting(key, value):
    """A setting as legends name it: `κ=-0.5`, `batch=64`, `60 s`."""
    return f"{value} s" if key == "max_time" else f"{SYMBOLS.get(key, key)}={value[:20]}"


def settings_of(run):
    """{name: text} of the settings of a run, without its seed and places."""
    return {key: f"{value:g}" if isinstance(value, (int, float)) else str(value)
            for key, value in run.results["sim_par"].items()
            if not re.search("seed|output|folder|path", key, re.IGNORECASE)}


def numeric(text):
    """A key that sorts numbers by size, before all other texts, and these by the numbers in them."""
    try:
        return 0, float(text), []
    except ValueError:
        return 1, 0.0, [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", text)]
