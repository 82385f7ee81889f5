"""What loss curves say: where a run died, what it reached and when; smoothed, thinned, as medians.

All programs that show curves share this. It needs numpy alone, so that they start at once. Each system's
folder has a `panels.py`, in which one `System` named SYSTEM says what is special to it.
"""

import importlib
import re
from pathlib import Path
from typing import Callable, NamedTuple

import numpy as np

from hig.runs import locks

SYSTEMS = {  # prefix of the pickles: folder of the system. A new system is one more line here, and panels.py
    "NLO": "Nonlinear_Oscillators",
    "QMC": "Schroedinger",
    "POISSON": "Poisson",
    "TOY": "Toy_Problem",
    "CHAIN": "Linear_Chain",
    "REGRESSION": "Regression",
    "POLES": "Cart_Pole",
}
AXES = {"time": "training time (s)", "epochs": "epochs", "updates": "updates"}
LOSSES = {"test": "test loss", "train": "training loss"}
BINS = 1000  # a curve is drawn with at most two points in each


class Panel(NamedTuple):
    """What a system's figure shows beside the loss.

    draw: function of (axes, groups, looks, options), as `hig.figures.losses.draw_losses`.
    arrays: names of what the pickles must hold with one value for each entry of the curve.
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
    case: function of a run's `sim_par` → (order, words), if a system has cases with panels of their own.
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
    """One curve: prefix of its system, name in the legend, its file, its content as in `hig.runs.results`,
    with an empty "provenance" where the file has none.
    """
    system: str
    label: str
    path: Path
    results: dict


class Death(NamedTuple):
    """Where a loss became infinite or not a number: index of the entry, its seconds, "inf" or "NaN"."""
    index: int
    seconds: float
    value: str

    def __str__(self):
        return f"died at {self.value}, t = {short(self.seconds)} s"


def system(prefix):
    """The `System` of a prefix; of one that is not in SYSTEMS, only a title."""
    if prefix not in SYSTEMS:
        return System("Training")
    return importlib.import_module(f"{SYSTEMS[prefix]}.panels").SYSTEM


def state_of(run):
    """The state of a run as in `hig.runs.locks.state_of`; "diverged" of the published code's, too."""
    return "diverged" if find_death(run) else locks.state_of(run.path, run.results)


def short(number):
    """A number of seconds as text, with three digits, and from 100 on without decimals."""
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
    if "updates_per_epoch" not in run.results["provenance"]:
        raise ValueError(f"{run.path} does not tell how many updates an epoch has, for --x updates")
    return epochs * run.results["provenance"]["updates_per_epoch"]


def loss_kind(run, wanted):
    """`wanted` ("test" or "train"), but "train" for a run that has never measured its test loss."""
    return "train" if np.isnan(run.results["test_loss"]).all() else wanted


def find_death(run):
    """The `Death` of a run, or None if its last loss is finite.

    NaN as a test loss is no death; it says that the loss was not measured.
    """
    train, test, seconds = (run.results[key] for key in ("train_loss", "test_loss", "simulation_time"))
    alive = np.flatnonzero(np.isfinite(train) & ~np.isinf(test))
    index = int(alive[-1]) + 1 if len(alive) else 0
    if index < len(train):
        dead = test[index] if np.isfinite(train[index]) else train[index]
        return Death(index, float(seconds[index]), "NaN" if np.isnan(dead) else "inf")
    if run.results["provenance"].get("state") == "diverged":    # and did not record the value
        return Death(index, float(seconds[-1]), "NaN")
    return None


def take_overs(run, axis):
    """Where another optimizer takes over in a run: list of (position on an axis as in `x_values`, words).

    The position is that of the last entry before, which need not be the optimizer's last epoch if the file
    does not hold every epoch. A pretrained run tells its switch, a curve of training by hand the `method` of
    each entry.
    """
    epoch, method = run.results["provenance"].get("switch_epoch"), run.results.get("method", ())
    names = dict(re.findall(r"(\d+) (\w+)", run.results["sim_par"].get("methods", "")))
    before = [] if epoch is None else np.flatnonzero(run.results["epochs"] <= epoch)[-1:]
    found = [(i, "switch") for i in before]
    found += [(i - 1, " → ".join(names.get(f"{method[j]:.0f}", "?") for j in (i - 1, i)))
              for i in range(2, len(method)) if method[i] != method[i - 1]]
    return [(float(x_values(run, axis)[i]), words) for i, words in found]


def final_loss(run, wanted):
    """Last finite loss of the `loss_kind`; infinity if the run died, so that a median counts it as worst."""
    losses = run.results[f"{loss_kind(run, wanted)}_loss"]
    finite = losses[np.isfinite(losses)]
    return np.inf if find_death(run) or not len(finite) else float(finite[-1])


def time_to_reach(run, threshold):
    """Seconds until the test loss, or training loss where there is none, was first `threshold`; or inf."""
    reached = run.results["simulation_time"][run.results[f"{loss_kind(run, 'test')}_loss"] <= threshold]
    return float(reached[0]) if len(reached) else np.inf


