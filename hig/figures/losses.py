"""The loss figure: the curves of each system's runs, and beside them the panels that the system's `panels.py` asks for."""

from argparse import Namespace
from collections import Counter

import numpy as np

from hig.figures.curves import (AXES, LOSSES, drawable, final_loss, find_death, find_switch, loss_kind, median_band, system,
                                thin)
from hig.figures.reading import collect, group_runs, rank, sort_into_cases
from hig.figures.studies import study_panels
from hig.figures.style import choose_colors, legible, style

# Inches of a panel, without its legend: 10 pt stay readable at half a page's width, also where two are side by side.
WIDE, NARROW = (4.2, 2.9), (3.4, 2.4)
LINE = 0.19                 # inches of a line in a legend
MANY = 8                    # entries of a legend; more of them are in smaller letters, twice as many one for each optimizer


def make_figure(runs, options):
    """A matplotlib figure: one system with its further panels, or the losses of several systems with one legend.

    Args:
        runs: list of Run, not empty.
        options: x, y, smooth, style and colors of the command line.
    """
    from matplotlib.figure import Figure  # without pyplot: no window, nothing to close

    cases = sort_into_cases(runs)
    with style(options.style):
        figure = Figure(layout="constrained")
        several = len({run.system for run in runs}) > 1
        figure.set_size_inches((draw_overview if several else draw_system)(figure, cases, options))
    return figure


def figure_of(*paths, x="time", y="test", smooth=None, style="paper", colors="paper"):
    """The figure of the curves in files or below folders, as plot.py draws it with these options; for notebooks.

    Raises:
        ValueError: a file cannot be used as a curve, or there is none.
    """
    runs = collect(paths, x)
    if not runs:
        raise ValueError(f"no curves in {' '.join(map(str, paths)) or 'no path'}")
    return make_figure(runs, Namespace(x=x, y=y, smooth=smooth, style=style, colors=colors))


