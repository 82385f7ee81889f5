"""What a study over settings shows beside its curves: the final loss over the setting that is varied, or over two of them."""

from functools import partial

import numpy as np

from hig.figures.curves import LOSSES, find_death, final_loss, loss_kind
from hig.figures.reading import numeric, settings_of
from hig.figures.style import COLORS, legible, readable

BUDGET = ("max_time", "epochs")         # settings that are no subject of a study
FEWEST = 3                              # values that make a study


def study_panels(runs):
    """Functions that draw the panels of a study, as `hig.figures.losses.draw_losses`; none if the runs are no study.

    One setting varied with at least three values: its panel. Two: a heat map for each optimizer that varies both.
    """
    values, both = {}, {}
    for label in dict.fromkeys(run.label for run in runs):
        own = [settings_of(run) for run in runs if run.label == label]
        found = {key: {one.get(key, "–") for one in own} for key in set().union(*own) if key not in BUDGET}
        found = {key: few for key, few in found.items() if len(few) > 1}
        both[label] = sorted(found)
        for key, few in found.items():
            values.setdefault(key, set()).update(few)
    if len(values) == 1 and len(next(iter(values.values()))) >= FEWEST:
        return [partial(draw_over_setting, *values)]
    if len(values) == 2:
        return [partial(draw_heat_map, label, *keys) for label, keys in both.items() if len(keys) == 2]
    return []


def scale_of(texts):
    """Positions of the values of a setting on an axis, given as texts: {text: position}, and the name of its scale.

    Numbers that span more than a factor of 8 are on a logarithmic axis; texts that are no numbers stand in a row.
    """
    try:
        numbers = {text: float(text) for text in texts}
    except ValueError:
        return {text: float(i) for i, text in enumerate(sorted(texts, key=numeric))}, "names"
    numbers = dict(sorted(numbers.items(), key=lambda pair: pair[1]))
    low, high = min(numbers.values()), max(numbers.values())
    return numbers, "log" if low > 0 and high > 8 * low else "linear"


def finals_of(members, wanted):
    """Final losses of runs, (N,), infinite for those that died."""
    return np.array([np.inf if find_death(run) else final_loss(run, loss_kind(run, wanted)) for run in members])


def draw_over_setting(key, ax, groups, colors, options):
    """Panel: for each optimizer the median of the final losses over a setting, with their range; crosses where runs died."""
    runs = [run for members in groups.values() for run in members]
    positions, scale = scale_of({settings_of(run).get(key, "–") for run in runs})
    ax.set(xscale="log" if scale == "log" else "linear", xlabel=legible(key.replace("_", " ")), ylabel=f"final {LOSSES[options.y]}")
    died = []
    for label in dict.fromkeys(run.label for run in runs):
        color = COLORS[options.colors].get(label, colors[next(name for name in colors if name.split(" (")[0] == label)])
        color = readable(color, options.style)
        points = []
        for text, x in positions.items():
            finals = finals_of([run for run in runs if run.label == label and settings_of(run).get(key, "–") == text], options.y)
            alive = finals[np.isfinite(finals)]
            if len(alive):
                ax.plot([x, x], [alive.min(), alive.max()], "-", color=color, alpha=0.35, linewidth=5, solid_capstyle="butt")
            points += [(x, np.median(finals))] if len(finals) else []
            died += [(x, color, len(finals) - len(alive), len(finals))] if len(alive) < len(finals) else []
        x, y = np.array(points).T
        ax.plot(x, np.where(np.isfinite(y), y, np.nan), "o-", color=color, label=legible(label.replace("_", " ")), markersize=5)
    for x, color, dead, count in died:
        ax.plot([x], [1], "x", color=color, transform=ax.get_xaxis_transform(), markersize=8, markeredgewidth=2, clip_on=False)
        ax.annotate(f"{dead}/{count}", (x, 1), (0, -8), xycoords=("data", "axes fraction"), textcoords="offset points",
                    ha="center", va="top", fontsize=8, color=color)
    show_values(ax, "x", positions)


def show_values(ax, which, positions):
    """Ticks at the values of a setting, as they were written; of many, every second or third one."""
    few = list(positions)[::-(-len(positions) // 8)]
    small = {"fontsize": 7} if sum(map(len, few)) > 30 else {}
    getattr(ax, f"set_{which}ticks")([positions[text] for text in few], [legible(text) for text in few], **small)
    getattr(ax, f"set_{which}ticks")([], minor=True)


def draw_heat_map(label, first, second, ax, groups, colors, options):
    """Panel: the median of the final losses of one optimizer over two settings, and how many of its runs died.

    The colours of all optimizers mean the same.
    """
    from matplotlib.colors import LogNorm

    everywhere = [np.median(finals_of(members, options.y)) for members in groups.values()]
    everywhere = [loss for loss in everywhere if np.isfinite(loss)] or [1.0]
    runs = [run for members in groups.values() for run in members if run.label == label]
    rows, columns = (list(scale_of({settings_of(run).get(key, "–") for run in runs})[0]) for key in (first, second))
    medians, words = np.full((len(rows), len(columns)), np.nan), {}
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            here = [run for run in runs if settings_of(run).get(first, "–") == row and settings_of(run).get(second, "–") == column]
            finals = finals_of(here, options.y)
            if len(here):
                medians[i, j] = np.median(finals) if np.isfinite(np.median(finals)) else np.nan
                dead = int(np.isinf(finals).sum())
                words[i, j] = (f"{medians[i, j]:.0e}" if np.isfinite(medians[i, j]) else "×") + (
                    f"\n{dead}/{len(here)} died" if dead else "")
    ax.set(xscale="linear", yscale="linear", xlabel=legible(second.replace("_", " ")), ylabel=legible(first.replace("_", " ")))
    image = ax.pcolormesh(np.ma.masked_invalid(medians), norm=LogNorm(min(everywhere), max(everywhere)), cmap="viridis_r")
    ax.grid(False)
    for (i, j), text in words.items():
        red, green, blue, _ = image.cmap(image.norm(medians[i, j])) if np.isfinite(medians[i, j]) else (1, 1, 1, 0)
        dark = np.isfinite(medians[i, j]) and 0.3 * red + 0.6 * green + 0.1 * blue < 0.5
        ink = ("white" if dark else "black") if np.isfinite(medians[i, j]) else ax.xaxis.label.get_color()
        ax.annotate(text, (j + 0.5, i + 0.5), ha="center", va="center", color=ink, fontsize=8 if len(columns) < 7 else 6)
    ax.set_xticks(np.arange(len(columns)) + 0.5, [legible(text) for text in columns])
    ax.set_yticks(np.arange(len(rows)) + 0.5, [legible(text) for text in rows])
    ax.set_title(legible(f"{label.replace('_', ' ')}: final {LOSSES[options.y]}, median"), fontsize=10, loc="left")
    ax.figure.colorbar(image, ax=ax)
