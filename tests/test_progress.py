"""Progress where standard error is no terminal, and names that a terminal would take for commands."""

import io
import sys

from mobilenets_tf import progress
from mobilenets_tf.progress import Display, printable, track


def test_a_line_every_ten_seconds_and_not_one_an_image(capsys, monkeypatch):
    """Two kinds of work in turn, each image half a second: 200 images in 100 seconds."""
    clock = iter(range(10_000))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock) / 4)
    with Display() as display:
        for _ in track(range(200), "reading", display):
            display("preparing", 0, 1)
            display("preparing", 1, 1)
    lines = capsys.readouterr().err.splitlines()
    assert lines[:3] == ["reading 0/200", "preparing 0/1", "preparing 1/1"]
    assert "reading 200/200" in lines and len(lines) <= 3 + 1 + 150 / 10
    assert len(lines) > 10


def test_each_epochs_result_is_a_line(capsys):
    with Display() as display:
        for epoch in range(1, 4):
            display(f"epoch {epoch}/3: top-1 50.0%", 1, 1)
    assert len(capsys.readouterr().err.splitlines()) == 3


def test_what_a_terminal_would_obey_is_escaped():
    assert printable("größer\n\x1b[31m\x07\u202e\udc80") == r"größer" + "\n" + r"\x1b[31m\x07\u202e\udc80"


def test_progress_shows_markup_and_control_characters_as_text(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    for stream in (io.StringIO(), Terminal()):
        monkeypatch.setattr(sys, "stderr", stream)
        with Display() as display:
            display("reading [bold]a[/bold]\x1b[2J.png [/x]", 1, 3)
        assert "[bold]a[/bold]" in stream.getvalue() and "\x1b[2J" not in stream.getvalue().replace("\x1b[2K", "")
