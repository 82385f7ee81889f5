"""What a study shows beside its curves: the final loss over one or two varied settings."""

from functools import partial

import numpy as np

from hig.figures.curves import LOSSES, end_loss
from hig.figures.reading import numeric, settings_table, varied_settings
from hig.figures.style import SYMBOLS, WORDS, choose_colors, legible

BUDGET = ["max_time", "epochs"]         # settings that are never the subject of a study
FEWEST = 3                              # values of a setting from which on it has a panel
MANY = 6                                # how many groups of an optimizer can all be in colour


def finals(runs, wanted):
    """`settings_table` of the runs, with their `end_loss` for `wanted` ("test" or "train") as "Loss"."""
    table = settings_table(runs)
    return table.assign(Loss=[end_loss(run, wanted) for run in table["Run"]])


def subjects(table):
    """[(optimizer, its rows of a `settings_table`, settings that its study is about, leading first)]."""
    return [(name, own, [key for key in varied_settings(own) if key not in BUDGET])
            for name, own in table.groupby("Optimizer", sort=False)]


def best_partners(runs, wanted):
    """Groups of runs that a figure shows in colour; the others stand grey behind them.

    If an optimizer has more than MANY groups, one is in colour for each value of its leading setting: the one
    whose `finals` have the lowest median.
    """
    best = []
    for _, own, keys in subjects(finals(runs, wanted)):
        many = own["Group"].nunique() > MANY and len(keys) > 1
        medians = own.groupby([keys[0] if many else "Group", "Group"], sort=False)["Loss"].median()
        best += [group for _, group in medians.groupby(level=0, sort=False).idxmin()]
    return best


def study_panels(runs):
    """Functions that draw the panels of a study, as `hig.figures.losses.draw_losses`; [] if it has none.

    If one setting varies, with at least FEWEST values, there is one panel. If two vary, there is a heat map
    for each optimizer whose pairs of values fill a grid of at least FEWEST cells.
    """
    parts = subjects(settings_table(runs))
    varied = {key for _, _, keys in parts for key in keys}
    if len(varied) == 1:
        values = {text for _, own, keys in parts for text in own[keys].to_numpy().flat}
        return [partial(draw_over_setting, *varied)] * (len(values) >= FEWEST)
    panels = []
    for name, own, keys in parts:
        pairs = own[keys].drop_duplicates()
        if len(varied) == len(keys) == 2 and FEWEST <= len(pairs) == pairs.nunique().prod():
            panels.append(partial(draw_heat_map, name, *keys))
    return panels


def named(key):
    """The name of a setting at an axis, in words and with its symbol: "learning rate η", "batch size"."""
    symbol = SYMBOLS.get(key, "")
    return legible(WORDS.get(key, key.replace("_", " ")) + f" {symbol}" * (len(symbol) == 1))


def draw_over_setting(key, ax, groups, colors, options):
    """Panel: median and range of the final losses of each optimizer, over one setting.

    The values of the setting are evenly spaced. A cross with a fraction says how many runs died.
    """
    from matplotlib.ticker import LogFormatterSciNotation

    table = finals([run for members in groups.values() for run in members], options.y)
    values = sorted(table[key].unique(), key=numeric)
    plain = choose_colors(list(table["Optimizer"].unique()), options.colors, options.style)
    ax.set(xscale="linear", xlabel=named(key), ylabel=f"final {LOSSES[options.y]}")
    ax.yaxis.set_minor_formatter(LogFormatterSciNotation(minor_thresholds=(1.5, 0.4)))  # of a single decade
    ax.set_xticks(range(len(values)), map(legible, values), fontsize=7 if sum(map(len, values)) > 30 else 10)
    table = table.assign(place=table[key].map(values.index), alive=table["Loss"].replace(np.inf, np.nan))
    for optimizer, own in table.groupby("Optimizer", sort=False):
        color, losses = plain[optimizer], own.groupby("place")["Loss"]
        cells = own.groupby("place")["alive"].agg(["min", "max", "count"])
        ax.plot(cells.index, losses.median().replace(np.inf, np.nan), "o-", color=color, markersize=5,
                label=legible(optimizer.replace("_", " ")))
        ax.plot([cells.index] * 2, cells[["min", "max"]].T, color=color, alpha=0.35, linewidth=5,
                solid_capstyle="butt")
        for x, alive, count in zip(cells.index, cells["count"], losses.size()):
            if alive < count:
                ax.plot([x], [1], "x", color=color, transform=ax.get_xaxis_transform(), markersize=8,
                        markeredgewidth=2, clip_on=False)
                ax.annotate(f"{count - alive}/{count}", (x, 1), (0, -8), color=color, fontsize=8, ha="center",
                            va="top", xycoords=("data", "axes fraction"), textcoords="offset points")


def draw_heat_map(optimizer, first, second, ax, groups, colors, options):
    """Panel: the median of the final losses of one optimizer over two settings, and how many runs died.

    The scale of greys is the same for all optimizers. The best cell of each row has a frame in the colour of
    its curve.
    """
    from matplotlib.colors import LinearSegmentedColormap, LogNorm
    from matplotlib.patches import Rectangle

    runs = [run for members in groups.values() for run in members]
    table = finals(runs, options.y)
    own, every = table[table["Optimizer"] == optimizer], table.groupby("Group")["Loss"].median()
    every = every[np.isfinite(every)] if np.isfinite(every).any() else [1.0]
    cells = own.pivot_table("Loss", first, second, aggfunc=list)
    rows, columns = (sorted(values, key=numeric) for values in (cells.index, cells.columns))
    medians = cells.loc[rows, columns].map(np.median).to_numpy()
    for (i, j), loss in np.ndenumerate(medians):
        losses = cells.loc[rows[i], columns[j]]
        words = [f"{loss:.0e}" if np.isfinite(loss) else "×"]
        words += [f"{died}/{len(losses)} died"] if (died := np.isinf(losses).sum()) else []
        ax.annotate(("\n" if len(rows) < 6 else " ").join(words), (j + 0.5, i + 0.5), ha="center",
                    va="center", color="black" if np.isfinite(loss) else ax.xaxis.label.get_color(),
                    fontsize=8 if len(columns) < 7 else 6)
    greys = LinearSegmentedColormap.from_list("", ["#f2f2f2", "#8a8a8a"])
    image = ax.pcolormesh(np.ma.masked_invalid(medians), norm=LogNorm(min(every), max(every)), cmap=greys,
                          edgecolors="white", linewidth=1)
    best = own[own["Group"].isin(best_partners(runs, options.y))].drop_duplicates("Group").set_index("Group")
    for label, row, column in best[[first, second]].itertuples():
        corner = columns.index(column) + 0.04, rows.index(row) + 0.04
        ax.add_patch(Rectangle(corner, 0.92, 0.92, fill=False, edgecolor=colors[label], linewidth=2.5))
    ax.set(xscale="linear", yscale="linear", xlabel=named(second), ylabel=named(first))
    ax.grid(False)
    ax.set_xticks(np.arange(len(columns)) + 0.5, [legible(text) for text in columns])
    ax.set_yticks(np.arange(len(rows)) + 0.5, [legible(text) for text in rows])
    title = f"{optimizer.replace('_', ' ')}: median of the final {LOSSES[options.y]}"
    ax.set_title(legible(title), fontsize=10, loc="left")
    ax.figure.colorbar(image, ax=ax, label="lower is better")
