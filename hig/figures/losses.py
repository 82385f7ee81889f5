"""The loss figure: the curves of each system, and beside them the panels that its `panels.py` asks for."""

import re
from argparse import Namespace

import numpy as np

from hig.figures.curves import (AXES, LOSSES, drawn_points, final_loss, find_death, loss_curves, loss_kind,
                                median_band, system, take_overs)
from hig.figures.reading import collect
from hig.figures.studies import best_partners, study_panels
from hig.figures.style import GREY, choose_looks, legible, style
from hig.figures.table import group_runs, tabulate

# inches of a panel without a legend outside: in a paper's column 10 pt stay readable, also with two abreast
COLUMN, NARROW = (4.2, 2.9), (3.4, 2.4)
LINE, LETTER, HANDLE = 0.158, 0.066, 0.45   # inches in a legend of 9 pt: of a line, a letter, a line's sample
MARGIN = 0.75, 0.7                          # inches of a panel that its labels take, about
MEDIAN, OTHERS = r", median of [\d of]+ runs", "other settings"      # in legends


def make_figure(runs, options):
    """A matplotlib figure: one system with its further panels, or the losses of several systems.

    Args:
        runs: list of Run, not empty.
        options: x, y, smooth, style, colors and size of the command line.
    """
    from matplotlib.figure import Figure  # without pyplot: no window, nothing to close

    with style(options.style):
        figure = Figure(layout="constrained")
        figure.set_size_inches(draw(figure, runs, options))
    return figure


def figure_of(*paths, x="time", y="test", smooth=None, style="paper", colors="paper", size="column"):
    """The figure of the curves in files or below folders, as plot.py draws it; for notebooks.

    Raises:
        ValueError: a file cannot be used as a curve, or there is none.
    """
    runs = collect(paths, x)
    if not runs:
        raise ValueError(f"no curves in {' '.join(map(str, paths)) or 'no path'}")
    return make_figure(runs, Namespace(x=x, y=y, smooth=smooth, style=style, colors=colors, size=size))


def draw(figure, runs, options):
    """The panels of one system, or the losses of several.

    One system: in the size "column" each case is a column, with its losses on top and the further panels
    below; in the size "wide" it is a row. Several systems: two panels are side by side, "wide" three.

    Args:
        figure: matplotlib Figure or SubFigure.
        runs, options: as in `make_figure`.

    Returns:
        inches, (width, height), that suit it.
    """
    table = tabulate(runs, options.y)
    cases = [case_panels(title, own, options) for title, own in table.groupby("Case", sort=False)]
    wide, alone = options.size == "wide", len(cases) == 1
    if table["System"].nunique() > 1:
        cases, across = [[panels[0] for panels in cases]], 3 if wide else 2
    else:
        across = 1 if not wide else 2 if len(cases[0]) == 4 and alone else 4
    grid = [case[i:i + across] for case in cases for i in range(0, len(case), across)]
    if len(cases) > 1 and not wide:
        grid = [[case[i] if i < len(case) else None for case in cases] for i in range(max(map(len, cases)))]
    columns = max(map(len, grid))
    size = COLUMN if columns <= (2 if wide else 1) else NARROW
    axes, outside = figure.subplots(len(grid), columns, squeeze=False), np.zeros((len(grid), columns))
    for i, j in np.ndindex(axes.shape):
        panel = grid[i][j] if j < len(grid[i]) else None
        if panel is None:
            axes[i, j].remove()
        else:
            losses = axes[(0, j) if not wide else (i, 0)]
            beside = wide and alone and axes[i, j] is losses            # one legend has room there
            outside[i, j] = draw_panel(axes[i, j], *panel, losses, size, options, beside)
    beside = sum(legend_size([text.get_text() for text in legend.texts])[0] for legend in figure.legends)
    return size[0] * columns + beside, size[1] * len(grid) + outside.max(axis=1).sum()


def draw_panel(ax, title, function, groups, looks, losses, size, options, beside):
    """Draws one panel with title and legend. If it has the x axis of the axes `losses`, it has their limits.

    Returns the inches that stand above it, see `add_legend`.
    """
    logarithmic = system(next(iter(groups.values()))[0].system).log_x
    ax.set(xscale="log" if logarithmic else "linear", yscale="log", xlabel=AXES[options.x])
    function(ax, groups, looks, options)
    above = add_legend(ax, title if function is draw_losses else None, size, beside)
    if ax is not losses:
        axis = ax.get_xlabel(), ax.get_xscale()
        if function is not draw_losses and axis == (losses.get_xlabel(), losses.get_xscale()):
            ax.set_xlim(losses.get_xlim())
        rows = ax.get_subplotspec().rowspan, losses.get_subplotspec().rowspan
        if ax.get_ylabel() == losses.get_ylabel() and rows[0] == rows[1]:
            ax.set_ylabel("")
    return above


