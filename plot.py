"""Draw the loss curves of training runs, as in the figures of the paper: loss (log) over seconds of training.

    python plot.py                        every system: <folder>/plot.png, and figures/overview.png of several
    python plot.py FOLDER [FOLDER ...]    all curves below the folders in one figure, plot.png in the first.
                                          If the folder holds folders of several systems, as results does,
                                          each of these gets its own figure, too, and so does each folder in
                                          studies, Peers and Published_Budgets
    python plot.py FILE [FILE ...]        these pickles in one figure, plot.png beside the first
    python plot.py trajectories ...       what a trained network does (--help lists the flags)

Curves are read from the pickles of the submit scripts, from those of the published code, and from the losses
in PhiFlow's scene folders (`log_loss_<X>_0.txt`). A pickle is named `<prefix>_<X>_RESULTS.pickle`, for
instance `NLO_HIG_RESULTS.pickle`, and X is the name in the legend. If a system has several tasks, the name
also tells which, as in `TOY_lambda_1_HIG_RESULTS.pickle`, and each task has panels of its own. Runs of one
optimizer that differ only in their seed are drawn as their median with a band from minimum to maximum; at
each time these are taken over the runs that have come so far. The curve of a run that died at inf or NaN ends
in a cross. If one or two settings vary, a further panel shows the final losses over them. Losses are those of
the test set where a run has measured them, otherwise those of training. A table of the runs is printed.

--csv also writes the table and the drawn curves, in long form for pandas: one number in each row.

Exit status: 0, or 2 with a sentence on stderr if a pickle named on the command line cannot be read, if no
curve is found, or if a figure cannot be written. Unreadable pickles in a folder are reported, and the other
curves are drawn.
"""

import argparse
import signal
import sys
from pathlib import Path

from hig.figures.curves import AXES, LOSSES, SYSTEMS
from hig.figures.losses import make_figure
from hig.figures.reading import APART, collect
from hig.figures.style import COLORS, write_figure, write_file
from hig.figures.table import table, tidy
from hig.runs.cli import FLAGS, make_parser, positive

ROOT = Path(__file__).resolve().parent
FIGURES = ".png", ".pdf", ".svg"


def named(*suffixes):
    """A type for argparse: Path of a file with one of these suffixes."""
    def check(text):
        if not text.lower().endswith(suffixes):
            raise argparse.ArgumentTypeError(f"{text!r} does not end in {' or '.join(suffixes)}")
        return Path(text)
    return check


def parse(arguments):
    """Command line → options."""
    parser = make_parser(__doc__)
    add = parser.add_argument
    add("paths", nargs="*", metavar="PATH", help="pickles or folders (default: the folders of all systems)")
    add("--output", type=named(*FIGURES), metavar="FILE",
        help="draw all curves into this figure (png, pdf or svg)")
    add("--x", choices=AXES, default="time", help="horizontal axis (default: %(default)s)")
    add("--y", choices=LOSSES, default="test", help="loss to draw (default: %(default)s)")
    add("--size", choices=("column", "wide"), default="column",
        help="column: of a paper; wide: panels side by side, for slides and web pages (default: %(default)s)")
    add("--csv", type=named(".csv"), nargs="?", const=True, metavar="FILE",
        help="write table and curves, too; without FILE beside each figure, under its name")
    add("--smooth", type=positive, metavar="SECONDS",
        help="geometric mean over so many seconds of training around each entry")
    add_looks(parser)
    return parser.parse_args(arguments)


def parse_trajectories(arguments):
    """Command line after "trajectories" → options."""
    parser = make_parser("What a trained network does, as a picture.")
    parser.prog = "plot.py trajectories"
    add = parser.add_argument
    add("--weights", type=named(".weights.h5"), nargs="+", required=True, metavar="FILE",
        help="what --save-weights of a submit script wrote; several files are drawn side by side")
    add("--output", type=named(*FIGURES), metavar="FILE",
        help="figure to write (png, pdf or svg; default: a PNG beside the weights)")
    add("--animate", type=named(".gif"), metavar="FILE", help="animation to write (gif)")
    add("--losses", type=Path, nargs="+", metavar="PATH",
        help="pickles or folders whose loss curves are drawn at the right")
    add("--seed", type=FLAGS["seed"][0], default=1, metavar="N",
        help="of the samples that are drawn (default: %(default)s)")
    add_looks(parser)
    return parser.parse_args(arguments)


