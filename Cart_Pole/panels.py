"""What figures and pages show of the cart poles: beside the loss, how many of the test swings end upright."""

from hig.figures.curves import Panel, System, drawable
from hig.figures.losses import draw_curves

NUMBERS = ("one pole", "two poles", "three poles", "four poles")


def draw_upright(ax, groups, colors, options):
    """Panel: share of the test states from which every pole ends within 12° of upright, with a band."""
    ax.set(yscale="linear", ylim=(-0.02, 1.02), ylabel="share of swings\nthat end upright")
    for label, members in groups.items():
        curves = [drawable(run, run.results["upright"], options.x, ax.get_xscale() == "log", positive=False)
                  for run in members]
        draw_curves(ax, curves, colors[label])


def case(settings):
    """Order and words of a run by its number of poles."""
    poles = settings.get("poles")
    return (poles, NUMBERS[poles - 1]) if poles in range(1, len(NUMBERS) + 1) else (len(NUMBERS) + 1, "")


SYSTEM = System("Cart pole", case=case, in_names="[1-4]", panels=(Panel(draw_upright, arrays=("upright",)),),
                words={"upright": "share of swings that end upright"})
