"""The solution of the Poisson equation that a trained network gives, as a surface over its source.

Called by `python plot.py trajectories`; see `hig.figures.pictures`.
"""

import numpy as np
from matplotlib.ticker import MaxNLocator

from hig.figures.pictures import box_axes
from hig.runs.training import load_weights
from Poisson import RESOLUTION
from Poisson.fields import held_out_fields
from Poisson.network import build_network


def solve(weights, seed):
    """What the network of a .weights.h5 file (Path) gives for a held-out field, the seed choosing among 256.

    Returns:
        dict of "source" y*, "solution" x and "true_solution" x_gt, (8, 8) each.

    Raises:
        SettingsError: the file is not one of this network at the published resolution.
    """
    network = build_network(RESOLUTION)
    load_weights(network, weights)
    x_gt, target = (field[seed % 256][None] for field in held_out_fields(256, RESOLUTION))
    fields = {"source": target, "solution": network(target, training=False), "true_solution": x_gt}
    return {name: np.reshape(field, (RESOLUTION, RESOLUTION)) for name, field in fields.items()}


def draw(figure, solution, style, progress=1.0):
    """The solution as a surface, the true one as a wire frame, and under them the source.

    Args:
        figure: matplotlib Figure or SubFigure.
        solution: of `solve`.
        style: "paper" or "dark".
        progress: part of a full turn of the view, in [0, 1].
    """
    source, found, true = (solution[key] for key in ("source", "solution", "true_solution"))
    cells = np.arange(len(found)) + 0.5
    x, y = np.meshgrid(cells, cells, indexing="ij")
    low, high = min(found.min(), true.min()), max(found.max(), true.max())
    floor, strength = low - 0.6 * (high - low), np.abs(source).max()
    ax = box_axes(figure, figure.add_gridspec(1, 1)[0], (1, 1, 1), zoom=0.85)
    drawn = ax.contourf(x, y, source, 24, zdir="z", offset=floor, cmap="RdBu_r", vmin=-strength, vmax=strength)
    ax.plot_surface(x, y, found, cmap="viridis", alpha=0.85, linewidth=0)
    ax.plot_wireframe(x, y, true, color="#808080", linewidth=0.7, label="true solution")
    ax.set(xlabel="$i$", ylabel="$j$", zlim=(floor, high))
    ax.set_zlabel("solution $x$")
    ax.view_init(24, -60 + 360 * progress)
    ax.legend(loc="upper left")
    figure.colorbar(drawn, ax=ax, orientation="horizontal", shrink=0.6, aspect=30, pad=0.08, ticks=MaxNLocator(5), label="source $y^*$")
