"""The cart with its poles under a trained network, from some states of the test set.

Called by `python plot.py trajectories`; see `hig.figures.pictures`.
"""

from functools import partial

import numpy as np
import tensorflow as tf

from Cart_Pole import POLES, experiment
from Cart_Pole.simulator import HALF_LENGTH
from hig.runs.cli import SettingsError
from hig.runs.weights import load_weights

SAMPLES, COLUMNS = 6, 2
REACH = 1.15                 # m that are seen around the cart
CART = 0.3, 0.16             # m, its width and height as it is drawn
STROBES = 12                 # faint poles on the way


def solve(weights, seed):
    """What the network of a .weights.h5 file (Path) does from the first test states, the same for any seed.

    Returns:
        dict of "position" (Nt + 1, samples) in m, "angle" (Nt + 1, samples, N) in rad, "force" (Nt, samples)
        in N; float32.

    Raises:
        SettingsError: the file is not one of this network, for any number of poles.
    """
    for poles in POLES:
        model = experiment.build_model(poles, seed)
        try:
            load_weights(model.network, weights)
        except SettingsError as error:
            reason = error
            continue
        states, controls = model.simulator.trajectory(tf.constant(experiment.draw_data(poles)[1][:SAMPLES]))
        position, _, angle, _ = model.simulator.cart.split(states)
        return {"position": position[..., 0].numpy(), "angle": angle.numpy(),
                "force": experiment.STRENGTH * controls[..., 0].numpy()}
    raise reason


def draw(figure, solution, together, colors):
    """For each start state the poles at the end and, fainter, on the way there; the cart stays in the middle.

    Below the cart are the metres of its rail, which run along; the line from its middle is the force.
    """
    from matplotlib.patches import Rectangle

    position, angle, force = (solution[key] for key in ("position", "angle", "force"))
    strongest = max(np.abs(one["force"]).max() for one in together)
    axes = figure.subplots(SAMPLES // COLUMNS, COLUMNS).flatten()
    moving = []                                             # (line, function of the time step: its x and y)
    for sample, ax in enumerate(axes):
        ink = ax.xaxis.label.get_color()
        ax.set(xlim=(-REACH, REACH), ylim=(-REACH, REACH), aspect="equal", xticks=[], yticks=[])
        ax.grid(False)
        ax.spines[:].set_visible(False)
        ax.axhline(0, color=ink, linewidth=0.8, alpha=0.5, zorder=0)
        ax.add_patch(Rectangle((-CART[0] / 2, -CART[1] / 2), *CART, facecolor=ink, alpha=0.8, zorder=2))
        metres, = ax.plot([], [], "|", color=ink, markersize=9, alpha=0.5, zorder=0)
        push, = ax.plot([], [], color=colors[3], linewidth=2, zorder=3)
        moving += [(metres, partial(metres_in_sight, position[:, sample])),
                   (push, partial(arrow, force[:, sample] / strongest))]
        for pole in range(angle.shape[2]):
            own = angle[:, sample, pole]
            for step in np.linspace(0, len(force), STROBES, dtype=int):
                faint = 0.15 + 0.25 * step / len(force)
                ax.plot(*rod(own, step), color=colors[pole], linewidth=1, alpha=faint, zorder=1)
            line, = ax.plot([], [], color=colors[pole], linewidth=3, solid_capstyle="round", zorder=4)
            moving.append((line, partial(rod, own)))

    def show(progress):
        for line, points in moving:
            line.set_data(*points(round(progress * len(force))))
        return [line for line, _ in moving]
    show(1.0)
    return show


def rod(angles, step):
    """x and y in m, from the hinge, of both ends of a pole at a time step; angles (Nt + 1,) from upright."""
    return [0, 2 * HALF_LENGTH * np.sin(angles[step])], [0, 2 * HALF_LENGTH * np.cos(angles[step])]


def arrow(forces, step):
    """x and y of a line as long as the force from a time step on, the last one at the end; forces (Nt,)."""
    return [0, forces[min(step, len(forces) - 1)]], [0, 0]


def metres_in_sight(positions, step):
    """x and y of the whole metres of the rail, seen from the cart at a time step; its positions (Nt + 1,)."""
    here = positions[step]
    metres = np.arange(np.ceil(here - REACH), here + REACH) - here
    return metres, np.zeros(len(metres))
