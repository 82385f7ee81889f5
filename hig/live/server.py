"""A page for this machine alone: a Dash app on 127.0.0.1 that loads nothing from elsewhere, and its server.

Other pages in the same browser can reach 127.0.0.1, too, and a foreign host name may be made to point there.
Requests with a Host header other than 127.0.0.1 or localhost are therefore refused.
"""

import logging
import signal
import socket
from pathlib import Path

import dash
from werkzeug.serving import make_server

from hig.runs.cli import SettingsError

HOST = "127.0.0.1"


def make_app(title, layout):
    """A Dash app with the style and the scripts of assets/; `layout()` is called when the page is loaded."""
    app = dash.Dash("hig.live.server", title=title, update_title=None,
                    assets_folder=str(Path(__file__).parent / "assets"))
    app.layout = layout
    app.server.config["TRUSTED_HOSTS"] = [HOST, "localhost"]
    return app


def serve(app, port):
    """Prints the address of a Dash app and answers until Ctrl-C or SIGTERM; port 0 is any that is free.

    Raises:
        SettingsError: the port is not available.
    """
    logging.getLogger("werkzeug").setLevel(logging.ERROR)               # not a line for each request
    try:
        listening = socket.create_server((HOST, port))
    except OSError as error:
        raise SettingsError(f"port {port} of this machine cannot be used: {error.strerror}; choose another "
                            "one, like --port 0") from None
    for number in (signal.SIGINT, signal.SIGTERM):  # a shell lets its background jobs ignore Ctrl-C's signal
        signal.signal(number, signal.default_int_handler)
    with listening:
        server = make_server(HOST, port, app.server, threaded=True, fd=listening.fileno())
        print(f"http://{HOST}:{server.port}/ (Ctrl-C ends it; from another machine, first: ssh -L "
              f"{server.port}:{HOST}:{server.port} {socket.gethostname()})", flush=True)
        server.serve_forever()                                          # returns after a KeyboardInterrupt
