"""The solution of the Poisson equation that a trained network gives, as a surface over its source.

Called by `python plot.py trajectories`; see `hig.figures.pictures`.
"""

import numpy as np
from matplotlib.ticker import MaxNLocator

from hig.figures.pictures import limits
from hig.runs.weights import load_weights
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


def draw(figure, solution, together, colors):
    """The solution as a surface, the true one as a wire frame, the source below; progress turns the view."""
    source, found, true = (solution[key] for key in ("source", "solution", "true_solution"))
    cells = np.arange(len(found)) + 0.5
    x, y = np.meshgrid(cells, cells, indexing="ij")
    low, high = limits([other[key] for other in together for key in ("solution", "true_solution")], 0)
    floor, strength = low - 0.6 * (high - low), max(np.abs(other["source"]).max() for other in together)
    ax = figure.add_subplot(projection="3d")
    for axis in (ax.xaxis, ax.yaxis, ax.zaxis):                         # without matplotlib's grey walls
        axis.pane.set_visible(False)
        axis.set_major_locator(MaxNLocator(4))
        axis.labelpad = -5
    ax.tick_params(pad=-1, labelsize=8)
    ax.set_box_aspect((1, 1, 1), zoom=0.85)
    drawn = ax.contourf(x, y, source, np.linspace(-strength, strength, 25), zdir="z", offset=floor,
                        cmap="RdBu_r")
    ax.plot_surface(x, y, found, cmap="viridis", alpha=0.85, linewidth=0, vmin=low, vmax=high)
    ax.plot_wireframe(x, y, true, color="#808080", linewidth=0.7, label="true solution")
    ax.set(xlabel="$i$", ylabel="$j$", zlim=(floor, high))
    ax.set_zlabel("solution $x$")
    error = np.sqrt(np.mean((found - true) ** 2) / np.mean(true**2))
    ax.set_title(f"error of the network: {100 * error:.2g} % of the solution", fontsize=9, y=0.97)
    ax.view_init(24, -60)
    ax.legend(loc="upper left", fontsize=8)
    figure.colorbar(drawn, ax=ax, orientation="horizontal", shrink=0.6, aspect=30, pad=0.08,
                    ticks=MaxNLocator(5), label="source $y^*$")
    return lambda progress: ax.view_init(24, -60 + 360 * progress)
