"""MobileNetV1 (arXiv 1704.04861): separable convolutions, depth against width, and the two multipliers."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from experiments.variants import CLASSES, Experiment, Variant

if TYPE_CHECKING:
    import keras

ROWS = ((64, 1, 1), (128, 2, 2), (256, 2, 2), (512, 6, 2), (1024, 2, 2))  # the paper's table 1
SHALLOW = (*ROWS[:3], (512, 1, 2), ROWS[4])  # without the five layers of 14 x 14 x 512
# A third of the width and of the depth, and a stride less: for 32 pixels.
SMALL_ROWS = ((64, 1, 1), (128, 2, 2), (256, 2, 2), (512, 3, 1))
SMALL_SHALLOW = (*SMALL_ROWS[:3], (512, 1, 1))
SMALL = 0.375  # of the width


def network(alpha: float = 1.0, shallow: bool = False, resolution: int = 224):
    """Give the builder of a MobileNetV1."""

    def build(small: bool, side: int) -> "keras.Model":
        from mobilenets_tf import MobileNetV1

        if small:
            rows = SMALL_SHALLOW if shallow else SMALL_ROWS
            return MobileNetV1((side, side, 3), SMALL * alpha, classes=CLASSES, rows=rows)
        return MobileNetV1((resolution, resolution, 3), alpha, rows=SHALLOW if shallow else ROWS)

    return build


def full_convolutions(small: bool, side: int) -> "keras.Model":
    """Build MobileNetV1 with a 3x3 convolution in place of each depthwise and 1x1 convolution (table 4)."""
    return _full(SMALL_ROWS, SMALL, side, CLASSES) if small else _full(ROWS, 1.0, 224, 1000)


def _full(rows: Sequence[tuple[int, int, int]], alpha: float, side: int, classes: int) -> "keras.Model":
    import keras

    from mobilenets_tf.conventions import TENSORFLOW
    from mobilenets_tf.networks.blocks import conv_bn, image_input, top

    inputs = image_input((side, side, 3))
    x = conv_bn(inputs, int(32 * alpha), 3, "stem", TENSORFLOW, stride=2)
    for stage, (filters, blocks, stride) in enumerate(rows, 1):
        for block in range(1, blocks + 1):
            step = stride if block == 1 else 1
            x = conv_bn(x, int(filters * alpha), 3, f"stage{stage}_block{block}", TENSORFLOW, stride=step)
    return keras.Model(inputs, top(x, True, None, classes, "softmax", 1e-3), name="full_convolutions")


BASE = Variant("v1", "separable, width 1", network(), "70.6 %")
WIDTHS = tuple(
    Variant(f"v1_width_{alpha}", f"V1, width {alpha:g}", network(alpha), published)
    for alpha, published in ((0.75, "68.4 %"), (0.5, "63.7 %"), (0.25, "50.6 %"))
)
_CROP = 48
RESOLUTIONS = tuple(
    Variant(f"v1_side_{side}", label, network(resolution=published), figure, side=side, crop=_CROP)
    for side, published, label, figure in (
        (48, 224, "48 pixels (the paper: 224)", "70.6 %"),
        (40, 192, "40 pixels (192)", "69.1 %"),
        (32, 160, "32 pixels (160)", "67.2 %"),
    )
)

EXPERIMENTS = (
    Experiment(
        "v1_separable",
        "MobileNetV1: separable against full convolutions, thin against shallow",
        "Full convolutions gain 1.1 points for 8.6 times the multiply-adds. At equal multiply-adds a thin network is "
        "better than a shallow one by 3.1 points.",
        "arXiv 1704.04861, tables 4 and 5",
        "top-1",
        (
            BASE,
            Variant("v1_full", "full convolutions", full_convolutions, "71.7 %"),
            WIDTHS[0],
            Variant("v1_shallow", "shallow", network(shallow=True), "65.3 %"),
        ),
        against={"v1_shallow": "v1_width_0.75"},
    ),
    Experiment(
        "v1_resolution",
        "MobileNetV1: the resolution multiplier",
        "Accuracy falls slowly as the input shrinks.",
        "arXiv 1704.04861, table 7",
        "top-1",
        RESOLUTIONS,
    ),
)
