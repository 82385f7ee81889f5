"""A live page in the browser: watch and compare training runs, or train the Poisson problem by hand.

    python dashboard.py                          what the submit scripts of all systems write, as they write it
    python dashboard.py FOLDER [FOLDER ...]      all pickles below these folders
    python dashboard.py --interactive Poisson [FOLDER]
                                                 play, pause and change HIG, GN and Adam; the curve goes to FOLDER

Prints the address of the page, which answers this machine alone, and ends with Ctrl-C. A running training may be watched:
its new points appear within two seconds. TensorFlow is not loaded for watching; training has its own process.

Exit status: 0, or 2 with a sentence on stderr for a folder that is not there or a port that is taken.
"""

import argparse
import hashlib
import sys
from html import escape
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import quote

import numpy as np
from dash import Input, Output, Patch, State, dcc, html
from dash.exceptions import PreventUpdate
from flask import Response, abort, request
from matplotlib.colors import to_rgb

from hig.runs.cli import fail
from hig.figures.curves import BINS, SYSTEMS, describe, find_death, group_runs, median_band, split_cases, thin, x_values
from hig.live.watching import Watcher, csv_lines, quantities, quantity, shown_path, state_of, table_row
from hig.live.server import FONT, GRAPH, LEGEND, MARGIN, axis, make_app, packed, serve
from plot import AXES, LOSSES, ROOT, THRESHOLDS, choose_colors, legend_text

EVERY = 500                 # milliseconds between the end of a refresh and the next one
POINTS = 30_000             # of all curves of a figure together, about; what a browser redraws at once
NAMED = 12                  # groups in the legend; of more the colours are in the table only
DOWNLOAD = """(png, svg) => {
    const format = dash_clientside.callback_context.triggered_id;
    Plotly.downloadImage(document.querySelector("#curves .js-plotly-plot"),
                         {format, filename: "curves", width: 900, height: 560, scale: format === "png" ? 2 : 1});
}"""


# ---------------------------------------------------------------------------------------------------- the curves

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


# ------------------------------------------------------------------------------------------------------ the page

def fingerprint(*values):
    """A short text that differs if the values do."""
    return hashlib.sha256(repr(values).encode()).hexdigest()[:16]


def head_row(levels):
    """The head of the table."""
    names = ["optimizer", "epochs", "time [s]", "train loss", "test loss", *(f"to {level:g} [s]" for level in levels),
             "state", "settings", "file"]
    return html.Tr([html.Th(name, className="number" if 0 < i < 5 + len(levels) else "") for i, name in enumerate(names)])


def body_row(label, color, cells):
    """A run in the table: `cells` are those of `hig.live.watching.table_row`."""
    *numbers, state, settings, file = cells
    return html.Tr([html.Td([html.Span(className="swatch", style={"background": color}), label]),
                    *(html.Td(cell, className="number") for cell in numbers),
                    html.Td(state, className=state.split(":")[0]), html.Td(settings, className="text"),
                    html.Td(file, className="text")])


def unreadable_row(path, sentence, columns):
    """A file that is no curve, in a table of `columns` columns."""
    return html.Tr([html.Td(describe(path.name)[1]),
                    html.Td(f"unreadable: {sentence}", className="problem", colSpan=columns - 1)])


def read_levels(words):
    """Loss levels that the user wrote, like "1e-2, 1e-3": at most six positive numbers; None if it is something else."""
    try:
        levels = [float(word) for word in (words or "").replace(",", " ").split()]
    except ValueError:
        return None
    return levels if len(levels) <= 6 and all(0 < level < np.inf for level in levels) else None


def control(name, component):
    """A component with its name in front."""
    return html.Div([html.Span(name, className="name"), component], className="control")


def page():
    """The layout of the page; everything in it that depends on files is filled by the first refresh."""
    return html.Main([
        html.Header([html.H1("Training runs"), dcc.RadioItems([], id="case", inline=True)]),
        html.Div([
            control("x", dcc.RadioItems(list(AXES), "time", id="x", inline=True)),
            control("y", dcc.Dropdown([], "test_loss", id="y", clearable=False, searchable=False, className="choice")),
            dcc.Checklist({"log_x": "log x", "log_y": "log y", "bands": "seeds as bands"}, ["log_y", "bands"],
                          id="switches", inline=True),
            control("figure", html.Div([html.Button("PNG", id="png"), " ", html.Button("SVG", id="svg")])),
            control("data", html.A("CSV", id="csv", href="", download="curves.csv")),
        ], className="controls"),
        html.Div(id="note", className="quiet"),
        dcc.Graph(id="curves", figure={"data": [], "layout": {"margin": MARGIN}}, config=GRAPH,
                  style={"height": "min(60vh, 560px)", "minHeight": "340px"}),
        html.Div([control("loss levels", dcc.Input(", ".join(f"{level:g}" for level in THRESHOLDS), id="levels",
                                                   debounce=True, style={"width": "160px"})),
                  html.Span(id="levels_problem", className="problem")], className="controls"),
        html.Div(html.Table([html.Thead(id="head"), html.Tbody(id="rows")]), className="scroll"),
        dcc.Store(id="shown", data={}), dcc.Interval(id="tick", interval=EVERY),
    ])


