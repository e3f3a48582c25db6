"""MobileNetV2 (arXiv 1801.04381): linear bottlenecks, and what the shortcut connects."""

from dataclasses import replace
from typing import TYPE_CHECKING

from experiments.variants import CLASSES, Experiment, Variant

if TYPE_CHECKING:
    import keras

# For 32 pixels. Three blocks a stage, so that expansions have neighbours of their shape.
SMALL_ROWS = ((1, 16, 1, 1), (6, 32, 3, 2), (6, 64, 3, 2))
SMALL = 0.5  # of the width


def network(alpha: float = 1.0, **steps):
    """Give the builder of a MobileNetV2. steps: arguments of ``mobilenets_tf.MobileNetV2``."""

    def build(small: bool, side: int) -> "keras.Model":
        from mobilenets_tf import MobileNetV2

        if not small:
            return MobileNetV2(alpha=alpha, **steps)
        return MobileNetV2((side, side, 3), SMALL * alpha, classes=CLASSES, rows=SMALL_ROWS, dropout_rate=0.0, **steps)

    return build


BASE = Variant("v2", "linear bottlenecks, shortcut between bottlenecks", network(), "72.0 %")
WIDTHS = tuple(
    Variant(f"v2_width_{alpha}", f"V2, width {alpha:g}", network(alpha), published)
    for alpha, published in ((1.4, "74.7 %"), (0.5, "65.4 %"))
)

EXPERIMENTS = (
    Experiment(
        "v2_bottlenecks",
        "MobileNetV2: linear bottlenecks, and the shortcut",
        "A non-linearity in the bottleneck costs accuracy. A shortcut between bottlenecks is better than one between "
        "expansions, and both are better than none.",
        "arXiv 1801.04381, figure 6, which has curves and no numbers",
        "rank in the figure",
        (
            replace(BASE, published="best"),
            Variant("v2_relu", "ReLU6 in the bottlenecks", network(linear=False), "lower"),
            Variant("v2_expansions", "shortcut between expansions", network(shortcut="expansions"), "lower"),
            Variant("v2_none", "no shortcut", network(shortcut=None), "lowest"),
        ),
    ),
)