def case_panels(title, table, options):
    """[(title, function, groups, looks)] of the panels of a case, its losses first; `table`: its runs."""
    groups = group_runs(table)
    looks = choose_looks(groups, options.colors, options.style, best_partners(table))
    panels = [(title, draw_losses, groups, looks)]
    for panel in system(table["System"].iloc[0]).panels:
        able = {label: [run for run in members if holds(run, panel)] for label, members in groups.items()}
        able = {label: members for label, members in able.items() if members}
        if max(map(len, able.values()), default=0) >= panel.seeds:
            panels.append((title, panel.draw, able, looks))
    return panels + [(title, draw_panel, groups, looks) for draw_panel in study_panels(table)]


def holds(run, panel):
    """Whether a run's file has the arrays of a Panel in the shapes that the panel draws."""
    return (all(np.shape(run.results.get(key)) == run.results["epochs"].shape for key in panel.arrays)
            and all(np.ndim(run.results.get(key)) == 2 for key in panel.images))


def draw_losses(ax, groups, looks, options):
    """First panel of every system: the loss over time, epochs or updates.

    Grey curves have no band, no name and no cross.
    """
    logarithmic, grey = ax.get_xscale() == "log", GREY[options.style]
    kinds = {loss_kind(run, options.y) for members in groups.values() for run in members}
    ax.set_ylabel(LOSSES[kinds.pop()] if len(kinds) == 1 else "loss")
    drawn = {label: loss_curves(members, options, logarithmic) for label, members in groups.items()}
    for label in [label for label in groups if looks[label]["color"] == grey]:
        x, y, _ = drawn_points(drawn.pop(label), logarithmic, True)
        ax.plot(x, np.where(np.isfinite(y), y, np.nan), color=grey, linewidth=1, zorder=1)
    if len(drawn) < len(groups):
        ax.plot([], [], color=grey, linewidth=1, label=OTHERS)
    shown = [curve for own in drawn.values() for curve in own if len(curve.y)]
    for label, curves in drawn.items():
        text, color = legend_text(label, groups[label], options.y, curves), looks[label]["color"]
        draw_curves(ax, curves, looks[label], legible(text))
        for moment, words in sorted({at for run in groups[label] for at in take_overs(run, options.x)}):
            ax.axvline(moment, color=color, linestyle=":", linewidth=1.2)
            ax.annotate(words, (moment, 1), xycoords=("data", "axes fraction"), rotation=90, ha="right",
                        va="top", color=color, fontsize=8)
    top = 1e3 * max((curve.y[0] for curve in shown), default=np.inf)
    if ax.get_ylim()[1] > top:  # a run that explodes would make the others a flat line at the bottom
        lowest = min(curve.y.min() for curve in shown)
        ax.set_ylim(lowest * (lowest / top) ** 0.05, top)
    for label, curves in drawn.items():
        for x, y in (curve.death for curve in curves if curve.death and len(curve.y)):
            ax.plot([x], [min(y, top)], "x", color=looks[label]["color"], markersize=9, markeredgewidth=2.2,
                    clip_on=False, zorder=4)


def draw_curves(ax, curves, look, label=None):
    """A list of `Curve`: a single one as a line, several as median with a band from minimum to maximum."""
    shown = [curve for curve in curves if len(curve.x)]
    x, y, band = drawn_points(curves, ax.get_xscale() == "log", ax.get_yscale() == "log")
    if band:
        ax.fill_between(x, *band, where=np.isfinite(band[1]), color=look["color"], alpha=0.2, linewidth=0)
        x, y = x[np.isfinite(y)], y[np.isfinite(y)]
    elif shown and shown[0].death:
        end, last = shown[0].death
        ax.plot([x[-1], end], [y[-1], last], ":", color=look["color"], linewidth=1.2)   # to where it died
    point = "o" if len(x) == 1 else None                                # a line of one point is not seen
    ax.plot(x, y, **look, label=label, marker=point)


