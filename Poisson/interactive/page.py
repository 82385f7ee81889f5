"""The page for training the Poisson problem by hand.

TensorFlow is in a process of its own (`Poisson.interactive.trainer`). The page asks for its state again and again. Weights are
saved under a name that the process chooses and loaded from a list of those in the output folder: no path is typed.
"""

import numpy as np
from dash import Input, Output, Patch, State, ctx, dcc, html, no_update
from dash.exceptions import PreventUpdate

from hig.figures.style import COLORS
from hig.live.process import Session
from hig.live.server import FONT, GRAPH, INK, LEGEND, MARGIN, axis, make_app, packed, serve
from hig.runs.cli import load
from Poisson import METHODS, RESOLUTION, submit_Adam, submit_HIG

EVERY = 300                 # milliseconds between two looks of the page at the training
SETTINGS = {"method": "HIG", "adam_rate": submit_Adam.LEARNING_RATE, "power_rate": submit_HIG.LEARNING_RATE,
            "truncation": submit_HIG.TRUNCATION, "batch_size": 16,        # the published 64 take seconds for an update
            "source": "held out", "entry": 0}
TYPED = ("adam_rate", "power_rate", "truncation", "batch_size", "entry")   # settings in fields that take text
PICTURES = {"x_gt": "x ground truth", "y_target": "y*", "x": "x predicted", "y": "y predicted",
            "residual": "residual y − y*"}
COMMANDS = {"play": "Play", "pause": "Pause", "step": "Single step", "reset": "Reset to initial weights",
            "save_weights": "Save weights"}
GOODBYE = '<script>addEventListener("pagehide", () => navigator.sendBeacon("closed"));</script>'


def train(connection, output, settings):
    """What the training process runs."""
    trainer = load("Poisson.interactive.trainer")                       # TensorFlow loads here
    trainer.work(connection, output, settings)


# ------------------------------------------------------------------------------------------------------ the page

def loss_figure():
    """The empty figure of the losses, and of the rank below them: a trace for each method, the test loss, the rank."""
    style = {"type": "scatter", "mode": "lines", "x": [], "y": []}
    traces = [{**style, "name": f"training loss, {method}", "line": {"color": COLORS["paper"][method], "width": 1.8}}
              for method in METHODS]
    traces.append({**style, "name": "before the reset", "line": {"color": "#9aa0a8", "width": 1.4, "dash": "dot"}, "showlegend": False})
    traces.append({**style, "mode": "lines+markers", "name": "test loss", "line": {"color": INK, "width": 1.4},
                   "marker": {"size": 5}})
    traces.append({**style, "mode": "lines+markers", "name": "rank kept", "yaxis": "y2", "showlegend": False,
                   "line": {"color": "#6a717b", "width": 1.4}, "marker": {"size": 3}})
    return {"data": traces, "layout": {
        "margin": MARGIN, "font": FONT, "uirevision": "losses", "hovermode": "closest", "legend": LEGEND,
        "xaxis": axis("updates", anchor="y2", rangemode="tozero"),
        "yaxis": axis("loss per field", True, domain=[0.36, 1]),
        "yaxis2": axis("rank kept", domain=[0, 0.27], rangemode="tozero", nticks=4)}}


def picture_figure():
    """The empty figure of a field."""
    return {"data": [{"type": "heatmap", "z": np.zeros((RESOLUTION, RESOLUTION)), "zmin": -1, "zmax": 1,
                      "colorscale": [[0, "#2166ac"], [0.5, "#f7f7f7"], [1, "#b2182b"]], "showscale": False,
                      "hovertemplate": "%{z:.3g}<extra></extra>"}],
            "layout": {"margin": {"l": 2, "r": 2, "t": 2, "b": 2}, "font": FONT,
                       "xaxis": {"visible": False, "fixedrange": True},
                       "yaxis": {"visible": False, "fixedrange": True, "scaleanchor": "x", "constrain": "domain"}}}


