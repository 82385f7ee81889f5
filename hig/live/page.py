"""The page of dashboard.py: curves and a table of what some folders hold, as the runs write it."""

import os
from argparse import Namespace
from html import escape

import numpy as np
import plotly.graph_objects as go
from dash import Input, Output, Patch, State, dcc, html
from dash.exceptions import PreventUpdate
from matplotlib.colors import to_rgb

from hig.figures.curves import AXES, BINS, drawable, drawn_points, state_of, system, take_overs
from hig.figures.losses import legend_text
from hig.figures.reading import group_runs, sort_into_cases
from hig.figures.style import choose_colors, choose_dashes
from hig.figures.table import cell, names, numbers, remark
from hig.live.server import make_app
from hig.live.watching import in_words, look, quantities

EVERY = 500                 # milliseconds between the end of a refresh and the next one
POINTS = 30_000             # about as many, of all curves together, as a browser redraws at once
NAMED = 12                  # groups in the legend; if there are more, only the table has the colours
DASHES = {"-": "solid", "--": "dash", "-.": "dashdot"}      # matplotlib's line styles in plotly's words
FONT = {"family": "system-ui, sans-serif", "size": 13, "color": "#2b2f36"}
AXIS = {"gridcolor": "#e6e8eb", "zerolinecolor": "#e6e8eb", "ticks": "outside", "exponentformat": "power",
        "automargin": True, "nticks": 8}
GRAPH = {"displaylogo": False, "responsive": True,  # the logo would be a link to plotly.com,
         "showSendToCloud": False,  # and this button would upload the figure there
         "toImageButtonOptions": {"filename": "curves", "scale": 2},
         "modeBarButtonsToRemove": ["select2d", "lasso2d", "autoScale2d"]}


# ------------------------------------------------------------------------------------- the figure, the table

def drawn_curve(run, options):
    """The `Curve` of a run, or None if these axes can show nothing of it."""
    try:
        curve = drawable(run, quantities(run)[options.y], options.x, options.log_x, positive=options.log_y)
    except (KeyError, ValueError):                  # the file does not tell the quantity, or the updates
        return None
    return curve if len(curve.x) else None