def legend_text(label, members, wanted, curves):
    """Name of a group with its final loss (of several runs that of their median), or when it died.

    Args:
        label: of `group_runs`.
        members: list of Run.
        wanted: "test" or "train".
        curves: their list of Curve.
    """
    label = label.replace("_", " ")                                     # of "Adam_then_HIG" and of settings
    deaths = [death for death in map(find_death, members) if death]
    if len(members) == 1:
        return f"{label}: {deaths[0] if deaths else format(final_loss(members[0], wanted), '.1e')}"
    died = f"{len(deaths)} of {len(members)} died"
    middle, count = [], 0
    if any(len(curve.x) for curve in curves):
        _, middle, _, _, count = median_band(curves)
    if not len(middle) or not np.isfinite(middle[-1]):
        return f"{label}: {died}"
    of = f"{count} of {len(members)}" if count < len(members) else f"{len(members)}"
    return f"{label}: {middle[-1]:.1e}, median of {of} runs" + (f", {len(deaths)} died" if deaths else "")


def add_legend(ax, title, size, beside):
    """Adds the title of a panel, and a legend if it has none: inside the axes where no curve is, or outside.

    Args:
        title: of the panel, or None.
        size: inches of the panel, (width, height).
        beside: True to put a legend outside beside the whole figure, False above the axes.

    Returns:
        inches that title and legend take above the axes, beyond one line.
    """
    handles, texts = ax.get_legend_handles_labels()
    if title:
        title, texts = shared_words(title, texts, (size[0] - MARGIN[0]) / LETTER)
        ax.set_title(legible(title), loc="left", fontsize=10)
    above = 0.2 * (title.count("\n") if title else 0)
    if not texts or ax.get_legend():
        return above
    form = {"handlelength": 1.6, "handletextpad": 0.5, "labelspacing": 0.25, "columnspacing": 1.0,
            "borderaxespad": 0.3}
    room = size[0] - MARGIN[0], size[1] - MARGIN[1]
    for points in (9, 8, 7):
        width, height = legend_size(texts, points)
        place = free_place(ax, (width + 0.1) / room[0], (height + 0.1) / room[1])
        if place:
            ax.legend(handles, texts, loc="center", bbox_to_anchor=place, fontsize=points, **form)
            return above
    if beside:
        ax.figure.legend(handles, texts, loc="outside right upper", **form)
        return above
    points, columns = next(((points, columns) for points in (9, 8, 7) for columns in (3, 2)
                            if columns * (0.1 + legend_size(texts, points)[0]) < size[0]), (8, 1))
    ax.set_title("", loc="left")
    left = -0.6 / room[0] if columns * (0.1 + legend_size(texts, points)[0]) > room[0] else -0.02
    ax.legend(handles, texts, loc="lower left", bbox_to_anchor=(left, 1), ncols=columns, fontsize=points,
              alignment="left", title=title and legible(title), title_fontsize=10, **form)
    return above + legend_size(texts[::columns], points)[1] + 0.1


def legend_size(texts, points=9):
    """About how many inches, (width, height), a legend takes."""
    return points / 9 * (HANDLE + LETTER * max(map(len, texts))), points / 9 * LINE * len(texts)


def shared_words(title, texts, letters):
    """Moves the name that all entries of a legend begin with, and "median of 5 runs", into the title.

    Args:
        title: str.
        texts: list of `legend_text`.
        letters: how many of them fit into a line of the title.

    Returns:
        title, texts.
    """
    curves = [text for text in texts if text != OTHERS]
    names = {text.partition(" (")[0] if " (" in text else None for text in curves}
    if len(curves) > 1 and len(names) == 1 and None not in names:
        name = names.pop()
        title += f", {name}"
        texts = [text.removeprefix(f"{name} (").replace(")", "", 1) for text in texts]
    medians = {re.search(MEDIAN, text)[0] for text in texts if re.search(MEDIAN, text)}
    if len(medians) == 1 and all(re.search(MEDIAN, text) or text.endswith(" died") for text in curves):
        median = medians.pop()[2:]
        title += f"\n{median}" if len(title) + len(median) > letters else f": {median}"
        texts = [re.sub(MEDIAN, "", text) for text in texts]
    return title, texts


def free_place(ax, width, height):
    """Where the middle of a legend of this size can be without covering a line or a band: (x, y) in shares of
    the axes, or None.
    """
    from matplotlib.transforms import Bbox

    ax.get_xlim(), ax.get_ylim()                                        # sets them for the transforms
    paths = [(line.get_path(), line.get_transform(), False) for line in ax.lines]
    paths += [(path, ax.transData, True) for band in ax.collections for path in band.get_paths()]
    paths = [((transform - ax.transAxes).transform_path(path), filled)
             for path, transform, filled in paths if len(path)]
    for x in (1 - width, 0, (1 - width) / 2):
        for y in np.linspace(1 - height, 0, 11) if min(x, 1 - height) >= 0 else ():
            place = Bbox.from_bounds(x, y, width, height)
            if not any(path.intersects_bbox(place, filled) for path, filled in paths):
                return x + width / 2, y + height / 2
    return None
