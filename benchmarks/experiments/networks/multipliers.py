"""The width multiplier of MobileNetV1, V2 and V3: accuracy against multiply-adds, in one picture."""

from dataclasses import replace

from experiments.networks import v1, v2, v3
from experiments.variants import Experiment

EXPERIMENTS = (
    Experiment(
        "multipliers",
        "Width multipliers of MobileNetV1, V2 and V3",
        "Accuracy falls smoothly with the width, and at equal multiply-adds V3 is above V2, and V2 above V1.",
        "arXiv 1704.04861, table 6; arXiv 1801.04381, table 4 and its repository; arXiv 1905.02244, table 3",
        "top-1",
        (
            replace(v1.BASE, label="V1, width 1"), *v1.WIDTHS,
            replace(v2.BASE, label="V2, width 1"), *v2.WIDTHS,
            replace(v3.BASE, label="V3, width 1", published="75.2 %"), *v3.WIDTHS,
        ),
    ),
)  # fmt: skip
