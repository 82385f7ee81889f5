"""What figures and pages show of the Poisson problem beside the loss: a field and its best solution."""

import numpy as np

from hig.figures.curves import Panel, System, final_loss, find_death
from hig.figures.style import legible


FIELDS = {"x": ("predicted x", "x"), "x_ground_truth": ("true x", "x"),     # title and what its colours say
          "target": ("target y*", "y"), "residual": ("residual y − y*", "y − y*")}


def draw_example(ax, groups, looks, options):
    """Panel: one held-out field under the best run's network: x, the true x, y* and the residual y − y*."""
    runs = [(label, run) for label, members in groups.items() for run in members if not find_death(run)]
    ax.axis("off")
    if not runs:
        return
    label, best = min(runs, key=lambda named: final_loss(named[1], options.y))
    fields = {key: best.results[f"example_{key}"] for key in FIELDS}
    limits = {key: np.abs(field).max() for key, field in fields.items()}
    limits["x"] = limits["x_ground_truth"] = max(limits["x"], limits["x_ground_truth"])     # one scale
    share = np.sqrt(np.mean(fields["residual"]**2) / (np.mean(fields["target"]**2) or 1))
    apart = "\n" if len(label) > 16 else " "  # a label with settings has a line of its own
    ax.set_title(legible(f"one held-out field, solved after{apart}{label.replace('_', ' ')}\n"
                         f"the residual is {100 * share:.2g} % of the target"), fontsize=10, pad=12)
    for i, (key, (title, quantity)) in enumerate(FIELDS.items()):
        left, bottom, limit = 0.02 + 0.52 * (i % 2), 0.54 - 0.56 * (i // 2), limits[key] or 1.0
        image = ax.inset_axes((left, bottom, 0.34, 0.38))
        drawn = image.imshow(fields[key], cmap="RdBu_r", vmin=-limit, vmax=limit, origin="lower")
        image.set_title(title, fontsize=9, pad=3)
        image.set(xticks=[], yticks=[])
        image.grid(False)
        bar = ax.figure.colorbar(drawn, cax=ax.inset_axes((left + 0.36, bottom, 0.025, 0.38)))
        bar.set_label(quantity, fontsize=8, labelpad=1)
        bar.ax.tick_params(labelsize=8)


def case(settings):
    """Order and words of a run by its grid, which the published one of 8 × 8 cells need not name."""
    cells = settings.get("resolution", 8)
    return cells, "" if cells == 8 else f"{cells} × {cells} cells"


SYSTEM = System(
    "Poisson problem", case=case, log_x=True, thresholds=(100.0, 10.0, 1.0, 0.1),
    words={"x_distance_l1": "mean |x − x_gt|"},
    panels=(Panel(draw_example, images=tuple(f"example_{key}" for key in FIELDS)),))
