"""The page for training the Poisson problem by hand: `hig.live.page` with controls and pictures above it.

Only `training_page` loads TensorFlow.
"""

import math
from contextlib import contextmanager
from functools import partial

import numpy as np
import plotly.express as px
from dash import Input, Output, State, ctx, dcc, html
from dash.exceptions import PreventUpdate

from hig.live.page import LAYOUT, control, watching_app
from hig.runs.cli import check_writable, load
from hig.runs.locks import locked
from Poisson import METHODS, submit_Adam, submit_HIG

SETTINGS = {"method": "HIG", "adam_rate": submit_Adam.LEARNING_RATE, "power_rate": submit_HIG.LEARNING_RATE,
            "truncation": submit_HIG.TRUNCATION, "batch_size": 16,  # the published 64 take seconds
            "source": "held out", "entry": 0}
PICTURES = {"x_gt": "x ground truth", "y_target": "y*", "x": "x predicted", "y": "y predicted",
            "residual": "residual y − y*"}
BUTTONS = {"play": "Play", "pause": "Pause", "step": "Single step", "reset": "Reset to initial weights",
           "save": "Save weights"}


def by_hand_app(training):
    """The Dash app that shows and commands a `Poisson.interactive.trainer.Training`."""
    paths = [training.output]
    app = watching_app(paths, "Poisson problem, trained by hand", partial(controls, training), "epochs",
                       "train_loss")
    commands = {"play": partial(training.go, math.inf), "pause": partial(training.go, 0),
                "step": partial(training.go, 1), "reset": training.restart, "save": training.save_weights}

    @app.callback(
        {"status": Output("status", "children"), "error": Output("error", "children"),
         "disabled": [Output(name, "disabled") for name in ("play", "step", "pause")],
         "weights": Output("weights", "options"), "chosen": Output("weights", "value"),
         "pictures": [Output(f"picture_{name}", "figure") for name in PICTURES],
         "seen": Output("seen", "data")},
        {"_": [Input("hand", "n_intervals"), *(Input(name, "n_clicks") for name in BUTTONS)],
         "chosen": Input("weights", "value"), "settings": [Input(name, "value") for name in SETTINGS],
         "seen": State("seen", "data")},
        running=[(Output("hand", "disabled"), True, False)])
    def follow(_, chosen, settings, seen):
        triggered = {name.split(".")[0] for name in ctx.triggered_prop_ids} - {"hand"}
        # what was typed just before a click counts, although the browser may send both at once
        if triggered and training.set(dict(zip(SETTINGS, settings))):
            for name in commands.keys() & triggered:
                training.commands.put(commands[name])
            if chosen:
                training.commands.put(partial(training.restart, chosen))
        paths[1:] = sorted(training.output.glob("*_interactive_RESULTS_*.pickle"))[-1:]     # the curve before
        weights = sorted(path.name for path in training.output.glob("[!.]*.weights.h5"))
        shown = {"status": training.status(), "error": training.error, "weights": weights}
        now = str([shown, training.settings])
        if now == seen and not triggered:
            raise PreventUpdate
        fields, playing = training.fields(), bool(training.left)
        return {**shown, "seen": now, "disabled": [playing, playing, not playing],
                "chosen": None,                                         # so that the same can be chosen again
                "pictures": [picture(fields, name) for name in PICTURES]}
    return app


def controls(training):
    """The components above the curves, with the present settings."""
    def field(words, key):
        value = str(training.settings[key])
        return control(words, dcc.Input(value, id=key, debounce=True, className="field"))

    def choice(words, key, options):
        return control(words, dcc.RadioItems(options, training.settings[key], id=key, inline=True))
    weights = dcc.Dropdown([], id="weights", searchable=False, clearable=False, placeholder="choose",
                           className="choice")
    return [
        html.P("A network learns to solve Δx = y on a grid of 8 × 8 cells: from a field y* it predicts x, "
               "the simulator computes y = Δx, and the loss is half the squared error of y, summed over the "
               "cells. Each update sees B new random fields; the test loss is that of 256 fields held out. "
               "The first update of each method and batch size takes longer, because it is compiled. Pausing "
               "leaves a finished curve. Resetting and loading weights begin a new curve; the one before is "
               f"kept under its date. All files are in {training.output.resolve()}.", className="quiet"),
        html.Div(id="error", className="problem", role="alert"),
        html.Div([*(html.Button(text, id=name) for name, text in BUTTONS.items()),
                  control("load weights", weights)], className="controls"),
        html.Div([choice("method", "method", list(METHODS)), field("η of Adam", "adam_rate"),
                  field("η of HIG and GN", "power_rate"), field("truncation τ", "truncation"),
                  field("batch size B", "batch_size")], className="controls"),
        html.Div([choice("fields", "source", {"held out": "held out", "batch": "of the last batch"}),
                  field("entry, 0 or more, at most the last", "entry")], className="controls"),
        html.Div([dcc.Graph(id=f"picture_{name}", config={"displayModeBar": False},
                            style={"height": "min(240px, 42vw)"}) for name in PICTURES],
                 className="pictures"),
        dcc.Store(id="seen"), dcc.Interval(id="hand", interval=300)]


def picture(fields, name):
    """The plotly figure of a field; x and its truth share a range of colours, and so do y and y*."""
    scale = next((pair for pair in (("x_gt", "x"), ("y_target", "y")) if name in pair), (name,))
    shown = np.concatenate([fields[other].ravel() for other in scale])
    limit = float(np.abs(shown[np.isfinite(shown)]).max(initial=1e-9))  # of a network that has not diverged
    figure = px.imshow(fields[name], zmin=-limit, zmax=limit, origin="lower", title=PICTURES[name],
                       color_continuous_scale="RdBu_r")
    figure.update_layout(LAYOUT, margin={"l": 2, "r": 2, "t": 30, "b": 2}, coloraxis_colorbar_thickness=8)
    return figure.update_xaxes(visible=False, fixedrange=True).update_yaxes(visible=False, fixedrange=True)


@contextmanager
def training_page(output):
    """Trains into the folder `output` (Path) while the block runs; gives the Dash app that commands it.

    Raises:
        OSError: the folder cannot be written.
        BlockingIOError: another process trains into that folder.
    """
    check_writable(output)
    module = load("Poisson.interactive.trainer")                        # TensorFlow loads here
    with locked(output / module.NAME):
        training = module.Training(output, SETTINGS)
        training.start()
        try:
            yield by_hand_app(training)
        finally:
            training.end()
