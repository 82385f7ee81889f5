"""Draw the loss curves of training runs, as in the figures of the paper: loss (log) over seconds of training.

    python plot.py                        every system: <folder>/plot.png; figures/overview.png if several have curves
    python plot.py FOLDER [FOLDER ...]    all curves below the folders in one figure, plot.png in the first; of a
                                          folder of several systems' folders, like results, also one in each of these
    python plot.py FILE [FILE ...]        these pickles in one figure, plot.png beside the first
    python plot.py trajectories ...       what a trained network does (--help lists the flags; loads TensorFlow)

Curves are read from the pickles of the submit scripts, from those of the published code, and from PhiFlow's scene
folders (`log_step_time.txt`, `log_loss_<X>_0.txt`). A pickle is named `<NLO|QMC|POISSON|TOY>_<X>_RESULTS.pickle`, and
X is the name in the legend; those of the toy problem also tell λ, `TOY_lambda_1_<X>_RESULTS.pickle`, and each λ has its
own panels. Runs of one optimizer that differ only in their seed become the median with a band from minimum to maximum,
as far as the shortest of them goes; a run that died at inf or NaN ends in a cross. Losses are those of the test set
where a run has measured them, otherwise those of training. A table of the runs is printed.

Exit status: 0, or 2 with a sentence on stderr if a pickle named on the command line cannot be read, if no curve is
found, or if a figure cannot be written. Unreadable pickles in a folder are reported, and the other curves are drawn.
"""

import argparse
import io
import itertools
import sys
import textwrap
from pathlib import Path

import numpy as np

from hig.figures.curves import (SYSTEMS, final_loss, find_death, find_files, find_switch, group_runs, loss_kind, median_band,
                        read_runs, short, smooth, split_cases, thin, time_to_reach, x_values)
from hig.runs.results import write_atomically

ROOT = Path(__file__).resolve().parent
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
# Inches of a panel, without its legend: 10 pt stay readable at half a page's width, also where two are side by side.
WIDE, NARROW = (4.2, 2.9), (2.7, 2.1)


# ---------------------------------------------------------------------------------------------------- drawing

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
            ax.plot(x[index], y[index], color=colors[label], label=text,
                    marker="o" if len(index) == 1 else None)                      # a line of one point is not seen
        crosses += [(x[-1], y[-1], colors[label]) for x, y, dead in curves if dead]
        for moment in {find_switch(run, options.x) for run in members} - {None}:
            ax.axvline(moment, color=colors[label], linestyle=":", linewidth=1.2)
            ax.annotate("switch", (moment, 1), xycoords=("data", "axes fraction"), rotation=90, ha="right", va="top",
                        color=colors[label], fontsize=8)
        starts += [y[0] for _, y, _ in curves]
        lowest += [y.min() for _, y, _ in curves]
    top = 1e3 * max(starts, default=np.inf)
    if ax.get_ylim()[1] > top:  # a run that explodes would leave the others a flat line at the bottom
        ax.set_ylim(min(lowest) * (min(lowest) / top) ** 0.05, top)
    for x, y, color in crosses:
        ax.plot([x], [min(y, top)], "x", color=color, markersize=9, markeredgewidth=2.2, clip_on=False, zorder=4)


def legend_text(label, members, wanted):
    """Name of a group of runs with its final loss, or with the moment of its death."""
    label = label.replace("_", " ")                                     # of "Adam_then_HIG" and of settings
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


def draw_example(ax, groups, colors, options):
    """Panel of the Poisson problem: one held-out field under the network of the best run, fields of x and of y = Δx."""
    runs = [(label, run) for label, members in groups.items() for run in members if not find_death(run)]
    ax.axis("off")
    if not runs:
        return
    label, best = min(runs, key=lambda named: final_loss(named[1], loss_kind(named[1], options.y)))
    ax.set_title(legible("one held-out field, " + label.replace("_", " ")), fontsize=10)
    rows = ((("predicted x", "example_x"), ("ground truth x", "example_x_ground_truth")),
            (("target y*", "example_target"), ("residual y − y*", "example_residual")))
    for i, row in enumerate(rows):
        limit = max(np.abs(best.results[key]).max() for _, key in row) or 1.0             # one scale for each row
        for j, (title, key) in enumerate(row):
            image = ax.inset_axes((0.06 + 0.38 * j, 0.53 - 0.54 * i, 0.36, 0.38))
            drawn = image.imshow(best.results[key], cmap="RdBu_r", vmin=-limit, vmax=limit, origin="lower")
            image.set_title(title, fontsize=8, pad=2)
            image.set(xticks=[], yticks=[])
            image.grid(False)
        bar = ax.figure.colorbar(drawn, cax=ax.inset_axes((0.82, 0.53 - 0.54 * i, 0.03, 0.38)))
        bar.ax.tick_params(labelsize=8)