def watching_app(folders):
    """The Dash app that shows what is below the folders (list of Path)."""
    app, watcher = make_app("Training runs"), Watcher(folders)
    app.layout = page

    @app.server.route("/curves.csv")
    def download_csv():
        runs = sort_into_cases(watcher.look()).get(request.args.get("case"))
        return Response(csv_lines(runs), mimetype="text/csv") if runs else abort(404)

    app.clientside_callback(DOWNLOAD, Input("png", "n_clicks"), Input("svg", "n_clicks"), prevent_initial_call=True)

    @app.callback(
        {"figure": Output("curves", "figure"), "rows": Output("rows", "children"), "head": Output("head", "children"),
         "cases": Output("case", "options"), "case": Output("case", "value"), "quantities": Output("y", "options"),
         "y": Output("y", "value"), "switches": Output("switches", "value"), "note": Output("note", "children"),
         "levels_problem": Output("levels_problem", "children"), "csv": Output("csv", "href"),
         "shown": Output("shown", "data")},
        {"_": Input("tick", "n_intervals"), "case": Input("case", "value"), "x": Input("x", "value"),
         "y": Input("y", "value"), "switches": Input("switches", "value"), "levels": Input("levels", "value"),
         "shown": State("shown", "data")},
        running=[(Output("tick", "disabled"), True, False)])            # or a slow refresh would be overtaken for ever
    def show(_, case, x, y, switches, levels, shown):
        return refresh(watcher, case, x, y, switches, levels, shown)
    return app


def sort_into_cases(found):
    """{title: runs} of a list of Found: a title for each system, and for each λ of the toy problem."""
    runs = [run for entry in found for run in entry.runs]
    return {title: members for prefix in SYSTEMS
            for title, members in split_cases([run for run in runs if run.system == prefix]).items()}


def refresh(watcher, case, x, y, switches, levels, shown):
    """What the page has to change: the outputs of its callback by name.

    Args:
        watcher: Watcher.
        case, x, y, switches, levels: what the user has chosen.
        shown: what the page shows, as this function has returned it under that name before; {} at first. Only what
            differs from it is sent, which also leaves zoom and hidden curves to the user.

    Raises:
        PreventUpdate: nothing has changed.
    """
    found = watcher.look()
    stamps, cases = {entry.path: entry.stamp for entry in found}, sort_into_cases(found)
    if case not in cases and cases:                                     # at first: what has been written last
        case = max(cases, key=lambda title: max(stamps[run.path] for run in cases[title]))
    runs = cases.get(case, [])
    if runs and shown.get("case") != case:
        switches = [*(switch for switch in switches if switch != "log_x"), *["log_x"] * SYSTEMS[runs[0].system][2]]
    names = quantities(runs)
    y = y if y in names else names[0]
    states = {title: [state_of(run) for run in members] for title, members in cases.items()}
    everything = fingerprint(stamps, states, case, x, y, sorted(switches), levels)
    if shown.get("everything") == everything:
        raise PreventUpdate

    options = SimpleNamespace(x=x, y=y, **{switch: switch in switches for switch in ("log_x", "log_y", "bands")})
    groups = group_runs(runs)
    colors = choose_colors(groups, "paper")
    figure, drawn = changed_figure(groups, colors, options, case, stamps, shown)
    problem = read_levels(levels) is None
    levels = list(THRESHOLDS) if problem else read_levels(levels)
    rows, listed = changed_rows(groups, colors, levels, [entry for entry in found if entry.error], shown)
    return {"figure": figure, "rows": rows, "head": head_row(levels),
            "cases": [{"label": case_label(title, states[title]), "value": title} for title in cases], "case": case,
            "quantities": [{"label": LOSSES.get(name.removesuffix("_loss"), name), "value": name} for name in names],
            "y": y, "switches": switches, "note": note_on(watcher, runs, options),
            "levels_problem": "up to six positive numbers, like 1e-2, 1e-3" if problem else "",
            "csv": f"curves.csv?case={quote(case or '')}",
            "shown": {"everything": everything, "case": case, **drawn, **listed}}


