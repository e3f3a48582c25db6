"""Pictures with matplotlib: the settings that all share, and SVG text with the same bytes for the same numbers."""

import io
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def drawing() -> Iterator[None]:
    """The settings of every chart: the salt settles the names of an SVG's parts, which would be random; text stays
    text."""
    import matplotlib

    settings = {
        "svg.hashsalt": "mobilenets-tf",
        "svg.fonttype": "none",
        "font.size": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "text.parse_math": False,  # names of layers and files are no formulas
    }
    with matplotlib.rc_context(settings):
        yield


def to_svg(figure, transparent: bool = False) -> str:
    """A matplotlib figure as an SVG document."""
    stream = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(stream, format="svg", metadata=nothing, transparent=transparent)
    return stream.getvalue()
