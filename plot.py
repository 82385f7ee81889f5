"""Draw the loss curves of training runs, as in the figures of the paper: loss (log) over seconds of training.

    python plot.py                        every system: <folder>/plot.png; figures/overview.png if several have curves
    python plot.py FOLDER [FOLDER ...]    all curves below the folders in one figure, plot.png in the first
    python plot.py FILE [FILE ...]        these pickles in one figure, plot.png beside the first

Curves are read from the pickles of the submit scripts, from those of the published code, and from PhiFlow's scene
folders (`log_step_time.txt`, `log_loss_<X>_0.txt`). A pickle is named `<NLO|QMC|POISSON|TOY>_<X>_RESULTS.pickle`, and
X is the name in the legend. Runs of one optimizer that differ only in their seed become the median with a band from
minimum to maximum, as far as the shortest of them goes; a run that died at inf or NaN ends in a cross. Losses are
those of the test set where a run has measured them, otherwise those of training. A table of the runs is printed.

Exit status: 0, or 2 with a sentence on stderr if a pickle named on the command line cannot be read, if no curve is
found, or if a figure cannot be written. Unreadable pickles in a folder are reported, and the other curves are drawn.
"""

import argparse
import io
import itertools
import os
import re
import sys
import textwrap
from pathlib import Path
from typing import NamedTuple

import numpy as np

from hig.results import load_results, write_atomically

ROOT = Path(__file__).resolve().parent
SYSTEMS = {  # prefix of the pickles: folder, title, logarithmic time axis
    "NLO": ("Nonlinear_Oscillators", "Nonlinear oscillators", False),
    "QMC": ("Schroedinger", "Schroedinger equation", False),
    "POISSON": ("Poisson", "Poisson problem", True),
    "TOY": ("Toy_Problem", "Toy problem", False),
    "": (None, "Training", False),
}
COLORS = {
    "paper": {"Adam": "dodgerblue", "GN": "crimson", "HIG": "darkorchid", "SGD": "slategray", "Adagrad": "darkorange",
              "Adadelta": "forestgreen", "RMSprop": "saddlebrown", "SIP": "darkturquoise",
              "others": ["olive", "hotpink", "royalblue", "darkkhaki"]},
    "safe": {"Adam": "#0072B2", "GN": "#D55E00", "HIG": "#CC79A7", "SGD": "#7f7f7f", "Adagrad": "#E69F00",
             "Adadelta": "#009E73", "RMSprop": "#56B4E9", "SIP": "#8c6d1f",  # Okabe and Ito's palette, the others Tol's
             "others": ["#332288", "#999933", "#882255", "#44AA99"]},
}
AXES = {"time": "training time in seconds", "epochs": "epochs", "updates": "updates"}
LOSSES = {"test": "test loss", "train": "training loss"}
THRESHOLDS = (1e-2, 1e-3, 1e-4)
BINS = 1000  # a curve is drawn with at most two points in each
WIDTH, HEIGHT = 4.2, 2.9  # inches of a panel, without its legend: 10 pt stay readable at half a page's width


class Run(NamedTuple):
    """One curve: prefix of its system, name for the legend, file it comes from, content (layout of `hig.results`)."""
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
    match = re.fullmatch(rf"(?:({prefixes})_)?(.+)_RESULTS(?:_(\d+-\d+-\d+_\d+.*))?\.pickle", filename)
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


def median_band(curves):
    """Median, minimum and maximum of several curves, interpolated in the logarithm of the loss.

    A dead curve counts as infinite from its end on; the others set the end of the band by the shortest of them.

    Args:
        curves: list of (x, y, dead): x (N_i,) ascending, y (N_i,) positive.

    Returns:
        x, median, minimum, maximum: (M,) each. The median is infinite where half of the curves have died; the
        maximum is that of the living, infinite where there are none.
    """
    alive = [x[-1] for x, _, dead in curves if not dead]
    end = min(alive) if alive else max(x[-1] for x, _, _ in curves)
    grid = np.unique(np.concatenate([x for x, _, _ in curves]))
    grid = grid[(grid >= max(x[0] for x, _, _ in curves)) & (grid <= end)]
    logs = np.array([np.interp(grid, x, np.log(y), right=np.inf if dead else None) for x, y, dead in curves])
    high = np.where(np.isinf(logs), -np.inf, logs).max(axis=0)
    high[np.isinf(high)] = np.inf
    return grid, np.exp(np.median(logs, axis=0)), np.exp(logs.min(axis=0)), np.exp(high)


