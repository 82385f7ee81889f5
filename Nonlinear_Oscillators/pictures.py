"""The oscillators under control of a trained network: positions and control over time, for some test samples.

After the figure at the head of the published article. Called by `python plot.py trajectories`; see `hig.figures.pictures`.
"""

import numpy as np
import tensorflow as tf

from hig.figures.pictures import box_axes
from hig.runs.training import load_weights
from Nonlinear_Oscillators import experiment

SAMPLES = 4
COLORS = ("dodgerblue", "darkorchid")         # of the oscillators
CONTROL_COLOR = "crimson"


def solve(weights, seed):
    """What the network of a .weights.h5 file (Path) does to the first test samples of a seed.

    Returns:
        dict of "time" (Nt + 1,), "positions" (Nt + 1, samples, N) and "controls" (Nt, samples), float32.

    Raises:
        SettingsError: the file is not one of this network.
    """
    model = experiment.build_model(seed)
    load_weights(model.network, weights)
    states = tf.constant(experiment.draw_data(seed)[1][:SAMPLES])
    controls = model.network(states, training=False)
    positions = model.simulator.trajectory(states, controls)[..., :experiment.N_OSCILLATORS]
    return {"time": experiment.DT * np.arange(experiment.N_STEPS + 1, dtype=np.float32), "positions": positions.numpy(),
            "controls": controls.numpy().T}


def draw(figure, solution, style, progress=1.0):
    """Two 3-d axes over time and sample: the positions, with rings at the targets, and the control.

    Args:
        figure: matplotlib Figure or SubFigure.
        solution: of `solve`.
        style: "paper" or "dark".
        progress: part of the time that has gone by, in [0, 1].
    """
    time, positions, controls = solution["time"], solution["positions"], solution["controls"]
    count = 1 + round(progress * len(controls))                                             # of states
    above, below = (box_axes(figure, position, (2.2, 1.6, 1), zoom=1.0) for position in figure.add_gridspec(2, 1))
    for sample in reversed(range(positions.shape[1])):                                      # the nearest one last
        for i, color in enumerate(COLORS[:positions.shape[2]]):
            q = positions[:, sample, i]
            above.plot(time[:count], np.full(count, sample), q[:count], color=color, linewidth=1.2,
                       label=f"$q_{i + 1}$" if sample == 0 else None)
            above.plot(time[-1:], [sample], q[:1], "o", color=color, markerfacecolor="none", markersize=5)
        below.plot(time[:count - 1], np.full(count - 1, sample), controls[:count - 1, sample], color=CONTROL_COLOR,
                   linewidth=0.7, label="$u$" if sample == 0 else None)
    for ax, values, name in ((above, positions, "position"), (below, controls, "control")):
        ax.set(xlabel="time", ylabel="sample", xlim=(0, time[-1]), ylim=(-0.3, positions.shape[1] - 0.7),
               zlim=(values.min(), values.max()))
        ax.set_zlabel(name)
        ax.set_yticks(range(positions.shape[1]))
        ax.view_init(32, -68)
        ax.legend(loc="upper left", ncols=2)