def make_figure(groups, colors, options):
    """The plotly figure of the curves: of each group a line for each run, or median and band of all.

    Args:
        groups: {label: list of (Run, Curve), see `drawn_curve`}.
        colors: {label: colour}.
        options: x ("time", "epochs", "updates"), y (name of a quantity) and its `words`, log_x, log_y, bands,
            and the case of the system that is shown.
    """
    curves = [curve for pairs in groups.values() for _, curve in pairs if curve]
    options.bins = int(np.clip(POINTS // (2 * max(len(curves), 1)), 50, BINS))
    options.top = np.inf                    # of the axis: an exploding loss would make the others a flat line
    if curves and options.y.endswith("_loss"):
        options.top = 1e3 * max(curve.y[0] for curve in curves)
    dashes = choose_dashes(groups)
    return go.Figure(
        [trace for label, pairs in groups.items()
         for trace in group_traces(label, pairs, colors[label], DASHES[dashes[label]], options)],
        {"font": FONT, "paper_bgcolor": "white", "plot_bgcolor": "white", "hovermode": "closest",
         "margin": {"l": 70, "r": 16, "t": 34, "b": 48},                 # at the top the buttons of plotly
         "uirevision": "kept", "meta": options.case,                     # what the user has hidden stays
         "showlegend": len(groups) <= NAMED,
         "legend": {"orientation": "h", "y": 0, "yref": "container", "yanchor": "bottom"},
         "xaxis": {**AXIS, "type": "log" if options.log_x else "linear", "title_text": AXES[options.x]},
         "yaxis": {**AXIS, "type": "log" if options.log_y else "linear", "title_text": options.words,
                   "autorangeoptions": {"clipmax": options.top} if np.isfinite(options.top) else {}}})


def group_traces(label, pairs, color, dash, options):
    """Plotly traces of the runs behind one name in the legend.

    A run that died ends in a cross, at most at `options.top`. An optimizer that takes over is named.
    """
    drawn = [(run, curve) for run, curve in pairs if curve]
    name = label.replace("_", " ")
    if options.y.endswith("_loss"):
        name = legend_text(label, [run for run, _ in pairs], options.y.removesuffix("_loss"),
                           [curve for _, curve in drawn])
    style = {"name": escape(name, quote=False), "legendgroup": label, "line_color": color}
    shade = "rgba({:.0f},{:.0f},{:.0f},0.22)".format(*(255 * share for share in to_rgb(color)))
    traces, marks = [], {}
    for i, part in enumerate([drawn] if options.bands or not drawn else [[pair] for pair in drawn]):
        x, y, band = drawn_points([curve for _, curve in part], options.log_x, options.log_y, options.bins)
        inside = np.isfinite(band[1]) if band else []
        traces += [go.Scatter(x=x[inside], y=edge[inside], mode="lines", line_width=0, fill=fill,
                              fillcolor=shade, hoverinfo="skip", showlegend=False, **style)
                   for edge, fill in zip(band or (), (None, "tonexty"))]
        x, y = x[np.isfinite(y)], y[np.isfinite(y)]
        mode = "lines+markers" if len(x) == 1 else "lines"              # a line of one point is not seen
        traces.append(go.Scatter(x=x, y=y, mode=mode, line_width=1.8, line_dash=dash, showlegend=not i,
                                 **style))
        for run, curve in part:
            marks |= {(at, np.interp(at, x, y), "diamond", text): None
                      for at, text in take_overs(run, options.x) if len(x)}
            if curve.death:
                marks[curve.death[0], min(curve.death[1], options.top), "x-thin", ""] = None
    x, y, symbols, texts = zip(*marks) if marks else [()] * 4
    marker = {"symbol": symbols, "size": 9, "color": color, "line": {"width": 2, "color": color}}
    traces.append(go.Scatter(x=x, y=y, text=texts, mode="markers+text", textposition="top left",
                             marker=marker, cliponaxis=False, hoverinfo="skip", showlegend=False, **style))
    for i, trace in enumerate(traces):              # by its uid a hidden curve is found again
        trace.uid = f"{label.encode().hex()}-{i}"                       # plotly has it in CSS selectors
    return traces


def make_table(groups, colors, errors):
    """A row for each run, as in the table of plot.py; its settings show as one points at it.

    Args:
        groups: {label: runs}.
        colors: {label: colour}.
        errors: sentences about files that are no curves; each has a row of its own.
    """
    rows, heads = [], []
    for label, run in ((label, run) for label, members in groups.items() for run in members):
        levels = system(run.system).thresholds
        heads = names(levels)
        rows.append(html.Tr([
            html.Td([html.Span(className="swatch", style={"background": colors[label]}),
                     label.replace("_", " ")]),
            html.Td(remark(run, True) or state_of(run), className=state_of(run)),
            *map(html.Td, map(cell, heads, numbers(run, levels))),
            html.Td(os.path.relpath(run.path), className="text")],
            title=", ".join(f"{key} {value}" for key, value in run.results["sim_par"].items())))
    rows += [html.Tr(html.Td(f"unreadable: {error}", className="problem", colSpan=99)) for error in errors]
    return html.Table([html.Thead(html.Tr([*map(html.Th, ["optimizer", "state", *heads, "file"])])),
                       html.Tbody(rows)])


# -------------------------------------------------------------------------------------------------- the page

def control(name, component):
    """A component with its name in front."""
    return html.Div([html.Label(name, htmlFor=component.id), component], className="control")


def watching_layout(x="time", y="test_loss"):
    """Components of the page below its header, with these axes at first; the first refresh fills them."""
    return [
        html.Div(dcc.RadioItems([], id="case", inline=True), className="controls"),
        html.Div([
            control("x", dcc.RadioItems(list(AXES), x, id="x", inline=True)),
            control("y", dcc.Dropdown({y: in_words(y, "")}, y, id="y", clearable=False, searchable=False,
                                      className="choice")),
            dcc.Checklist({"log_x": "log x", "log_y": "log y", "bands": "seeds as bands"}, ["log_y", "bands"],
                          id="switches", inline=True)], className="controls"),
        html.Div(id="note", className="quiet"),
        dcc.Graph(id="curves", figure=go.Figure(), config=GRAPH,
                  style={"height": "min(60vh, 560px)", "minHeight": "340px"}),
        html.Div(id="table", className="scroll"),
        dcc.Store(id="shown", data={}), dcc.Interval(id="tick", interval=EVERY)]


def watching_app(paths):
    """The Dash app that shows what is at the paths (list of Path), see `hig.live.watching.look`."""
    title = html.Header(html.H1("Training runs"))
    app = make_app("Training runs", lambda: html.Main([title, *watching_layout()]))
    watch(app, paths)
    return app


def watch(app, paths):
    """Adds the callback of `watching_layout` to a Dash app."""
    known = {}

    @app.callback(
        {"figure": Output("curves", "figure"), "table": Output("table", "children"),
         "cases": Output("case", "options"), "case": Output("case", "value"),
         "quantities": Output("y", "options"), "y": Output("y", "value"),
         "switches": Output("switches", "value"), "note": Output("note", "children"),
         "shown": Output("shown", "data")},
        {"_": Input("tick", "n_intervals"), "case": Input("case", "value"), "x": Input("x", "value"),
         "y": Input("y", "value"), "switches": Input("switches", "value"), "shown": State("shown", "data")},
        running=[(Output("tick", "disabled"), True, False)])  # or a slow refresh would be overtaken for ever
    def show(_, **choices):
        return refresh(paths, known, **choices)


def refresh(paths, known, case, x, y, switches, shown):
    """What the page shows: the outputs of its callback by name.

    Args:
        paths: list of Path.
        known: {} at first; it keeps what was read, see `hig.live.watching.look`.
        case, x, y, switches: what the user has chosen.
        shown: what this function has returned under that name before; {} at first.

    Raises:
        PreventUpdate: nothing has changed.
    """
    found = look(paths, known)
    cases = sort_into_cases([run for file in found.values() for run in file.runs])
    if case not in cases and cases:                                     # at first: what has been written last
        case = max(cases, key=lambda title: max(found[run.path].stamp for run in cases[title]))
    runs = cases.get(case, [])
    prefix = runs[0].system if runs else ""
    if runs and shown.get("case") != case:
        logarithmic = x == "time" and system(prefix).log_x
        switches = [*(switch for switch in switches if switch != "log_x"), *["log_x"] * logarithmic]
    known_names = list(dict.fromkeys(name for run in runs for name in quantities(run))) or [y]
    y = y if y in known_names else known_names[0]
    states = {title: [state_of(run) for run in members] for title, members in cases.items()}
    stamps = {path: file.stamp for path, file in found.items()}
    stamp = str(hash(repr((stamps, states, case, x, y, switches))))
    if shown.get("stamp") == stamp:
        raise PreventUpdate
    options = Namespace(case=case, x=x, y=y, words=in_words(y, prefix),
                        **{name: name in switches for name in ("log_x", "log_y", "bands")})
    groups = group_runs(runs)
    colors = choose_colors(groups, "paper")
    curves = {label: [(run, drawn_curve(run, options)) for run in members]
              for label, members in groups.items()}
    empty = [os.path.relpath(run.path) for pairs in curves.values() for run, curve in pairs if not curve]
    note = f"Without values for these axes, and not drawn: {', '.join(empty)}." if empty else ""
    figure = make_figure(curves, colors, options)
    view, data = str(hash(str(figure.layout))), figure.to_plotly_json()["data"]
    if shown.get("view") == view:                                       # the zoom, too, stays the user's
        figure = Patch()
        figure["data"] = data
    return {"figure": figure,
            "table": make_table(groups, colors, [file.error for file in found.values() if file.error]),
            "cases": {title: case_label(title, states[title]) for title in cases}, "case": case,
            "quantities": {name: in_words(name, prefix) for name in known_names}, "y": y,
            "switches": switches,
            "note": note if runs else f"No curves in {', '.join(map(os.path.relpath, paths))} yet.",
            "shown": {"stamp": stamp, "case": case, "view": view}}


def case_label(title, states):
    """Text of a choice: what was trained, how many runs there are and how many of them are running."""
    running = states.count("running")
    return f"{title} ({len(states)}{f', {running} running' if running else ''})"