def group_runs(runs):
    """Runs that belong into one curve: {label: [runs]}, in the order of the colours.

    Runs of one optimizer whose settings differ in more than seed and budget are told apart by these settings, or by
    their folder where many settings differ (the published files name them in their own way).
    """
    ignored = re.compile("seed|time|epochs|output|folder|path", re.IGNORECASE)
    groups = {}
    for label in sorted({run.label for run in runs}, key=lambda label: (color_rank(label), label)):
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


# ---------------------------------------------------------------------------------------------------- drawing

def color_rank(label):
    """Position of an optimizer among the known ones; unknown ones come last."""
    known = list(COLORS["paper"])[:-1]
    return known.index(label.split()[0]) if label.split()[0] in known else len(known)


def choose_colors(groups, palette):
    """{label: colour}: each known optimizer has its own; its further groups and unknown ones take the others in turn."""
    colors, others = {}, itertools.cycle(COLORS[palette]["others"])
    for label in groups:
        own = COLORS[palette].get(label.split()[0])
        colors[label] = own if own and own not in colors.values() else next(others)
    return colors


def legible(text):
    """Text for matplotlib, in which a dollar would start a formula."""
    return text.replace("$", r"\$")


def curve(run, y, options, logarithmic):
    """The part of a run that can be drawn: positions and values before its death, positive and finite, smoothed.

    Args:
        run: Run.
        y: (N,) values at its entries.
        options: `x` and `smooth` of the command line.
        logarithmic: whether the x axis is, which has no place for the untrained network at time 0.

    Returns:
        x, y: (M,) each, M ≤ N.
    """
    x, death = x_values(run, options.x), find_death(run)
    keep = np.isfinite(x) & np.isfinite(y) & (y > 0) & (x > 0 if logarithmic else True)
    keep[death.index if death else len(x):] = False
    return x[keep], smooth(y[keep].astype(float), options.smooth)


def draw_losses(ax, groups, colors, options):
    """First panel of every system: the loss over time, epochs or updates."""
    logarithmic = ax.get_xscale() == "log"
    kinds = {loss_kind(run, options.y) for members in groups.values() for run in members}
    ax.set_ylabel(LOSSES[kinds.pop()] if len(kinds) == 1 else "loss")
    crosses, starts, lowest = [], [], []
    for label, members in groups.items():
        curves = []
        for run in members:
            x, y = curve(run, run.results[f"{loss_kind(run, options.y)}_loss"], options, logarithmic)
            curves += [(x, y, find_death(run) is not None)] if len(x) else []
        text = legible(legend_text(label, members, options.y))
        if len(curves) > 1:
            x, middle, low, high = median_band(curves)
            index = np.unique(np.concatenate([thin(x, y, logarithmic) for y in (middle, low, high)]))
            ax.fill_between(x[index], low[index], high[index], where=np.isfinite(high[index]),
                            color=colors[label], alpha=0.25, linewidth=0)
            index = index[np.isfinite(middle[index])]
            ax.plot(x[index], middle[index], color=colors[label], label=text)
        else:
            x, y = curves[0][:2] if curves else (np.zeros(0), np.zeros(0))
            index = thin(x, y, logarithmic)
            ax.plot(x[index], y[index], color=colors[label], label=text)
        crosses += [(x[-1], y[-1], colors[label]) for x, y, dead in curves if dead]
        starts += [y[0] for _, y, _ in curves]
        lowest += [y.min() for _, y, _ in curves]
    top = 1e3 * max(starts, default=np.inf)
    if ax.get_ylim()[1] > top:  # a run that explodes would leave the others a flat line at the bottom
        ax.set_ylim(min(lowest) * (min(lowest) / top) ** 0.05, top)
    for x, y, color in crosses:
        ax.plot([x], [min(y, top)], "x", color=color, markersize=9, markeredgewidth=2.2, clip_on=False, zorder=4)


def legend_text(label, members, wanted):
    """Name of a group of runs with its final loss, or with the moment of its death."""
    deaths = [death for death in map(find_death, members) if death]
    finals = [np.inf if find_death(run) else final_loss(run, loss_kind(run, wanted)) for run in members]
    if len(members) == 1:
        return f"{label}: {deaths[0] if deaths else format(finals[0], '.1e')}"
    median = float(np.median(finals))
    if not np.isfinite(median):
        return f"{label}: {len(deaths)} of {len(members)} runs died"
    return f"{label}: {median:.1e}, median of {len(members)} runs" + (f", {len(deaths)} died" if deaths else "")


