"""The process behind a page that trains, so that TensorFlow is in it alone, and the server's hold on it."""

import multiprocessing
import signal
import threading
import time
from contextlib import suppress

import numpy as np

LEFT_AFTER = 90.0           # seconds without a look after which the page counts as closed: hidden ones look once a minute
LEAVING = 3.0               # seconds in which a page that said goodbye may come back: it was only loaded again


class Session:
    """A training process that is about to follow commands.

    Args:
        train: what the process runs, a function of (connection, output, settings) at the top of a module. Through the
            connection come the commands, tuples of a name and its arguments; of these, ("set", key, value), ("finish",)
            and ("end",) are sent from here. It sends back states: dicts with "busy", "error" (sentences or empty) and,
            once it follows commands, "updates", "settings", "refused" (how many were not taken) and what the page shows.
        output: folder (Path) of its pickle and weights.
        settings: dict, at the beginning.

    Attributes: state, the dict that was sent last, with "version", which counts upwards.
    """

    def __init__(self, train, output, settings):
        context = multiprocessing.get_context("spawn")                  # TensorFlow does not survive a fork
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=train, args=(theirs, output, settings))
        earlier = signal.signal(signal.SIGINT, signal.SIG_IGN)          # inherited: Ctrl-C is for the server, which ends it
        try:
            self.process.start()
        finally:
            signal.signal(signal.SIGINT, earlier)
        theirs.close()                                                  # so that the end of the process is seen
        self.state = {"busy": "TensorFlow is loading", "error": "", "version": int(1000 * time.time())}   # newer than any before
        self.sending, self.ending = threading.Lock(), threading.Event()
        self.settings, self.set_at = dict(settings), 0                  # as sent last, and when the page had them
        self.closed_at = np.inf                                         # when the page counts as closed
        for loop in (self._listen, self._watch_page):
            threading.Thread(target=loop, daemon=True).start()

    def send(self, *command, settings=None):
        """Hands a command over; without effect if the process has ended.

        Args:
            settings: the page's, to be set before the command: {"at": milliseconds, "values": in the order of the first ones}.
                A browser's requests may overtake each other, so that older ones than the last are left out.
        """
        with self.sending, suppress(OSError):
            if settings and settings["at"] >= self.set_at:
                self.set_at = settings["at"]
                for key, value in zip(list(self.settings), settings["values"]):
                    if str(value) != str(self.settings[key]):           # numbers are texts on the page
                        self.settings[key] = value
                        self.connection.send(("set", key, value))
            if command:
                self.connection.send(command)

    def look(self):
        """The state, for a page that is open."""
        self.closed_at = time.monotonic() + LEFT_AFTER
        return self.state

    def leave(self):
        """A page is being closed; others may be open, or it comes back at once."""
        self.closed_at = min(self.closed_at, time.monotonic() + LEAVING)

    def end(self):
        """Ends the process, which leaves a finished pickle behind, after the update that is under way."""
        self.ending.set()
        self.send("end")
        if "updates" not in self.state:                                 # it is still loading: nothing to be lost
            self.process.terminate()
        try:
            self.process.join(1.0)
            if self.process.is_alive():
                print("ending after the update that is being computed; Ctrl-C again ends at once", flush=True)
            self.process.join()
        except KeyboardInterrupt:                                       # a second Ctrl-C; the pickle is a second old
            self.process.terminate()
            self.process.join()

    def _listen(self):
        try:
            while True:
                came = {**self.connection.recv(), "version": self.state["version"] + 1}
                if came.get("refused", 0) != self.state.get("refused", 0):
                    self.settings = dict(came["settings"])              # so that the same may be tried again
                self.state = came
        except (EOFError, OSError):
            self.process.join()
        if not self.ending.is_set():
            reason = self.state["error"] or f"exit code {self.process.exitcode}"
            self.state = {**self.state, "playing": False, "busy": "", "ended": True, "version": self.state["version"] + 1,
                          "error": f"The training process has ended ({reason}). Start dashboard.py again."}

    def _watch_page(self):
        while not self.ending.wait(0.5):
            if time.monotonic() > self.closed_at:
                self.closed_at = np.inf
                self.send("finish")