def smooth(seconds, y, width):
    """Geometric means of y > 0, (N,), over `width` seconds around each of the ascending `seconds`, (N,)."""
    if not width or not len(y):
        return y
    total = np.concatenate([[0.0], np.cumsum(np.log(y))])
    first = np.searchsorted(seconds, seconds - width / 2, side="left")
    last = np.searchsorted(seconds, seconds + width / 2, side="right")
    return np.exp((total[last] - total[first]) / (last - first))


class Curve(NamedTuple):
    """What a figure shows of a run: ascending x, y (M,); where it died, (x, y); whether it has ended."""
    x: np.ndarray
    y: np.ndarray
    death: tuple | None
    ended: bool


def drawable(run, y, axis, logarithmic=False, width=None, positive=True):
    """The `Curve` of a run: its finite entries before its death that the axes can show, smoothed.

    Args:
        run: Run.
        y: (N,) values at its entries.
        axis: of the positions, see `x_values`.
        logarithmic: whether that axis is; it cannot show the untrained network at time 0.
        width: seconds to smooth over, or None.
        positive: whether only positive values are shown.
    """
    x, death = x_values(run, axis), find_death(run)
    keep = np.isfinite(x) & np.isfinite(y) & (y > 0 if positive else True) & (x > 0 if logarithmic else True)
    keep[death.index if death else len(x):] = False
    values = smooth(run.results["simulation_time"][keep], y[keep].astype(float), width)
    end = (x[min(death.index, len(x) - 1)], values[-1] if len(values) else np.nan) if death else None
    return Curve(x[keep], values, end, state_of(run) == "finished")


def loss_curves(runs, options, logarithmic):
    """The `Curve` of each run's loss, with x, y and smooth as the command line has them."""
    losses = [run.results[f"{loss_kind(run, options.y)}_loss"] for run in runs]
    return [drawable(run, y, options.x, logarithmic, options.smooth) for run, y in zip(runs, losses)]


def thin(x, y, logarithmic, bins=BINS):
    """Indices of the entries to draw: both ends, and the lowest and highest one in each bin of the x axis.

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

    At each position they are taken over the runs that have come so far. A run that has ended keeps its last
    value, and one that has died is infinite from there on. The band ends where the last run ends, or before
    it where fewer than half of the runs are left.

    Args:
        curves: list of Curve; one without an entry counts only if its run has died.
        logarithmic: False for quantities that may be zero or negative, interpolated as they are.

    Returns:
        x, median, minimum, maximum: (M,) each. The median is infinite where half of the runs have died; the
            maximum is that of the living, infinite where there are none.
        count: how many runs the last median is of.
    """
    curves = [curve for curve in curves if len(curve.x) or curve.death]
    ends = [curve.death[0] if curve.death else curve.x[-1] for curve in curves]
    grid = np.unique(np.concatenate([*(curve.x for curve in curves), ends]))
    grid = grid[grid >= max((curve.x[0] for curve in curves if len(curve.x)), default=0)]
    there = np.array([(grid <= end) | curve.ended | bool(curve.death) for curve, end in zip(curves, ends)])
    enough = 2 * there.sum(axis=0) >= len(there)
    grid, there = grid[enough], there[:, enough]
    forth, back = (np.log, np.exp) if logarithmic else (np.asarray, np.asarray)
    values = np.full(there.shape, np.inf)
    for row, curve in zip(values, curves):
        if len(curve.x):
            row[:] = back(np.interp(grid, curve.x, forth(curve.y)))
        if curve.death:
            row[grid >= curve.death[0]] = np.inf
    values[~there] = np.nan
    high = np.nanmax(np.where(np.isinf(values), -np.inf, values), axis=0)
    high[np.isinf(high)] = np.inf
    count = int(there[:, -1].sum()) if len(grid) else 0
    return grid, np.nanmedian(values, axis=0), np.nanmin(values, axis=0), high, count


def drawn_points(curves, log_x, log_y, bins=BINS):
    """What a figure draws of the curves of one group, thinned.

    Args:
        curves: list of `Curve`.
        log_x, log_y: whether the axes are logarithmic.
        bins: see `thin`.

    Returns:
        x, y: (M,) the curve itself, or the median of several ones; infinite where half of the runs have died.
        band: (minimum, maximum), (M,) each, or None for a single curve.
    """
    shown = [curve for curve in curves if len(curve.x)]
    if len(shown) < 2:
        x, y = shown[0][:2] if shown else np.zeros((2, 0))
        index = thin(x, y, log_x, bins)
        return x[index], y[index], None
    x, middle, low, high, _ = median_band(curves, log_y)
    index = np.unique(np.concatenate([thin(x, y, log_x, bins) for y in (middle, low, high)]))
    return x[index], middle[index], (low[index], high[index])
