"""Charts with matplotlib: the settings that all charts share, and SVG documents that depend on the numbers alone."""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Control characters, which a name may contain and an XML document may not, and halves of surrogate pairs.
_NOT_IN_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")


@contextmanager
def drawing() -> Iterator[None]:
    """Draw with the settings of all charts, inside a ``with`` statement."""
    import matplotlib

    settings = {
        "svg.hashsalt": "mobilenets-tf",  # without a salt, ids in the SVG are random
        "svg.fonttype": "none",  # keeps text as text, instead of drawing its letters
        "font.size": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "text.parse_math": False,  # a "$" in the name of a layer or file does not begin a formula
    }
    with matplotlib.rc_context(settings):
        yield


def to_svg(figure: "Figure", transparent: bool = False) -> str:
    """Write a matplotlib ``Figure`` as an SVG document. transparent: leave out the white background."""
    stream = io.StringIO()
    no_metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(stream, format="svg", metadata=no_metadata, transparent=transparent)
    return _NOT_IN_XML.sub("?", stream.getvalue())
