"""A live page in the browser: watch and compare training runs, or train a system by hand.

    python dashboard.py                          what the submit scripts of all systems write
    python dashboard.py FOLDER [FOLDER ...]      all pickles below these folders
    python dashboard.py --interactive Poisson [FOLDER]
                                                 play, pause and change HIG, GN and Adam;
                                                 the curve goes to FOLDER

Prints the address of the page, which answers this machine alone, and ends with Ctrl-C. A running training may
be watched: its new points appear within two seconds. TensorFlow is loaded for training only.

Exit status: 0, or 2 with a sentence on stderr if a folder, the port or the package dash cannot be used; 130
for a second Ctrl-C during a long update.
"""

import importlib
import logging
import signal
import socket
import sys
from pathlib import Path

from hig.figures.curves import SYSTEMS
from hig.runs.cli import SettingsError, fail, make_parser, number

HOST = "127.0.0.1"
ROOT = Path(__file__).resolve().parent
BY_HAND = [folder for folder in SYSTEMS.values() if (ROOT / folder / "interactive").is_dir()]


def serve(app, port):
    """Prints the address of a Dash app and answers until Ctrl-C or SIGTERM; port 0 is any that is free.

    Raises:
        SettingsError: the port is not available.
    """
    from werkzeug.serving import make_server

    logging.getLogger("werkzeug").setLevel(logging.ERROR)               # not a line for each request
    try:
        listening = socket.create_server((HOST, port))
    except OSError as error:
        raise SettingsError(f"port {port} of this machine cannot be used: {error.strerror}; choose another "
                            "one, like --port 0") from None
    for which in (signal.SIGINT, signal.SIGTERM):  # a shell lets its background jobs ignore Ctrl-C's signal
        signal.signal(which, signal.default_int_handler)
    with listening:
        server = make_server(HOST, port, app.server, threaded=True, fd=listening.fileno())
        print(f"http://{HOST}:{server.port}/ (Ctrl-C ends it; from another machine, first: ssh -L "
              f"{server.port}:{HOST}:{server.port} {socket.gethostname()})", flush=True)
        server.serve_forever()                                          # returns after a KeyboardInterrupt


def main(arguments=None):
    """Serves the page that the command line asks for until Ctrl-C; returns the exit status."""
    parser = make_parser(__doc__)
    parser.add_argument("folders", nargs="*", metavar="FOLDER", type=Path,
                        help="where the pickles are (default: folders of all systems)")
    parser.add_argument("--port", type=number(int, lambda n: 0 <= n < 2**16, "a number from 0 to 65535"),
                        default=8050, help="of the page, 0 for any that is free (default: %(default)s)")
    parser.add_argument("--interactive", choices=BY_HAND, metavar="SYSTEM",
                        help=f"train by hand; SYSTEM is {' or '.join(BY_HAND)}")
    options = parser.parse_args(arguments)
    if options.interactive and len(options.folders) > 1:
        fail("--interactive writes into one folder")
    if missing := [] if options.interactive else [path for path in options.folders if not path.is_dir()]:
        fail(f"there is no folder {missing[0]}")
    try:
        from hig.live.page import watching_app
        if options.interactive:
            page = importlib.import_module(f"{options.interactive}.interactive.page")
            with page.training_page(*options.folders or [ROOT / options.interactive]) as app:
                serve(app, options.port)
        else:
            folders = options.folders or [ROOT / folder for folder in SYSTEMS.values()]
            serve(watching_app(folders), options.port)
    except ModuleNotFoundError as error:
        if error.name not in ("dash", "flask", "plotly", "werkzeug"):
            raise
        fail("the page needs the package dash: pip install 'hig[live]'")
    except KeyboardInterrupt:                                           # while packages are loaded
        pass
    except (SettingsError, OSError) as error:  # the port, the folder, or another process that trains into it
        fail(str(error))
    return 0


if __name__ == "__main__":
    sys.exit(main())
