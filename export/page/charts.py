"""The charts of the report, as SVG elements of its page.

The charts use the page's colours, light or dark, and its typeface. They are little more than 300 points wide, so that
their text is large enough on a phone.
"""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

from mobilenets_tf.drawing import ACCENT, FAINT, INK, drawing, finish, to_svg

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTH = 4.6  # inches
_PAGE_COLOURS = {INK: "currentColor", ACCENT: "var(--accent)", FAINT: "var(--faint)"}
_PARETO_HEIGHT = 3.4
_LINE = 0.37  # height of a bar with its name above it, in inches


def inline(figure: "Figure", key: str, description: str) -> str:
    """Write a figure as an ``<svg>`` element for a page.

    Args:
        figure: a matplotlib ``Figure``.
        key: prefix of the ids in the chart, which no other chart of the page has.
        description: text for people who cannot see the chart.
    """
    svg = to_svg(figure, transparent=True)
    svg = svg[svg.index("<svg") :]
    box = re.search(r'viewBox="([^"]*)"', svg)[1]
    body = svg[svg.index(">") + 1 :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r'\bid="', f'id="{key}-', body)
    body = re.sub(r'(href="#|url\(#)', rf"\g<1>{key}-", body)
    body = re.sub(r"(font: [^;\"]*?)'DejaVu Sans'[^;\"]*", r"\1system-ui, sans-serif", body)
    for colour, of_page in _PAGE_COLOURS.items():
        body = body.replace(colour, of_page)
    attributes = f'role="img" aria-label="{escape(description)}" viewBox="{box}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" {attributes}>{body}'


def bars(rows: Sequence[tuple[str, float]], label: str, key: str, description: str) -> str:
    """Draw horizontal bars, the first row on top, each with its name above it and its value behind it.

    Args:
        rows: (name, value in dB) of each bar.
        label: label of the horizontal axis.
        key, description: as in ``inline``.
    """
    from matplotlib.figure import Figure

    with drawing():
        figure = Figure(figsize=(WIDTH, 0.5 + _LINE * len(rows)), layout="constrained")
        axes = figure.subplots()
        values = [value for _, value in rows]
        places = [2.0 * place for place in range(len(rows))]
        axes.barh(places, values, height=0.75, color=ACCENT)
        left, right = min(0.0, *values), max(1.0, *values)
        for place, (name, value) in zip(places, rows, strict=True):
            axes.text(left, place - 0.92, _shortened(name), va="center", color=INK)
            axes.text(max(value, 0), place, f" {value:.1f}", va="center", color=INK)
        axes.set_xlim(left, right * 1.12)
        axes.set_ylim(2.0 * len(rows) - 0.9, -1.6)
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        finish(axes, label)
        return inline(figure, key, description)


def course(values: Sequence[float], labels: tuple[str, str], key: str, description: str) -> str:
    """Draw a line through one value for each layer, in the order of the layers. Infinite values leave gaps.

    Args:
        values: one for each layer.
        labels: labels of the horizontal and the vertical axis.
        key, description: as in ``inline``.
    """
    from matplotlib.figure import Figure

    with drawing():
        figure = Figure(figsize=(WIDTH, 2.4), layout="constrained")
        axes = figure.subplots()
        finite = [value if math.isfinite(value) else math.nan for value in values]
        axes.plot(range(1, len(finite) + 1), finite, color=ACCENT, linewidth=1.5, marker=".", markersize=4)
        finish(axes, *labels)
        return inline(figure, key, description)


@dataclass(frozen=True)
class Point:
    """A named point of a Pareto chart: a cost ``x`` (less is better) and a gain ``y`` (more is better).

    cheaper_than: for a cost that is measured, the names of the points whose cost is higher beyond what measurements
        scatter; None: of those with a greater ``x``.
    """

    name: str
    x: float
    y: float
    cheaper_than: tuple[str, ...] | None = None

    def is_cheaper(self, other: "Point") -> bool:
        """Tell whether this point's cost is less than another's."""
        return self.x < other.x if self.cheaper_than is None else other.name in self.cheaper_than

    def beats(self, other: "Point") -> bool:
        """Tell whether this point is better in one of cost and gain, and not worse in the other."""
        if self.y == other.y:
            return self.is_cheaper(other)
        return self.y > other.y and not other.is_cheaper(self)


def front(points: Iterable[Point]) -> list[Point]:
    """Return the Pareto front, the points that no other point beats, the lowest cost first."""
    points = list(points)
    best = [point for point in points if not any(other.beats(point) for other in points)]
    return sorted(best, key=lambda point: (point.x, -point.y))


def pareto(points: Sequence[Point], labels: tuple[str, str], key: str, description: str) -> str:
    """Draw points with their names; those on the Pareto front are filled and joined.

    The axis of costs is logarithmic if the costs differ by more than a factor of ten.

    Args:
        points: costs in any unit, gains as shares of 1.
        labels: labels of the horizontal and the vertical axis.
        key, description: as in ``inline``.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator, NullFormatter, PercentFormatter, ScalarFormatter

    with drawing():
        figure = Figure(figsize=(WIDTH, _PARETO_HEIGHT), layout="constrained")
        axes = figure.subplots()
        best = front(points)
        axes.plot([p.x for p in best], [p.y for p in best], color=ACCENT, linewidth=1, drawstyle="steps-post")
        for point in points:
            fill = ACCENT if point in best else "none"
            axes.plot(point.x, point.y, "o", color=ACCENT, markerfacecolor=fill, markersize=7)
        low, high = min(point.x for point in points), max(point.x for point in points)
        if high > 10 * low:
            axes.set_xscale("log")
            axes.set_xlim(low / 1.3, high * (high / low) ** 0.35)
            axes.xaxis.set_major_formatter(ScalarFormatter())
            axes.xaxis.set_minor_formatter(NullFormatter())
        else:
            axes.set_xlim(0, 1.35 * high)
        bottom, top = min(point.y for point in points), max(point.y for point in points)
        margin = max(0.15 * (top - bottom), 0.005)
        axes.set_ylim(bottom - margin, top + margin)
        axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=1))
        # The positions of the points in printer's points.
        across, up = 0.8 * 72 * WIDTH, 0.8 * 72 * _PARETO_HEIGHT
        shares = axes.transLimits.transform(axes.transScale.transform([(point.x, point.y) for point in points]))
        for point, rise in zip(points, _rises([p.name for p in points], shares * (across, up)), strict=True):
            axes.annotate(point.name, (point.x, point.y), (6, rise), textcoords="offset points", va="center", color=INK)
        finish(axes, *labels)
        return inline(figure, key, description)


def _rises(names: Sequence[str], places) -> list[float]:
    """Return how far above its point each name has to stand so that names and points do not overlap.

    All lengths are in printer's points.
    """
    lines: list[tuple[float, float, float]] = []  # left end, right end and middle of each name that has its place
    rises = [0.0] * len(names)
    for number in sorted(range(len(names)), key=lambda number: (places[number][0], -places[number][1])):
        x, y = places[number]
        left, right = x + 6, x + 6 + 6 * len(names[number])

        def clear(rise, left=left, right=right, y=y):
            others = (low < right and left < high and abs(y + rise - line) < 12 for low, high, line in lines)
            return not any(others) and not any(left - 4 < a < right and abs(y + rise - b) < 10 for a, b in places)

        rises[number] = next((rise for rise in (9, -9, 21, -21, 33, -33) if clear(rise)), 9)
        lines.append((left, right, y + rises[number]))
    return rises


def _shortened(name: str, length: int = 52) -> str:
    return name if len(name) <= length else f"...{name[3 - length :]}"
