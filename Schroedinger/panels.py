"""What figures and pages show of the dipole: beside the loss, how well its populations are met."""

from functools import partial

from hig.figures.curves import Panel, System
from hig.figures.panels import draw_quantity

# mean absolute errors of the populations of |2⟩ and |3⟩
ERRORS = {f"population_error_{n}": f"population error, |{n}⟩" for n in (2, 3)}

SYSTEM = System(
    "Schroedinger equation",
    words={f"population_error_{n}": f"error of the population of |{n}⟩" for n in (2, 3)},
    panels=tuple(Panel(partial(draw_quantity, key, words), arrays=(key,)) for key, words in ERRORS.items()))