def draw_populations(ax, groups, colors, options):
    """Panel of the Schroedinger equation: mean absolute error of the populations of the states |2⟩ and |3⟩."""
    logarithmic = ax.get_xscale() == "log"
    ax.set_ylabel("error of the populations")
    for label, members in groups.items():
        for run, (state, dashes) in itertools.product(members, ((2, "-"), (3, "--"))):
            x, y = curve(run, run.results[f"population_error_{state}"], options, logarithmic)
            index = thin(x, y, logarithmic)
            text = legible(f"{label}, state {state}") if run is members[0] else None
            ax.plot(x[index], y[index], dashes, color=colors[label], label=text)


# Further panels of a system, below its losses: arrays the pickles must hold, as long as the curve, and what draws them.
PANELS = {"QMC": [(("population_error_2", "population_error_3"), draw_populations)]}

STYLES = {
    "paper": {"figure.facecolor": "white", "axes.facecolor": "white", "grid.color": "#b0b0b0"},
    "dark": {"figure.facecolor": "#14171c", "axes.facecolor": "#14171c", "grid.color": "#5a6069",
             "text.color": "#e8e8e8", "axes.edgecolor": "#a0a6ae", "axes.labelcolor": "#e8e8e8",
             "xtick.color": "#e8e8e8", "ytick.color": "#e8e8e8"},
    "both": {"font.size": 10, "legend.fontsize": 9, "legend.title_fontsize": 11, "legend.frameon": False,
             "lines.linewidth": 1.6, "axes.grid": True, "grid.alpha": 0.35, "axes.spines.top": False,
             "axes.spines.right": False, "svg.fonttype": "none", "pdf.fonttype": 42, "svg.hashsalt": "hig"},
}


def style_of(options):
    """Context in which a figure is made and written."""
    import matplotlib
    return matplotlib.rc_context({**STYLES["both"], **STYLES[options.style]})


def make_figure(runs, options):
    """A matplotlib figure: one system with its further panels below the losses, or the losses of several systems.

    Args:
        runs: list of Run, not empty.
        options: x, y, smooth, style and colors of the command line.
    """
    from matplotlib.figure import Figure  # without pyplot: no window, nothing to close

    systems = [prefix for prefix in SYSTEMS if any(run.system == prefix for run in runs)]
    panels = []
    for prefix in systems:
        groups = group_runs([run for run in runs if run.system == prefix])
        colors = choose_colors(groups, options.colors)
        panels.append((prefix, draw_losses, groups, colors))
        for keys, function in PANELS.get(prefix, []) if len(systems) == 1 else []:
            able = {label: [run for run in members if has_entries(run, keys)] for label, members in groups.items()}
            able = {label: members for label, members in able.items() if members}
            panels += [(prefix, function, able, colors)] if able else []
    columns = 1 if len(systems) == 1 else len(systems) if len(systems) <= 3 else 2
    rows = -(-len(panels) // columns)
    with style_of(options):
        figure = Figure(layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False).flatten()
        lines = np.zeros(rows * columns)
        for i, (ax, (prefix, draw, groups, colors)) in enumerate(zip(axes, panels)):
            title, logarithmic = SYSTEMS[prefix][1:]
            ax.set_xscale("log" if logarithmic else "linear")
            ax.set_yscale("log")
            ax.set_xlabel(AXES[options.x])
            draw(ax, groups, colors, options)
            # The legend is above the axes, where no curve can run through it, and its title is that of the panel.
            handles, texts = ax.get_legend_handles_labels()
            texts = [textwrap.fill(text, 46, subsequent_indent="  ") for text in texts]
            count = 2 if len(texts) > 3 and max(map(len, texts)) <= 20 else 1
            ax.legend(handles, texts, loc="lower left", bbox_to_anchor=(-0.02, 1), borderaxespad=0.5, ncols=count,
                      alignment="left", title=title if draw is draw_losses else None)
            lines[i] = sum(text.count("\n") + 1 for text in texts) / count + (draw is draw_losses)
        for ax in axes[len(panels):]:
            ax.remove()
        text_height = lines.reshape(rows, columns).max(axis=1).sum() * 0.19
        figure.set_size_inches(WIDTH * columns, HEIGHT * rows + text_height)
    return figure


def has_entries(run, keys):
    """Whether a run's file has these arrays, with one value for each entry of the curve."""
    return all(np.shape(run.results.get(key)) == run.results["epochs"].shape for key in keys)


def write_figure(figure, output, options):
    """Write a figure atomically; the suffix of `output` (png, pdf, svg) decides the format, and text stays text.

    Raises:
        ValueError: the file cannot be written.
    """
    kind = output.suffix[1:].lower()
    undated = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind)  # equal curves give equal files
    content = io.BytesIO()
    with style_of(options):
        figure.savefig(content, format=kind, dpi=200, metadata=undated)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(output, content.getvalue())
    except OSError as error:
        raise ValueError(f"{output} cannot be written: {error.strerror}") from None


