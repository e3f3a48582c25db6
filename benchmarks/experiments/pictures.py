"""The pictures of the page: SVGs with the same bytes for the same numbers."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from experiments import spiral
from experiments.results import Line
from mobilenets_tf.drawing import ACCENT, FAINT, INK, SECOND, drawing, finish, to_svg

WIDTH, ROW = 8.0, 0.34  # inches
FAMILIES = {"V1": (INK, "s"), "V2": (SECOND, "o"), "V3": (ACCENT, "^")}


def accuracies(lines: Sequence[Line]) -> str:
    """Draw the top-1 of each variant with its interval."""
    with drawing():
        figure = Figure(figsize=(WIDTH, 1.0 + ROW * len(lines)), layout="constrained")
        axes = figure.add_subplot()
        for place, line in enumerate(lines):
            mean, low, high = (100 * value for value in line.top1)
            colour = FAINT if line.base is None else ACCENT
            axes.plot([low, high], [place, place], "-", color=colour, linewidth=2)
            axes.plot([mean], [place], "o", color=colour)
        axes.set_yticks(range(len(lines)), [line.variant.label for line in lines])
        axes.set_ylim(len(lines) - 0.5, -0.5)
        finish(axes, "top-1 of the small network, % (95 % interval)")
        return to_svg(figure)


def latencies(labels: Sequence[str], ratios: dict[str, Sequence[float]]) -> str:
    """Draw the latency of each variant, as a ratio. ratios: scheme -> values."""
    with drawing():
        figure = Figure(figsize=(WIDTH, 1.2 + 1.4 * ROW * len(labels)), layout="constrained")
        axes = figure.add_subplot()
        for number, ((scheme, values), colour) in enumerate(zip(ratios.items(), (ACCENT, SECOND), strict=False)):
            at = [place + 0.38 * (number - 0.5) for place in range(len(labels))]
            axes.barh(at, values, 0.34, color=colour, label=scheme)
            for y, value in zip(at, values, strict=True):
                axes.annotate(
                    f"{value:.2f}", (value, y), (3, 0), textcoords="offset points", va="center_baseline", fontsize=8
                )
        axes.axvline(1, color=INK, linewidth=0.8, linestyle=":")
        axes.set_yticks(range(len(labels)), labels)
        axes.set_ylim(len(labels) - 0.5, -0.5)
        axes.margins(x=0.08)
        axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2)
        finish(axes, "latency of the paper's network, as a ratio; shorter is less")
        return to_svg(figure)


def against_multiply_adds(lines: Sequence[Line]) -> str:
    """Draw top-1 over multiply-adds of the small networks, a line for each family."""
    with drawing():
        figure = Figure(figsize=(WIDTH, 4.2), layout="constrained")
        axes = figure.add_subplot()
        for family, (colour, marker) in FAMILIES.items():
            own = [line for line in lines if line.variant.label.startswith(family)]
            if not own:
                continue
            own.sort(key=lambda line: line.small["macs"])
            across = [line.small["macs"] / 1e6 for line in own]
            top1, low, high = 100 * np.transpose([line.top1 for line in own])
            axes.errorbar(
                across, top1, [top1 - low, high - top1], color=colour, marker=marker, label=f"MobileNet{family}",
                capsize=3,
            )  # fmt: skip
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter("{x:.2g}")
        axes.legend(loc="lower right")
        finish(axes, "multiply-adds of the small network, millions", "top-1, %")
        return to_svg(figure)


def spirals() -> str:
    """Draw the spiral, and what comes back from each number of dimensions. What is lost has another colour."""
    points = spiral.spiral()
    with drawing():
        figure = Figure(figsize=(WIDTH, 1.9), layout="constrained")
        panels = figure.subplots(1, 1 + len(spiral.DIMENSIONS))
        panels[0].scatter(*points.T, s=2, color=INK)
        panels[0].set_title("input")
        for axes, dimensions in zip(panels[1:], spiral.DIMENSIONS, strict=True):
            back, found = spiral.through_relu(points, dimensions, np.random.default_rng(0))
            axes.scatter(*back[found].T, s=2, color=ACCENT)
            axes.scatter(*back[~found].T, s=2, color=SECOND)
            axes.set_title(f"n = {dimensions}")
        for axes in panels:
            axes.set_aspect("equal", adjustable="datalim")
            axes.set_axis_off()
        return to_svg(figure)
