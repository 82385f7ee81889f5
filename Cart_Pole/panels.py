"""What figures and pages show of the cart poles: beside the loss, how many of the test swings end upright."""

from functools import partial

from hig.figures.curves import Panel, System
from hig.figures.panels import draw_quantity

NUMBERS = ("one pole", "two poles", "three poles", "four poles")


def case(settings):
    """Order and words of a run by its number of poles."""
    poles = settings.get("poles")
    return (poles, NUMBERS[poles - 1]) if poles in range(1, len(NUMBERS) + 1) else (len(NUMBERS) + 1, "")


# the share of the test states from which every pole ends within 12° of upright
UPRIGHT = partial(draw_quantity, "upright", "share of swings\nthat end upright", span=(-0.02, 1.02))
SYSTEM = System("Cart pole", case=case, in_names="[1-4]", panels=(Panel(UPRIGHT, arrays=("upright",)),),
                words={"upright": "share of swings that end upright"})
