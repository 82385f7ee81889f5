"""The page: curves and a table of what some folders hold, as the runs write it."""

from html import escape
from types import SimpleNamespace

import numpy as np
import plotly.graph_objects as go
from dash import Input, Output, Patch, State, dcc, html
from dash.exceptions import PreventUpdate
from matplotlib.colors import to_rgb

from hig.figures.curves import (AXES, BINS, drawable, drawn_points, find_death, find_switch, state_of, system,
                                x_values)
from hig.figures.losses import legend_text
from hig.figures.reading import group_runs, sort_into_cases
from hig.figures.style import choose_colors, choose_dashes
from hig.live.server import make_app
from hig.live.watching import in_words, look, quantities, shown_path, table_row

EVERY = 500                 # milliseconds between the end of a refresh and the next one
POINTS = 30_000             # about as many, of all curves together, as a browser redraws at once
NAMED = 12                  # groups in the legend; if there are more, only the table has the colours
DASHES = {"-": "solid", "--": "dash", "-.": "dashdot"}      # matplotlib's line styles in plotly's words
GRID = "#e6e8eb"
FONT = {"family": "system-ui, sans-serif", "size": 13, "color": "#2b2f36"}
GRAPH = {"displaylogo": False, "responsive": True,  # the logo would be a link to plotly.com,
         "showSendToCloud": False,  # and this button would upload the figure there
         "toImageButtonOptions": {"filename": "curves", "scale": 2},
         "modeBarButtonsToRemove": ["select2d", "lasso2d", "autoScale2d"]}


# ------------------------------------------------------------------------------------------------- the figure

