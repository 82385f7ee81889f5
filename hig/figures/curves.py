"""What loss curves say: where a run died, what it reached and when; smoothed, thinned, as the median of several.

Shared by all programs that show curves; pure numpy, so that they start at once. What is special to a system is in the
`panels.py` of its folder, as one `System` named SYSTEM.
"""

import importlib
from pathlib import Path
from typing import Callable, NamedTuple

import numpy as np

SYSTEMS = {  # prefix of the pickles: folder of the system. A new system is one more line here, and its panels.py
    "NLO": "Nonlinear_Oscillators",
    "QMC": "Schroedinger",
    "POISSON": "Poisson",
    "TOY": "Toy_Problem",
}
AXES = {"time": "training time in seconds", "epochs": "epochs", "updates": "updates"}
LOSSES = {"test": "test loss", "train": "training loss"}
BINS = 1000  # a curve is drawn with at most two points in each


class Panel(NamedTuple):
    """What a system's figure shows beside the loss.

    draw: function of (axes, groups, colors, options) as `hig.figures.losses.draw_losses`.
    arrays: names of what the pickles must hold, one value for each entry of the curve.
    images: names of what they must hold as (H, W) arrays.
    seeds: how many runs of one group there must be.
    """
    draw: Callable
    arrays: tuple = ()
    images: tuple = ()
    seeds: int = 1


class System(NamedTuple):
    """What figures and pages know of a system.

    title: its name in words.
    log_x: whether its time axis is logarithmic.
    thresholds: test losses whose time the tables tell.
    words: {array in the pickles: what it is, in words}.
    case: function of a run's `sim_par` → (order, words) for a system that has several cases, each with panels of its own.
    in_names: regular expression of what the file names hold between prefix and optimizer.
    panels: tuple of Panel.
    """
    title: str
    log_x: bool = False
    thresholds: tuple = (1e-2, 1e-3, 1e-4)
    words: dict = {}
    case: Callable = lambda settings: (0, "")
    in_names: str = ""
    panels: tuple = ()


class Run(NamedTuple):
    """One curve: prefix of its system, name for the legend, file it comes from, content (layout of `hig.runs.results`)."""
    system: str
    label: str
    path: Path
    results: dict


class Death(NamedTuple):
    """Where a run became infinite or not a number: index of the first such entry, its seconds, "inf" or "NaN"."""
    index: int
    seconds: float
    value: str

    def __str__(self):
        return f"died at {self.value}, t = {short(self.seconds)} s"


def system(prefix):
    """The `System` of a prefix; of one that is not in SYSTEMS, only a title."""
    return importlib.import_module(f"{SYSTEMS[prefix]}.panels").SYSTEM if prefix in SYSTEMS else System("Training")


def short(number):
    """A number of seconds with three digits or, from 1000 on, more."""
    return f"{number:.0f}" if abs(number) >= 100 else f"{number:.3g}"


def x_values(run, axis):
    """Positions (N,) of a run's entries: seconds of training, epochs or updates.

    Raises:
        ValueError: `axis` is "updates", and the file does not tell how many updates an epoch has.
    """
    if axis == "time":
        return run.results["simulation_time"].astype(float)
    epochs = run.results["epochs"].astype(float)
    if axis == "epochs":
        return epochs
    if "updates_per_epoch" not in run.results.get("provenance", {}):
        raise ValueError(f"{run.path} does not tell how many updates an epoch has, so --x updates cannot draw it")
    return epochs * run.results["provenance"]["updates_per_epoch"]


def loss_kind(run, wanted):
    """`wanted` ("test" or "train"), but "train" for a run that has never measured its test loss."""
    return "train" if np.isnan(run.results["test_loss"]).all() else wanted


def find_death(run):
    """The `Death` of a run, or None if its last loss is finite.

    A NaN among the test losses alone is no death: there it says that the loss was not measured.
    """
    train, test, seconds = (run.results[key] for key in ("train_loss", "test_loss", "simulation_time"))
    alive = np.flatnonzero(np.isfinite(train) & ~np.isinf(test))
    index = int(alive[-1]) + 1 if len(alive) else 0
    if index < len(train):
        dead = test[index] if np.isfinite(train[index]) else train[index]
        return Death(index, float(seconds[index]), "NaN" if np.isnan(dead) else "inf")
    if run.results.get("provenance", {}).get("state") == "diverged":  # and stopped before it recorded the value
        return Death(index, float(seconds[-1]), "NaN")
    return None


