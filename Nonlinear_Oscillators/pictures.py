"""The oscillators under control of a trained network: positions and control over time, for some test samples.

Called by `python plot.py trajectories`; see `hig.figures.pictures`.
"""

import numpy as np
import tensorflow as tf
from matplotlib.lines import Line2D

from hig.figures.pictures import limits
from hig.runs.weights import load_weights
from Nonlinear_Oscillators import experiment

SAMPLES = 4


def solve(weights, seed):
    """What the network of a .weights.h5 file (Path) does to the first test samples of a seed.

    Returns:
        dict of "time" (Nt + 1,), "positions" and "uncontrolled" (Nt + 1, samples, N), "controls" (Nt,
        samples), float32.

    Raises:
        SettingsError: the file is not one of this network.
    """
    model = experiment.build_model(seed)
    load_weights(model.network, weights)
    states = tf.constant(experiment.draw_data(seed)[1][:SAMPLES])
    controls = model.network(states, training=False)
    both = model.simulator.trajectory(tf.tile(states, [2, 1]),
                                      tf.concat([controls, tf.zeros_like(controls)], axis=0))
    positions, uncontrolled = np.split(both[..., :experiment.N_OSCILLATORS].numpy(), 2, axis=1)
    return {"time": experiment.DT * np.arange(experiment.N_STEPS + 1, dtype=np.float32),
            "positions": positions, "uncontrolled": uncontrolled, "controls": controls.numpy().T}


def draw(figure, solution, together, colors):
    """For each sample the positions over time, and the control under them.

    The lines across are the targets, where the positions have begun and are to end; dotted is what happens
    without control.
    """
    time, positions, uncontrolled, controls = (solution[key]
                                               for key in ("time", "positions", "uncontrolled", "controls"))
    reach = limits([other[key] for other in together for key in ("positions", "uncontrolled")])
    force = limits([other["controls"] for other in together])
    grid = figure.add_gridspec(4, 2, height_ratios=[2, 1, 2, 1])
    lines = []                                                          # (line, values) that grow with time
    for sample in range(positions.shape[1]):
        row, column = divmod(sample, 2)
        above = figure.add_subplot(grid[2 * row, column], ylim=reach, xlim=(0, time[-1]))
        below = figure.add_subplot(grid[2 * row + 1, column], ylim=force, xlim=(0, time[-1]))
        for i, color in zip(range(positions.shape[2]), colors):
            above.plot(time, uncontrolled[:, sample, i], ":", color=color, linewidth=0.9, alpha=0.8)
            above.axhline(positions[0, sample, i], color=color, linewidth=0.8, alpha=0.6)
            line, = above.plot(time, positions[:, sample, i], color=color, linewidth=1.5,
                               label=f"$q_{i + 1}$")
            lines.append((line, positions[:, sample, i]))
            above.plot(time[-1:], positions[:1, sample, i], "o", color=color, markerfacecolor="none",
                       markersize=5, clip_on=False)
        lines.append((below.step(time[:-1], controls[:, sample], where="post", color=colors[2], linewidth=0.9,
                                 label="$u$")[0], controls[:, sample]))
        above.tick_params(labelbottom=False)
        below.tick_params(labelbottom=row == 1)
        for ax, name in ((above, "position"), (below, "control")):
            ax.tick_params(labelsize=8, labelleft=column == 0)
            ax.set_ylabel(name if column == 0 else "", fontsize=9)
        below.set_xlabel("time" if row == 1 else "", fontsize=9)
        if sample == 0:
            handles = [*above.get_legend_handles_labels()[0],
                       Line2D([], [], color="gray", linewidth=0.8, label="target"),
                       Line2D([], [], color="gray", linestyle=":", label="without control")]
            figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), fontsize=8,
                          columnspacing=1.2)

    def show(progress):
        count = 1 + round(progress * len(controls))                     # of states
        for line, values in lines:
            line.set_data(time[:count][:len(values)], values[:count])
    return show
