"""The page: curves and a table of what some folders hold, as the runs write it."""

import hashlib
from html import escape
from types import SimpleNamespace

import numpy as np
import plotly.graph_objects as go
from dash import Input, Output, Patch, State, dcc, html, no_update
from dash.exceptions import PreventUpdate
from matplotlib.colors import to_rgb

from hig.figures.curves import (AXES, BINS, drawable, drawn_points, find_switch, state_of, system, thin,
                                x_values)
from hig.figures.losses import legend_text
from hig.figures.reading import group_runs, sort_into_cases
from hig.figures.style import choose_colors
from hig.live.server import make_app
from hig.live.watching import Watcher, in_words, quantities, shown_path, split_settings, table_row, to_csv

EVERY = 500                 # milliseconds between the end of a refresh and the next one
POINTS = 30_000             # of all curves together, about: what a browser redraws at once
NAMED = 12                  # groups in the legend; of more the colours are in the table only
INK, GRID, FRAME = "#2b2f36", "#e6e8eb", "#9aa0a8"
FONT = {"family": "system-ui, sans-serif", "size": 13, "color": INK}
GRAPH = {"displaylogo": False, "responsive": True,  # the logo would be a link to plotly.com,
         "showSendToCloud": False,  # and this button would upload the figure there
         "modeBarButtonsToRemove": ["toImage", "select2d", "lasso2d", "autoScale2d"]}
DOWNLOAD = """(png, svg) => {
    const format = dash_clientside.callback_context.triggered_id;
    Plotly.downloadImage(document.querySelector("#curves .js-plotly-plot"),
                         {format, filename: "curves", width: 900, height: 560,
                          scale: format === "png" ? 2 : 1});
}"""


def fingerprint(*values):
    """Sixteen letters and digits that differ if the values do."""
    return hashlib.sha256(repr(values).encode()).hexdigest()[:16]


# ------------------------------------------------------------------------------------------------- the figure

