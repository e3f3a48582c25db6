"""Progress where standard error is no terminal."""

from mobilenets_tf import progress
from mobilenets_tf.progress import Display, track


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
