"""Swing-up of up to four poles on one cart by a network in the loop: a task beyond the paper, with feedback.

The flags that only this system has are defined here."""

from hig.runs.cli import positive

POLES = (1, 2, 3, 4)


def flags(parser):
    """Adds --poles to the argparse parser of a submit script."""
    parser.add_argument("--poles", type=int, choices=POLES, default=1, help="on the cart (default: 1)")


def adam_flags(parser):
    """Adds --poles and --clip-norm to the argparse parser of a submit script."""
    flags(parser)
    parser.add_argument("--clip-norm", type=positive, metavar="NORM",
                        help="shorten gradients that are longer than this (default: leave them)")