def page(settings, output):
    """The layout, with the controls at the present settings (dict as SETTINGS)."""
    def field(name, key, component):
        return html.Div([html.Label(name, htmlFor=key), component], className="control")

    def number(key, width="90px"):
        return dcc.Input(str(settings[key]), id=key, type="text", inputMode="decimal", debounce=True,
                         style={"width": width})
    return html.Main([
        html.Header([html.H1("Poisson problem, trained by hand"), html.Span(id="status", className="quiet")]),
        html.P("A network learns to solve Δx = y on a grid of 8 × 8 cells: from a field y* it predicts x, the simulator computes "
               "y = Δx, and the loss is half the squared error of y, summed over the cells. Each update sees B new random fields; "
               "the test loss is that of 256 fields held out.", className="quiet"),
        html.Div(id="error", className="problem", role="alert"),
        html.Div([html.Button(text, id=name) for name, text in COMMANDS.items()]
                 + [field("load weights", "load_weights", dcc.Dropdown(
                     [], id="load_weights", searchable=False, clearable=False, placeholder="choose", className="choice"))],
                 className="controls"),
        html.Div([field("method", "method", dcc.RadioItems(list(METHODS), settings["method"], id="method", inline=True)),
                  field("η of Adam", "adam_rate", number("adam_rate")),
                  field("η of HIG and GN", "power_rate", number("power_rate")),
                  field("truncation τ", "truncation", number("truncation")),
                  field("batch size B", "batch_size", number("batch_size", "60px")),
                  field("x axis", "axis", dcc.RadioItems({"epochs": "updates", "simulation_time": "seconds"}, "epochs", id="axis",
                                                         inline=True))], className="controls"),
        dcc.Graph(id="losses", figure=loss_figure(), config=GRAPH,
                  style={"height": "min(56vh, 500px)", "minHeight": "380px"}),
        html.Div([field("fields", "source", dcc.RadioItems({"held out": "held out", "batch": "of the last batch"},
                                                           settings["source"], id="source", inline=True)),
                  field("entry", "entry", number("entry", "60px")), html.Span(id="entries", className="quiet")],
                 className="controls"),
        html.Div([html.Div([html.H2(title), html.Div(id=f"range_{name}", className="quiet"),
                            dcc.Graph(id=f"picture_{name}", figure=picture_figure(),
                                      config={"displayModeBar": False, "responsive": True},
                                      style={"height": "min(240px, 42vw)"})])
                  for name, title in PICTURES.items()], className="pictures"),
        html.P(f"The curve and the weights are written into {output.resolve()}. Closing the page pauses the training and "
               "leaves a finished pickle; resetting and loading weights begin a new curve, and the one before is kept.",
               className="quiet"),
        dcc.Store(id="settings"), dcc.Store(id="seen", data=[-1, 0, ""]), dcc.Interval(id="tick", interval=EVERY),
    ])


def interactive_app(session, output):
    """The Dash app that shows and commands a Session writing into the folder `output` (Path)."""
    app = make_app("Poisson by hand")
    app.index_string = app.index_string.replace("</body>", f"{GOODBYE}</body>")
    app.layout = lambda: page(session.state.get("settings", SETTINGS), output)

    @app.server.post("/closed")
    def closed():
        session.leave()
        return "", 204

    app.clientside_callback("(...values) => ({at: performance.timeOrigin + performance.now(), values})",
                            Output("settings", "data"), [Input(key, "value") for key in SETTINGS])

    @app.callback(Input("settings", "data"), prevent_initial_call=True)
    def change(settings):
        session.send(settings=settings)

    @app.callback([Input(name, "n_clicks") for name in COMMANDS], State("settings", "data"), prevent_initial_call=True)
    def command(*arguments):
        session.send(ctx.triggered_id, settings=arguments[-1])

    @app.callback(Output("load_weights", "value"), Input("load_weights", "value"), prevent_initial_call=True)
    def load(name):
        if name not in session.state.get("weights", []):
            raise PreventUpdate
        session.send("load_weights", name)
        return None                                                     # so that the same can be chosen again

    @app.callback(
        {"losses": Output("losses", "figure"), "status": Output("status", "children"),
         "error": Output("error", "children"), "disabled": [Output(name, "disabled") for name in COMMANDS],
         "weights": Output("load_weights", "options"),
         "entries": Output("entries", "children"), "seen": Output("seen", "data"),
         "pictures": [Output(f"picture_{name}", "figure") for name in PICTURES],
         "ranges": [Output(f"range_{name}", "children") for name in PICTURES],
         "fields": [Output(key, "value") for key in TYPED]},
        {"_": Input("tick", "n_intervals"), "axis": Input("axis", "value"), "seen": State("seen", "data")},
        running=[(Output("tick", "disabled"), True, False)])
    def show(_, axis, seen):
        state = session.look()
        if seen[::2] == [state["version"], axis]:
            raise PreventUpdate
        refused = state.get("refused", 0)
        pictures, ranges = changed_pictures(state.get("fields"))
        ready, playing = "updates" in state and "ended" not in state, state.get("playing", False)
        stuck = not ready or state["state"] == "diverged"
        return {"losses": changed_losses(state, axis), "status": status(state), "error": state["error"],
                "disabled": [stuck or playing, not ready or not playing, stuck or playing, not ready, not ready],
                "weights": state.get("weights", []), "seen": [state["version"], refused, axis], "pictures": pictures, "ranges": ranges,
                # a number that was refused does not stay in its field
                "fields": [str(state["settings"][key]) if refused != seen[1] and "settings" in state else no_update for key in TYPED],
                "entries": f"of {state['entries']}, from 0; shown is {state['entry']}" if "entries" in state else ""}
    return app