def make_figure(groups, colors, options):
    """The plotly figure of the curves: of each group a line for each run, or median and band of all.

    Args:
        groups: {label: runs}, see `hig.figures.reading.group_runs`.
        colors: {label: colour}.
        options: case (title); x ("time", "epochs", "updates"), y (name of a quantity), log_x, log_y, bands.
    """
    runs = [run for members in groups.values() for run in members]
    options.bins = int(np.clip(POINTS // (2 * max(len(runs), 1)), 50, BINS))
    options.top = highest_shown(runs, options)
    logarithmic = {True: {"type": "log", "nticks": 8}, False: {"type": "linear"}}
    axis = {"gridcolor": GRID, "zerolinecolor": GRID, "linecolor": FRAME, "ticks": "outside",
            "tickcolor": FRAME,
            "exponentformat": "power", "automargin": True, "title_standoff": 8}
    return go.Figure([trace for label, members in groups.items()
                      for trace in group_traces(label, members, colors[label], options)], {
        "font": FONT, "paper_bgcolor": "white", "plot_bgcolor": "white", "hovermode": "closest",
        "margin": {"l": 70, "r": 16, "t": 34, "b": 48},                 # at the top the buttons of plotly
        "uirevision": " ".join(map(str, (options.case, options.x, options.y, options.log_x, options.log_y))),
        "showlegend": 0 < len(groups) <= NAMED,
        "legend": {"orientation": "h", "x": 0, "xanchor": "left", "y": 0, "yref": "container",
                   "yanchor": "bottom"},
        "xaxis": {**axis, **logarithmic[options.log_x], "title_text": AXES[options.x],
                  "autorangeoptions": {} if options.log_x else {"clipmin": 0}},
        "yaxis": {**axis, **logarithmic[options.log_y],
                  "title_text": in_words(options.y, runs[0].system if runs else ""),
                  "autorangeoptions": {"clipmax": options.top} if np.isfinite(options.top) else {}}})


def new_curves(figure):
    """The Patch that brings curves into a figure of the same axes; zoom and hidden curves stay the user's."""
    patch, new = Patch(), figure.to_plotly_json()
    patch["data"] = new["data"]
    patch["layout"]["showlegend"] = new["layout"]["showlegend"]
    patch["layout"]["yaxis"]["autorangeoptions"] = new["layout"]["yaxis"].get("autorangeoptions", {})
    return patch


def highest_shown(runs, options):
    """Upper end of an automatic loss axis: an exploding run would make the others a flat line."""
    if not options.y.endswith("_loss"):
        return np.inf
    starts = [losses[np.isfinite(losses)][:1] for losses in (quantities(run)[options.y] for run in runs)]
    start = max((float(first[0]) for first in starts if len(first)), default=0.0)
    return 1e3 * start if start > 0 else np.inf


def drawn_curve(run, options):
    """The `Curve` of a run, or None if these axes can show nothing of it."""
    try:
        curve = drawable(run, quantities(run)[options.y], options.x, options.log_x, positive=options.log_y)
    except (KeyError, ValueError):                  # the file does not tell the quantity, or the updates
        return None
    return curve if len(curve.x) else None


def group_traces(label, members, color, options):
    """Plotly traces of the runs behind one name in the legend.

    A run that died ends in a cross, at most at `options.top`. An optimizer that takes over is named.
    """
    drawn = [(run, curve) for run in members if (curve := drawn_curve(run, options))]
    curves = [curve for _, curve in drawn]
    lines, traces = [(curve.x, curve.y) for curve in curves], []
    name = label.replace("_", " ")
    if options.y.endswith("_loss"):
        name = legend_text(label, members, options.y.removesuffix("_loss"), curves)
    style = {"name": escape(name, quote=False), "legendgroup": label, "showlegend": False}
    if options.bands and len(curves) > 1:
        x, y, band = drawn_points(curves, options.log_x, options.log_y)
        inside, shade = np.isfinite(band[1]), ",".join(f"{255 * part:.0f}" for part in to_rgb(color))
        for edge, fill in zip(band, (None, "tonexty")):
            traces.append(go.Scatter(x=x[inside], y=edge[inside], mode="lines", line_width=0, fill=fill,
                                     fillcolor=f"rgba({shade},0.22)", hoverinfo="skip", **style))
        lines = [(x[np.isfinite(y)], y[np.isfinite(y)])]
    for number, (x, y) in enumerate(lines or [(np.zeros(0), np.zeros(0))]):
        index = thin(x, y, options.log_x, options.bins)
        traces.append(go.Scatter(x=x[index], y=y[index], mode="lines+markers" if len(x) == 1 else "lines",
                                 line={"color": color, "width": 1.8}, marker={"color": color, "size": 6},
                                 **{**style, "showlegend": number == 0}))
    ends = [(curve.death[0], min(curve.death[1], options.top)) for curve in curves if curve.death]
    x, y = zip(*ends) if ends else ((), ())
    traces.append(go.Scatter(x=x, y=y, mode="markers", cliponaxis=False, hovertemplate="died here", **style,
                             marker={"symbol": "x-thin", "size": 10, "line": {"color": color, "width": 2.5}}))
    marks = {}
    for number, (run, _) in enumerate(drawn):
        line = lines[min(number, len(lines) - 1)]                       # its own, or the median
        for x, text in take_overs(run, options.x) if len(line[0]) else []:
            marks[x, np.interp(x, *line), text] = None
    x, y, text = zip(*marks) if marks else ((), (), ())
    traces.append(go.Scatter(x=x, y=y, text=text, mode="markers+text", textposition="top right", **style,
                             textfont_color=color, marker={"symbol": "diamond", "size": 7, "color": color},
                             hoverinfo="skip"))
    for i, trace in enumerate(traces):  # by its uid a hidden curve is found again
        trace.uid = fingerprint(label, i)
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

def make_table(groups, colors, levels, unreadable):
    """A row for each run, with the seconds to each loss level, and for each file (Found) that is no curve."""
    runs = [run for members in groups.values() for run in members]
    labels = [label for label, members in groups.items() for _ in members]
    common, differing = split_settings(runs) if runs else ("", [])
    numbers = ["test loss", "training loss", *(f"to {level:g} [s]" for level in levels), "epochs", "time [s]"]
    rows = []
    for run, label, settings in zip(runs, labels, differing):
        state, *cells, file = table_row(run, levels)
        swatch = html.Span(className="swatch", style={"background": colors[label]})
        rows.append(html.Tr([html.Td([swatch, label.replace("_", " ")]),
                             html.Td(state, className=state.split(":")[0]),
                             *(html.Td(cell, className="number") for cell in cells),
                             html.Td(settings, className="text"), html.Td(file, className="text")]))
    for entry in unreadable:
        sentence = html.Td(f"unreadable: {entry.error}", className="problem", colSpan=len(numbers) + 4)
        rows.append(html.Tr(sentence))
    head = [html.Th("optimizer"), html.Th("state"), *(html.Th(name, className="number") for name in numbers),
            html.Th("settings that differ"), html.Th("file")]
    return [html.Div(html.Table([html.Thead(html.Tr(head)), html.Tbody(rows)]), className="scroll"),
            html.P(f"All runs: {common}." if common else "", className="quiet")]


def read_levels(words):
    """Loss levels as the user wrote them, like "1e-2, 1e-3": at most six positive numbers, otherwise None."""
    try:
        levels = [float(word) for word in (words or "").replace(",", " ").split()]
    except ValueError:
        return None
    return levels if len(levels) <= 6 and all(0 < level < np.inf for level in levels) else None


# ------------------------------------------------------------------------------------------------- the page

def control(name, component):
    """A component with its name in front."""
    label = html.Label(name, htmlFor=getattr(component, "id", None))
    return html.Div([label, component], className="control")


def watching_layout(x="time", y="test_loss"):
    """Components of the page below its header, with these axes at first; the first refresh fills them."""
    return [
        html.Div(dcc.RadioItems([], id="case", inline=True), className="controls"),
        html.Div([
            control("x", dcc.RadioItems(list(AXES), x, id="x", inline=True)),
            control("y", dcc.Dropdown({y: in_words(y, "")}, y, id="y", clearable=False, searchable=False,
                                      className="choice")),
            dcc.Checklist({"log_x": "log x", "log_y": "log y", "bands": "seeds as bands"}, ["log_y", "bands"],
                          id="switches", inline=True),
            control("figure", html.Div([html.Button("PNG", id="png"), " ", html.Button("SVG", id="svg")])),
            control("data", html.Button("CSV", id="csv")),
        ], className="controls"),
        html.Div(id="note", className="quiet"),
        dcc.Graph(id="curves", figure=go.Figure(), config=GRAPH,
                  style={"height": "min(60vh, 560px)", "minHeight": "340px"}),
        html.Div([control("loss levels", dcc.Input("", id="levels", debounce=True, style={"width": "160px"})),
                  html.Span(id="levels_problem", className="problem")], className="controls"),
        html.Div(id="table"),
        dcc.Store(id="shown", data={}), dcc.Download(id="download"), dcc.Interval(id="tick", interval=EVERY),
    ]


def watching_app(paths):
    """The Dash app that shows what is at the paths (list of Path), see `Watcher`."""
    app = make_app("Training runs")
    app.layout = lambda: html.Main([html.Header(html.H1("Training runs")), *watching_layout()])
    watch(app, Watcher(paths))
    return app


def watch(app, watcher):
    """Adds the callbacks of `watching_layout` to a Dash app."""
    clicks = [Input(name, "n_clicks") for name in ("png", "svg")]
    app.clientside_callback(DOWNLOAD, *clicks, prevent_initial_call=True)

    @app.callback(Output("download", "data"), Input("csv", "n_clicks"), State("case", "value"),
                  prevent_initial_call=True)
    def download_csv(_, case):
        runs = sort_into_cases([run for entry in watcher.look() for run in entry.runs]).get(case)
        return dcc.send_string(to_csv(runs), "curves.csv") if runs else no_update

    @app.callback(
        {"figure": Output("curves", "figure"), "table": Output("table", "children"),
         "cases": Output("case", "options"), "case": Output("case", "value"),
         "quantities": Output("y", "options"), "y": Output("y", "value"),
         "switches": Output("switches", "value"), "note": Output("note", "children"),
         "levels": Output("levels", "value"),
         "levels_problem": Output("levels_problem", "children"), "shown": Output("shown", "data")},
        {"_": Input("tick", "n_intervals"), "case": Input("case", "value"), "x": Input("x", "value"),
         "y": Input("y", "value"), "switches": Input("switches", "value"), "levels": Input("levels", "value"),
         "shown": State("shown", "data")},
        running=[(Output("tick", "disabled"), True, False)])  # or a slow refresh would be overtaken for ever
    def show(_, **choices):
        return refresh(watcher, **choices)


def refresh(watcher, case, x, y, switches, levels, shown):
    """What the page shows: the outputs of its callback by name.

    Args:
        watcher: Watcher.
        case, x, y, switches, levels: what the user has chosen.
        shown: what this function has returned under that name before; {} at first.

    Raises:
        PreventUpdate: nothing has changed.
    """
    found = watcher.look()
    stamps = {entry.path: entry.stamp for entry in found}
    cases = sort_into_cases([run for entry in found for run in entry.runs])
    if case not in cases and cases:                                     # at first: what has been written last
        case = max(cases, key=lambda title: max(stamps[run.path] for run in cases[title]))
    runs = cases.get(case, [])
    new_case = bool(runs) and shown.get("case") != case
    if new_case:
        levels = ", ".join(f"{level:g}" for level in system(runs[0].system).thresholds)
        logarithmic = x == "time" and system(runs[0].system).log_x
        switches = [*(switch for switch in switches if switch != "log_x"), *["log_x"] * logarithmic]
    names = list(dict.fromkeys(name for run in runs for name in quantities(run))) or [y]
    y = y if y in names else names[0]
    states = {title: [state_of(run) for run in members] for title, members in cases.items()}
    stamp = fingerprint(stamps, states, case, x, y, sorted(switches), levels)
    if shown.get("stamp") == stamp:
        raise PreventUpdate
    options = SimpleNamespace(case=case, x=x, y=y, log_x="log_x" in switches, log_y="log_y" in switches,
                              bands="bands" in switches)
    groups = group_runs(runs)
    colors = choose_colors(groups, "paper")
    numbers = read_levels(levels)
    figure = make_figure(groups, colors, options)
    view = figure.layout.uirevision
    prefix = runs[0].system if runs else ""
    return {"figure": new_curves(figure) if shown.get("view") == view else figure,
            "table": make_table(groups, colors, numbers or [], [entry for entry in found if entry.error]),
            "cases": [{"label": case_label(title, states[title]), "value": title} for title in cases],
            "quantities": [{"label": in_words(name, prefix), "value": name} for name in names],
            "case": case, "y": y, "switches": switches, "note": note_on(watcher.paths, runs, options),
            "levels": levels if new_case else no_update,
            "levels_problem": "up to six positive numbers, like 1e-2, 1e-3" if numbers is None else "",
            "shown": {"stamp": stamp, "case": case, "view": view}}


def case_label(title, states):
    """Text of a choice: what was trained, how many runs there are and how many of them are running."""
    running = states.count("running")
    return f"{title} ({len(states)}{f', {running} running' if running else ''})"


def note_on(paths, runs, options):
    """A sentence about what is not drawn, or why nothing is; else an empty text."""
    if not runs:
        return f"No curves in {', '.join(map(shown_path, paths))} yet."
    empty = sorted({shown_path(run.path) for run in runs if drawn_curve(run, options) is None})
    more = f" and {len(empty) - 3} more" if len(empty) > 3 else ""
    return f"Without values for these axes, and not drawn: {', '.join(empty[:3])}{more}." if empty else ""