def draw_activations(ax, groups, colors, options):
    """Panel of the toy problem: mean of the hidden activations |tanh|, with their standard deviation as a band."""
    ax.set_yscale("linear")
    ax.set_ylim(0, 1.05)
    ax.set_ylabel("hidden activations")
    for label, members in groups.items():
        x, mean = curve(members[0], members[0].results["activation_mean"], options, ax.get_xscale() == "log")
        std = np.interp(x, x_values(members[0], options.x), members[0].results["activation_std"])
        index = thin(x, mean, False)
        ax.fill_between(x[index], (mean - std)[index], (mean + std)[index], color=colors[label], alpha=0.15, linewidth=0)
        ax.plot(x[index], mean[index], color=colors[label])


def draw_paths(ax, groups, colors, options):
    """Panel of the toy problem: the outputs for one sample in the (y₁, y₂) plane, from the start to a star, the target.

    The view is that of start and target; a path may leave it and come back.
    """
    ax.set(xscale="linear", yscale="linear", xlabel="$y_1$", ylabel="$y_2$")
    shown = []
    for label, members in groups.items():
        results, death = members[0].results, find_death(members[0])
        path = np.array([results["path_y1"], results["path_y2"]])[:, :death.index if death else None]
        ax.plot(*path, color=colors[label], linewidth=1.2)
        ax.plot(*path[:, -1:], ".", color=colors[label], markersize=9)
        target = [results["sim_par"].get(f"path_target_{y}", np.nan) for y in ("y1", "y2")]
        ink = ax.xaxis.label.get_color()
        ax.plot(*path[:, :1], "o", color=ink, markersize=5, markerfacecolor="none", zorder=4)
        ax.plot(*target, "*", color=ink, markersize=11, markerfacecolor="gold", zorder=3)
        shown += [path[:, 0], target]
    low, high = np.nanmin(shown, axis=0), np.nanmax(shown, axis=0)
    margin = 0.6 * (high - low)
    if np.all(margin > 0):
        ax.set(xlim=(low[0] - margin[0], high[0] + margin[0]), ylim=(low[1] - margin[1], high[1] + margin[1]))


def draw_finals(ax, groups, colors, options):
    """Panel of the toy problem, where there are several seeds: the final loss of each run, and a bar at their median."""
    ax.set(xscale="linear", xlabel="", ylabel=f"final {LOSSES[options.y]}")
    ax.set_xticks(range(len(groups)), [legible(label) for label in groups])
    ax.set_xlim(-0.6, len(groups) - 0.4)
    ax.grid(False, axis="x")
    for i, (label, members) in enumerate(groups.items()):
        finals = np.array([np.inf if find_death(run) else final_loss(run, loss_kind(run, options.y)) for run in members])
        alive = finals[np.isfinite(finals)]
        spread = np.linspace(-0.2, 0.2, len(alive)) if len(alive) > 1 else np.zeros(len(alive))
        ax.plot(i + spread, alive, "o", color=colors[label], markersize=4, alpha=0.7, markeredgewidth=0)
        if np.isfinite(np.median(finals)):
            ax.plot([i - 0.35, i + 0.35], [np.median(finals)] * 2, "-", color=colors[label])
        if len(alive) < len(finals):
            ax.annotate(f"{len(finals) - len(alive)} died", (i, 1), xycoords=("data", "axes fraction"), ha="center",
                        va="bottom", color=colors[label], fontsize=9)


