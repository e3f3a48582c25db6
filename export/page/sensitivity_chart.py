"""The bar chart of the sensitivities of layers: an SVG document with the same bytes for the same numbers."""

import math
from collections.abc import Sequence

from mobilenets_tf.drawing import ACCENT, INK, SECOND, drawing, finish, to_svg
from mobilenets_tf.quantize.sensitivity import Sensitivity

_ROW = 0.37  # height of a layer's bar with its name above it, in inches
_LONGEST = 70  # letters of a layer's name that fit


def draw(rows: Sequence[Sensitivity], title: str) -> str:
    """Draw a horizontal bar for each layer, in the order of ``rows``, the most sensitive layer on top.

    The bar is the signal-to-noise ratio at the model's output in dB with this layer alone quantised, the mark is the
    same at the layer's own output. A layer that does not change the model's output has no bar.
    """
    from matplotlib.figure import Figure

    places = [2.0 * place for place in range(len(rows))]
    finite = [row.output_db if math.isfinite(row.output_db) else 0.0 for row in rows]
    marks = [row.layer_db if math.isfinite(row.layer_db) else math.nan for row in rows]
    left = min(0.0, *finite)
    with drawing():
        figure = Figure(figsize=(7, 1.3 + _ROW * len(rows)), layout="constrained")
        axes = figure.subplots()
        axes.barh(places, finite, height=0.75, color=ACCENT, label="at the model's output")
        axes.plot(marks, places, "|", color=SECOND, markersize=9, markeredgewidth=2, label="at the layer's own output")
        for place, row in zip(places, rows, strict=True):
            name = row.layer if len(row.layer) <= _LONGEST else f"...{row.layer[3 - _LONGEST :]}"
            axes.text(left, place - 0.92, name, va="center", color=INK)
        axes.set_yticks([])
        axes.set_ylim(2.0 * len(rows) - 0.9, -1.6)
        axes.spines["left"].set_visible(False)
        finish(axes, "signal-to-noise ratio in dB with this layer alone quantised; shorter is more sensitive")
        figure.suptitle(title, x=0.01, ha="left")
        figure.legend(loc="outside upper right", ncols=2)
        return to_svg(figure)
