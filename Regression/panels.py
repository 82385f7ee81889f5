"""What figures and pages show of each regression: the loss, and final losses beside the published ones."""

import numpy as np

from hig.figures.curves import Panel, System
from hig.figures.panels import draw_finals

TASKS = {"toy_1d": "toy 1D", "polynomial": "random polynomial"}
PUBLISHED = {   # test losses, means over 15 runs, by the authors of Sven (2026)
    "toy_1d": {"HIG": 1.9e-9, "Sven": 5.4e-7, "Adam": 3.3e-5},
    "polynomial": {"HIG": 0.080, "Sven": 0.136, "Adam": 0.228}}


def draw_beside_published(ax, groups, looks, options):
    """Panel: final loss of each run, a bar at their mean, and dashed lines at the published means."""
    draw_finals(ax, groups, looks, options, np.mean)
    task = next(iter(groups.values()))[0].results["sim_par"].get("task")
    published = PUBLISHED.get(task, {}) if options.y == "test" else {}
    for name, value in published.items():
        color = looks[name]["color"] if name in looks else ax.xaxis.label.get_color()
        ax.axhline(value, color=color, linestyle="--", linewidth=0.9, zorder=1)
        ax.annotate(name, (1, value), (0, 1), xycoords=("axes fraction", "data"), fontsize=8,
                    textcoords="offset points", ha="right", va="bottom", color=color)
    if published:
        ax.set_xlabel("dashed lines: published", fontsize=9)
        ax.set_xlim(-0.6, 1.15 * len(groups) - 0.4)                     # with room for their names


def case(settings):
    """Order and words of a run by its task."""
    task = settings.get("task")
    return (list(TASKS).index(task), TASKS[task]) if task in TASKS else (len(TASKS), "")


SYSTEM = System("Regression", case=case, in_names=f"(?:{'|'.join(TASKS)})", thresholds=(0.1, 1e-4, 1e-8),
                panels=(Panel(draw_beside_published),))
