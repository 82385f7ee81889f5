"""The page of dashboard.py: curves and a table of what some folders hold, as the runs write it.

It is for this machine alone and loads nothing from elsewhere. Other pages in the same browser can reach
127.0.0.1, too, and a foreign host name may be made to point there. Requests with a Host header other than
127.0.0.1 or localhost are therefore refused.
"""

import os
from argparse import Namespace
from contextlib import suppress
from functools import lru_cache, partial
from html import escape

import dash
import numpy as np
import pandas
import plotly.graph_objects as go
from dash import Input, Output, Patch, State, dcc, html
from dash.exceptions import PreventUpdate
from matplotlib.colors import to_rgb

from hig.figures.curves import (AXES, Curve, Run, drawable, drawn_points, loss_kind, state_of, system,
                                take_overs)
from hig.figures.losses import legend_text
from hig.figures.reading import find_files, read_run
from hig.figures.style import choose_looks
from hig.figures.table import cell, summary, tabulate

EVERY = 500                 # milliseconds between the end of a refresh and the next one
BINS = 300                  # a curve has two points in each at most, so that a browser can draw hundreds
NAMED = 12                  # groups in the legend; if there are more, only the table has the colours
DASHES = {"-": "solid", "--": "dash", "-.": "dashdot"}      # matplotlib's line styles in plotly's words
LAYOUT = {"template": "plotly_white", "font": {"family": "system-ui, sans-serif", "size": 13}}
GRAPH = {"displaylogo": False, "showSendToCloud": False}    # no link to plotly.com, nothing is uploaded there


# ------------------------------------------------------------------------------------------------- the files

def read_files(paths):
    """What is at some paths (folders and files) now: {path: (stamp, Run or sentence why it is none)}."""
    found = {}
    for path in [file.resolve() for path in paths
                 for file in (find_files(path) if path.is_dir() else [path])]:
        with suppress(OSError):                                         # it is gone since it was listed
            state = path.stat()
            stamp = state.st_mtime_ns, state.st_size, state.st_ino
            found[path] = stamp, read_file(path, stamp)
    return found


@lru_cache(maxsize=1000)
def read_file(path, stamp):
    """The Run in a file, or a sentence why it is none; it is read again only if its `stamp` has changed."""
    try:
        return read_run(path)
    except ValueError as error:
        return str(error)


def quantities(run):
    """{name: (N,) float64}: what a run's file holds for each entry, test and training loss first.

    Entry 0, the untrained network, is NaN where only updates have values. Without test losses, "test_loss" is
    the training loss.
    """
    results, length = run.results, len(run.results["epochs"])
    losses = {"test_loss": results[f"{loss_kind(run, 'test')}_loss"], "train_loss": results["train_loss"]}
    return {key: np.concatenate([np.full(length - len(values), np.nan), values])
            for key, values in {**losses, **results["provenance"], **results, **losses}.items()
            if key not in ("epochs", "simulation_time") and isinstance(values, np.ndarray)
            and values.ndim == 1 and length - len(values) in (0, 1)}


# ------------------------------------------------------------------------------------- the figure, the table

def curve_of(run, options):
    """The `Curve` of a run; it is empty if these axes can show nothing of it."""
    try:
        return drawable(run, quantities(run)[options.y], options.x, options.log_x, positive=options.log_y)
    except (KeyError, ValueError):                  # the file does not tell the quantity, or the updates
        return Curve(np.zeros(0), np.zeros(0), None, True)


def make_figure(table, looks, options):
    """The plotly figure of a case: of each group a line for each run, or median and band of all.

    Args:
        table: rows of the case as `hig.figures.table.tabulate` returns them, and their `Curve` as "Curve".
        looks: {group: its look}, see `hig.figures.style.choose_looks`.
        options: case (title), x ("time", "epochs", "updates"), y (name of a quantity), words for it, log_x,
            log_y, bands.
    """
    starts = [curve.y[0] for curve in table["Curve"] if len(curve.y)]
    options.top = None
    if starts and options.y.endswith("_loss"):      # one that explodes would make the others a flat line
        options.top = 1e3 * max(starts)

    def axis(words, logarithmic, **more):
        return {"title_text": words, "type": "log" if logarithmic else "linear", "exponentformat": "power",
                **more}
    return go.Figure(
        [trace for label, own in table.groupby("Group", sort=False)
         for trace in group_traces(label, own, looks[label], options)],
        {**LAYOUT, "margin": {"t": 34, "r": 16}, "xaxis": axis(AXES[options.x], options.log_x),
         "yaxis": axis(options.words, options.log_y, autorangeoptions_clipmax=options.top),
         "uirevision": "kept", "meta": options.case, "showlegend": len(looks) <= NAMED,
         "legend": {"orientation": "h", "y": 0, "yref": "container", "yanchor": "bottom"}})


