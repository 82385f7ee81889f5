"""The watching page: curves and a table of what some folders hold, as the runs write it."""

import hashlib
from types import SimpleNamespace
from urllib.parse import quote

import numpy as np
from dash import Input, Output, Patch, State, dcc, html, no_update
from dash.exceptions import PreventUpdate
from flask import Response, abort, request

from hig.figures.curves import AXES, BINS, state_of, system
from hig.figures.reading import group_runs, sort_into_cases
from hig.figures.style import choose_colors
from hig.live.server import GRAPH, MARGIN, make_app
from hig.live.traces import drawn_curve, group_traces, highest_shown, layout
from hig.live.watching import (Watcher, csv_lines, differing_settings, in_words, quantities, settings_text, shown_path,
                               table_row)

EVERY = 500                 # milliseconds between the end of a refresh and the next one
POINTS = 30_000             # of all curves of a figure together, about; what a browser redraws at once
LEVELS = (1e-2, 1e-3, 1e-4)    # of the loss, whose time the table tells, at first
DOWNLOAD = """(png, svg) => {
    const format = dash_clientside.callback_context.triggered_id;
    Plotly.downloadImage(document.querySelector("#curves .js-plotly-plot"),
                         {format, filename: "curves", width: 900, height: 560, scale: format === "png" ? 2 : 1});
}"""


def fingerprint(*values):
    """A short text that differs if the values do."""
    return hashlib.sha256(repr(values).encode()).hexdigest()[:16]


def head_row(levels):
    """The head of the table."""
    names = ["optimizer", "state", "test loss", "training loss", *(f"to {level:g} [s]" for level in levels), "epochs", "time [s]",
             "settings that differ", "file"]
    return html.Tr([html.Th(name, className="number" if 1 < i < 6 + len(levels) else "") for i, name in enumerate(names)])


def body_row(label, color, cells):
    """A run in the table: `cells` are those of `hig.live.watching.table_row`."""
    state, *numbers, settings, file = cells
    return html.Tr([html.Td([html.Span(className="swatch", style={"background": color}), label.replace("_", " ")]),
                    html.Td(state, className=state.split(":")[0]), *(html.Td(cell, className="number") for cell in numbers),
                    html.Td(settings, className="text"),
                    html.Td(file, className="text")])


def unreadable_row(sentence, columns):
    """A file that is no curve, in a table of `columns` columns; the sentence names it."""
    return html.Tr([html.Td(f"unreadable: {sentence}", className="problem", colSpan=columns)])


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
            control("y", dcc.Dropdown({"test_loss": "test loss"}, "test_loss", id="y", clearable=False, searchable=False,
                                      className="choice")),
            dcc.Checklist({"log_x": "log x", "log_y": "log y", "bands": "seeds as bands"}, ["log_y", "bands"],
                          id="switches", inline=True),
            control("figure", html.Div([html.Button("PNG", id="png"), " ", html.Button("SVG", id="svg")])),
            control("data", html.A("CSV", id="csv", href="", download="curves.csv")),
        ], className="controls"),
        html.Div(id="note", className="quiet"),
        dcc.Graph(id="curves", figure={"data": [], "layout": {"margin": MARGIN}}, config=GRAPH,
                  style={"height": "min(60vh, 560px)", "minHeight": "340px"}),
        html.Div([control("loss levels", dcc.Input(", ".join(f"{level:g}" for level in LEVELS), id="levels",
                                                   debounce=True, style={"width": "160px"})),
                  html.Span(id="levels_problem", className="problem")], className="controls"),
        html.Div(html.Table([html.Thead(id="head"), html.Tbody(id="rows")]), className="scroll"),
        html.P(id="common", className="quiet"),
        dcc.Store(id="shown", data={}), dcc.Interval(id="tick", interval=EVERY),
    ])


