"""The dipole under control of a trained network: |ψ(x, t)|² and the control, for one test sample.

Called by `python plot.py trajectories`; see `hig.figures.pictures`.
"""

import numpy as np
import tensorflow as tf

from hig.figures.pictures import limits
from hig.runs.weights import load_weights
from Schroedinger import experiment
from Schroedinger.simulator import to_complex, to_pairs


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
        return np.pad(np.abs(psi) ** 2, [(0, 0), (1, 1)])       # ψ = 0 on the walls

    return {"x": np.linspace(*experiment.BOX, experiment.N_POINTS), "density": density(states),
            "time": experiment.DT * np.arange(experiment.N_STEPS + 1),
            "target": density(to_complex(target))[0], "controls": controls.numpy()[0]}


def draw(figure, solution, together, colors):
    """|ψ|² over time and position, the control below, and at the side where it ends and where it should."""
    names = "x", "time", "density", "controls", "target"
    x, time, density, controls, target = (solution[name] for name in names)
    most = max(max(other["density"].max(), other["target"].max()) for other in together)
    grid = figure.add_gridspec(2, 2, height_ratios=[2, 1], width_ratios=[3, 1])
    ax = figure.add_subplot(grid[0, 0], ylabel="$x$", xlim=(0, time[-1]), ylim=(x[0], x[-1]))
    ax.grid(False)
    image = ax.imshow(density.T, origin="lower", aspect="auto", extent=(0, time[-1], x[0], x[-1]),
                      cmap="magma", vmin=0, vmax=most, interpolation="bilinear")
    curtain = ax.axvspan(time[-1], time[-1], color=ax.get_facecolor(), linewidth=0)
    bar = figure.colorbar(image, ax=ax, location="top", label="$|\\psi|^2$", aspect=30, pad=0.02)
    bar.ax.tick_params(labelsize=8)
    ax.tick_params(labelbottom=False)
    side = figure.add_subplot(grid[0, 1], xlim=(0, 1.05 * most), ylim=(x[0], x[-1]), xlabel="$|\\psi|^2$")
    side.plot(target, x, color=colors[3], linewidth=3, alpha=0.5, label="target")
    state, = side.plot(density[-1], x, color=colors[0], linewidth=1.4, label="state")
    side.tick_params(labelleft=False)
    side.legend(loc="lower left", bbox_to_anchor=(-0.1, 1), fontsize=8)
    below = figure.add_subplot(grid[1, 0], xlabel="time", ylabel="control $u$", xlim=(0, time[-1]),
                               ylim=limits([other["controls"] for other in together]))
    control, = below.step(time[:-1], controls, where="post", color=colors[2], linewidth=0.9)

    def show(progress):
        count = max(1, round(progress * len(controls)))                 # of steps
        control.set_data(time[:count], controls[:count])
        state.set_xdata(density[count])
        curtain.set(x=time[count], width=1.01 * time[-1] - time[count])
    return show
