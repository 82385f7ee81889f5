"""The dipole under control of a trained network: |ψ(x, t)|² as a surface, and the control, for one test sample.

Called by `python plot.py trajectories`; see `hig.figures.pictures`.
"""

import numpy as np
import tensorflow as tf

from hig.figures.pictures import box_axes
from hig.runs.training import load_weights
from Schroedinger import experiment
from Schroedinger.simulator import to_complex, to_pairs

CONTROL_COLOR = "crimson"
TARGET_COLOR = "darkorange"


def solve(weights, seed):
    """What the network of a .weights.h5 file (Path) does for the first test sample of a seed.

    Returns:
        dict of "x" (Nx,) with the walls, "time" (Nt + 1,), "density" |ψ|² (Nt + 1, Nx), per grid point,
        "target" |ψ*|² (Nx,) and "controls" (Nt,).

    Raises:
        SettingsError: the file is not one of this network.
    """
    model = experiment.build_model(seed)
    load_weights(model.network, weights)
    dipole, target = experiment.DIPOLE, tf.constant(experiment.draw_data(seed)[1][:1])
    controls = model.network(target, training=False)
    ground_state = to_pairs(tf.constant(dipole.eigenstate(1)[None], tf.complex64))
    states = to_complex(dipole.trajectory(ground_state, controls)[:, 0])

    def density(psi):
        return np.pad(np.abs(psi) ** 2, [(0, 0), (1, 1)])                                   # ψ = 0 on the walls

    return {"x": np.linspace(*experiment.BOX, experiment.N_POINTS), "density": density(states),
            "time": experiment.DT * np.arange(experiment.N_STEPS + 1), "target": density(to_complex(target))[0],
            "controls": controls.numpy()[0]}


def draw(figure, solution, style, progress=1.0):
    """The surface over position and time with the target as a line at its end, and the control over time.

    Args:
        figure: matplotlib Figure or SubFigure.
        solution: of `solve`.
        style: "paper" or "dark".
        progress: part of the time that has gone by, in [0, 1].
    """
    x, time, density, controls = (solution[key] for key in ("x", "time", "density", "controls"))
    count = 1 + max(1, round(progress * len(controls)))                                     # of states
    above, below = figure.add_gridspec(2, 1, height_ratios=[3, 1])
    ax = box_axes(figure, above, (2.2, 1.3, 1), zoom=0.85)
    ax.plot_surface(time[:count, None], x[None], density[:count], cmap="viridis", vmin=0, vmax=density.max(),
                    rcount=100, ccount=len(x), linewidth=0)
    ax.plot(np.full(len(x), time[-1]), x, solution["target"], color=TARGET_COLOR, linewidth=2, zorder=5, label="target")
    ax.set(xlabel="time", ylabel="$x$", xlim=(0, time[-1]), zlim=(0, max(density.max(), solution["target"].max())))
    ax.set_zlabel("$|\\psi|^2$")
    ax.xaxis.labelpad, ax.zaxis.labelpad = 3, -2
    ax.view_init(42, -68)
    ax.legend(loc="upper left")
    ax = figure.add_subplot(below)
    ax.step(time[:count - 1], controls[:count - 1], where="post", color=CONTROL_COLOR, linewidth=0.8)
    ax.set(xlabel="time", ylabel="control $u$", xlim=(0, time[-1]))
    ax.set_ylim(1.05 * controls.min() - 0.05 * controls.max(), 1.05 * controls.max() - 0.05 * controls.min())
