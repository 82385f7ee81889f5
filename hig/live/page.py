"""The page of dashboard.py: curves and a table of what some folders hold, as the runs write it."""

import os
from argparse import Namespace
from contextlib import suppress
from functools import partial
from html import escape

import numpy as np
import plotly.graph_objects as go
from dash import Input, Output, Patch, State, dcc, html
from dash.exceptions import PreventUpdate
from matplotlib.colors import to_rgb

from hig.figures.curves import (AXES, Curve, Run, drawable, drawn_points, loss_kind, state_of, system,
                                take_overs)
from hig.figures.losses import legend_text
from hig.figures.reading import find_files, group_runs, read_run, sort_into_cases
from hig.figures.style import choose_colors, choose_dashes
from hig.figures.table import cell, summary
from hig.live.server import make_app

EVERY = 500                 # milliseconds between the end of a refresh and the next one
BINS = 300                  # a curve has two points in each at most, so that a browser can draw hundreds
NAMED = 12                  # groups in the legend; if there are more, only the table has the colours
DASHES = {"-": "solid", "--": "dash", "-.": "dashdot"}      # matplotlib's line styles in plotly's words
FONT = {"family": "system-ui, sans-serif", "size": 13, "color": "#2b2f36"}
AXIS = {"gridcolor": "#e6e8eb", "zerolinecolor": "#e6e8eb", "ticks": "outside", "exponentformat": "power",
        "automargin": True, "nticks": 8}
GRAPH = {"displaylogo": False, "responsive": True,  # the logo would be a link to plotly.com,
         "showSendToCloud": False,  # and this button would upload the figure there
         "toImageButtonOptions": {"filename": "curves", "scale": 2},
         "modeBarButtonsToRemove": ["select2d", "lasso2d", "autoScale2d"]}
SHOWN = {"figure": "curves.figure", "table": "table.children", "note": "note.children", "shown": "shown.data",
         "cases": "case.options", "case": "case.value", "quantities": "y.options", "y": "y.value"}


# ------------------------------------------------------------------------------------------------- the files

def look(paths, known):
    """What is at some paths (folders and files) now: {path: (stamp, Run or sentence why it is none)}.

    `known` is {} at first; it keeps what was read, so that only files that have changed are read again.
    """
    found = {}
    for path in [file.resolve() for path in paths
                 for file in (find_files(path) if path.is_dir() else [path])]:
        with suppress(OSError):                                         # it is gone since it was listed
            state = path.stat()
            stamp = state.st_mtime_ns, state.st_size, state.st_ino
            if known.get(path, (None,))[0] != stamp:
                try:
                    known[path] = stamp, read_run(path)
                except ValueError as error:
                    known[path] = stamp, str(error)
            found[path] = known[path]
    return found


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


def make_figure(groups, curves, colors, options):
    """The plotly figure of the curves: of each group a line for each run, or median and band of all.

    Args:
        groups: {label: runs}, see `hig.figures.reading.group_runs`.
        curves: {label: list of their `Curve`}.
        colors: {label: colour}.
        options: case (title), x ("time", "epochs", "updates"), y (name of a quantity), words for it, log_x,
            log_y, bands.
    """
    lines = [curve for own in curves.values() for curve in own if len(curve.x)]
    options.top = np.inf                    # of the axis: an exploding loss would make the others a flat line
    if lines and options.y.endswith("_loss"):
        options.top = 1e3 * max(curve.y[0] for curve in lines)
    dashes = choose_dashes(groups)
    traces = [trace for label in groups for trace in group_traces(
        label, groups[label], curves[label], colors[label], DASHES[dashes[label]], options)]
    return go.Figure(traces, {
        "font": FONT, "paper_bgcolor": "white", "plot_bgcolor": "white", "hovermode": "closest",
        "margin": {"l": 70, "r": 16, "t": 34, "b": 48},                 # at the top the buttons of plotly
        "uirevision": "kept", "meta": options.case,                     # what the user has hidden stays
        "showlegend": len(groups) <= NAMED,
        "legend": {"orientation": "h", "y": 0, "yref": "container", "yanchor": "bottom"},
        "xaxis": {**AXIS, "type": "log" if options.log_x else "linear", "title_text": AXES[options.x]},
        "yaxis": {**AXIS, "type": "log" if options.log_y else "linear", "title_text": options.words,
                  "autorangeoptions": {"clipmax": options.top} if np.isfinite(options.top) else {}}})