def status(state):
    """One line: what the training does, how far it is, and its last losses."""
    doing = state["busy"] or ("training" if state.get("playing") else state.get("state", "").replace("running", "paused"))
    if "updates" not in state:
        return doing
    curve, tested = state["curve"], state["tested"]
    parts = [doing, f"{state['updates']} updates", f"{state['seconds']:.1f} s",
             f"training loss {curve['train_loss'][-1]:.3e}",
             f"test loss {tested['test_loss'][-1]:.3e}" if len(tested["test_loss"]) else ""]
    rank = curve["rank"][-1]
    return " · ".join(filter(None, parts)) + (f" · rank {rank:.0f}" if np.isfinite(rank) else "")


def changed_losses(state, x_axis):
    """A Patch of `loss_figure` over "epochs" or "simulation_time": data and title only, so that the zoom stays."""
    patch = Patch()
    if "curve" not in state:
        return patch
    curve, tested = state["curve"], state["tested"]
    patch["layout"]["xaxis"]["title"]["text"] = "updates" if x_axis == "epochs" else "training time in seconds"
    if state["before"]:
        patch["data"][len(METHODS)]["x"] = packed(state["before"][x_axis])
        patch["data"][len(METHODS)]["y"] = packed(state["before"]["train_loss"])
        patch["data"][len(METHODS)]["showlegend"] = True
    for number in range(len(METHODS)):
        own = curve["method"] == number
        own[:-1] |= own[1:]                                             # each piece begins where the one before ends
        patch["data"][number]["x"] = packed(curve[x_axis])
        patch["data"][number]["y"] = packed(np.where(own, curve["train_loss"], np.nan))
        patch["data"][number]["showlegend"] = bool((curve["method"][1:] == number).any())      # the start is no update of it
    patch["data"][len(METHODS) + 1]["x"] = packed(tested[x_axis])
    patch["data"][len(METHODS) + 1]["y"] = packed(tested["test_loss"])
    patch["data"][len(METHODS) + 1]["mode"] = "lines+markers" if len(tested["epochs"]) <= 50 else "lines"
    patch["data"][len(METHODS) + 2]["x"] = packed(curve[x_axis])
    patch["data"][len(METHODS) + 2]["y"] = packed(curve["rank"])
    return patch


def changed_pictures(fields):
    """Patches of the picture figures, and the texts of their colour ranges: one for x, one for y, one for the residual."""
    if fields is None:
        return [Patch() for _ in PICTURES], [""] * len(PICTURES)
    patches, ranges = [], []
    for name in PICTURES:
        scale = next((pair for pair in (("x_gt", "x"), ("y_target", "y")) if name in pair), (name,))
        shown = np.concatenate([fields[other].ravel() for other in scale])
        limit = float(np.abs(shown[np.isfinite(shown)]).max(initial=0))  # of a network that has not diverged
        patch = Patch()
        patch["data"][0]["z"] = fields[name]
        patch["data"][0]["zmin"], patch["data"][0]["zmax"] = -limit or -1, limit or 1
        patches.append(patch)
        ranges.append(f"colours from −{limit:.3g} to {limit:.3g}")
    return patches, ranges


def serve_interactive(output, port):
    """Trains into the folder `output` (Path) as the page on `port` commands, until Ctrl-C.

    Raises:
        OSError: the port cannot be had.
    """
    session = Session(train, output, SETTINGS)
    try:
        serve(interactive_app(session, output), port)
    finally:
        session.end()