def group_traces(label, table, look, options):
    """Plotly traces of the runs behind one name in the legend; arguments as in `make_figure`.

    A run that died ends in a cross, at most at `options.top`. An optimizer that takes over is named.
    """
    runs, curves, color, name = [*table["Run"]], [*table["Curve"]], look["color"], label.replace("_", " ")
    if options.y.endswith("_loss"):
        name = legend_text(label, runs, options.y.removesuffix("_loss"), curves)
    style = {"name": escape(name, quote=False), "legendgroup": label, "line_color": color}
    quiet = {**style, "hoverinfo": "skip", "showlegend": False}
    shade = "rgba({:.0f},{:.0f},{:.0f},0.22)".format(*(255 * share for share in to_rgb(color)))
    traces, marks, pairs = [], set(), list(zip(runs, curves))
    for i, part in enumerate([pairs] if options.bands else [[pair] for pair in pairs]):
        x, y, band = drawn_points([curve for _, curve in part], options.log_x, options.log_y, BINS)
        inside = np.isfinite(band[1]) if band else []
        traces += [go.Scatter(x=x[inside], y=edge[inside], mode="lines", line_width=0, fill=fill,
                              fillcolor=shade, **quiet) for edge, fill in zip(band or (), (None, "tonexty"))]
        x, y = x[np.isfinite(y)], y[np.isfinite(y)]
        mode = "lines+markers" if len(x) == 1 else "lines"              # a line of one point is not seen
        traces.append(go.Scatter(x=x, y=y, mode=mode, line_dash=DASHES[look["linestyle"]],
                                 showlegend=not i, **style))
        for run, curve in part:
            if curve.death:
                marks.add((curve.death[0], min(curve.death[1], options.top or np.inf), "x-thin", ""))
            marks |= {(at, np.interp(at, x, y), "diamond", words)
                      for at, words in take_overs(run, options.x) if len(x)}
    x, y, symbols, words = zip(*sorted(marks)) if marks else [()] * 4
    marker = {"symbol": symbols, "size": 9, "color": color, "line": {"width": 2, "color": color}}
    traces.append(go.Scatter(x=x, y=y, text=words, mode="markers+text", textposition="top left",
                             marker=marker, cliponaxis=False, **quiet))
    for i, trace in enumerate(traces):              # by its uid a hidden curve is found again
        trace.uid = f"{label.encode().hex()}-{i}"                       # plotly has it in CSS selectors
    return traces


def make_table(table, looks, errors):
    """The table of plot.py, with the colours of the curves; arguments as in `make_figure`.

    Each of the `errors`, sentences about files that are no curves, has a row of its own.
    """
    rows, heads, colors = [], [], {label.replace("_", " "): look["color"] for label, look in looks.items()}
    for values in summary(table).drop(columns="system").to_dict("records") if len(table) else []:
        swatch = html.Span(className="swatch", style={"background": colors[values["optimizer"]]})
        heads, (name, *cells) = list(values), map(cell, values, values.values())
        rows.append(html.Tr([html.Td([swatch, name]), *map(html.Td, cells)]))
    rows += [html.Tr([html.Td(f"unreadable: {error}", className="problem", colSpan=99)]) for error in errors]
    return html.Table([html.Thead(html.Tr([*map(html.Th, heads)])), html.Tbody(rows)])


# -------------------------------------------------------------------------------------------------- the page

def control(name, component):
    """A component with its name in front."""
    return html.Div([html.Label(name, htmlFor=component.id), component], className="control")


