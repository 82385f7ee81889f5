"""The progress line of a training run, on stderr."""

import math
import sys
import time

WIDTH = 24                  # characters of the bar
EVERY = 0.2                 # seconds between two updates on a terminal
LINES = 10                  # lines of a whole run where stderr is not a terminal, as in a log file


def last_known(values):
    """The last of the floats that is not NaN, since not every epoch is evaluated; NaN if all are."""
    return next((value for value in reversed(values) if not math.isnan(value)), math.nan)


class Progress:
    """One line: bar, epoch, losses, time left of the budget, whichever of max_time and epochs ends the run first.

    Args:
        label: str in front, the optimizer's name.
        max_time: seconds of training allowed.
        epochs: number of epochs allowed, or None.
        quiet: print nothing.
    """

    def __init__(self, label, max_time, epochs, quiet):
        self.label, self.max_time, self.epochs, self.quiet = label, max_time, epochs, quiet
        self.terminal = sys.stderr.isatty()
        self.shown_at, self.lines, self.open = -math.inf, 0, False

    def message(self, text):
        """A line of its own."""
        if not self.quiet:
            print("\r\x1b[K" * self.open + f"{self.label}: {text}", file=sys.stderr, flush=True)
            self.open = False

    def update(self, epoch, seconds, curve):
        """Shows the state after `epoch` epochs and `seconds` of training; `curve` maps names to lists of values."""
        if self.quiet:
            return
        done, left = seconds / self.max_time, self.max_time - seconds
        if self.epochs is not None and epoch / self.epochs > done:
            done, left = epoch / self.epochs, seconds * (self.epochs / epoch - 1)
        now = time.perf_counter()
        if self.terminal and now - self.shown_at > EVERY:
            bar = "█" * int(WIDTH * min(done, 1)) + "░" * (WIDTH - int(WIDTH * min(done, 1)))
            print(f"\r\x1b[K{self.label} {bar} {self._losses(epoch, curve)}, {max(left, 0):.0f} s left",
                  end="", file=sys.stderr, flush=True)
            self.shown_at, self.open = now, True
        elif not self.terminal and done * LINES >= self.lines + 1:
            self.lines = int(done * LINES)
            self.message(f"{self._losses(epoch, curve)}, {max(left, 0):.0f} s left")

    @staticmethod
    def _losses(epoch, curve):
        return f"epoch {epoch}, train loss {curve['train_loss'][-1]:.3e}, test loss {last_known(curve['test_loss']):.3e}"
