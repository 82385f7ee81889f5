"""What figures and pages show of the dipole: beside the loss, how well its populations are met."""

from functools import partial

from hig.figures.curves import Panel, System, drawable
from hig.figures.losses import draw_curves
from hig.figures.style import choose_dashes


def draw_population(state, ax, groups, colors, options):
    """Panel: mean absolute error of the population of |2⟩ or |3⟩; medians and bands of several seeds."""
    ax.set_ylabel(f"population error, |{state}⟩")
    for label, dashes in choose_dashes(groups).items():
        curves = [drawable(run, run.results[f"population_error_{state}"], options.x, ax.get_xscale() == "log",
                           options.smooth) for run in groups[label]]
        draw_curves(ax, curves, colors[label], dashes=dashes)


SYSTEM = System(
    "Schroedinger equation",
    words={f"population_error_{n}": f"error of the population of |{n}⟩" for n in (2, 3)},
    panels=tuple(Panel(partial(draw_population, n), arrays=(f"population_error_{n}",)) for n in (2, 3)))
