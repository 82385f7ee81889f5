"""What figures and pages show of the toy problem beside the loss: saturation of neurons, paths of outputs."""

import math

import numpy as np

from hig.figures.curves import Panel, System, drawable, find_death, thin, x_values
from hig.figures.panels import draw_finals


def draw_activations(ax, groups, looks, options):
    """Panel: mean of the hidden activations |tanh| of one seed, with their standard deviation as a band."""
    ax.set(yscale="linear", ylim=(0, 1.05), ylabel="hidden activations")
    for label, members in groups.items():
        mean = members[0].results["activation_mean"]
        x, mean, *_ = drawable(members[0], mean, options.x, False, options.smooth)
        std = np.interp(x, x_values(members[0], options.x), members[0].results["activation_std"])
        index = thin(x, mean, False)
        ax.fill_between(x[index], (mean - std)[index], (mean + std)[index], color=looks[label]["color"],
                        alpha=0.15, linewidth=0)
        ax.plot(x[index], mean[index], **looks[label])
    ax.set_title(f"mean and spread of |tanh|{of_one_seed(groups)}", fontsize=9, loc="left")


def draw_paths(ax, groups, looks, options):
    """Panel: the outputs for one sample in the (y₁, y₂) plane; a ring is the start, a star the target.

    The view is that of start and target; a path may leave it and come back.
    """
    ax.set(xscale="linear", yscale="linear", xlabel="$y_1$", ylabel="$y_2$")
    shown, ink = [], ax.xaxis.label.get_color()
    for label, members in groups.items():
        results, death = members[0].results, find_death(members[0])
        path = np.array([results["path_y1"], results["path_y2"]])[:, :death.index if death else None]
        ax.plot(*path, **looks[label], linewidth=1.2)
        ax.plot(*path[:, -1:], ".", color=looks[label]["color"], markersize=9)
        target = [results["sim_par"].get(f"path_target_{y}", np.nan) for y in ("y1", "y2")]
        first = label == next(iter(groups))
        ax.plot(*path[:, :1], "o", color=ink, markersize=5, markerfacecolor="none", zorder=4,
                label="start" if first else None)
        ax.plot(*target, "*", color=ink, markersize=11, markerfacecolor="gold", zorder=3,
                label="target" if first else None)
        shown += [path[:, 0], target]
    ax.legend(loc="best")
    low, high = np.nanmin(shown, axis=0), np.nanmax(shown, axis=0)
    margin = 0.6 * (high - low)
    if np.all(margin > 0):
        ax.set(xlim=(low[0] - margin[0], high[0] + margin[0]), ylim=(low[1] - margin[1], high[1] + margin[1]))
    x = next(iter(groups.values()))[0].results["sim_par"].get("path_x")
    sample = "one sample" if x is None else f"x = {x:g}"
    ax.set_title(f"output for {sample}{of_one_seed(groups)}", fontsize=9, loc="left")


def of_one_seed(groups):
    """Words that tell which seed is shown, the first one of each group; "" if no group has several."""
    if max(map(len, groups.values())) == 1:
        return ""
    seeds = {members[0].results["sim_par"].get("seed") for members in groups.values()}
    return f", seed {seeds.pop()} alone" if len(seeds) == 1 else ", one seed alone"


def case(settings):
    """Order and words of a run by its λ, the well-conditioned one first; those that do not tell it come last.
    """
    factor = settings.get("lambda")
    known = isinstance(factor, (int, float)) and math.isfinite(factor)
    return (-factor, f"λ = {factor:g}") if known and factor else (0, "")


SYSTEM = System(
    "Toy problem", case=case, in_names="lambda_[0-9.e+-]+",
    words={"activation_mean": "mean of the hidden activations",
           "activation_std": "spread of the hidden activations",
           "path_y1": "output y₁ for one sample", "path_y2": "output y₂ for one sample"},
    panels=(Panel(draw_activations, arrays=("activation_mean", "activation_std")),
            Panel(draw_paths, arrays=("path_y1", "path_y2")),
            Panel(draw_finals, seeds=2)))