def draw_overview(figure, cases, options):
    """The losses of several systems in panels of one size; one legend, in the place that is left or above them all.

    Returns the size in inches, (width, height), as `draw_system` does.
    """
    groups = {title: group_runs(members) for title, members in cases.items()}
    columns = len(cases) if len(cases) <= 3 else 2
    rows = -(-len(cases) // columns)
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    named = {}                                                          # label: its line
    for ax, (title, own) in zip(axes, groups.items()):
        prepare(ax, next(iter(own.values()))[0], options)
        draw_losses(ax, own, choose_colors(own, options.colors, options.style), options)
        ax.set_title(legible(title), loc="left", fontsize=11)
        named |= dict(zip(own, ax.get_legend_handles_labels()[0]))
    names = sorted(named, key=lambda label: (rank(label), label))
    handles, names = [named[name] for name in names], [legible(name.replace("_", " ")) for name in names]
    height = 0.0
    if len(cases) < rows * columns:
        axes[-1].axis("off")
        axes[-1].legend(handles, names, loc="center left", bbox_to_anchor=(0.05, 0.5), ncols=-(-len(names) // 10))
    else:
        figure.legend(handles, names, loc="outside upper center", ncols=min(len(names), 5))
        height = LINE * -(-len(names) // 5)
    return WIDE[0] * columns, 0.3 + WIDE[1] * rows + height


def draw_system(figure, cases, options):
    """A column for each case of a system: its losses with the legend, and below them its further panels.

    Args:
        figure: matplotlib Figure or SubFigure.
        cases: {title: runs}.
        options: as in `make_figure`.

    Returns:
        inches, (width, height), that suit it.
    """
    columns = [case_panels(title, members, options) for title, members in cases.items()]
    rows, size = max(map(len, columns)), WIDE if len(columns) == 1 else NARROW
    axes = figure.subplots(rows, len(columns), squeeze=False)
    heights = np.zeros((rows, len(columns)))
    for j, column in enumerate(columns):
        for ax in axes[len(column):, j]:
            ax.remove()
        for i, (title, draw, groups, colors) in enumerate(column):
            ax = axes[i, j]
            prepare(ax, next(iter(groups.values()))[0], options)
            draw(ax, groups, colors, options)
            heights[i, j] = add_legend(ax, title if i == 0 else None, size[0])
            if i and (ax.get_xlabel(), ax.get_xscale()) == (axes[0, j].get_xlabel(), axes[0, j].get_xscale()):
                ax.set_xlim(axes[0, j].get_xlim())
            if j:
                ax.set_ylabel("")                                       # the same as at the left
    return size[0] * len(columns), size[1] * rows + heights.max(axis=1).sum()


def prepare(ax, run, options):
    """Axes as most panels want them: of the system of a run, logarithmic upwards."""
    ax.set(xscale="log" if system(run.system).log_x else "linear", yscale="log", xlabel=AXES[options.x])


def case_panels(title, runs, options):
    """What is drawn of one case of a system: list of (title, function, groups, colours), its losses first."""
    groups = group_runs(runs)
    colors = choose_colors(groups, options.colors, options.style)
    panels = [(title, draw, groups, colors) for draw in (draw_losses, *study_panels(runs))]
    for panel in system(runs[0].system).panels:
        able = {label: [run for run in members if holds(run, panel)] for label, members in groups.items()}
        able = {label: members for label, members in able.items() if members}
        panels += [(title, panel.draw, able, colors)] if max(map(len, able.values()), default=0) >= panel.seeds else []
    return panels


def holds(run, panel):
    """Whether a run's file has the arrays of a Panel: one value for each entry of the curve, or images."""
    return (all(np.shape(run.results.get(key)) == run.results["epochs"].shape for key in panel.arrays)
            and all(np.ndim(run.results.get(key)) == 2 for key in panel.images))


def draw_losses(ax, groups, colors, options):
    """First panel of every system: the loss over time, epochs or updates."""
    logarithmic = ax.get_xscale() == "log"
    kinds = {loss_kind(run, options.y) for members in groups.values() for run in members}
    ax.set_ylabel(LOSSES[kinds.pop()] if len(kinds) == 1 else "loss")
    drawn = {label: [drawable(run, run.results[f"{loss_kind(run, options.y)}_loss"], options.x, logarithmic, options.smooth)
                     for run in members] for label, members in groups.items()}
    starts = [curve.y[0] for curves in drawn.values() for curve in curves if len(curve.y)]
    lowest = [curve.y.min() for curves in drawn.values() for curve in curves if len(curve.y)]
    for label, members in groups.items():
        draw_curves(ax, drawn[label], colors[label], legible(legend_text(label, members, options.y, drawn[label])))
        for moment in {find_switch(run, options.x) for run in members} - {None}:
            ax.axvline(moment, color=colors[label], linestyle=":", linewidth=1.2)
            ax.annotate("switch", (moment, 1), xycoords=("data", "axes fraction"), rotation=90, ha="right", va="top",
                        color=colors[label], fontsize=8)
    top = 1e3 * max(starts, default=np.inf)
    if ax.get_ylim()[1] > top:  # a run that explodes would leave the others a flat line at the bottom
        ax.set_ylim(min(lowest) * (min(lowest) / top) ** 0.05, top)
    for label, curves in drawn.items():
        for x, y in (curve.death for curve in curves if curve.death and len(curve.y)):
            ax.plot([x], [min(y, top)], "x", color=colors[label], markersize=9, markeredgewidth=2.2, clip_on=False, zorder=4)
    if not any(np.ptp(line.get_xdata()) > 0 for line in ax.lines if len(line.get_xdata())):
        around_points(ax)


def around_points(ax):
    """Limits for axes that show single points only: matplotlib's own would be a decade, or less than a digit, wide."""
    x, y = (np.concatenate([np.asarray(part, float) for part in parts]) for parts in
            zip(*[line.get_data() for line in ax.lines], ([], [])))
    for values, scale, limit in ((x, ax.get_xscale(), ax.set_xlim), (y, ax.get_yscale(), ax.set_ylim)):
        if len(values):
            low, high = values.min(), values.max()
            limit((low / 10, high * 10) if scale == "log" else (min(0, low - 1), high + 1))


def draw_curves(ax, curves, color, label=None, dashes="-"):
    """A list of `Curve`: one of them as a line, several as their median with a band from minimum to maximum."""
    shown, logarithmic = [curve for curve in curves if len(curve.x)], ax.get_xscale() == "log"
    if len(shown) > 1:
        x, middle, low, high, _ = median_band(curves, ax.get_yscale() == "log")
        index = np.unique(np.concatenate([thin(x, y, logarithmic) for y in (middle, low, high)]))
        ax.fill_between(x[index], low[index], high[index], where=np.isfinite(high[index]), color=color, alpha=0.2, linewidth=0)
        index = index[np.isfinite(middle[index])]
        x, y = x[index], middle[index]
    else:
        x, y = shown[0][:2] if shown else (np.zeros(0), np.zeros(0))
        index = thin(x, y, logarithmic)
        x, y = x[index], y[index]
        if shown and shown[0].death:
            end, last = shown[0].death
            ax.plot([x[-1], end], [y[-1], last], ":", color=color, linewidth=1.2)           # to where it died
    ax.plot(x, y, dashes, color=color, label=label, marker="o" if len(x) == 1 else None)     # a line of one point is not seen


def legend_text(label, members, wanted, curves):
    """Name of a group of runs with its final loss, or with the moment of its death; of several, as their median ends.

    Args:
        label: of `group_runs`.
        members: list of Run.
        wanted: "test" or "train".
        curves: their list of Curve.
    """
    label = label.replace("_", " ")                                     # of "Adam_then_HIG" and of settings
    deaths = [death for death in map(find_death, members) if death]
    if len(members) == 1:
        final = final_loss(members[0], loss_kind(members[0], wanted))
        return f"{label}: {deaths[0] if deaths else format(final, '.1e')}"
    died = f"{len(deaths)} of {len(members)} died"
    middle, count = [], 0
    if any(len(curve.x) for curve in curves):
        _, middle, _, _, count = median_band(curves)
    if not len(middle) or not np.isfinite(middle[-1]):
        return f"{label}: {died}"
    of = f"{count} of {len(members)}" if count < len(members) else f"{len(members)}"
    return f"{label}: {middle[-1]:.1e}, median of {of} runs" + (f", {len(deaths)} died" if deaths else "")


def add_legend(ax, title, width):
    """A legend above the axes, where no curve can run through it, with the title of the panel; none where there is one.

    What all entries say of their runs, like "median of 10 runs", moves into the title.

    Args:
        width: inches of the panel.

    Returns:
        inches that it takes.
    """
    handles, texts = ax.get_legend_handles_labels()
    if not texts or ax.get_legend():
        return 0.0
    tails = {text.partition(", median")[2] for text in texts if ", median" in text or not text.endswith(" died")}
    if title and len(tails) == 1 and (tail := tails.pop()):
        title, texts = f"{title}\nmedian{tail}", [text.partition(", median")[0] for text in texts]
    if len(texts) > 2 * MANY:                                           # of a study over two settings: see its heat maps
        counts, first = Counter(text.split(" (")[0] for text in texts), {}
        for handle, text in zip(handles, texts):
            first.setdefault(text.split(" (")[0], handle)
        handles, texts = list(first.values()), [f"{name}, {counts[name]} settings" for name in first]
    scale = 0.85 if len(texts) > MANY else 1.0
    longest, above = max(map(len, texts)), LINE * (title.count("\n") + 1) if title else 0.0
    columns = int(np.clip((width - 0.6) // (scale * (0.55 + 0.066 * longest)), 1, 4))
    columns = min(columns, len(texts)) if len(texts) > 2 else 1
    ax.legend(handles, texts, loc="lower left", bbox_to_anchor=(-0.02, 1), borderaxespad=0.5, ncols=columns,
              alignment="left", title=title, fontsize=9 * scale)
    return scale * LINE * -(-len(texts) // columns) + above
