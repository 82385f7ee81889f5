"""The progress of a training run on stderr: a bar that fits the terminal, or plain lines in a log file."""

import math
import sys
from contextlib import suppress

from tqdm import tqdm

EVERY = 0.2                 # seconds between two updates on a terminal
LINES = 10                  # lines of a whole run where stderr is not a terminal, as in a log file


def last_known(values):
    """The last of the floats that is not NaN (not every epoch is evaluated); NaN if all are."""
    return next((value for value in reversed(values) if not math.isnan(value)), math.nan)


def say(text):
    """Writes a line to stderr, above a bar. If nobody reads it, because Ctrl-C has also ended a `tee` behind
    this process, or because the terminal was closed, training goes on all the same.
    """
    with suppress(OSError):
        tqdm.write(text, sys.stderr)
        sys.stderr.flush()


class Progress:
    """Bar, epoch, losses, and the time left until max_time or epochs ends the run.

    Args:
        label: str in front, the optimizer's name.
        max_time: seconds of training allowed.
        epochs: number of epochs allowed, or None.
        quiet: print nothing.
    """

    def __init__(self, label, max_time, epochs, quiet):
        self.label, self.max_time, self.epochs, self.quiet = label, max_time, epochs, quiet
        self.lines, self.bar = 0, None

    def message(self, text):
        """A line of its own, above the bar."""
        if not self.quiet:
            say(f"{self.label}: {text}")

    def update(self, epoch, seconds, curve):
        """Shows the state after `epoch` epochs and `seconds` of training; `curve` is a dict of lists."""
        if self.quiet:
            return
        done, left = seconds / self.max_time, self.max_time - seconds
        if self.epochs is not None and epoch / self.epochs > done:
            done, left = epoch / self.epochs, seconds * (self.epochs / epoch - 1)
        text = (f"epoch {epoch}, train {curve['train_loss'][-1]:.2e}, test "
                f"{last_known(curve['test_loss']):.2e}, {max(left, 0):.0f} s left")
        if sys.stderr.isatty():
            if self.bar is None:
                self.bar = tqdm(total=1.0, desc=text, file=sys.stderr, leave=False, dynamic_ncols=True,
                                miniters=0, mininterval=EVERY, bar_format=f"{self.label} {{bar}} {{desc}}")
            self.bar.set_description_str(text, refresh=False)
            self.bar.update(min(done, 1) - self.bar.n)
        elif done * LINES >= self.lines + 1:
            self.lines = int(done * LINES)
            self.message(text)

    def close(self):
        """Takes the bar away."""
        if self.bar is not None:
            with suppress(OSError):                                     # of a terminal that was closed
                self.bar.close()
            self.bar = None
