"""The chart of a search: score against latency, predicted and measured."""

from mobilenets_tf.drawing import ACCENT, FAINT, INK, SECOND, drawing, finish, to_svg
from mobilenets_tf.search.found import Found, Place
from mobilenets_tf.training.curves import MEASURES


def draw(found: Found, score: float, measured: tuple[float, float, float] | None, title: str) -> str:
    """Draw a search as an SVG; the same numbers give the same bytes.

    Args:
        found: what the search has found.
        score: of the result, after its training, on the images that compare candidates.
        measured: the result's time as a share of the original's: median, low, high; None if it was not measured.
        title: of the chart.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    with drawing():
        figure = Figure(figsize=(7, 4), layout="constrained")
        axes = figure.add_subplot()
        axes.axvline(found.target_ms, color=INK, linewidth=0.8, linestyle="--")
        axes.annotate(" target", (found.target_ms, 1), xycoords=("data", "axes fraction"), va="top", color=INK)
        for places, style, colour, label in (
            (found.tried, "o", FAINT, "tried, after a short training (predicted)"),
            (found.path, "o-", ACCENT, "the way to the result (predicted)"),
            ([Place(found.base_ms, found.base_score)], "s", INK, "the network as it was (predicted)"),
        ):
            axes.plot(*zip(*places, strict=True), style, color=colour, markersize=4, label=label)
        axes.plot(found.ms, score, "D", color=ACCENT, markersize=7, label="result, trained (predicted)")
        if measured is not None:
            middle, low, high = (share * found.base_ms for share in measured)
            axes.errorbar([middle], [score], xerr=[[middle - low], [high - middle]], fmt="D", color=SECOND,
                          markersize=5, linewidth=1, label="result, trained (measured)")  # fmt: skip
        finish(axes, "latency in ms", MEASURES.get(found.metric, found.metric))
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=None))
        axes.set_title(title)
        axes.legend(loc="lower right")
        return to_svg(figure)
