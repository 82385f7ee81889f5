"""What a study shows beside its curves: the final loss over one or two varied settings.

A table is here what `hig.figures.table.tabulate` returns, or the rows of one case in it.
"""

from functools import partial

import numpy as np

from hig.figures.curves import LOSSES
from hig.figures.style import SYMBOLS, WORDS, choose_looks, legible
from hig.figures.table import natural, varied_settings

BUDGET = ["max_time", "epochs"]         # settings that are never the subject of a study
FEWEST = 3                              # values of a setting from which on it has a panel
MANY = 6                                # how many groups of an optimizer can all be in colour


def subjects(table):
    """[(optimizer, its rows of the table, settings that its study is about, leading first)]."""
    return [(name, own, [key for key in varied_settings(own) if key not in BUDGET])
            for name, own in table.groupby("Optimizer", sort=False)]


def best_partners(table):
    """Groups of the table that a figure shows in colour; the others stand grey behind them.

    If an optimizer has more than MANY groups, one is in colour for each value of its leading setting: the one
    with the lowest median of its final losses.
    """
    best = []
    for _, own, keys in subjects(table):
        many = own["Group"].nunique() > MANY and len(keys) > 1
        medians = own.groupby([keys[0] if many else "Group", "Group"], sort=False)["Loss"].median()
        best += [group for _, group in medians.groupby(level=0, sort=False).idxmin()]
    return best


def study_panels(table):
    """Functions that draw the panels of a study, as `hig.figures.losses.draw_losses`; [] if it has none.

    If one setting varies, with at least FEWEST values, there is one panel. If two vary, there is a heat map
    for each optimizer whose pairs of values fill a grid of at least FEWEST cells.
    """
    parts = subjects(table)
    varied = {key for _, _, keys in parts for key in keys}
    if len(varied) == 1:
        values = {text for _, own, keys in parts for text in own[keys].to_numpy().flat}
        return [partial(draw_over_setting, table, *varied)] * (len(values) >= FEWEST)
    panels = []
    for name, own, keys in parts:
        pairs = own[keys].drop_duplicates()
        if len(varied) == len(keys) == 2 and FEWEST <= len(pairs) == pairs.nunique().prod():
            panels.append(partial(draw_heat_map, table, name, *keys))
    return panels


def named(key):
    """The name of a setting at an axis, in words and with its symbol: "learning rate η", "batch size"."""
    symbol = SYMBOLS.get(key, "")
    return legible(WORDS.get(key, key.replace("_", " ")) + f" {symbol}" * (len(symbol) == 1))


def draw_over_setting(table, key, ax, groups, looks, options):
    """Panel: median and range of the final losses of each optimizer, over one setting.

    The values of the setting are evenly spaced. A cross with a fraction says how many runs died.
    """
    from matplotlib.ticker import LogFormatterSciNotation

    values = sorted(table[key].unique(), key=natural)
    plain = choose_looks(list(table["Optimizer"].unique()), options.colors, options.style)
    ax.set(xscale="linear", xlabel=named(key), ylabel=f"final {LOSSES[options.y]}")
    ax.yaxis.set_minor_formatter(LogFormatterSciNotation(minor_thresholds=(1.5, 0.4)))  # of a single decade
    ax.set_xticks(range(len(values)), map(legible, values), fontsize=7 if sum(map(len, values)) > 30 else 10)
    table = table.assign(place=table[key].map(values.index), alive=table["Loss"].replace(np.inf, np.nan))
    for optimizer, own in table.groupby("Optimizer", sort=False):
        color, places = plain[optimizer]["color"], own.groupby("place")
        medians, alive = places["Loss"].median(), places["alive"].agg(["min", "max", "count"])
        ax.plot(medians.index, medians.replace(np.inf, np.nan), "o-", color=color, markersize=5,
                label=legible(optimizer.replace("_", " ")))
        ax.plot([medians.index] * 2, alive[["min", "max"]].T, color=color, alpha=0.35, linewidth=5,
                solid_capstyle="butt")
        for x, count, dead in zip(medians.index, places.size(), places.size() - alive["count"]):
            if dead:
                ax.plot([x], [1], "x", color=color, transform=ax.get_xaxis_transform(), markersize=8,
                        markeredgewidth=2, clip_on=False)
                ax.annotate(f"{dead}/{count}", (x, 1), (0, -8), color=color, fontsize=8, ha="center",
                            va="top", xycoords=("data", "axes fraction"), textcoords="offset points")


def draw_heat_map(table, optimizer, first, second, ax, groups, looks, options):
    """Panel: the median of the final losses of one optimizer over two settings, and how many runs died.

    The scale of greys is the same for all optimizers. The best cell of each row has a frame in the colour of
    its curve.
    """
    from matplotlib.colors import LinearSegmentedColormap, LogNorm
    from matplotlib.patches import Rectangle

    own, every = table[table["Optimizer"] == optimizer], table.groupby("Group")["Loss"].median()
    every = every[np.isfinite(every)] if np.isfinite(every).any() else [1.0]
    rows, columns = (sorted(own[key].unique(), key=natural) for key in (first, second))
    medians = own.pivot_table("Loss", first, second, aggfunc="median").loc[rows, columns]
    greys = LinearSegmentedColormap.from_list("", ["#f2f2f2", "#8a8a8a"])
    image = ax.pcolormesh(np.ma.masked_invalid(medians), norm=LogNorm(min(every), max(every)), cmap=greys,
                          edgecolors="white", linewidth=1)
    best = best_partners(table)
    for (row, column), cell in own.groupby([first, second], sort=False):
        x, y, median = columns.index(column), rows.index(row), cell["Loss"].median()
        words, died = [f"{median:.0e}" if np.isfinite(median) else "×"], np.isinf(cell["Loss"]).sum()
        words += [f"{died}/{len(cell)} died"] if died else []
        ax.annotate(("\n" if len(rows) < 6 else " ").join(words), (x + 0.5, y + 0.5), ha="center",
                    va="center", color="black" if np.isfinite(median) else ax.xaxis.label.get_color(),
                    fontsize=8 if len(columns) < 7 else 6)
        for group in cell["Group"][cell["Group"].isin(best)].unique():
            ax.add_patch(Rectangle((x + 0.04, y + 0.04), 0.92, 0.92, fill=False, linewidth=2.5,
                                   edgecolor=looks[group]["color"]))
    ax.set(xscale="linear", yscale="linear", xlabel=named(second), ylabel=named(first))
    ax.grid(False)
    ax.set_xticks(np.arange(len(columns)) + 0.5, [legible(text) for text in columns])
    ax.set_yticks(np.arange(len(rows)) + 0.5, [legible(text) for text in rows])
    title = f"{optimizer.replace('_', ' ')}: median of the final {LOSSES[options.y]}"
    ax.set_title(legible(title), fontsize=10, loc="left")
    ax.figure.colorbar(image, ax=ax, label="lower is better")
