"""What reaches a terminal: names are shown as they are, and commands in names are not carried out."""

import io
import sys

from mobilenets_tf.progress import Display, printable


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