def add_looks(parser):
    """The flags of both: background and colours."""
    parser.add_argument("--style", choices=("paper", "dark"), default="paper",
                        help="background (default: %(default)s)")
    parser.add_argument("--colors", choices=COLORS, default="paper",
                        help="safe: for colour-blind readers (default: %(default)s)")


def figures_of(folder, runs, axis):
    """[(runs, figure)] of a folder: plot.png of all its runs.

    If they are of several systems, the figures of the folders and of the studies in it come first. A folder
    named in APART has a figure for each of its folders instead.
    """
    parts = {}
    for run in runs:
        parts.setdefault(folder / run.path.relative_to(folder).parts[0], []).append(run)
    several = len({run.system for run in runs}) > 1 and all(part.is_dir() for part in parts)
    own = [(own, part / "plot.png") for part, own in parts.items() if several or folder.name in APART]
    if folder.name in APART:
        return own                                                      # its folders have nothing in common
    for studies in (folder / name for name in APART if several and (folder / name).is_dir()):
        own += figures_of(studies, collect([studies], axis), axis)
    return [*own, (runs, folder / "plot.png")]


def figures_asked_for(options, root):
    """[(runs, figure)] of the command line.

    Raises:
        ValueError: a file cannot be used as a curve, or there is no curve.
    """
    if options.paths:
        runs, first = collect(options.paths, options.x), Path(options.paths[0])
        if len(options.paths) == 1 and first.is_dir():
            figures = figures_of(first, runs, options.x)
        else:
            figures = [(runs, (first if first.is_dir() else first.parent) / "plot.png")]
    else:
        folders = [root / folder for folder in SYSTEMS.values() if (root / folder).is_dir()]
        figures = [(collect([folder], options.x), folder / "plot.png") for folder in folders]
        figures = [figure for figure in figures if figure[0]]
        runs = [run for own, _ in figures for run in own]
        figures += [(runs, root / "figures" / "overview.png")] if len(figures) > 1 else []
    if not runs:
        where = " ".join(options.paths) or root
        raise ValueError(f"no curves in {where}; the systems' submit scripts make them")
    return [(runs, options.output)] if options.output else figures


def write_tables(figures, options):
    """Writes what --csv asks for: a file beside each figure, or one for all with a column "figure"."""
    import pandas

    tables = {output: tidy(runs, options) for runs, output in figures}
    if options.csv is True:
        files = {output.with_suffix(".csv"): rows for output, rows in tables.items()}
    else:
        files = {options.csv: pandas.concat(tables, names=["figure"]).reset_index("figure")}
    for file, rows in files.items():
        write_file(file, rows.to_csv(index=False, float_format="%.6g").encode())
        print(file)


def main(arguments=None, root=ROOT):
    """Draws what the command line asks for; returns the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        if arguments[:1] == ["trajectories"]:
            options = parse_trajectories(arguments[1:])
            from hig.figures.pictures import draw_trajectories
            draw_trajectories(options)
            return 0
        options = parse(arguments)
        figures = figures_asked_for(options, root)
        for runs, output in figures:
            write_figure(make_figure(runs, options), output, options.style)
            print(output)
        if options.csv:
            write_tables(figures, options)
    except ValueError as error:
        print(f"plot.py: {error}", file=sys.stderr)
        return 2
    studies = [figure for figure in figures if len(figures) > 1 and figure[1].parent.parent.name in APART]
    others = {id(run): run for figure in figures if figure not in studies for run in figure[0]}
    tables = [table(list(others.values()))] if others else []
    print("\n\n".join(tables + [f"study {output.parent.name}\n{table(runs)}" for runs, output in studies]))
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)                       # `| head` ends it without a traceback
    sys.exit(main())
