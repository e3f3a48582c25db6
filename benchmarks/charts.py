"""The pictures of ``papers.py``: SVGs with the same bytes for the same numbers."""

import io
import textwrap
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from published import COUNTS, HERE, Comparison, Correlation, Row

from mobilenets_tf.export.speed.timing import Timing

WIDTH = 9.0  # inches
BAR = 0.155
PUBLISHED = ("#8c8c8c", "#b3b3b3", "#d4d4d4")  # the sources' columns
OURS = "#1f5fa8"
FAMILIES = {  # how the networks' names begin: label, colour, marker
    "mobilenet_v1": ("MobileNetV1", "#5a5a5a", "s"),
    "mobilenet_v2": ("MobileNetV2", "#d9822b", "o"),
    "mobilenet_v3": ("MobileNetV3", "#b5345b", "^"),
    "efficientnet_lite": ("EfficientNet-Lite", "#3a8f4d", "D"),
    "mobileone": ("MobileOne", OURS, "v"),
    "mobilevit": ("MobileViT v1, v2, v3", "#7d4fb3", "P"),
}


def bars(
    comparison: Comparison, rows: Sequence[Row], series: Mapping[str, Sequence[float | None]], texts: Sequence[str]
) -> str:
    """For each row that has a base, a bar a column, the last one ours, with its ratio at its end.

    series: column -> the rows' ratios. texts: of the caption, a paragraph each.
    """
    several = sum(row.base is None for row in rows) > 1
    shown = [place for place, row in enumerate(rows) if row.base or not several]
    figure, (axes,) = _figure(comparison.title, texts, BAR * (len(series) + 0.8) * len(shown), 1)
    handles = []
    for number, (column, values) in enumerate(series.items()):
        ours = column == HERE
        thickness = 1 / (len(series) + 0.8)
        at = [y + (number - (len(series) - 1) / 2) * thickness for y in range(len(shown))]
        lengths = [values[place] for place in shown]
        colour = OURS if ours else PUBLISHED[number]
        bar = [length or 0 for length in lengths]
        handles.append(axes.barh(at, bar, 0.92 * thickness, color=colour, label=column))
        for y, length in zip(at, lengths, strict=True):
            axes.annotate(
                "no figure to compare with" if length is None else f"{length:.2f}", (length or 0, y), (3, 0),
                textcoords="offset points", va="center_baseline", fontsize=7,
                color=OURS if ours else "#444444", weight="bold" if ours else "normal",
                bbox={"boxstyle": "square,pad=0.05", "color": "white", "linewidth": 0},
            )  # fmt: skip
    axes.axvline(1, color="#444444", linewidth=0.8, linestyle=":", zorder=0)
    axes.set_yticks(range(len(shown)), [rows[place].label for place in shown], fontsize=8)
    axes.set_ylim(len(shown) - 0.5, -0.5)
    axes.margins(x=0.07)
    what = comparison.ratio or f"latency, as a ratio to {rows[0].label}'s"
    axes.set_xlabel(f"{what}; shorter is less", fontsize=8)
    axes.tick_params(axis="y", length=0)
    axes.legend(
        handles=handles, loc="lower right", bbox_to_anchor=(1, 1), ncols=len(handles), fontsize=8, frameon=False
    )
    return _svg(figure)


def scatter(
    correlation: Correlation,
    rows: Sequence[Row],
    timings: Sequence[Timing],
    counted: Sequence[Mapping[str, int]],
    table: Mapping[str, Sequence[float]],
    texts: Sequence[str],
) -> str:
    """Latency over parameters and over multiply-adds, a mark for each network, by family.

    counted: each row's counts. table: rank correlations, ours of all networks among them. texts: as in ``bars``.
    """
    figure, panels = _figure(correlation.title, texts, 4.0, len(COUNTS))
    latencies = np.array([timing.median_ms for timing in timings])
    ours = next(values for label, values in table.items() if label.startswith(f"{HERE}, all"))
    for number, (axes, (kind, label)) in enumerate(zip(panels, COUNTS.items(), strict=True)):
        millions = np.array([counts[kind] for counts in counted]) / 1e6
        for start, (family, colour, marker) in FAMILIES.items():
            chosen = [place for place, row in enumerate(rows) if row.network.startswith(start)]
            style = {"color": colour, "marker": marker, "linewidths": 0.4, "edgecolors": "white"}
            axes.scatter(millions[chosen], latencies[chosen], 28, label=family, **style)
        theirs = ", ".join(f"{values[number]:.2f} {column}" for column, values in correlation.published.items())
        axes.set_title(f"rank correlation {ours[number]:.2f} here\nthe paper's: {theirs}", fontsize=8, loc="left")
        axes.set(xscale="log", yscale="log")
        axes.set_xlabel(f"{label}, millions", fontsize=8)
        axes.grid(alpha=0.25)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter("{x:g}")
    panels[0].set_ylabel(f"latency {HERE}, ms", fontsize=8)
    panels[-1].legend(loc="upper left", fontsize=7)
    return _svg(figure)


def _figure(title: str, texts: Sequence[str], height: float, panels: int):
    """A figure with title and caption, and its axes, whose height is given in inches."""
    caption = "\n".join(textwrap.fill(text, 165) for text in texts if text)
    figure = Figure(figsize=(WIDTH, height + 1.2 + 0.13 * caption.count("\n")), layout="constrained")
    figure.suptitle(title, fontsize=11, weight="bold", x=0.01, ha="left")
    figure.supxlabel(caption, fontsize=7, x=0.01, ha="left", color="#444444")
    axes = np.atleast_1d(figure.subplots(1, panels, sharey=True)).tolist()
    for one in axes:
        one.spines[["top", "right"]].set_visible(False)
        one.tick_params(labelsize=8)
    return figure, axes


def _svg(figure: Figure) -> str:
    stream = io.StringIO()
    # The salt settles the names of the SVG's parts, which would be random; text stays text.
    with matplotlib.rc_context({"svg.hashsalt": "mobilenets-tf", "svg.fonttype": "none"}):
        figure.savefig(stream, format="svg", metadata={"Date": None})
    return stream.getvalue()
