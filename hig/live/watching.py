"""What the folders hold now, for a page that looks repeatedly, and what the page says about a run."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from hig.figures.curves import loss_kind, short, system
from hig.figures.reading import find_files, read_runs
from hig.figures.table import numbers


class Found(NamedTuple):
    """A file or PhiFlow scene: path, a stamp that changes with its content, runs, or why it has none."""
    path: Path
    stamp: tuple
    runs: list
    error: str


def look(paths, known):
    """All curves at some paths now, each file once.

    Args:
        paths: folders and files (list of Path).
        known: {} at first; it keeps what was read, so that the next call reads only files that have changed.

    Returns:
        list of Found.
    """
    files = [file.resolve() for path in paths for file in (find_files(path) if path.is_dir() else [path])]
    found = []
    for path in dict.fromkeys(files):
        parts = sorted(path.glob("log_*.txt")) if path.is_dir() else [path]
        try:
            stamp = tuple((status.st_mtime_ns, status.st_size, status.st_ino)
                          for status in map(Path.stat, parts))
        except OSError:                                                 # it is gone since it was listed
            continue
        if path not in known or known[path].stamp != stamp:
            try:
                known[path] = Found(path, stamp, read_runs(path), "")
            except ValueError as error:
                known[path] = Found(path, stamp, [], str(error))
        found.append(known[path])
    return found


def quantities(run):
    """{name: (N,) float64}: what a run's file holds for each entry, test and training loss first.

    Entry 0, the untrained network, is NaN where only updates have values. Without test losses, "test_loss" is
    the training loss.
    """
    results, length = run.results, len(run.results["epochs"])
    found = {f"{kind}_loss": results[f"{loss_kind(run, kind)}_loss"].astype(float)
             for kind in ("test", "train")}
    for key, values in {**results.get("provenance", {}), **results}.items():
        if isinstance(values, np.ndarray) and values.ndim == 1 and length - len(values) in (0, 1):
            found.setdefault(key, np.concatenate([np.full(length - len(values), np.nan), values]))
    del found["epochs"], found["simulation_time"]
    return found


WORDS = {"test_loss": "test loss", "train_loss": "training loss", "epoch_time": "seconds of an epoch",
         "rank": "singular values kept", "sigma_max": "largest singular value",
         "sigma_min": "smallest singular value kept", "learning_rate": "learning rate η",
         "truncation": "truncation τ"}


def in_words(key, prefix):
    """What a quantity is, in words of the system with that prefix, or else its name."""
    return {**WORDS, **system(prefix).words}.get(key, key.replace("_", " "))


def table_row(run, thresholds):
    """The `hig.figures.table.numbers` of a run as texts: test loss, training loss, seconds to each of the
    test losses `thresholds`, epochs, seconds."""
    epochs, train, test, seconds, *reached = numbers(run, thresholds)
    losses = [f"{loss:.2e}".replace("nan", "–") for loss in (test, train)]
    return [*losses, *("–" if np.isinf(time) else short(time) for time in reached), f"{epochs:.0f}",
            short(seconds)]


def shown_path(path):
    """A path as the user would type it: relative to the current folder if it is below."""
    path = Path(path).resolve()
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
