"""Panels that the `panels.py` of several systems show beside the loss."""

import numpy as np

from hig.figures.curves import LOSSES, drawable, final_loss
from hig.figures.losses import draw_curves
from hig.figures.style import legible

LETTERS = 40    # names below the final losses stand aslant if they have more letters together


def draw_quantity(key, words, ax, groups, looks, options, span=None):
    """Panel: an array of the pickles over the x axis, with medians and bands of several seeds.

    Args:
        key: name of the array.
        words: label of the y axis.
        span: limits of a linear y axis, which also shows values that are not positive; None for a
            logarithmic one.
    """
    ax.set(ylabel=words, **({"yscale": "linear", "ylim": span} if span else {}))
    for label, members in groups.items():
        curves = [drawable(run, run.results[key], options.x, ax.get_xscale() == "log",
                           None if span else options.smooth, positive=not span) for run in members]
        draw_curves(ax, curves, looks[label])


def draw_finals(ax, groups, looks, options, middle=np.median):
    """Panel: the final loss of each run, and a bar at their `middle`; a run that died counts as infinite."""
    ax.set(xscale="linear", xlabel="", ylabel=f"final {LOSSES[options.y]}")
    names = [legible(label.replace("_", " ")) for label in groups]
    if sum(map(len, names)) > LETTERS:
        ax.set_xticks(range(len(names)), names, rotation=35, ha="right", rotation_mode="anchor", fontsize=9)
    else:
        ax.set_xticks(range(len(names)), [name.replace(" ", "\n") for name in names])
    ax.set_xlim(-0.6, len(names) - 0.4)
    ax.grid(False, axis="x")
    for i, (label, members) in enumerate(groups.items()):
        finals = np.array([final_loss(run, options.y) for run in members])
        alive, color = finals[np.isfinite(finals)], looks[label]["color"]
        spread = np.linspace(-0.2, 0.2, len(alive)) if len(alive) > 1 else np.zeros(len(alive))
        ax.plot(i + spread, alive, "o", color=color, markersize=4, alpha=0.7, markeredgewidth=0)
        if np.isfinite(middle(finals)):
            ax.plot([i - 0.35, i + 0.35], [middle(finals)] * 2, "-", color=color)
        if len(alive) < len(finals):
            ax.annotate(f"{len(finals) - len(alive)} died", (i, 1), xycoords=("data", "axes fraction"),
                        ha="center", va="bottom", color=color, fontsize=9)
