"""What figures and pages show of the dipole: beside the loss, how well its populations are met."""

from hig.figures.curves import Panel, System, drawable
from hig.figures.losses import draw_curves
from hig.figures.style import legible

FEW = 4


def draw_populations(ax, groups, colors, options):
    """Panel: mean absolute error of the populations of the states |2⟩ and |3⟩; of several seeds, medians and bands.

    Of more than FEW groups the legend explains the dashes alone: the colours are those of the panel above.
    """
    ax.set_ylabel("error of the populations")
    states, few = ((2, "-"), (3, "--")), len(groups) <= FEW
    for state, dashes in () if few else states:
        ax.plot([], [], dashes, color="0.5", label=f"|{state}⟩")
    for label, members in groups.items():
        for state, dashes in states:
            curves = [drawable(run, run.results[f"population_error_{state}"], options.x, ax.get_xscale() == "log",
                               options.smooth) for run in members]
            draw_curves(ax, curves, colors[label], legible(f"{label.replace('_', ' ')}, |{state}⟩") if few else None, dashes)


SYSTEM = System(
    "Schroedinger equation",
    words={f"population_error_{n}": f"error of the population of |{n}⟩" for n in (2, 3)},
    panels=(Panel(draw_populations, arrays=("population_error_2", "population_error_3")),))
