"""A page for this machine alone: a Dash app on 127.0.0.1 that loads nothing from elsewhere, and its server.

Other pages in the same browser can reach 127.0.0.1 too. What they could do is refused: a Host header other than
127.0.0.1 or localhost (somebody's host name that is made to point here), being shown in a foreign frame, and, by the
browser itself, every request of our page that would leave the machine (Content-Security-Policy).
"""

import base64
import logging
import signal
import socket
from pathlib import Path

import dash
import numpy as np
from werkzeug.serving import make_server

HOST = "127.0.0.1"
POLICY = ("default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
          "img-src 'self' data: blob:; frame-ancestors 'none'")
GRAPH = {"displaylogo": False, "responsive": True,                      # the logo would be a link to plotly.com,
         "showSendToCloud": False,                                      # and this button would upload the figure there
         "modeBarButtonsToRemove": ["toImage", "select2d", "lasso2d", "autoScale2d"]}
HEARTBEAT = """<div id="gone" role="alert">The server does not answer: what is shown is old. This page goes on by itself when
dashboard.py runs again at this address.</div><script>
(async () => {
    for (let gone = false; ; await new Promise(done => setTimeout(done, 1000))) {
        let answered = false;
        try { answered = (await fetch("alive", {cache: "no-store", signal: AbortSignal.timeout(10000)})).ok } catch {}
        if (answered && gone && window.dash_clientside?.set_props)      // a refresh that was never answered holds it back
            dash_clientside.set_props("tick", {disabled: false});
        gone = !answered;
        document.body.classList.toggle("gone", gone);
    }
})()</script>"""
INK, GRID = "#2b2f36", "#e6e8eb"
LEGEND = {"orientation": "h", "x": 0, "xanchor": "left", "y": 0, "yref": "container", "yanchor": "bottom"}
FONT = {"family": "system-ui, sans-serif", "size": 13, "color": INK}
MARGIN = {"l": 70, "r": 16, "t": 34, "b": 48}                          # at the top the buttons of plotly


def make_app(title):
    """A Dash app without layout, styled by assets/page.css; its `server` (Flask) refuses foreign Host headers.

    Its page says so when the server is gone, and enables the dcc.Interval "tick" when it is back.
    """
    app = dash.Dash("hig.live.server", title=title, update_title=None, assets_folder=str(Path(__file__).parent / "assets"))
    app.server.config["TRUSTED_HOSTS"] = [HOST, "localhost"]

    app.index_string = app.index_string.replace("</body>", f"{HEARTBEAT}</body>")
    app.server.add_url_rule("/alive", view_func=lambda: ("", 204))

    @app.server.after_request
    def protect(response):
        response.headers["Content-Security-Policy"] = POLICY
        return response
    return app


def serve(app, port):
    """Prints the address and answers until Ctrl-C or SIGTERM.

    Args:
        port: int; 0 for any that is free.

    Raises:
        OSError: the port cannot be had.
    """
    logging.getLogger("werkzeug").setLevel(logging.ERROR)               # or it prints a line for each request
    with socket.create_server((HOST, port)) as listening:
        server = make_server(HOST, port, app.server, threaded=True, fd=listening.fileno())
    server.daemon_threads = True

    def stop(number, frame):
        raise KeyboardInterrupt
    for number in (signal.SIGINT, signal.SIGTERM):                      # a shell lets background jobs ignore Ctrl-C's
        signal.signal(number, stop)
    print(f"http://{HOST}:{server.port}/ (Ctrl-C ends it; from another machine, first: "
          f"ssh -L {server.port}:{HOST}:{server.port} {socket.gethostname()})", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        pass
    finally:
        server.server_close()


def axis(title, logarithmic=False, **more):
    """The layout of a plotly axis."""
    return {"title": {"text": title, "standoff": 8}, "type": "log" if logarithmic else "linear", "gridcolor": GRID,
            "zerolinecolor": GRID, "linecolor": "#9aa0a8", "ticks": "outside", "tickcolor": "#9aa0a8",
            "exponentformat": "power", "automargin": True, **({"nticks": 8} if logarithmic else {}), **more}


def packed(values):
    """An array as plotly.js reads it: 8 bytes for each number, in base64; a tenth of the time of writing decimals."""
    return {"dtype": "f8", "bdata": base64.b64encode(np.ascontiguousarray(values, "<f8")).decode()}
