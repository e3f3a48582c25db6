"""The bar chart of the sensitivities of layers: an SVG document with the same bytes for the same numbers."""

import math
from collections.abc import Sequence

from mobilenets_tf.drawing import drawing, to_svg
from mobilenets_tf.quantize.sensitivity import Sensitivity

_ROW = 0.22  # height of a layer's row, in inches


def draw(rows: Sequence[Sensitivity], title: str) -> str:
    """Draw a horizontal bar for each layer, in the order of ``rows``, the most sensitive layer on top.

    The bar is the signal-to-noise ratio at the model's output in dB with this layer alone quantised, the mark is the
    same at the layer's own output. A layer that does not change the model's output has no bar.
    """
    from matplotlib.figure import Figure

    places = range(len(rows))
    finite = [row.output_db if math.isfinite(row.output_db) else 0.0 for row in rows]
    marks = [row.layer_db if math.isfinite(row.layer_db) else math.nan for row in rows]
    with drawing():
        figure = Figure(figsize=(9, 1.4 + _ROW * len(rows)), layout="constrained")
        axes = figure.subplots()
        axes.barh(places, finite, color="tab:blue", label="at the model's output")
        axes.plot(marks, places, "|", color="tab:orange", label="at the layer's output")
        axes.set_yticks(places, [row.layer for row in rows], fontsize=7)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xlabel("signal to noise with this layer alone quantised, dB (shorter: more sensitive)")
        axes.set_title(title)
        axes.legend(loc="upper right", fontsize=7)
        axes.grid(axis="x", alpha=0.3)
        return to_svg(figure)