def group_traces(label, runs, curves, color, dash, options):
    """Plotly traces of the runs behind one name in the legend.

    A run that died ends in a cross, at most at `options.top`. An optimizer that takes over is named.
    """
    name = label.replace("_", " ")
    if options.y.endswith("_loss"):
        name = legend_text(label, runs, options.y.removesuffix("_loss"), curves)
    style = {"name": escape(name, quote=False), "legendgroup": label, "line_color": color}
    shade = "rgba({:.0f},{:.0f},{:.0f},0.22)".format(*(255 * share for share in to_rgb(color)))
    traces, marks, pairs = [], set(), list(zip(runs, curves))
    for i, part in enumerate([pairs] if options.bands else [[pair] for pair in pairs]):
        x, y, band = drawn_points([curve for _, curve in part], options.log_x, options.log_y, BINS)
        inside = np.isfinite(band[1]) if band else []
        traces += [go.Scatter(x=x[inside], y=edge[inside], mode="lines", line_width=0, fill=fill,
                              fillcolor=shade, hoverinfo="skip", showlegend=False, **style)
                   for edge, fill in zip(band or (), (None, "tonexty"))]
        x, y = x[np.isfinite(y)], y[np.isfinite(y)]
        mode = "lines+markers" if len(x) == 1 else "lines"              # a line of one point is not seen
        traces.append(go.Scatter(x=x, y=y, mode=mode, line_width=1.8, line_dash=dash, showlegend=not i,
                                 **style))
        for run, curve in part:
            if curve.death:
                marks.add((curve.death[0], min(curve.death[1], options.top), "x-thin", ""))
            marks |= {(at, np.interp(at, x, y), "diamond", words)
                      for at, words in take_overs(run, options.x) if len(x)}
    x, y, symbols, words = zip(*sorted(marks)) if marks else [()] * 4
    marker = {"symbol": symbols, "size": 9, "color": color, "line": {"width": 2, "color": color}}
    traces.append(go.Scatter(x=x, y=y, text=words, mode="markers+text", textposition="top left",
                             marker=marker, cliponaxis=False, hoverinfo="skip", showlegend=False, **style))
    for i, trace in enumerate(traces):              # by its uid a hidden curve is found again
        trace.uid = f"{label.encode().hex()}-{i}"                       # plotly has it in CSS selectors
    return traces


def make_table(runs, colors, errors):
    """The table of plot.py, with the colours of the curves.

    Args:
        runs: list of Run of one case.
        colors: as in `make_figure`.
        errors: sentences about files that are no curves; each has a row of its own.
    """
    rows, heads, colors = [], [], {label.replace("_", " "): color for label, color in colors.items()}
    for values in summary(runs).drop(columns="system").to_dict("records") if runs else []:
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
    app = make_app(title, lambda: html.Main([
        html.Header([html.H1(title), html.Span(id="status", className="quiet")]), *controls(),
        html.Div(dcc.RadioItems([], id="case", inline=True), className="controls"),
        html.Div([
            control("x", dcc.RadioItems(list(AXES), x, id="x", inline=True)),
            control("y", dcc.Dropdown([y], y, id="y", clearable=False, searchable=False, className="choice")),
            dcc.Checklist({"log_x": "log x", "log_y": "log y", "bands": "seeds as bands"}, ["log_y", "bands"],
                          id="switches", inline=True)], className="controls"),
        html.Div(id="note", className="quiet"),
        dcc.Graph(id="curves", figure=go.Figure(), config=GRAPH,
                  style={"height": "clamp(340px, 60vh, 560px)"}),
        html.Div(id="table", className="scroll"),
        dcc.Store(id="shown", data={}), dcc.Interval(id="tick", interval=EVERY)]))
    app.callback(
        {name: Output(*place.split(".")) for name, place in SHOWN.items()},
        {**{name: Input(name, "value") for name in ("case", "x", "y", "switches")},
         "shown": State("shown", "data"), "tick": Input("tick", "n_intervals")},
        running=[(Output("tick", "disabled"), True, False)]  # or a slow refresh would be overtaken for ever
    )(partial(refresh, paths, {}))
    return app


def refresh(paths, known, case, x, y, switches, shown, tick=None):
    """What the page shows: a dict with the keys of SHOWN.

    Args:
        paths: list of Path.
        known: see `look`.
        case, x, y, switches: what the user has chosen.
        shown: what this function has returned under that name before; {} at first.

    Raises:
        PreventUpdate: nothing has changed.
    """
    found = look(paths, known)
    stamps, contents = ([value[i] for value in found.values()] for i in (0, 1))
    cases = sort_into_cases([run for run in contents if isinstance(run, Run)])
    if case not in cases and cases:                                     # at first: what has been written last
        case = max(cases, key=lambda title: max(found[run.path][0] for run in cases[title]))
    states = {title: [state_of(run) for run in runs] for title, runs in cases.items()}
    stamp = str(hash(repr((list(found), stamps, states, case, x, y, switches))))
    if shown.get("stamp") == stamp:
        raise PreventUpdate
    runs = cases.get(case, [])
    prefix = runs[0].system if runs else ""
    words = {name: name.replace("_", " ") for run in runs for name in quantities(run)} or {y: y}
    words |= {name: text for name, text in system(prefix).words.items() if name in words}
    y = y if y in words else next(iter(words))
    options = Namespace(case=case, x=x, y=y, words=words[y],
                        **{name: name in switches for name in ("log_x", "log_y", "bands")})
    groups = group_runs(runs) if runs else {}
    curves = {label: [curve_of(run, options) for run in members] for label, members in groups.items()}
    empty = [os.path.relpath(run.path) for label in groups for run, curve in zip(groups[label], curves[label])
             if not len(curve.x)]
    note = f"Without values for these axes, and not drawn: {', '.join(empty)}." if empty else ""
    colors = choose_colors(groups, "paper")
    figure = make_figure(groups, curves, colors, options)
    view, data = str(hash(str(figure.layout))), figure.to_plotly_json()["data"]
    if shown.get("view") == view:                                       # the zoom, too, stays the user's
        figure = Patch()
        figure["data"] = data
    return {"figure": figure,
            "table": make_table(runs, colors, [error for error in contents if isinstance(error, str)]),
            "note": note if runs else f"No curves in {', '.join(map(os.path.relpath, paths))} yet.",
            "cases": {title: f"{title} ({len(own)}{', running' * ('running' in own)})"
                      for title, own in states.items()}, "case": case,
            "quantities": words, "y": y, "shown": {"stamp": stamp, "view": view}}
