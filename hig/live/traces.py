"""Curves as plotly draws them: what a graph of the watching page holds."""

from html import escape

import numpy as np
from matplotlib.colors import to_rgb

from hig.figures.curves import AXES, LOSSES, find_death, median_band, thin, x_values
from hig.figures.losses import legend_text
from hig.live.server import FONT, LEGEND, MARGIN, axis, packed
from hig.live.watching import quantity

NAMED = 12                  # groups in the legend; of more the colours are in the table only


def drawn_curve(run, options):
    """What can be drawn of a run: positions and values before its death, those that the axes have a place for.

    Args:
        run: Run.
        options: x ("time", "epochs", "updates"), y (name of a quantity), log_x, log_y.

    Returns:
        x, y: (M,) each; empty if the file does not hold the quantity or does not tell the updates.
    """
    y, death = quantity(run, options.y), find_death(run)
    try:
        x = x_values(run, options.x)
    except ValueError:                                                  # of updates, which it does not tell
        y = None
    if y is None:
        return np.zeros(0), np.zeros(0)
    keep = np.isfinite(x) & np.isfinite(y) & (x > 0 if options.log_x else True) & (y > 0 if options.log_y else True)
    keep[death.index if death else len(x):] = False
    return x[keep], y[keep]


def thinned(x, y, options, bins):
    """The entries of a curve that are drawn, see `hig.figures.curves.thin`."""
    index = thin(x, y, options.log_x, bins)
    return x[index], y[index]


def group_traces(label, members, color, options, bins, top):
    """Plotly traces of the runs behind one name in the legend: a line for each run, or median and band of all.

    A run that died ends in a cross, which is not drawn above `top`, where the y axis ends of itself.
    """
    curves = [(*thinned(*drawn_curve(run, options), options, bins), find_death(run) is not None) for run in members]
    curves = [curve for curve in curves if len(curve[0])]
    name = legend_text(label, members, options.y.removesuffix("_loss")) if options.y.endswith("_loss") else label
    style = {"type": "scatter", "mode": "lines", "name": escape(name, quote=False), "legendgroup": label}
    traces = []
    if options.bands and len(curves) > 1:
        band = median_band(curves, options.log_y)                       # at all positions of all curves: thinned again
        index = np.unique(np.concatenate([thin(band[0], y, options.log_x) for y in band[1:]]))
        x, middle, low, high = (values[index] for values in band)
        inside = np.isfinite(high)
        edge = {**style, "line": {"width": 0}, "hoverinfo": "skip", "showlegend": False}
        traces += [{**edge, "x": packed(x[inside]), "y": packed(low[inside])},
                   {**edge, "x": packed(x[inside]), "y": packed(high[inside]), "fill": "tonexty",
                    "fillcolor": "rgba({},{},{},0.22)".format(*(round(255 * part) for part in to_rgb(color)))}]
        drawn = [(x[np.isfinite(middle)], middle[np.isfinite(middle)])]
    else:
        drawn = [curve[:2] for curve in curves] or [(np.zeros(0), np.zeros(0))]
    for number, (x, y) in enumerate(drawn):
        traces.append({**style, "x": packed(x), "y": packed(y), "line": {"color": color, "width": 1.8},
                       "marker": {"color": color, "size": 6}, "mode": "lines+markers" if len(x) == 1 else "lines",
                       "showlegend": number == 0})
    ends = [(x[-1], y[-1]) for x, y, dead in curves if dead]
    traces.append({**style, "mode": "markers", "cliponaxis": False,
                   "x": packed([x for x, _ in ends]), "y": packed([min(y, top) for _, y in ends]),
                   "marker": {"symbol": "x-thin", "size": 10, "line": {"color": color, "width": 2.5}},
                   "showlegend": False, "hovertemplate": "died here"})
    return traces


def highest_shown(runs, options):
    """Where a loss axis ends of itself: a run that explodes would leave the others a flat line at the bottom."""
    if not options.y.endswith("_loss"):
        return np.inf
    starts = [y[np.isfinite(y)][:1] for y in (quantity(run, options.y) for run in runs) if y is not None]
    start = max((float(y[0]) for y in starts if len(y)), default=0.0)
    return 1e3 * start if start > 0 else np.inf


def layout(options, groups, top):
    """Plotly's layout of the figure."""
    return {"margin": MARGIN, "font": FONT, "hovermode": "closest", "uirevision": str(options),
            "xaxis": axis(AXES[options.x], options.log_x),
            "yaxis": axis(LOSSES.get(options.y.removesuffix("_loss"), options.y), options.log_y,
                          autorangeoptions={"clipmax": top} if np.isfinite(top) else {}),
            "showlegend": 0 < groups <= NAMED, "legend": LEGEND}
