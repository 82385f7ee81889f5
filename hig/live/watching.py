"""What the folders hold now, for a page that looks repeatedly, and what the page says about a run."""

import threading
from pathlib import Path
from typing import NamedTuple

import numpy as np

from hig.figures.curves import final_loss, find_death, loss_kind, short, state_of, system, time_to_reach
from hig.figures.reading import find_files, read_runs


class Found(NamedTuple):
    """A file or PhiFlow scene: path, a stamp that changes with its content, runs, or why it has none."""
    path: Path
    stamp: tuple
    runs: list
    error: str


class Watcher:
    """The curves at some paths (list of Path): below folders, or in single files. Threads may share it."""

    def __init__(self, paths):
        self.paths, self.known, self.lock = paths, {}, threading.Lock()

    def look(self):
        """All that is there now, each file once: list of Found. Only files that have changed are read."""
        with self.lock:
            now = {}
            files = [find_files(path) if path.is_dir() else [path] for path in self.paths]
            for path in sum(files, []):
                before, stamp = self.known.get(path.resolve()), _stamp(path)
                if stamp and path.resolve() not in now:  # without a stamp it is gone since it was listed
                    now[path.resolve()] = before if before and before.stamp == stamp else _read(path, stamp)
            self.known = now
            return list(now.values())


def _stamp(path):
    """Times of change, sizes and inodes of a pickle or of the logs in a scene; empty if it is gone."""
    try:
        files = sorted(path.glob("log_*.txt")) if path.is_dir() else [path]
        return tuple((status.st_mtime_ns, status.st_size, status.st_ino) for status in map(Path.stat, files))
    except OSError:
        return ()


def _read(path, stamp):
    try:
        return Found(path, stamp, read_runs(path), "")
    except ValueError as error:
        return Found(path, stamp, [], str(error))


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


def table_row(run, levels):
    """Texts: state, test loss, training loss, seconds to each level of the test loss, epochs, seconds, file.
    """
    death = find_death(run)
    train, test = (run.results[f"{kind}_loss"][-1] if death else final_loss(run, kind)
                   for kind in ("train", "test"))
    reached = [time_to_reach(run, level) for level in levels]
    return [f"{state_of(run)}: {death}" if death else state_of(run),
            "–" if loss_kind(run, "test") == "train" else f"{test:.2e}", f"{train:.2e}",
            *("–" if seconds is None else short(seconds) for seconds in reached),
            f"{run.results['epochs'][-1]:.0f}", short(run.results["simulation_time"][-1]),
            shown_path(run.path)]


def split_settings(runs):
    """The settings in which all runs agree, as a text, and those in which each differs: list of texts."""
    every = [{key.replace("_", " "): f"{value:g}" if isinstance(value, float) else str(value)
              for key, value in run.results["sim_par"].items() if value is not None and key != "optimizer"}
             for run in runs]
    common = {key for key in every[0] if len({one.get(key) for one in every}) == 1}

    def text(settings, keys):
        return ", ".join(f"{key} {value}" for key, value in settings.items() if key in keys)
    return text(every[0], common), [text(one, set(one) - common) for one in every]


def shown_path(path):
    """A path as the user would type it: relative to the current folder if it is below."""
    path = Path(path).resolve()
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def to_csv(runs):
    """The complete curves of runs as CSV: optimizer, file, epochs, simulation_time and all quantities.

    Numbers have ten digits. A cell is empty where a run has no such value.
    """
    import pandas

    tables = [pandas.DataFrame({"optimizer": run.label, "file": shown_path(run.path),
                                **{key: run.results[key] for key in ("epochs", "simulation_time")},
                                **quantities(run)}) for run in runs]
    return pandas.concat(tables).to_csv(index=False, float_format="%.10g", lineterminator="\n")
