"""What the folders hold now, for a page that looks repeatedly, and what can be drawn of a run."""

from contextlib import suppress
from typing import NamedTuple

import numpy as np

from hig.figures.curves import Run, loss_kind
from hig.figures.reading import find_files, read_run


class Found(NamedTuple):
    """What a file held when it had this stamp: a run, or a sentence why it has none."""
    stamp: tuple
    run: Run | None = None
    error: str = ""


def look(paths, known):
    """Reads what is at some paths (folders and files) now: {path: Found}, each file once.

    `known` is {} at first; it keeps what was read, so that only files that have changed are read again.
    """
    found = {}
    for path in [file.resolve() for path in paths
                 for file in (find_files(path) if path.is_dir() else [path])]:
        with suppress(OSError):                                         # it is gone since it was listed
            state = path.stat()
            stamp = state.st_mtime_ns, state.st_size, state.st_ino
            if path not in known or known[path].stamp != stamp:
                try:
                    known[path] = Found(stamp, read_run(path))
                except ValueError as error:
                    known[path] = Found(stamp, error=str(error))
            found[path] = known[path]
    return found


def quantities(run):
    """{name: (N,) float64}: what a run's file holds for each entry, test and training loss first.

    Entry 0, the untrained network, is NaN where only updates have values. Without test losses, "test_loss" is
    the training loss.
    """
    results, length = run.results, len(run.results["epochs"])
    losses = {"test_loss": results[f"{loss_kind(run, 'test')}_loss"], "train_loss": results["train_loss"]}
    arrays = {**losses, **results["provenance"], **results, **losses}
    return {key: np.concatenate([np.full(length - len(values), np.nan), values])
            for key, values in arrays.items() if key not in ("epochs", "simulation_time")
            and isinstance(values, np.ndarray) and values.ndim == 1 and length - len(values) in (0, 1)}
