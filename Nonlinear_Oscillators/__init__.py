"""Control of coupled nonlinear oscillators (figure 2 of the paper).

The flags that only this system has are defined here."""

from hig.runs.cli import hidden_flag, number


def flags(parser):
    """Adds --hidden to the argparse parser of a submit script."""
    hidden_flag(parser, (20, 20, 20))


def power_flags(parser):
    """A function like `flags` that also adds --kappa."""
    flags(parser)
    parser.add_argument("--kappa", default=-0.5, metavar="κ",
                        type=number(float, lambda value: -1 <= value <= 1, "between -1 and 1"),
                        help="exponent of the Jacobian's singular values, -1 to 1 (default: -0.5)")
