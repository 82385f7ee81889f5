"""What loss curves say: found below a folder, read, grouped by optimizer, thinned, and where they died.

Shared by all programs that show curves; pure numpy, so that they start at once. The names of the systems are those in the
file names, `<NLO|QMC|POISSON|TOY>_<X>_RESULTS.pickle`, with the λ of the toy problem: `TOY_lambda_1_<X>_RESULTS.pickle`.
"""

import os
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np

from hig.runs.results import load_results

SYSTEMS = {  # prefix of the pickles: folder, title, logarithmic time axis
    "NLO": ("Nonlinear_Oscillators", "Nonlinear oscillators", False),
    "QMC": ("Schroedinger", "Schroedinger equation", False),
    "POISSON": ("Poisson", "Poisson problem", True),
    "TOY": ("Toy_Problem", "Toy problem", False),
    "": (None, "Training", False),
}
OPTIMIZERS = ("Adam", "GN", "HIG", "SGD", "Adagrad", "Adadelta", "RMSprop", "SIP")  # in the order of legends
BINS = 1000  # a curve is drawn with at most two points in each


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


def short(number):
    """A number of seconds with three digits or, from 1000 on, more."""
    return f"{number:.0f}" if abs(number) >= 100 else f"{number:.3g}"


# ---------------------------------------------------------------------------------------------------- reading

def find_files(folder):
    """Pickles and PhiFlow scenes below a folder, sorted; without hidden folders and curves kept under a date."""
    found = []
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [Path(place, name) for name in sorted(files) if name.endswith("_RESULTS.pickle") and name[0] != "."]
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
    """Prefix of the system and legend name in the name of a pickle: `NLO_HIG_RESULTS.pickle` → ("NLO", "HIG")."""
    prefixes = "|".join(filter(None, SYSTEMS))
    match = re.fullmatch(rf"(?:({prefixes})_)?(?:lambda_[0-9.e+-]+_)?(.+)_RESULTS(?:_(\d+-\d+-\d+_\d+.*))?\.pickle", filename)
    system, label, date = match.groups() if match else (None, Path(filename).stem, None)
    label = re.sub(r"(?i)(?<=.)[_-]seed[_-]?\d+$", "", label)
    label = label.encode("utf-8", "replace").decode().strip("_ ") or "curve"
    return system or "", f"{label} {date}" if date else label


def read_scene(folder):
    """The runs of a PhiFlow scene: step and seconds in log_step_time.txt, step and loss in log_loss_<X>_0.txt.

    PhiFlow counts the steps that have ended: loss 0 is that of the untrained network, before step 1 has taken time.

    Raises:
        ValueError: a file is not of that form.
    """
    def columns(file):
        try:
            table = np.loadtxt(file, ndmin=2)
        except (OSError, ValueError) as error:
            raise ValueError(f"{file} cannot be used as a curve: {str(error).splitlines()[0]}") from None
        if table.shape[1] < 2 or not len(table) or not np.isfinite(table[:, 0]).all():
            raise ValueError(f"{file} cannot be used as a curve: it has no columns with step and value")
        return table[np.argsort(table[:, 0], kind="stable"), :2].T
    ended, seconds = columns(folder / "log_step_time.txt")
    clock = np.concatenate([[0.0], np.cumsum(seconds)])
    runs = []
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


# ------------------------------------------------------------------------------------------ what a curve says

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


def rank(label):
    """Position of a label's optimizer in legends; unknown ones come last."""
    name = label.split()[0]
    return OPTIMIZERS.index(name) if name in OPTIMIZERS else len(OPTIMIZERS)


def split_cases(runs):
    """Runs of one system by what they train on: {title: [runs]}, for the toy problem one entry for each λ, falling."""
    cases = {}
    for run in sorted(runs, key=lambda run: -_conditioning(run)):
        factor = _conditioning(run)
        title = SYSTEMS[run.system][1] + (f", λ = {factor:g}" if factor else "")
        cases.setdefault(title, []).append(run)
    return cases


def _conditioning(run):
    """λ of a run of the toy problem; 0 if the file does not tell it, and for the other systems."""
    factor = run.results["sim_par"].get("lambda")
    return factor if run.system == "TOY" and isinstance(factor, (int, float)) and np.isfinite(factor) else 0


def group_runs(runs):
    """Runs that belong into one curve: {label: [runs]}, in the order of the colours.

    Runs of one optimizer whose settings differ in more than seed and budget are told apart by these settings, or by
    their folder where many settings differ (the published files name them in their own way).
    """
    ignored = re.compile("seed|time|epochs|output|folder|path", re.IGNORECASE)
    groups = {}
    for label in sorted({run.label for run in runs}, key=lambda label: (rank(label), label)):
        same = [run for run in runs if run.label == label]
        settings = [{key: str(value) for key, value in run.results["sim_par"].items() if not ignored.search(key)}
                    for run in same]
        keys = sorted(key for key in set().union(*settings) if len({one.get(key) for one in settings}) > 1)
        for run, one in zip(same, settings):
            apart = ", ".join(f"{key}={one.get(key, '–')[:20]}" for key in keys)
            if len(keys) > 2:
                apart = run.path.resolve().parent.name
            groups.setdefault(f"{label} ({apart})" if apart else label, []).append(run)
    return groups
