"""Curves as plotly draws them: what a graph of the watching page holds."""

from html import escape

import numpy as np
from matplotlib.colors import to_rgb

from hig.figures.curves import AXES, drawable, find_switch, median_band, thin
from hig.figures.losses import legend_text
from hig.live.server import FONT, LEGEND, MARGIN, axis, packed
from hig.live.watching import quantity

NAMED = 12                  # groups in the legend; of more the colours are in the table only


def drawn_curve(run, options):
    """The `Curve` of a run as far as the axes have a place for it, or None if that is nothing.

    Args:
        run: Run.
        options: x ("time", "epochs", "updates"), y (name of a quantity), log_x, log_y.
    """
    y = quantity(run, options.y)
    try:
        curve = y if y is None else drawable(run, y, options.x, options.log_x, positive=options.log_y)
    except ValueError:                                                  # of updates, which the file does not tell
        return None
    return curve if curve and len(curve.x) else None


def thinned(curve, options, bins):
    """A Curve with the entries that are drawn, see `hig.figures.curves.thin`."""
    index = thin(curve.x, curve.y, options.log_x, bins)
    return curve._replace(x=curve.x[index], y=curve.y[index])


def group_traces(label, members, color, options, bins, top):
    """Plotly traces of the runs behind one name in the legend: a line for each run, or median and band of all.

    A run that died ends in a cross, which is not drawn above `top`, where the y axis ends of itself.
    """
    curves = [thinned(curve, options, bins) for run in members if (curve := drawn_curve(run, options))]
    name = label.replace("_", " ")
    if options.y.endswith("_loss"):
        name = legend_text(label, members, options.y.removesuffix("_loss"), curves)
    style = {"type": "scatter", "mode": "lines", "name": escape(name, quote=False), "legendgroup": label}
    traces = []
    if options.bands and len(curves) > 1:
        band = median_band(curves, options.log_y)[:4]                   # at all positions of all curves: thinned again
        index = np.unique(np.concatenate([thin(band[0], y, options.log_x) for y in band[1:]]))
        x, middle, low, high = (values[index] for values in band)
        inside = np.isfinite(high)
        edge = {**style, "line": {"width": 0}, "hoverinfo": "skip", "showlegend": False}
        traces += [{**edge, "x": packed(x[inside]), "y": packed(low[inside])},
                   {**edge, "x": packed(x[inside]), "y": packed(high[inside]), "fill": "tonexty",
                    "fillcolor": "rgba({},{},{},0.22)".format(*(round(255 * part) for part in to_rgb(color)))}]
        drawn = [(x[np.isfinite(middle)], middle[np.isfinite(middle)])]
    else:
        drawn = [(curve.x, curve.y) for curve in curves] or [(np.zeros(0), np.zeros(0))]
    for number, (x, y) in enumerate(drawn):
        traces.append({**style, "x": packed(x), "y": packed(y), "line": {"color": color, "width": 1.8},
                       "marker": {"color": color, "size": 6}, "mode": "lines+markers" if len(x) == 1 else "lines",
                       "showlegend": number == 0})
    ends = [curve.death for curve in curves if curve.death]
    traces.append({**style, "mode": "markers", "cliponaxis": False,
                   "x": packed([x for x, _ in ends]), "y": packed([min(y, top) for _, y in ends]),
                   "marker": {"symbol": "x-thin", "size": 10, "line": {"color": color, "width": 2.5}},
                   "showlegend": False, "hovertemplate": "died here"})
    traces += [{**style, "mode": "lines+text", "x": packed([moment] * 2), "y": packed([low, high]), "showlegend": False,
                "line": {"color": color, "width": 1.3, "dash": "dot"}, "text": ["", "switch"], "textposition": "top left",
                "textfont": {"color": color}, "hoverinfo": "skip"}
               for moment in sorted({find_switch(run, options.x) for run in members} - {None}) if drawn and len(drawn[0][1])
               for low, high in [(drawn[0][1].min(), drawn[0][1].max())]]
    return traces


def highest_shown(runs, options):
    """Where a loss axis ends of itself: a run that explodes would leave the others a flat line at the bottom."""
    if not options.y.endswith("_loss"):
        return np.inf
    starts = [y[np.isfinite(y)][:1] for y in (quantity(run, options.y) for run in runs) if y is not None]
    start = max((float(y[0]) for y in starts if len(y)), default=0.0)
    return 1e3 * start if start > 0 else np.inf


def layout(options, groups, top, title):
    """Plotly's layout of the figure, with the title of the y axis."""
    return {"margin": MARGIN, "font": FONT, "hovermode": "closest", "uirevision": str(options),
            "xaxis": axis(AXES[options.x], options.log_x),
            "yaxis": axis(title, options.log_y,
                          autorangeoptions={"clipmax": top} if np.isfinite(top) else {}),
            "showlegend": 0 < groups <= NAMED, "legend": LEGEND}