def watching_app(folders):
    """The Dash app that shows what is below the folders (list of Path)."""
    app, watcher = make_app("Training runs"), Watcher(folders)
    app.layout = page

    @app.server.route("/curves.csv")
    def download_csv():
        runs = sort_into_cases([run for entry in watcher.look() for run in entry.runs]).get(request.args.get("case"))
        return Response(csv_lines(runs), mimetype="text/csv") if runs else abort(404)

    app.clientside_callback(DOWNLOAD, Input("png", "n_clicks"), Input("svg", "n_clicks"), prevent_initial_call=True)

    @app.callback(
        {"figure": Output("curves", "figure"), "rows": Output("rows", "children"), "head": Output("head", "children"),
         "cases": Output("case", "options"), "case": Output("case", "value"), "quantities": Output("y", "options"),
         "y": Output("y", "value"), "switches": Output("switches", "value"), "note": Output("note", "children"),
         "levels": Output("levels", "value"), "common": Output("common", "children"),
         "levels_problem": Output("levels_problem", "children"), "csv": Output("csv", "href"),
         "shown": Output("shown", "data")},
        {"_": Input("tick", "n_intervals"), "case": Input("case", "value"), "x": Input("x", "value"),
         "y": Input("y", "value"), "switches": Input("switches", "value"), "levels": Input("levels", "value"),
         "shown": State("shown", "data")},
        running=[(Output("tick", "disabled"), True, False)])            # or a slow refresh would be overtaken for ever
    def show(_, case, x, y, switches, levels, shown):
        return refresh(watcher, case, x, y, switches, levels, shown)
    return app


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
    stamps = {entry.path: entry.stamp for entry in found}
    cases = sort_into_cases([run for entry in found for run in entry.runs])
    if case not in cases and cases:                                     # at first: what has been written last
        case = max(cases, key=lambda title: max(stamps[run.path] for run in cases[title]))
    runs = cases.get(case, [])
    new_case = bool(runs) and shown.get("case") != case
    if new_case:
        levels = ", ".join(f"{level:g}" for level in system(runs[0].system).thresholds)
        switches = [*(switch for switch in switches if switch != "log_x"), *["log_x"] * system(runs[0].system).log_x]
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
    written, problem = levels, read_levels(levels) is None
    levels = list(LEVELS) if problem else read_levels(levels)
    rows, listed = changed_rows(groups, colors, levels, [entry for entry in found if entry.error], shown)
    return {"figure": figure, "rows": rows, "head": head_row(levels),
            "cases": [{"label": case_label(title, states[title]), "value": title} for title in cases], "case": case,
            "quantities": [{"label": in_words(name, runs[0].system if runs else ""), "value": name} for name in names],
            "levels": written if new_case else no_update, "common": common_settings(runs),
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
        arranged = layout(options, len(groups), top, in_words(options.y, runs[0].system if runs else ""))
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
    differing = differing_settings([run for members in groups.values() for run in members])
    for label, members in groups.items():
        for run in members:
            cells = [label, colors[label], table_row(run, levels, differing)]
            rows[fingerprint(run.path, run.label)] = (body_row, cells)
    for entry in unreadable:
        rows[fingerprint(entry.path)] = (unreadable_row, [entry.error, 8 + len(levels)])
    versions = [fingerprint(cells) for _, cells in rows.values()]
    if shown.get("files") == list(rows):
        patch = Patch()
        for i, (make, cells) in enumerate(rows.values()):
            if versions[i] != shown["rows"][i]:
                patch[i] = make(*cells)
    else:
        patch = [make(*cells) for make, cells in rows.values()]
    return patch, {"files": list(rows), "rows": versions}


def common_settings(runs):
    """A sentence about the settings in which all runs agree."""
    differing = differing_settings(runs) if runs else set()
    common = settings_text(runs[0], set(runs[0].results["sim_par"]) - differing) if runs else ""
    return f"All runs: {common}." if common else ""


def case_label(title, states):
    """Text of a choice: what was trained, how many runs there are and how many of them are running."""
    running = states.count("running")
    return f"{title} ({len(states)}{f', {running} running' if running else ''})"


def note_on(watcher, runs, options):
    """A sentence about what is not drawn, or why nothing is; else an empty text."""
    if not runs:
        return f"No curves in {', '.join(map(shown_path, watcher.folders))} yet; the submit scripts write them."
    empty = sorted({shown_path(run.path) for run in runs if drawn_curve(run, options) is None})
    if not empty:
        return ""
    more = f" and {len(empty) - 3} more" if len(empty) > 3 else ""
    return f"Without values for these axes, and not drawn: {', '.join(empty[:3])}{more}."