def watching_app(paths, title="Training runs", controls=lambda: [], x="time", y="test_loss"):
    """The Dash app that shows what is at the paths (of folders and files), with these axes at first.

    `controls()`, the components above the curves, is called whenever the page is loaded.
    """
    app = dash.Dash(__name__, title=title, update_title=None)
    app.server.config["TRUSTED_HOSTS"] = ["127.0.0.1", "localhost"]
    app.layout = lambda: html.Main([
        html.Header([html.H1(title), html.Span(id="status", className="quiet")]), *controls(),
        html.Div(dcc.RadioItems([], id="case", inline=True), className="controls"),
        html.Div([
            control("x", dcc.RadioItems(list(AXES), x, id="x", inline=True)),
            control("y", dcc.Dropdown([y], y, id="y", clearable=False, searchable=False, className="choice")),
            dcc.Checklist({"log_x": "log x", "log_y": "log y", "bands": "seeds as bands"}, ["log_y", "bands"],
                          id="switches", inline=True)], className="controls"),
        html.Div(id="note", className="quiet"),
        dcc.Graph("curves", figure=go.Figure(), config=GRAPH, style={"height": "clamp(340px, 60vh, 560px)"}),
        html.Div(id="table", className="scroll"), dcc.Store("shown", data=[None, None]),
        dcc.Interval("tick", interval=EVERY)])
    app.callback(
        {"figure": Output("curves", "figure"), "table": Output("table", "children"),
         "note": Output("note", "children"), "cases": Output("case", "options"),
         "case": Output("case", "value"), "quantities": Output("y", "options"), "y": Output("y", "value"),
         "shown": Output("shown", "data")},
        {**{name: Input(name, "value") for name in ("case", "x", "y", "switches")},
         "shown": State("shown", "data"), "tick": Input("tick", "n_intervals")},
        running=[(Output("tick", "disabled"), True, False)]  # or a slow refresh would be overtaken for ever
    )(partial(refresh, paths))
    return app


def refresh(paths, case, x, y, switches, shown, tick=None):
    """What the page shows: a dict with a value for each of the callback's outputs.

    Args:
        paths: list of Path.
        case, x, y, switches: what the user has chosen.
        shown: what this function has returned under that name before, [None, None] at first.

    Raises:
        PreventUpdate: nothing has changed.
    """
    found = read_files(paths)
    stamps, contents = ([value[i] for value in found.values()] for i in (0, 1))
    runs = [run for run in contents if isinstance(run, Run)]
    now = repr((list(found), stamps, [*map(state_of, runs)], x, switches))
    if shown[0] == str(hash((now, case, y))):
        raise PreventUpdate
    table = tabulate(runs) if runs else pandas.DataFrame(columns=["Run", "System", "Case", "Group"])
    states = {title: [*map(state_of, own["Run"])] for title, own in table.groupby("Case", sort=False)}
    if case not in states and runs:                                     # at first: what has been written last
        case = max(zip(table["Run"], table["Case"]), key=lambda row: found[row[0].path][0])[1]
    table = table[table["Case"] == case]
    names = dict.fromkeys(name for run in table["Run"] for name in quantities(run)) or [y]
    known = system(next(iter(table["System"]), "")).words
    words = {name: known.get(name, name.replace("_", " ")) for name in names}
    y = y if y in words else next(iter(words))
    options = Namespace(case=case, x=x, y=y, words=words[y],
                        **{name: name in switches for name in ("log_x", "log_y", "bands")})
    table = table.assign(Curve=[curve_of(run, options) for run in table["Run"]])
    empty = [os.path.relpath(run.path) for run, curve in zip(table.Run, table.Curve) if not len(curve.x)]
    note = f"Without values for these axes, and not drawn: {', '.join(empty)}." if empty else ""
    looks = choose_looks(list(table["Group"].unique()))
    figure = make_figure(table, looks, options)
    view, data = str(hash(str(figure.layout))), figure.to_plotly_json()["data"]
    if shown[1] == view:                                                # the zoom, too, stays the user's
        figure = Patch()
        figure["data"] = data
    return {"figure": figure,
            "table": make_table(table, looks, [error for error in contents if isinstance(error, str)]),
            "note": note if runs else f"No curves in {', '.join(map(os.path.relpath, paths))} yet.",
            "cases": {title: f"{title} ({len(own)}{', running' * ('running' in own)})"
                      for title, own in states.items()}, "case": case,
            "quantities": words, "y": y, "shown": [str(hash((now, case, y))), view]}
