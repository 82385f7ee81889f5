"""What figures and pages show of the oscillators: beside the loss over time, the loss over updates."""

from argparse import Namespace

from hig.figures.curves import AXES, Panel, System
from hig.figures.losses import draw_losses


def draw_over_updates(ax, groups, looks, options):
    """Panel: the same losses over the number of updates, of runs whose files tell it; without a legend."""
    able = {label: [run for run in members if "updates_per_epoch" in run.results["provenance"]]
            for label, members in groups.items()}
    ax.set(xscale="log", xlabel=AXES["updates"])
    draw_losses(ax, {label: members for label, members in able.items() if members}, looks,
                Namespace(**{**vars(options), "x": "updates"}))
    for line in ax.lines:
        line.set_label(None)
    if not any(len(line.get_xdata()) for line in ax.lines):  # runs of no more than the untrained network
        ax.set_axis_off()


SYSTEM = System("Nonlinear oscillators", panels=(Panel(draw_over_updates),))
