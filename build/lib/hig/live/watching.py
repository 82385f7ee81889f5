"""What the folders hold now, for a page that looks again and again: only files that changed are read.

Pure numpy, like `hig.figures.curves`, so that a page starts at once.
"""

import csv
import io
import threading
from pathlib import Path
from typing import NamedTuple

import numpy as np

from hig.figures.curves import final_loss, find_death, loss_kind, short, state_of, system, time_to_reach
from hig.figures.reading import find_files, read_runs


class Found(NamedTuple):
    """A pickle or scene: its path, a stamp that changes with its content, its runs or the sentence why there are none."""
    path: Path
    stamp: tuple
    runs: list
    error: str | None


class Watcher:
    """The curves below some folders (list of Path). `look` may be called from several threads."""

    def __init__(self, folders):
        self.folders = folders
        self.known = {}                                                 # path → Found
        self.lock = threading.Lock()
        self.files_read = 0                                             # so far; tells what a look has cost

    def look(self):
        """All that is there now: list of Found, in the order of folders and names, each file once."""
        with self.lock:
            now = {}
            for path in (path for folder in self.folders for path in find_files(folder)):
                stamp = _stamp(path)
                if stamp is None or path.resolve() in now:              # gone since it was listed, or listed before
                    continue
                before = self.known.get(path.resolve())
                now[path.resolve()] = before if before and before.stamp == stamp else self._read(path, stamp)
            self.known = now
            return list(now.values())

    def _read(self, path, stamp):
        self.files_read += 1
        try:
            return Found(path, stamp, read_runs(path), None)
        except ValueError as error:
            return Found(path, stamp, [], str(error))


def _stamp(path):
    """Time of change, size and inode of a pickle or of the logs in a scene; None if there is no such file."""
    try:
        files = sorted(path.glob("log_*.txt")) if path.is_dir() else [path]
        return tuple(n for status in (file.stat() for file in files)
                     for n in (status.st_mtime_ns, status.st_size, status.st_ino))
    except OSError:
        return None


# --------------------------------------------------------------------------------------- what is said about a run

def quantities(runs):
    """Names of what can be drawn over the entries of at least one of the runs, the losses first."""
    found = {key for run in runs for source in _sources(run)
             for key, values in source.items() if _has_entries(run, values)}
    return ["test_loss", "train_loss", *sorted(found - {"test_loss", "train_loss", "epochs", "simulation_time"})]


def quantity(run, key):
    """Values (N,), float64, of a quantity at the entries of a run, NaN at entry 0 of one that only updates have.

    Returns None if the file does not hold it. Of "test_loss" it is the training loss for a run without test losses.
    """
    if key in ("test_loss", "train_loss"):
        return run.results[f"{loss_kind(run, key.removesuffix('_loss'))}_loss"].astype(float)
    values = next((source[key] for source in _sources(run) if _has_entries(run, source.get(key))), None)
    missing = 0 if values is None else len(run.results["epochs"]) - len(values)
    return None if values is None else np.concatenate([np.full(missing, np.nan), values])


def _sources(run):
    return run.results, run.results.get("provenance", {})


def _has_entries(run, values):
    """Whether this is an array with one number for each entry, or for each but the untrained network's."""
    length = len(run.results["epochs"])
    return isinstance(values, np.ndarray) and values.ndim == 1 and len(values) in (length, length - 1)


def table_row(run, levels, differing=None):
    """Texts: state, test loss, training loss, seconds to each level of the test loss, epochs, seconds, settings, file.

    Args:
        differing: names of the settings that are told (default: all).
    """
    death = find_death(run)
    train = run.results["train_loss"][-1] if death else final_loss(run, "train")
    test = run.results["test_loss"][-1] if death else final_loss(run, "test")
    reached = [time_to_reach(run, level) for level in levels]
    state = state_of(run)
    return [f"{state}: {death}" if death else state, "–" if loss_kind(run, "test") == "train" else f"{test:.2e}", f"{train:.2e}",
            *("–" if seconds is None else short(seconds) for seconds in reached), f"{run.results['epochs'][-1]:.0f}",
            short(run.results["simulation_time"][-1]), settings_text(run, differing), shown_path(run.path)]


def settings_text(run, names=None):
    """The settings of a run that have these names (default: all), in words."""
    return ", ".join(f"{key.replace('_', ' ')} {value:g}" if isinstance(value, float) else f"{key.replace('_', ' ')} {value}"
                     for key, value in run.results["sim_par"].items()
                     if value is not None and key != "optimizer" and (names is None or key in names))


def differing_settings(runs):
    """Names of the settings in which some of the runs differ: set."""
    every = [{key: str(value) for key, value in run.results["sim_par"].items()} for run in runs]
    return {key for key in set().union(*every) if len({one.get(key) for one in every}) > 1}


WORDS = {"test_loss": "test loss", "train_loss": "training loss", "epoch_time": "seconds of an epoch", "rank": "singular values kept",
         "sigma_max": "largest singular value", "sigma_min": "smallest singular value kept", "damping": "damping",
         "learning_rate": "learning rate η", "batch_size": "batch size", "truncation": "truncation τ"}


def in_words(key, prefix):
    """What a quantity is, in words; its name where a system of that prefix does not tell."""
    return {**WORDS, **system(prefix).words}.get(key, key.replace("_", " "))


def shown_path(path):
    """A path as the user would type it: relative to the current folder if it is below."""
    path = Path(path).resolve()
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def csv_lines(runs):
    """The complete curves of runs as lines of CSV, with a head: optimizer, file, epochs, simulation_time, quantities.

    A cell is empty where a run has no such value.
    """
    keys = quantities(runs)
    yield _csv_line(["optimizer", "file", "epochs", "simulation_time", *keys])
    for run in runs:
        measured = {key: quantity(run, key) for key in keys if key not in ("train_loss", "test_loss")}
        columns = [run.results["epochs"], run.results["simulation_time"], run.results["test_loss"],
                   run.results["train_loss"], *list(measured.values())]
        table = [np.full(len(columns[0]), np.nan) if column is None else column.astype(float) for column in columns]
        start = [run.label, shown_path(run.path)]
        yield "".join(_csv_line(start + ["" if np.isnan(value) else f"{value:.10g}" for value in entry])
                      for entry in zip(*table))


def _csv_line(cells):
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(cells)
    return line.getvalue()
