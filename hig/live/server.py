"""A page for this machine alone: a Dash app on 127.0.0.1 that loads nothing from elsewhere, and its server.

Other pages in the same browser can reach 127.0.0.1, too. Three things protect this one. Requests with a Host
header other than 127.0.0.1 or localhost are refused, because a foreign host name may be made to point here.
No foreign page can show this one in a frame. The browser blocks every request of this page to another machine
(Content-Security-Policy).
"""

import logging
import signal
import socket
from pathlib import Path

import dash
from werkzeug.serving import make_server

from hig.runs.cli import SettingsError

HOST = "127.0.0.1"
POLICY = ("default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
          "img-src 'self' data: blob:; frame-ancestors 'none'")


def make_app(title):
    """A Dash app without layout, styled by assets/page.css; its `server` (Flask) refuses foreign hosts.

    By assets/alive.js the page says when the server is gone; when it is back, dcc.Interval "tick" goes on.
    """
    app = dash.Dash("hig.live.server", title=title, update_title=None,
                    assets_folder=str(Path(__file__).parent / "assets"))
    app.server.config["TRUSTED_HOSTS"] = [HOST, "localhost"]
    app.server.add_url_rule("/alive", view_func=lambda: ("", 204))

    @app.server.after_request
    def protect(response):
        response.headers["Content-Security-Policy"] = POLICY
        return response
    return app


def serve(app, port):
    """Prints the address of the page and answers until Ctrl-C or SIGTERM.

    Args:
        app: Dash app.
        port: int; 0 for any that is free.

    Raises:
        SettingsError: the port is not available.
    """
    logging.getLogger("werkzeug").setLevel(logging.ERROR)               # not a line for each request
    try:
        with socket.create_server((HOST, port)) as listening:
            server = make_server(HOST, port, app.server, threaded=True, fd=listening.fileno())
    except OSError as error:
        raise SettingsError(f"port {port} of this machine cannot be had: {error.strerror}; choose another "
                            "one, like --port 0") from None
    server.daemon_threads = True

    def stop(number, frame):
        raise KeyboardInterrupt
    try:
        for number in (signal.SIGINT, signal.SIGTERM):  # background jobs of a shell ignore Ctrl-C's signal
            signal.signal(number, stop)
        print(f"http://{HOST}:{server.port}/ (Ctrl-C ends it; from another machine, first: "
              f"ssh -L {server.port}:{HOST}:{server.port} {socket.gethostname()})", flush=True)
        server.serve_forever()
    except KeyboardInterrupt:
        pass
    finally:
        server.server_close()
