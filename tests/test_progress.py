"""hig.runs.progress: what a terminal of any width and a log file are shown."""

import fcntl
import io
import os
import pty
import re
import struct
import sys
import termios

import pytest

from hig.runs import progress
from hig.runs.progress import Progress

CURVE = {"train_loss": [1.0, 1.23456e-5], "test_loss": [1.0, 1.23456e-5]}


def shown(columns, monkeypatch, encoding="utf-8"):
    """The lines that a run of 5 epochs writes to a terminal of that width, one over the other or not."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    monkeypatch.setattr(progress, "EVERY", 0.0)
    with os.fdopen(slave, "w", -1, encoding, "replace") as terminal, monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", terminal)
        bar = Progress("Adam_then_HIG", 3600.0, None, quiet=False)
        bar.message("compiling")
        for epoch in range(123450, 123455):
            bar.update(epoch, 1800.0, CURVE)
        bar.close()
        bar.message("finished")
        print(end="\0", file=terminal, flush=True)          # it comes in pieces, so that the end is marked
        text = b""
        while not text.endswith(b"\0"):
            text += os.read(master, 100_000)
    os.close(master)
    return [line.rstrip() for line in re.split(r"[\r\n]+", text[:-1].decode(encoding)) if line.strip()]


@pytest.mark.parametrize("columns, encoding", [(40, "utf-8"), (80, "utf-8"), (132, "utf-8"), (100, "ascii")])
def test_the_bar_fits_the_terminal(monkeypatch, columns, encoding):
    first, *bars, last = shown(columns, monkeypatch, encoding)
    assert (first, last) == ("Adam_then_HIG: compiling", "Adam_then_HIG: finished")
    assert len(bars) >= 5 and max(map(len, bars)) <= columns
    assert all(bar.startswith("Adam_then_HIG") and "epoch"[:columns - 20] in bar for bar in bars)
    if columns >= 80:
        assert bars[-1].endswith("epoch 123454, train 1.23e-05, test 1.23e-05, 1800 s left"[:columns])
    if encoding == "ascii":
        assert not any("?" in bar for bar in bars) and "#" in bars[-1]


def test_a_log_file_gets_ten_plain_lines(monkeypatch):
    log = io.StringIO()
    monkeypatch.setattr(sys, "stderr", log)
    bar = Progress("HIG, lambda 0.01", 1000.0, 200, quiet=False)
    for epoch in range(1, 201):
        bar.update(epoch, 1.0 * epoch, CURVE)
    bar.close()
    lines = log.getvalue().splitlines()
    assert len(lines) == progress.LINES
    for line in lines:
        assert re.fullmatch(r"HIG, lambda 0.01: epoch \d+, train 1.23e-05, test 1.23e-05, \d+ s left", line)
