"""What figures and pages show of each regression: the loss, and final losses beside the published ones."""

import numpy as np

from hig.figures.curves import LOSSES, Panel, System, final_loss, find_death, loss_kind
from hig.figures.style import legible

TASKS = {"toy_1d": "toy 1D", "polynomial": "random polynomial"}
LETTERS = 40    # of all names below the final losses; more stand aslant
PUBLISHED = {   # test losses, means over 15 runs, by the authors of Sven (2026)
    "toy_1d": {"HIG": 1.9e-9, "Sven": 5.4e-7, "Adam": 3.3e-5},
    "polynomial": {"HIG": 0.080, "Sven": 0.136, "Adam": 0.228}}


def draw_finals(ax, groups, colors, options):
    """Panel: final loss of each run, a bar at their mean, and dashed lines at the published means."""
    ax.set(xscale="linear", xlabel="", ylabel=f"final {LOSSES[options.y]}")
    task = next(iter(groups.values()))[0].results["sim_par"].get("task")
    published = PUBLISHED.get(task, {}) if options.y == "test" else {}
    names = [legible(label.replace("_", " ")) for label in groups]
    if sum(map(len, names)) > LETTERS:
        ax.set_xticks(range(len(groups)), names, rotation=35, ha="right", rotation_mode="anchor", fontsize=9)
    else:
        ax.set_xticks(range(len(groups)), [name.replace(" ", "\n") for name in names])
    ax.set_xlim(-0.6, (1.15 if published else 1) * len(groups) - 0.4)
    ax.grid(False, axis="x")
    for i, (label, members) in enumerate(groups.items()):
        alive = [run for run in members if not find_death(run)]
        finals = np.array([final_loss(run, loss_kind(run, options.y)) for run in alive])
        spread = np.linspace(-0.2, 0.2, len(finals)) if len(finals) > 1 else np.zeros(len(finals))
        ax.plot(i + spread, finals, "o", color=colors[label], markersize=4, alpha=0.7, markeredgewidth=0)
        if len(finals):
            ax.plot([i - 0.35, i + 0.35], [finals.mean()] * 2, "-", color=colors[label])
        if len(finals) < len(members):
            ax.annotate(f"{len(members) - len(finals)} died", (i, 1), xycoords=("data", "axes fraction"),
                        ha="center", va="bottom", color=colors[label], fontsize=9)
    ink = ax.xaxis.label.get_color()
    for name, value in published.items():
        color = colors.get(name, ink)
        ax.axhline(value, color=color, linestyle="--", linewidth=0.9, zorder=1)
        ax.annotate(name, (1, value), (0, 1), xycoords=("axes fraction", "data"), fontsize=8,
                    textcoords="offset points", ha="right", va="bottom", color=color)
    if published:
        ax.set_xlabel("dashed lines: published", fontsize=9)


def case(settings):
    """Order and words of a run by its task."""
    task = settings.get("task")
    return (list(TASKS).index(task), TASKS[task]) if task in TASKS else (len(TASKS), "")


SYSTEM = System("Regression", case=case, in_names=f"(?:{'|'.join(TASKS)})", thresholds=(0.1, 1e-4, 1e-8),
                panels=(Panel(draw_finals, arrays=("test_loss",)),))
