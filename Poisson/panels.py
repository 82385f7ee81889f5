"""What figures and pages show of the Poisson problem: beside the loss, one field as the best network solves it."""

import numpy as np

from hig.figures.curves import Panel, System, final_loss, find_death, loss_kind
from hig.figures.style import legible


def draw_example(ax, groups, colors, options):
    """Panel of the Poisson problem: one held-out field under the network of the best run, fields of x and of y = Δx."""
    runs = [(label, run) for label, members in groups.items() for run in members if not find_death(run)]
    ax.axis("off")
    if not runs:
        return
    label, best = min(runs, key=lambda named: final_loss(named[1], loss_kind(named[1], options.y)))
    ax.set_title(legible("one held-out field, " + label.replace("_", " ")), fontsize=10)
    rows = ((("predicted x", "example_x"), ("ground truth x", "example_x_ground_truth")),
            (("target y*", "example_target"), ("residual y − y*", "example_residual")))
    for i, row in enumerate(rows):
        limit = max(np.abs(best.results[key]).max() for _, key in row) or 1.0             # one scale for each row
        for j, (title, key) in enumerate(row):
            image = ax.inset_axes((0.06 + 0.38 * j, 0.53 - 0.54 * i, 0.36, 0.38))
            drawn = image.imshow(best.results[key], cmap="RdBu_r", vmin=-limit, vmax=limit, origin="lower")
            image.set_title(title, fontsize=8, pad=2)
            image.set(xticks=[], yticks=[])
            image.grid(False)
        bar = ax.figure.colorbar(drawn, cax=ax.inset_axes((0.82, 0.53 - 0.54 * i, 0.03, 0.38)))
        bar.ax.tick_params(labelsize=8)


SYSTEM = System(
    "Poisson problem", log_x=True,
    words={"x_distance_l1": "mean |x − x_gt|"},
    panels=(Panel(draw_example, images=("example_x", "example_x_ground_truth", "example_target", "example_residual")),))
