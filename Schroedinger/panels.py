"""What figures and pages show of the dipole: beside the loss, how well its populations are met."""

import itertools

from hig.figures.curves import Panel, System, drawable, thin
from hig.figures.style import legible


def draw_populations(ax, groups, colors, options):
    """Panel of the Schroedinger equation: mean absolute error of the populations of the states |2⟩ and |3⟩."""
    logarithmic = ax.get_xscale() == "log"
    ax.set_ylabel("error of the populations")
    for label, members in groups.items():
        for run, (state, dashes) in itertools.product(members, ((2, "-"), (3, "--"))):
            x, y = drawable(run, run.results[f"population_error_{state}"], options.x, logarithmic, options.smooth)
            index = thin(x, y, logarithmic)
            text = legible(f"{label}, state {state}") if run is members[0] else None
            ax.plot(x[index], y[index], dashes, color=colors[label], label=text)


SYSTEM = System(
    "Schroedinger equation",
    words={f"population_error_{n}": f"error of the population of |{n}⟩" for n in (2, 3)},
    panels=(Panel(draw_populations, arrays=("population_error_2", "population_error_3")),))
