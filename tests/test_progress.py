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


def screen(text, columns):
    """The lines that a terminal of that width shows: as many as it has scrolled, and the rest."""
    lines, column = [""], 0
    for character in text:
        if character == "\n":
            lines, column = [*lines, ""], 0
        elif character == "\r":
            column = 0
        else:
            if column == columns:                                       # the line is full
                lines, column = [*lines, ""], 0
            lines[-1] = lines[-1][:column] + character + lines[-1][column + 1:]
            column += 1
    return [line.rstrip() for line in lines]


def said(terminal, master):
    """What has been written to the terminal since the last call; it comes in pieces, so that an end is
    marked.
    """
    terminal.write("\0")
    terminal.flush()
    text = b""
    while not text.endswith(b"\0"):
        text += os.read(master, 100_000)
    return text[:-1].decode(terminal.encoding)


def shown(columns, monkeypatch, encoding="utf-8"):
    """What a run of 5 epochs writes to a terminal of that width: the text up to the last update, and the
    whole.
    """
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    monkeypatch.setattr(progress, "EVERY", 0.0)
    try:
        with os.fdopen(slave, "w", encoding=encoding,
                       errors="replace") as terminal, monkeypatch.context() as patch:
            patch.setattr(sys, "stderr", terminal)
            bar = Progress("Adam_then_HIG", 3600.0, None, quiet=False)
            bar.message("compiling")
            for epoch in range(123450, 123455):
                bar.update(epoch, 1800.0, CURVE)
            before = said(terminal, master)
            bar.close()
            bar.message("finished")
            return before, before + said(terminal, master)
    finally:
        os.close(master)


@pytest.mark.parametrize("columns", [40, 80, 132])
def test_the_bar_fits_the_terminal(monkeypatch, columns):
    before, whole = (screen(text.replace("\r\n", "\n"), columns) for text in shown(columns, monkeypatch))
    assert before[0] == "Adam_then_HIG: compiling" and len(before) == 2
    assert "Adam_then_HIG" in before[1] and "epoch"[:columns - 20] in before[1]
    if columns >= 80:
        assert before[1].endswith("epoch 123454, train 1.23e-05, test 1.23e-05, 1800 s left"[:columns])
    assert whole == ["Adam_then_HIG: compiling", "Adam_then_HIG: finished", ""]


def test_a_terminal_without_unicode(monkeypatch):
    before, _ = shown(100, monkeypatch, "ascii")
    assert "?" not in before and "#" in before


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


def test_quiet(capfd):
    bar = Progress("HIG", 1000.0, 2, quiet=True)
    bar.message("compiling")
    bar.update(1, 1.0, CURVE)
    bar.close()
    assert capfd.readouterr() == ("", "")
