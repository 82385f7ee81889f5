"""What figures and pages show of the toy problem, for each λ: beside the loss, how neurons saturate and where outputs go."""

import math

import numpy as np

from hig.figures.curves import LOSSES, Panel, System, drawable, final_loss, find_death, loss_kind, thin, x_values
from hig.figures.style import legible


def draw_activations(ax, groups, colors, options):
    """Panel of the toy problem: mean of the hidden activations |tanh|, with their standard deviation as a band."""
    ax.set_yscale("linear")
    ax.set_ylim(0, 1.05)
    ax.set_ylabel("hidden activations")
    for label, members in groups.items():
        x, mean = drawable(members[0], members[0].results["activation_mean"], options.x, ax.get_xscale() == "log", options.smooth)
        std = np.interp(x, x_values(members[0], options.x), members[0].results["activation_std"])
        index = thin(x, mean, False)
        ax.fill_between(x[index], (mean - std)[index], (mean + std)[index], color=colors[label], alpha=0.15, linewidth=0)
        ax.plot(x[index], mean[index], color=colors[label])


def draw_paths(ax, groups, colors, options):
    """Panel of the toy problem: the outputs for one sample in the (y₁, y₂) plane, from the start to a star, the target.

    The view is that of start and target; a path may leave it and come back.
    """
    ax.set(xscale="linear", yscale="linear", xlabel="$y_1$", ylabel="$y_2$")
    shown = []
    for label, members in groups.items():
        results, death = members[0].results, find_death(members[0])
        path = np.array([results["path_y1"], results["path_y2"]])[:, :death.index if death else None]
        ax.plot(*path, color=colors[label], linewidth=1.2)
        ax.plot(*path[:, -1:], ".", color=colors[label], markersize=9)
        target = [results["sim_par"].get(f"path_target_{y}", np.nan) for y in ("y1", "y2")]
        ink = ax.xaxis.label.get_color()
        ax.plot(*path[:, :1], "o", color=ink, markersize=5, markerfacecolor="none", zorder=4)
        ax.plot(*target, "*", color=ink, markersize=11, markerfacecolor="gold", zorder=3)
        shown += [path[:, 0], target]
    low, high = np.nanmin(shown, axis=0), np.nanmax(shown, axis=0)
    margin = 0.6 * (high - low)
    if np.all(margin > 0):
        ax.set(xlim=(low[0] - margin[0], high[0] + margin[0]), ylim=(low[1] - margin[1], high[1] + margin[1]))


def draw_finals(ax, groups, colors, options):
    """Panel of the toy problem, where there are several seeds: the final loss of each run, and a bar at their median."""
    ax.set(xscale="linear", xlabel="", ylabel=f"final {LOSSES[options.y]}")
    ax.set_xticks(range(len(groups)), [legible(label) for label in groups])
    ax.set_xlim(-0.6, len(groups) - 0.4)
    ax.grid(False, axis="x")
    for i, (label, members) in enumerate(groups.items()):
        finals = np.array([np.inf if find_death(run) else final_loss(run, loss_kind(run, options.y)) for run in members])
        alive = finals[np.isfinite(finals)]
        spread = np.linspace(-0.2, 0.2, len(alive)) if len(alive) > 1 else np.zeros(len(alive))
        ax.plot(i + spread, alive, "o", color=colors[label], markersize=4, alpha=0.7, markeredgewidth=0)
        if np.isfinite(np.median(finals)):
            ax.plot([i - 0.35, i + 0.35], [np.median(finals)] * 2, "-", color=colors[label])
        if len(alive) < len(finals):
            ax.annotate(f"{len(finals) - len(alive)} died", (i, 1), xycoords=("data", "axes fraction"), ha="center",
                        va="bottom", color=colors[label], fontsize=9)


def case(settings):
    """Order and words of a run by its λ, the well-conditioned one first; those that do not tell it come last."""
    factor = settings.get("lambda")
    known = isinstance(factor, (int, float)) and math.isfinite(factor)
    return (-factor, f"λ = {factor:g}") if known and factor else (0, "")


SYSTEM = System(
    "Toy problem", case=case, in_names="lambda_[0-9.e+-]+",
    words={"activation_mean": "mean of the hidden activations", "activation_std": "spread of the hidden activations",
           "path_y1": "output y₁ for one sample", "path_y2": "output y₂ for one sample"},
    panels=(Panel(draw_activations, arrays=("activation_mean", "activation_std")),
            Panel(draw_paths, arrays=("path_y1", "path_y2")),
            Panel(draw_finals, arrays=("train_loss",), seeds=2)))
