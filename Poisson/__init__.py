"""Learning to solve the Poisson equation Δx = y (the Poisson problem of the paper).

The flags that only this system has are defined here."""

from pathlib import Path

from hig.runs.cli import hidden_flag, number, positive, positive_integer

RESOLUTION = 8              # cells along each axis
EVALUATE_EVERY = 10         # updates from one test loss to the next
METHODS = ("Adam", "GN", "HIG")     # of training by hand; its pickle has their positions in this tuple


def flags(parser):
    """Adds --steps, --resolution, --scene and --hidden to the argparse parser of a submit script."""
    add = parser.add_argument
    add("--steps", type=positive_integer, dest="epochs", metavar="N",
        help="the same as --epochs: an epoch is one update here")
    add("--resolution", type=number(int, lambda value: value >= 2, "a whole number from 2 on"),
        default=RESOLUTION, metavar="N", help=f"cells along each axis (default: {RESOLUTION})")
    add("--scene", type=Path, metavar="DIR",
        help="also write a PhiFlow scene there, as DIR/sim_000000, with the published logs")
    hidden_flag(parser, (64, 128, 64))
    parser.set_defaults(pretrain_time=None, evaluate_every=EVALUATE_EVERY)


def pretraining_flags(pretrain_time, pretrain_learning_rate):
    """A function like `flags` that also adds the two flags of pretraining, with these defaults."""
    def add_flags(parser):
        flags(parser)
        parser.add_argument("--pretrain-time", type=positive, default=pretrain_time, metavar="SECONDS",
                            help=f"of training by Adam, part of --max-time (default: {pretrain_time:g})")
        parser.add_argument("--pretrain-learning-rate", type=positive, default=pretrain_learning_rate,
                            metavar="η", help=f"of Adam (default: {pretrain_learning_rate:g})")
    return add_flags