def find_switch(run, axis):
    """Position on an axis (as in `x_values`) at which a pretrained run's second optimizer took over, or None.

    That is the last entry of the first optimizer: of a long curve, which is thinned, not necessarily its last epoch.
    """
    epoch = run.results.get("provenance", {}).get("switch_epoch")
    index = [] if epoch is None else np.flatnonzero(run.results["epochs"] <= epoch)
    return float(x_values(run, axis)[index[-1]]) if len(index) else None


def final_loss(run, kind):
    """Last finite loss, or NaN if there is none."""
    losses = run.results[f"{kind}_loss"]
    finite = losses[np.isfinite(losses)]
    return float(finite[-1]) if len(finite) else np.nan


def time_to_reach(run, threshold):
    """Seconds until the test loss (training loss where there is none) was first `threshold` or less, or None."""
    reached = np.flatnonzero(run.results[f"{loss_kind(run, 'test')}_loss"] <= threshold)
    return float(run.results["simulation_time"][reached[0]]) if len(reached) else None


def smooth(y, count):
    """Geometric mean of the `count` entries around each one, of fewer at the ends; (N,) → (N,), positive."""
    if count < 2 or not len(y):
        return y
    total = np.concatenate([[0.0], np.cumsum(np.log(y))])
    index = np.arange(len(y))
    first, last = np.maximum(index - (count - 1) // 2, 0), np.minimum(index + count // 2 + 1, len(y))
    return np.exp((total[last] - total[first]) / (last - first))


def drawable(run, y, axis, logarithmic, count=1):
    """The part of a run that a figure can show: positions and values before its death, positive and finite, smoothed.

    Args:
        run: Run.
        y: (N,) values at its entries.
        axis: of the positions, see `x_values`.
        logarithmic: whether that axis is, which has no place for the untrained network at time 0.
        count: of entries to smooth over.

    Returns:
        x, y: (M,) each, M ≤ N.
    """
    x, death = x_values(run, axis), find_death(run)
    keep = np.isfinite(x) & np.isfinite(y) & (y > 0) & (x > 0 if logarithmic else True)
    keep[death.index if death else len(x):] = False
    return x[keep], smooth(y[keep].astype(float), count)


def thin(x, y, logarithmic, bins=BINS):
    """Indices of the entries to draw: the lowest and the highest one in each bin of the x axis, and both ends.

    Args:
        x, y: (N,), x ascending (and positive if `logarithmic`).
        logarithmic: whether the bins are equal on a logarithmic axis.
        bins: their number.

    Returns:
        ascending integers, all of 0..N-1 if there are no more than two per bin.
    """
    if len(x) <= 2 * bins:
        return np.arange(len(x))
    position = np.log(x) if logarithmic else x
    inner = np.linspace(position[0], position[-1], bins + 1)[1:-1]
    bin_of = np.searchsorted(inner, position, side="right")
    order = np.lexsort((y, bin_of))  # by bin, then by value
    starts = np.flatnonzero(np.diff(bin_of[order], prepend=-1))
    lowest, highest = order[starts], order[np.append(starts[1:], len(x)) - 1]
    return np.unique(np.concatenate([lowest, highest, [0, len(x) - 1]]))


def median_band(curves, logarithmic=True):
    """Median, minimum and maximum of several curves, interpolated in the logarithm of the loss.

    A dead curve counts as infinite from its end on; the others set the end of the band by the shortest of them.

    Args:
        curves: list of (x, y, dead): x (N_i,) ascending, y (N_i,) positive.
        logarithmic: False for quantities that may be zero or negative, interpolated as they are.

    Returns:
        x, median, minimum, maximum: (M,) each. The median is infinite where half of the curves have died; the
        maximum is that of the living, infinite where there are none.
    """
    alive = [x[-1] for x, _, dead in curves if not dead]
    end = min(alive) if alive else max(x[-1] for x, _, _ in curves)
    grid = np.unique(np.concatenate([x for x, _, _ in curves]))
    grid = grid[(grid >= max(x[0] for x, _, _ in curves)) & (grid <= end)]
    forth, back = (np.log, np.exp) if logarithmic else (np.asarray, np.asarray)
    values = np.array([np.interp(grid, x, forth(y), right=np.inf if dead else None) for x, y, dead in curves])
    high = np.where(np.isinf(values), -np.inf, values).max(axis=0)
    high[np.isinf(high)] = np.inf
    return grid, back(np.median(values, axis=0)), back(values.min(axis=0)), back(high)
