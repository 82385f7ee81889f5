"""How figures look and how they are written: colours of the optimizers, matplotlib's settings, files."""

import io
import itertools
from contextlib import contextmanager

from hig.runs.files import write_atomically

COLORS = {  # of the optimizers, in the order of legends
    "paper": {"Adam": "dodgerblue", "GN": "crimson", "HIG": "darkorchid", "SGD": "slategray",
              "Adagrad": "darkorange", "Adadelta": "forestgreen", "RMSprop": "saddlebrown",
              "SIP": "darkturquoise", "Muon": "seagreen", "L-BFGS": "goldenrod", "HIG_Krylov": "mediumblue",
              "HIG_adaptive": "deeppink", "LM": "black",
              "others": ["olive", "hotpink", "royalblue", "darkkhaki"]},
    # Okabe and Ito's palette, Tol's, and others that the colour-blind can tell from these
    "safe": {"Adam": "#0072B2", "GN": "#D55E00", "HIG": "#CC79A7", "SGD": "#7f7f7f", "Adagrad": "#E69F00",
             "Adadelta": "#009E73", "RMSprop": "#56B4E9", "SIP": "#8c6d1f", "Muon": "#733900",
             "L-BFGS": "#b2b274", "HIG_Krylov": "#b3004d", "HIG_adaptive": "#7300e6", "LM": "#000000",
             "others": ["#332288", "#999933", "#882255", "#44AA99"]},
}

GREY = {"paper": "#cfcfcf", "dark": "#3f444c"}      # of curves that only stand behind the others
DASHES = ("-", "--", "-.")              # of the settings of one optimizer, if there are no more
SYMBOLS = {"kappa": "κ", "learning_rate": "η", "truncation": "τ", "damping": "μ", "krylov": "k",
           "batch_size": "batch"}                                       # of settings, in legends
WORDS = {"kappa": "power", "krylov": "Krylov steps", "hidden": "widths of the hidden layers"}

# two positions, the control, a target; none is the colour of an optimizer; "safe" is Tol's muted scheme
TRAJECTORIES = {"paper": ("teal", "darkgoldenrod", "dimgray", "firebrick"),
                "safe": ("#117733", "#CC6677", "#777777", "#AA4499")}

STYLES = {"paper": {"figure.facecolor": "white", "axes.facecolor": "white", "grid.color": "#b0b0b0"},
    "dark": {"figure.facecolor": "#14171c", "axes.facecolor": "#14171c", "grid.color": "#5a6069",
             "text.color": "#e8e8e8", "axes.edgecolor": "#a0a6ae", "axes.labelcolor": "#e8e8e8",
             "xtick.color": "#e8e8e8", "ytick.color": "#e8e8e8"},
    "both": {"font.size": 10, "legend.fontsize": 9, "legend.title_fontsize": 11, "legend.frameon": False,
             "lines.linewidth": 1.6, "axes.grid": True, "grid.alpha": 0.35, "axes.spines.top": False,
             "axes.spines.right": False, "svg.fonttype": "none", "pdf.fonttype": 42, "svg.hashsalt": "hig"},
}


@contextmanager
def style(name):
    """A context for making and writing a figure: "paper" or "dark", whatever the user's matplotlibrc says."""
    import matplotlib
    from matplotlib.style.core import STYLE_BLACKLIST  # settings that are not looks

    plain = {key: value for key, value in matplotlib.rcParamsDefault.items() if key not in STYLE_BLACKLIST}
    with matplotlib.rc_context({**plain, **STYLES["both"], **STYLES[name]}):
        yield


def choose_looks(groups, palette="paper", background="paper", shown=None):
    """{label: {"color", "linestyle"}} for the labels of groups.

    An optimizer has its colour in COLORS, an unknown one the next of the "others" there. Up to three settings
    of an optimizer have its colour and differ by DASHES. If there are more, they have shades of it in their
    order, or the colours of a colour map if there is no other optimizer.

    Args:
        groups: labels of `hig.figures.table.group_runs`, in their order.
        palette: "paper" or "safe".
        background: "paper" or "dark".
        shown: those in colour (default: all); the others are grey.
    """
    looks, settings = {label: {"color": GREY[background], "linestyle": "-"} for label in groups}, {}
    for label in groups:
        if shown is None or label in shown:
            settings.setdefault(label.split(" (")[0], []).append(label)
    others = itertools.cycle(COLORS[palette]["others"])
    for name, labels in settings.items():
        own, few = COLORS[palette].get(name.split()[0]), len(labels) <= len(DASHES)
        own = own if own and own not in [look["color"] for look in looks.values()] else next(others)
        colors = [own] * len(labels) if few else graded(own, len(labels), wide=len(settings) == 1)
        for label, color, dashes in zip(labels, colors, DASHES if few else itertools.repeat("-")):
            looks[label] = {"color": readable(color, background), "linestyle": dashes}
    return looks


def readable(color, background):
    """The colour; on a dark background mixed with white until its contrast is 4:1."""
    from matplotlib.colors import to_hex, to_rgb

    def brightness(color):                                              # relative luminance, WCAG 2
        parts = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055)**2.4 for part in to_rgb(color)]
        return 0.05 + 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]
    while background == "dark" and brightness(color) < 4 * brightness(STYLES["dark"]["figure.facecolor"]):
        color = to_hex([0.95 * part + 0.05 for part in to_rgb(color)])
    return color


def graded(color, count, wide):
    """So many colours from dark to light: shades of one, or `wide` apart in a colour map."""
    from matplotlib import colormaps
    from matplotlib.colors import LinearSegmentedColormap, to_hex, to_rgb
    dark, light = [0.65 * part for part in to_rgb(color)], [1 - 0.6 * (1 - part) for part in to_rgb(color)]
    scale = colormaps["viridis"] if wide else LinearSegmentedColormap.from_list("", [dark, color, light])
    return [to_hex(scale(0.9 * i / (count - 1) if wide else i / (count - 1))) for i in range(count)]


def legible(text):
    """Text for matplotlib, in which a dollar would start a formula."""
    return text.replace("$", r"\$")


def write_figure(figure, output, background):
    """Writes a figure atomically; text stays text.

    Args:
        figure: matplotlib Figure, made in the same `style`.
        output: Path, whose suffix (png, pdf, svg) decides the format.
        background: name of that style.

    Raises:
        ValueError: the file cannot be written.
    """
    kind = output.suffix[1:].lower()
    undated = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind)  # equal curves, equal files
    content = io.BytesIO()
    with style(background):
        figure.savefig(content, format=kind, dpi=200, metadata=undated)
    write_file(output, content.getvalue())


def write_file(output, content):
    """Writes bytes atomically, with the folder if there is none.

    Raises:
        ValueError: it cannot be written; one sentence.
    """
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(output, content)
    except OSError as error:
        raise ValueError(f"{output} cannot be written: {error.strerror}") from None