def make_figure(groups, colors, options):
    """The plotly figure of the curves: of each group a line for each run, or median and band of all.

    Args:
        groups: {label: runs}, see `hig.figures.reading.group_runs`.
        colors: {label: colour}.
        options: x ("time", "epochs", "updates"), y (name of a quantity), log_x, log_y, bands.
    """
    runs = [run for members in groups.values() for run in members]
    options.bins = int(np.clip(POINTS // (2 * max(len(runs), 1)), 50, BINS))
    options.top = highest_shown(runs, options)
    axis = {"gridcolor": GRID, "zerolinecolor": GRID, "ticks": "outside", "exponentformat": "power",
            "automargin": True, "nticks": 8}
    dashes = {label: DASHES[line] for label, line in choose_dashes(groups).items()}
    return go.Figure([trace for label, members in groups.items()
                      for trace in group_traces(label, members, colors[label], dashes[label], options)], {
        "font": FONT, "paper_bgcolor": "white", "plot_bgcolor": "white", "hovermode": "closest",
        "margin": {"l": 70, "r": 16, "t": 34, "b": 48},                 # at the top the buttons of plotly
        "uirevision": "kept",                                           # what the user has hidden
        "showlegend": len(groups) <= NAMED,
        "legend": {"orientation": "h", "y": 0, "yref": "container", "yanchor": "bottom"},
        "xaxis": {**axis, "type": "log" if options.log_x else "linear", "title_text": AXES[options.x]},
        "yaxis": {**axis, "type": "log" if options.log_y else "linear",
                  "title_text": in_words(options.y, runs[0].system if runs else ""),
                  "autorangeoptions": {"clipmax": options.top} if np.isfinite(options.top) else {}}})


def new_curves(figure):
    """The Patch that brings curves into a figure of the same axes; zoom and hidden curves stay the user's."""
    patch, new = Patch(), figure.to_plotly_json()
    patch["data"] = new["data"]
    patch["layout"]["showlegend"] = new["layout"]["showlegend"]
    patch["layout"]["yaxis"]["autorangeoptions"] = new["layout"]["yaxis"]["autorangeoptions"]
    return patch


def highest_shown(runs, options):
    """Upper end of an automatic loss axis: an exploding run would make the others a flat line."""
    if not options.y.endswith("_loss"):
        return np.inf
    starts = [losses[np.isfinite(losses)][:1] for losses in (quantities(run)[options.y] for run in runs)]
    return 1e3 * max((float(first[0]) for first in starts if len(first)), default=0.0) or np.inf


def drawn_curve(run, options):
    """The `Curve` of a run, or None if these axes can show nothing of it."""
    try:
        curve = drawable(run, quantities(run)[options.y], options.x, options.log_x, positive=options.log_y)
    except (KeyError, ValueError):                  # the file does not tell the quantity, or the updates
        return None
    return curve if len(curve.x) else None


def group_traces(label, members, color, dash, options):
    """Plotly traces of the runs behind one name in the legend.

    A run that died ends in a cross, at most at `options.top`. An optimizer that takes over is named.
    """
    drawn = {run.path: curve for run in members if (curve := drawn_curve(run, options))}
    curves = list(drawn.values())
    name = label.replace("_", " ")
    if options.y.endswith("_loss"):
        name = legend_text(label, members, options.y.removesuffix("_loss"), curves)
    style = {"name": escape(name, quote=False), "legendgroup": label, "showlegend": False}
    traces, lines = [], []
    for part in [curves] if options.bands or not curves else [[curve] for curve in curves]:
        x, y, band = drawn_points(part, options.log_x, options.log_y, options.bins)
        lines.append((x[np.isfinite(y)], y[np.isfinite(y)]))
        inside = np.isfinite(band[1]) if band else []
        shade = ",".join(f"{255 * share:.0f}" for share in to_rgb(color))
        traces += [go.Scatter(x=x[inside], y=edge[inside], mode="lines", line_width=0, fill=fill,
                              fillcolor=f"rgba({shade},0.22)", hoverinfo="skip", **style)
                   for edge, fill in zip(band or (), (None, "tonexty"))]
        mode = "lines+markers" if len(x) == 1 else "lines"              # a line of one point is not seen
        traces.append(go.Scatter(x=lines[-1][0], y=lines[-1][1], mode=mode, line_color=color, line_width=1.8,
                                 line_dash=dash, **{**style, "showlegend": len(lines) == 1}))
    ends = [(curve.death[0], min(curve.death[1], options.top)) for curve in curves if curve.death]
    marks = {(x, np.interp(x, *line), text): None
             for run in members if run.path in drawn for x, text in take_overs(run, options.x)
             for line in [lines[0 if options.bands else list(drawn).index(run.path)]] if len(line[0])}
    x, y = zip(*ends) if ends else ((), ())
    traces.append(go.Scatter(x=x, y=y, mode="markers", cliponaxis=False, hovertemplate="died here", **style,
                             marker={"symbol": "x-thin", "size": 10, "line": {"color": color, "width": 2.5}}))
    x, y, text = zip(*marks) if marks else ((), (), ())
    traces.append(go.Scatter(x=x, y=y, text=text, mode="markers+text", textposition="top right", **style,
                             marker={"symbol": "diamond", "size": 7, "color": color}, hoverinfo="skip"))
    for i, trace in enumerate(traces):  # by its uid a hidden curve is found again; plotly has it in CSS selectors
        trace.uid = f"{label.encode().hex()}-{i}"
    return traces


def take_overs(run, axis):
    """Where another optimizer takes over in a run: list of (position, name), after pretraining or by hand."""
    switch = find_switch(run, axis)
    method = run.results.get("method", np.zeros(0))  # of training by hand: a number for each entry
    names = dict(pair.split() for pair in run.results["sim_par"].get("methods", "").split(", ") if pair)
    chosen = [i for i in range(1, len(method)) if i == 1 or method[i] != method[i - 1]]
    return ([] if switch is None else [(switch, "switch")]) + [
        (float(x_values(run, axis)[i - 1]), names.get(f"{method[i]:.0f}", "")) for i in chosen]


# ------------------------------------------------------------------------------------------------- the table

def make_table(groups, colors, unreadable):
    """A row for each run, with the seconds to the test losses of its system and, as one points at it, its
    settings; and a row for each file (Found) that is no curve."""
    runs = [(run, label) for label, members in groups.items() for run in members]
    levels = system(runs[0][0].system).thresholds if runs else ()
    head = ["optimizer", "state", "test loss", "training loss", *(f"to {level:g} [s]" for level in levels),
            "epochs", "time [s]", "file"]
    rows = []
    for run, label in runs:
        state, death = state_of(run), find_death(run)
        swatch = html.Span(className="swatch", style={"background": colors[label]})
        rows.append(html.Tr([html.Td([swatch, label.replace("_", " ")]),
                             html.Td(f"{state}: {death}" if death else state, className=state),
            *map(html.Td, table_row(run, levels)), html.Td(shown_path(run.path), className="text")],
            title=", ".join(f"{key} {value}" for key, value in run.results["sim_par"].items())))
    rows += [html.Tr(html.Td(f"unreadable: {entry.error}", className="problem", colSpan=len(head)))
             for entry in unreadable]
    return html.Table([html.Thead(html.Tr([*map(html.Th, head)])), html.Tbody(rows)])


# -------------------------------------------------------------------------------------------------- the page

def control(name, component):
    """A component with its name in front."""
    return html.Div([html.Label(name, htmlFor=component.id), component], className="control")


def watching_layout(x="time", y="test_loss"):
    """Components of the page below its header, with these axes at first; the first refresh fills them."""
    return [html.Div(dcc.RadioItems([], id="case", inline=True), className="controls"),
            html.Div([control("x", dcc.RadioItems(list(AXES), x, id="x", inline=True)),
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
    app = make_app("Training runs")
    app.layout = lambda: html.Main([html.Header(html.H1("Training runs")), *watching_layout()])
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
        paths, known: of `hig.live.watching.look`.
        case, x, y, switches: what the user has chosen.
        shown: what this function has returned under that name before; {} at first.

    Raises:
        PreventUpdate: nothing has changed.
    """
    found = look(paths, known)
    stamps = {entry.path: entry.stamp for entry in found}
    cases = sort_into_cases([run for entry in found for run in entry.runs])
    if case not in cases and cases:                                     # at first: what has been written last
        case = max(cases, key=lambda title: max(stamps[run.path] for run in cases[title]))
    runs = cases.get(case, [])
    prefix = runs[0].system if runs else ""
    if runs and shown.get("case") != case:
        logarithmic = x == "time" and system(prefix).log_x
        switches = [*(switch for switch in switches if switch != "log_x"), *["log_x"] * logarithmic]
    names = list(dict.fromkeys(name for run in runs for name in quantities(run))) or [y]
    y = y if y in names else names[0]
    states = {title: [state_of(run) for run in members] for title, members in cases.items()}
    view = f"{case} {x} {y} {sorted(set(switches) - {'bands'})}"
    stamp = str(hash(repr((stamps, states, view, "bands" in switches))))
    if shown.get("stamp") == stamp:
        raise PreventUpdate
    options = SimpleNamespace(x=x, y=y, **{name: name in switches for name in ("log_x", "log_y", "bands")})
    groups = group_runs(runs)
    colors = choose_colors(groups, "paper")
    figure = make_figure(groups, colors, options)
    return {"figure": new_curves(figure) if shown.get("view") == view else figure,
            "table": make_table(groups, colors, [entry for entry in found if entry.error]),
            "cases": [{"label": case_label(title, states[title]), "value": title} for title in cases],
            "quantities": [{"label": in_words(name, prefix), "value": name} for name in names],
            "case": case, "y": y, "switches": switches, "note": note_on(paths, runs, options),
            "shown": {"stamp": stamp, "case": case, "view": view}}


def case_label(title, states):
    """Text of a choice: what was trained, how many runs there are and how many of them are running."""
    running = states.count("running")
    return f"{title} ({len(states)}{f', {running} running' if running else ''})"


def note_on(paths, runs, options):
    """A sentence about what is not drawn, or why nothing is; else an empty text."""
    if not runs:
        return f"No curves in {', '.join(map(shown_path, paths))} yet."
    empty = ", ".join(shown_path(run.path) for run in runs if drawn_curve(run, options) is None)
    return f"Without values for these axes, and not drawn: {empty}." if empty else ""