# Further panels of a system, below its losses: arrays the pickles must hold, one value for each entry of the curve or
# images, and what draws them.
PANELS = {"QMC": [(("population_error_2", "population_error_3"), draw_populations)],
          "POISSON": [(("example_x", "example_x_ground_truth", "example_target", "example_residual"), draw_example)],
          "TOY": [(("activation_mean", "activation_std"), draw_activations), (("path_y1", "path_y2"), draw_paths),
                  (("train_loss",), draw_finals)]}

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
    columns = []  # of panels: (prefix, title, what draws it, groups, colours)
    for prefix in systems:
        for title, members in split_cases([run for run in runs if run.system == prefix]).items():
            columns.append(case_panels(prefix, title, members, options, only=len(systems) == 1))
    if len(systems) == 1:
        panels = [panel for row in itertools.zip_longest(*columns) for panel in row]
        width = len(columns)
    else:
        panels = [column[0] for column in columns]
        width = len(panels) if len(panels) <= 3 else 2
    rows = -(-len(panels) // width)
    size = NARROW if len(systems) == 1 and width > 1 else WIDE
    with style_of(options):
        figure = Figure(layout="constrained")
        axes = figure.subplots(rows, width, squeeze=False).flatten()
        lines = np.zeros(rows * width)
        for i, (ax, panel) in enumerate(itertools.zip_longest(axes, panels)):
            if panel is None:
                ax.remove()
                continue
            prefix, title, draw, groups, colors = panel
            ax.set_xscale("log" if SYSTEMS[prefix][2] else "linear")
            ax.set_yscale("log")
            ax.set_xlabel(AXES[options.x])
            draw(ax, groups, colors, options)
            lines[i] = add_legend(ax, title if draw is draw_losses else None, 24 if size is NARROW else 46)
            if size is NARROW and i % width:  # the same as at the left
                ax.set_ylabel("")
        text_height = lines.reshape(rows, width).max(axis=1).sum() * 0.19
        figure.set_size_inches(size[0] * width, size[1] * rows + text_height)
    return figure


def case_panels(prefix, title, runs, options, only):
    """The panels of one case of a system, its losses first; the further ones if it is the `only` system drawn."""
    groups = group_runs(runs)
    colors = choose_colors(groups, options.colors)
    panels = [(prefix, title, draw_losses, groups, colors)]
    for keys, draw in PANELS.get(prefix, []) if only else []:
        able = {label: [run for run in members if has_entries(run, keys)] for label, members in groups.items()}
        able = {label: members for label, members in able.items() if members}
        several = any(len(members) > 1 for members in able.values())
        panels += [(prefix, title, draw, able, colors)] if able and (several or draw is not draw_finals) else []
    return panels


def add_legend(ax, title, width):
    """A legend above the axes, where no curve can run through it, with the title of the panel; returns its lines.

    Entries of more than `width` characters take several lines.
    """
    handles, texts = ax.get_legend_handles_labels()
    if not texts:
        return 0
    texts = [textwrap.fill(text, width, subsequent_indent="  ") for text in texts]
    count = 2 if len(texts) > 3 and max(map(len, texts)) <= 20 else 1
    ax.legend(handles, texts, loc="lower left", bbox_to_anchor=(-0.02, 1), borderaxespad=0.5, ncols=count,
              alignment="left", title=title)
    return sum(text.count("\n") + 1 for text in texts) / count + (title is not None)


def has_entries(run, keys):
    """Whether a run's file has these arrays: one value for each entry of the curve, or an image where it is an example."""
    return all(np.ndim(run.results.get(key)) == 2 if key.startswith("example_")
               else np.shape(run.results.get(key)) == run.results["epochs"].shape for key in keys)


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
    cases = [case for prefix in SYSTEMS for case in split_cases([r for r in runs if r.system == prefix]).items()]
    for title, case in cases:
        for label, members in group_runs(case).items():
            for run in members:
                state = run.results.get("provenance", {}).get("state", "finished")
                epochs, train, test, time = (run.results[key][-1] for key in
                                             ("epochs", "train_loss", "test_loss", "simulation_time"))
                test = test if find_death(run) else final_loss(run, "test")     # not every epoch is evaluated
                reached = [time_to_reach(run, threshold) for threshold in THRESHOLDS]
                remarks = [str(find_death(run) or ("" if state == "finished" else state)),
                           str(run.path) if len(members) > 1 else ""]
                lines.append([title, label, f"{epochs:.0f}", f"{train:.3e}",
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


def figures_of(folder, runs):
    """[(runs, figure)] of a folder: plot.png of all, after those of its own folders if they are of several systems."""
    parts = {}
    for run in runs:
        parts.setdefault(folder / run.path.relative_to(folder).parts[0], []).append(run)
    several = len({run.system for run in runs}) > 1 and all(part.is_dir() for part in parts)
    return [*((own, part / "plot.png") for part, own in parts.items() if several), (runs, folder / "plot.png")]


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
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == ["trajectories"]:
        from hig.figures import pictures
        return pictures.main(arguments[1:], root, style_of, write_figure)
    options = parse(arguments)
    try:
        if options.paths:
            runs, first = collect(options.paths, options.x), Path(options.paths[0])
            if len(options.paths) == 1 and first.is_dir():
                figures = figures_of(first, runs)
            else:
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