# ----------------------------------------------------------------------------------------------- command line

def table(runs):
    """Text: a line for each run with its final losses, and when its test loss reached the thresholds."""
    head = ["system", "optimizer", "epochs", "train loss", "test loss", "time [s]"]
    lines = [head + [f"to {threshold:.0e} [s]" for threshold in THRESHOLDS] + [""]]
    for prefix in SYSTEMS:
        for label, members in group_runs([run for run in runs if run.system == prefix]).items():
            for run in members:
                state = run.results.get("provenance", {}).get("state", "finished")
                epochs, train, test, time = (run.results[key][-1] for key in
                                             ("epochs", "train_loss", "test_loss", "simulation_time"))
                reached = [time_to_reach(run, threshold) for threshold in THRESHOLDS]
                remarks = [str(find_death(run) or ("" if state == "finished" else state)),
                           str(run.path) if len(members) > 1 else ""]
                lines.append([SYSTEMS[prefix][1], label, f"{epochs:.0f}", f"{train:.3e}",
                              "–" if loss_kind(run, "test") == "train" else f"{test:.3e}", short(time),
                              *("–" if seconds is None else short(seconds) for seconds in reached),
                              ", ".join(filter(None, remarks))])
    widths = [max(map(len, column)) for column in zip(*lines)]
    pads = [str.ljust, str.ljust, *[str.rjust] * (len(widths) - 3), str.ljust]
    rows = ([pad(cell, width) for pad, cell, width in zip(pads, line, widths)] for line in lines)
    return "\n".join("  ".join(row).rstrip() for row in rows)


def collect(paths, axis):
    """Runs of pickles, which must be readable, and of folders, where an unreadable one is reported on stderr."""
    runs, seen = [], set()
    for path in map(Path, paths):
        for file in find_files(path) if path.is_dir() else [path]:
            if file.resolve() in seen:
                continue
            seen.add(file.resolve())
            try:
                found = read_runs(file)
                for run in found:
                    x_values(run, axis)
                runs += found
            except ValueError as error:
                if not path.is_dir():
                    raise
                print(f"plot.py: {error}", file=sys.stderr)
    return runs


def parse(arguments):
    """Command line → options."""
    def count(text):
        if not text.isascii() or not text.isdigit() or int(text) < 1:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
        return int(text)

    def figure(text):
        if Path(text).suffix.lower() not in (".png", ".pdf", ".svg"):
            raise argparse.ArgumentTypeError(f"{text!r} does not end in .png, .pdf or .svg")
        return Path(text)
    parser = argparse.ArgumentParser("plot.py", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("paths", nargs="*", metavar="PATH", help="pickles or folders (default: the folders of all systems)")
    add("--output", type=figure, metavar="FILE", help="draw all curves into this figure (png, pdf or svg)")
    add("--x", choices=AXES, default="time", help="horizontal axis (default: %(default)s)")
    add("--y", choices=LOSSES, default="test", help="loss to draw (default: %(default)s)")
    add("--smooth", type=count, default=1, metavar="N", help="geometric mean over N entries of a curve")
    add("--style", choices=("paper", "dark"), default="paper", help="background (default: %(default)s)")
    add("--colors", choices=COLORS, default="paper", help="safe: for colour-blind readers (default: %(default)s)")
    return parser.parse_args(arguments)


def main(arguments=None, root=ROOT):
    """Draw what the command line asks for; returns the exit status."""
    options = parse(arguments)
    try:
        if options.paths:
            runs, first = collect(options.paths, options.x), Path(options.paths[0])
            figures = [(runs, (first if first.is_dir() else first.parent) / "plot.png")]
        else:
            folders = [root / folder for folder, _, _ in SYSTEMS.values() if folder]
            figures = [(collect([folder], options.x), folder / "plot.png") for folder in folders if folder.is_dir()]
            figures = [figure for figure in figures if figure[0]]
            runs = [run for own, _ in figures for run in own]
            figures += [(runs, root / "figures" / "overview.png")] if len(figures) > 1 else []
        if not runs:
            raise ValueError(f"no curves in {' '.join(options.paths) or root}; the systems' submit scripts make them")
        for own, output in [(runs, options.output)] if options.output else figures:
            write_figure(make_figure(own, options), output, options)
            print(output)
    except ValueError as error:
        print(f"plot.py: {error}", file=sys.stderr)
        return 2
    print(table(runs))
    return 0


if __name__ == "__main__":
    sys.exit(main())
