"""Charts with matplotlib: the style that all charts share, and SVG documents that depend on the numbers alone."""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Control characters, which a name may contain and an XML document may not, and halves of surrogate pairs.
_NOT_IN_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
# The colours of all charts. The report's page replaces them by its own, which follow its light or dark mode.
INK, ACCENT, SECOND, FAINT = "#1d2124", "#0f6173", "#b4541a", "#9aa3a8"


@contextmanager
def drawing() -> Iterator[None]:
    """Draw with the settings of all charts, inside a ``with`` statement."""
    import matplotlib

    settings = {
        "svg.hashsalt": "mobilenets-tf",  # without a salt, ids in the SVG are random
        "svg.fonttype": "none",  # keeps text as text, instead of drawing its letters
        "font.size": 10,
        "text.color": INK,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlesize": 10,
        "axes.titlelocation": "left",
        "legend.frameon": False,
        "text.parse_math": False,  # a "$" in the name of a layer or file does not begin a formula
    }
    with matplotlib.rc_context(settings):
        yield


def finish(axes: "Axes", across: str, up: str = "") -> None:
    """Label the axes of a chart and give its lines their colours.

    across, up: labels of the horizontal and the vertical axis. Without ``up`` the grid has vertical lines only.
    """
    axes.set_xlabel(across, color=INK)
    axes.set_ylabel(up, color=INK)
    axes.tick_params(which="both", color=FAINT, labelcolor=INK)
    axes.grid(axis="both" if up else "x", color=FAINT, alpha=0.35, linewidth=0.6)
    axes.set_axisbelow(True)
    for spine in axes.spines.values():
        spine.set_color(FAINT)


def to_svg(figure: "Figure", transparent: bool = False) -> str:
    """Write a matplotlib ``Figure`` as an SVG document. transparent: leave out the white background."""
    stream = io.StringIO()
    no_metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(stream, format="svg", metadata=no_metadata, transparent=transparent)
    return _NOT_IN_XML.sub("?", stream.getvalue())
