"""Control of coupled nonlinear oscillators (figure 2 of the paper).

Here are the flags that only this system has."""

import argparse
import math

from hig.runs.cli import hidden_flag


def flags(parser):
    """Adds --hidden to the argparse parser of a submit script."""
    hidden_flag(parser, (20, 20, 20))


def power_flags(parser):
    """A function like `flags` that also adds --kappa."""
    flags(parser)
    parser.add_argument("--kappa", type=_kappa, default=-0.5, metavar="κ",
                        help="exponent of the Jacobian's singular values, -1 to 1 (default: -0.5)")


def _kappa(text):
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not -1 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not between -1 and 1")
    return value
