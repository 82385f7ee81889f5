"""Two sines through a badly scaled "physics" (toy problem of the Physics-based Deep Learning book).

The flag that only this system has is defined here."""

from hig.runs.cli import positive

LAMBDAS = (1.0, 0.01)       # well and badly conditioned


def flags(parser):
    """Adds --lambda to the argparse parser of a submit script."""
    parser.add_argument("--lambda", dest="lambdas", type=positive, nargs="+", default=LAMBDAS, metavar="λ",
                        help="scale of the second output, one curve for each (default: 1 and 0.01)")