def changed_figure(groups, colors, options, case, stamps, shown):
    """The figure as far as it differs from the one `shown`, and its description to be shown next time.

    A figure with other axes is new as a whole. Otherwise it is a Patch, of the groups whose files have changed.
    """
    runs = [run for members in groups.values() for run in members]
    bins = int(np.clip(POINTS // (2 * max(len(runs), 1)), 50, BINS))
    top = highest_shown(runs, options)
    versions = [fingerprint(label, colors[label], bins, top, [(run.path, stamps[run.path]) for run in members])
                for label, members in groups.items()]
    view = fingerprint(case, options)
    before = shown.get("groups", [])
    same_groups = shown.get("view") == view and shown.get("labels") == list(groups)
    traces = [None if same_groups and version == before[i][0]
              else group_traces(label, members, colors[label], options, bins, top)
              for i, ((label, members), version) in enumerate(zip(groups.items(), versions))]
    counts = [before[i][1] if group is None else len(group) for i, group in enumerate(traces)]
    patch = Patch()
    if same_groups and counts == [count for _, count in before]:
        first = 0
        for group, count in zip(traces, counts):
            for number, trace in enumerate(group or []):
                for key, value in trace.items():
                    patch["data"][first + number][key] = value
            first += count
    else:
        data = [trace for i, (label, members) in enumerate(groups.items())
                for trace in traces[i] or group_traces(label, members, colors[label], options, bins, top)]
        arranged = layout(options, len(groups), top)
        if shown.get("view") == view:
            patch["data"] = data
            patch["layout"]["showlegend"] = arranged["showlegend"]
            patch["layout"]["yaxis"]["autorangeoptions"] = arranged["yaxis"]["autorangeoptions"]
        else:
            patch = {"data": data, "layout": arranged}
    return patch, {"view": view, "labels": list(groups), "groups": list(zip(versions, counts))}


def changed_rows(groups, colors, levels, unreadable, shown):
    """The rows of the table as far as they differ from those `shown`, and their description to be shown next time."""
    rows = {}                                                           # path and number in it: what makes the row
    for label, members in groups.items():
        for run in members:
            cells = [label, colors[label], table_row(run, levels)]
            rows[fingerprint(run.path, run.label)] = (body_row, cells)
    for entry in unreadable:
        rows[fingerprint(entry.path)] = (unreadable_row, [entry.path, entry.error, 8 + len(levels)])
    versions = [fingerprint(cells) for _, cells in rows.values()]
    if shown.get("files") == list(rows):
        patch = Patch()
        for i, (make, cells) in enumerate(rows.values()):
            if versions[i] != shown["rows"][i]:
                patch[i] = make(*cells)
    else:
        patch = [make(*cells) for make, cells in rows.values()]
    return patch, {"files": list(rows), "rows": versions}


def case_label(title, states):
    """Text of a choice: what was trained, how many runs there are and how many of them are running."""
    running = states.count("running")
    return f"{title} ({len(states)}{f', {running} running' if running else ''})"


def note_on(watcher, runs, options):
    """A sentence about what is not drawn, or why nothing is; else an empty text."""
    if not runs:
        return f"No curves in {', '.join(map(shown_path, watcher.folders))} yet; the submit scripts write them."
    empty = sorted({shown_path(run.path) for run in runs if not len(drawn_curve(run, options)[0])})
    if not empty:
        return ""
    more = f" and {len(empty) - 3} more" if len(empty) > 3 else ""
    return f"Without values for these axes, and not drawn: {', '.join(empty[:3])}{more}."


# -------------------------------------------------------------------------------------------------- command line

def parse(arguments):
    """Command line → options; ends the process with exit code 2 for bad input."""
    def port(word):
        if not word.isascii() or not word.isdigit() or int(word) > 65535:
            raise argparse.ArgumentTypeError(f"{word!r} is not a whole number from 0 to 65535")
        return int(word)
    parser = argparse.ArgumentParser("dashboard.py", description=__doc__, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.error = lambda message: fail(f"{message} (--help lists the flags)")
    add = parser.add_argument
    add("folders", nargs="*", metavar="FOLDER", type=Path, help="where the pickles are (default: folders of all systems)")
    add("--port", type=port, default=8050, help="of the page; 0 for any that is free (default: %(default)s)")
    add("--interactive", choices=["Poisson"], metavar="SYSTEM", help="train by hand; SYSTEM is Poisson")
    options = parser.parse_args(arguments)
    for folder in options.folders:
        if not folder.is_dir():
            fail(f"there is no folder {folder}")
    if options.interactive and len(options.folders) > 1:
        fail("--interactive writes into one folder")
    return options


def main(arguments=None):
    """Serves the page that the command line asks for until Ctrl-C; returns the exit status."""
    options = parse(sys.argv[1:] if arguments is None else arguments)
    try:
        if options.interactive:
            from Poisson.interactive.page import serve_interactive
            serve_interactive(options.folders[0] if options.folders else ROOT / options.interactive, options.port)
        else:
            own = [ROOT / folder for folder, _, _ in SYSTEMS.values() if folder]
            serve(watching_app(options.folders or own), options.port)
    except OSError as error:
        fail(f"port {options.port} of this machine cannot be had: {error.strerror}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
