"""The loss figure: the curves of each system's runs, and beside them the panels that the system's `panels.py` asks for."""

import itertools
import textwrap

import numpy as np

from hig.figures.curves import (AXES, LOSSES, drawable, final_loss, find_death, find_switch, loss_kind, median_band, system,
                                thin)
from hig.figures.reading import group_runs, sort_into_cases
from hig.figures.style import choose_colors, legible, style

# Inches of a panel, without its legend: 10 pt stay readable at half a page's width, also where two are side by side.
WIDE, NARROW = (4.2, 2.9), (2.7, 2.1)


def make_figure(runs, options):
    """A matplotlib figure: one system with its further panels below the losses, or the losses of several systems.

    Args:
        runs: list of Run, not empty.
        options: x, y, smooth, style and colors of the command line.
    """
    from matplotlib.figure import Figure  # without pyplot: no window, nothing to close

    prefixes = {run.system for run in runs}
    columns = [case_panels(title, members, options, only=len(prefixes) == 1)
               for title, members in sort_into_cases(runs).items()]
    if len(prefixes) == 1:
        panels = [panel for row in itertools.zip_longest(*columns) for panel in row]
        width = len(columns)
    else:
        panels = [column[0] for column in columns]
        width = len(panels) if len(panels) <= 3 else 2
    rows = -(-len(panels) // width)
    size = NARROW if len(prefixes) == 1 and width > 1 else WIDE
    with style(options.style):
        figure = Figure(layout="constrained")
        axes = figure.subplots(rows, width, squeeze=False).flatten()
        lines = np.zeros(rows * width)
        for i, (ax, panel) in enumerate(itertools.zip_longest(axes, panels)):
            if panel is None:
                ax.remove()
                continue
            title, draw, groups, colors = panel
            ax.set_xscale("log" if system(next(iter(groups.values()))[0].system).log_x else "linear")
            ax.set_yscale("log")
            ax.set_xlabel(AXES[options.x])
            draw(ax, groups, colors, options)
            lines[i] = add_legend(ax, title if draw is draw_losses else None, 24 if size is NARROW else 46)
            if size is NARROW and i % width:  # the same as at the left
                ax.set_ylabel("")
        text_height = lines.reshape(rows, width).max(axis=1).sum() * 0.19
        figure.set_size_inches(size[0] * width, size[1] * rows + text_height)
    return figure


def case_panels(title, runs, options, only):
    """What is drawn of one case of a system: list of (title, function, groups, colours).

    Its losses are first; the further ones follow if it is the `only` system drawn.
    """
    groups = group_runs(runs)
    colors = choose_colors(groups, options.colors)
    panels = [(title, draw_losses, groups, colors)]
    for panel in system(runs[0].system).panels if only else ():
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
    crosses, starts, lowest = [], [], []
    for label, members in groups.items():
        curves = []
        for run in members:
            x, y = drawable(run, run.results[f"{loss_kind(run, options.y)}_loss"], options.x, logarithmic, options.smooth)
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
