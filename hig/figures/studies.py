"""What a study shows beside its curves: the final loss over one or two varied settings."""

from functools import partial

import numpy as np

from hig.figures.curves import LOSSES, end_loss
from hig.figures.reading import group_runs, numeric, settings_of, varied_settings
from hig.figures.style import WORDS, choose_colors, legible

BUDGET = ["max_time", "epochs"]         # settings that are no subject of a study
FEWEST = 3                              # values that make a study
MANY = 6                                # settings of an optimizer that a figure shows in colour


def subjects(runs):
    """{optimizer: names of the settings that a study of these runs is about}, the leading one first."""
    return {label: [key for key in own if key not in BUDGET] for label, own in varied_settings(runs).items()}


def best_partners(runs, wanted):
    """Labels of the groups of runs that a figure shows in colour; the others stand grey behind them.

    If an optimizer has more than MANY settings, one is in colour for each value of its leading setting: that
    with the lowest median of the final losses, "test" or "train" as `wanted`.
    """
    groups, keys = group_runs(runs), subjects(runs)
    best = {}
    for label, members in groups.items():
        optimizer = members[0].label
        many = sum(few[0].label == optimizer for few in groups.values()) > MANY and len(keys[optimizer]) > 1
        place = (optimizer, settings_of(members[0]).get(keys[optimizer][0], "–") if many else label)
        best.setdefault(place, []).append((np.median([end_loss(run, wanted) for run in members]), label))
    return {min(few)[1] for few in best.values()}


def study_panels(runs):
    """Functions that draw the panels of a study, as `hig.figures.losses.draw_losses`; empty if it is none.

    One varied setting of at least three values has one panel. Two have a heat map for each optimizer that
    varies both, in at least three pairs.
    """
    keys = subjects(runs)
    varied = sorted({key for own in keys.values() for key in own})
    if len(varied) == 1:
        values = {settings_of(run).get(*varied, "–") for run in runs if keys[run.label]}
        return [partial(draw_over_setting, *varied)] * (len(values) >= FEWEST)
    pairs = [few[0].label for few in group_runs(runs).values()]
    return [partial(draw_heat_map, label, *own) for label, own in keys.items()
            if len(varied) == len(own) == 2 and pairs.count(label) >= FEWEST]


def finals(runs, keys, wanted):
    """DataFrame, a row for each run: "optimizer", the settings `keys` as texts, "loss" as in `end_loss`."""
    import pandas

    return pandas.DataFrame([{"optimizer": run.label, **{key: settings_of(run).get(key, "–") for key in keys},
                              "loss": end_loss(run, wanted)} for run in runs])


def named(key):
    """A setting at an axis, as word and symbol."""
    return legible(WORDS.get(key, key.replace("_", " ")))


def draw_over_setting(key, ax, groups, colors, options):
    """Panel: for each optimizer the median of the final losses over a setting, and their range.

    The values of the setting stand in a row; crosses count the runs that died.
    """
    from matplotlib.ticker import LogFormatterSciNotation

    table = finals([run for members in groups.values() for run in members], [key], options.y)
    values = sorted(table[key].unique(), key=numeric)
    plain = choose_colors(list(table["optimizer"].unique()), options.colors, options.style)
    ax.set(xscale="linear", xlabel=named(key), ylabel=f"final {LOSSES[options.y]}")
    ax.yaxis.set_minor_formatter(LogFormatterSciNotation(minor_thresholds=(1.5, 0.4)))  # of a single decade
    ax.set_xticks(range(len(values)), map(legible, values), fontsize=7 if sum(map(len, values)) > 30 else 10)
    for optimizer, own in table.groupby("optimizer", sort=False):
        color, middle = plain[optimizer], own.groupby(key)["loss"].median().replace(np.inf, np.nan)
        middle = middle[sorted(middle.index, key=numeric)]
        ax.plot([values.index(text) for text in middle.index], middle, "o-", color=color, markersize=5,
                label=legible(optimizer.replace("_", " ")))
        for text, losses in own.groupby(key)["loss"]:
            x, alive = values.index(text), losses[np.isfinite(losses)]
            ax.plot([x, x], [alive.min(), alive.max()], color=color, alpha=0.35, linewidth=5,
                    solid_capstyle="butt")
            if len(alive) < len(losses):
                ax.plot([x], [1], "x", color=color, transform=ax.get_xaxis_transform(), markersize=8,
                        markeredgewidth=2, clip_on=False)
                ax.annotate(f"{len(losses) - len(alive)}/{len(losses)}", (x, 1), (0, -8), color=color,
                            xycoords=("data", "axes fraction"), textcoords="offset points", fontsize=8,
                            ha="center", va="top")


def draw_heat_map(optimizer, first, second, ax, groups, colors, options):
    """Panel: the median of the final losses of one optimizer over two settings, and how many runs died.

    Greys mean the same for all optimizers. The best cell of each row has a frame of its curve's colour.
    """
    from matplotlib.colors import LinearSegmentedColormap, LogNorm
    from matplotlib.patches import Rectangle

    table = finals([run for members in groups.values() for run in members], [first, second], options.y)
    every = table.groupby(["optimizer", first, second])["loss"].median()
    every = every[np.isfinite(every)] if np.isfinite(every).any() else [1.0]
    own = table[table["optimizer"] == optimizer].groupby([first, second])["loss"]
    medians = own.median().unstack()
    died = own.agg(lambda losses: f"{np.isinf(losses).sum()}/{len(losses)} died").unstack()
    rows, columns = (sorted(values, key=numeric) for values in (medians.index, medians.columns))
    medians, died = (cells.reindex(index=rows, columns=columns) for cells in (medians, died))
    shown = np.ma.masked_invalid(medians.to_numpy(float))
    image = ax.pcolormesh(shown, norm=LogNorm(min(every), max(every)), edgecolors="white", linewidth=1,
                          cmap=LinearSegmentedColormap.from_list("", ["#f2f2f2", "#8a8a8a"]))
    for i, j in np.argwhere(medians.notna().to_numpy()):
        loss, dead = medians.iat[i, j], died.iat[i, j]
        words = [f"{loss:.0e}" if np.isfinite(loss) else "×"] + [dead] * (not dead.startswith("0/"))
        text = ("\n" if len(rows) < 6 else " ").join(words)
        ink = "black" if np.isfinite(loss) else ax.xaxis.label.get_color()
        ax.annotate(text, (j + 0.5, i + 0.5), ha="center", va="center", color=ink,
                    fontsize=8 if len(columns) < 7 else 6)
    for label in best_partners([run for members in groups.values() for run in members], options.y):
        if groups[label][0].label == optimizer:
            row, column = (settings_of(groups[label][0]).get(key, "–") for key in (first, second))
            corner = columns.index(column) + 0.04, rows.index(row) + 0.04
            ax.add_patch(Rectangle(corner, 0.92, 0.92, fill=False, edgecolor=colors[label], linewidth=2.5))
    ax.set(xscale="linear", yscale="linear", xlabel=named(second), ylabel=named(first))
    ax.grid(False)
    ax.set_xticks(np.arange(len(columns)) + 0.5, [legible(text) for text in columns])
    ax.set_yticks(np.arange(len(rows)) + 0.5, [legible(text) for text in rows])
    title = f"{optimizer.replace('_', ' ')}: median of the final {LOSSES[options.y]}"
    ax.set_title(legible(title), fontsize=10, loc="left")
    ax.figure.colorbar(image, ax=ax, label="lower is better")
