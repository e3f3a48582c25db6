"""EfficientNet-Lite: why it has ReLU6 and no squeeze-and-excite: what int8 makes of both forms."""

from typing import TYPE_CHECKING

from experiments.variants import CLASSES, Experiment, Variant

if TYPE_CHECKING:
    import keras

# (kernel, expansion, filters, blocks, stride): for 32 pixels.
SMALL_ROWS = ((3, 1, 8, 1, 1), (3, 6, 16, 2, 2), (5, 6, 24, 2, 1), (3, 6, 40, 2, 2))


def network(activation: str, squeeze_ratio: float):
    """Give the builder of an EfficientNet-Lite0 with another activation or squeeze-and-excite."""
    form = {"activation": activation, "squeeze_ratio": squeeze_ratio}

    def build(small: bool, side: int) -> "keras.Model":
        from mobilenets_tf import EfficientNetLite0

        if not small:
            return EfficientNetLite0(**form)
        return EfficientNetLite0(
            (side, side, 3), classes=CLASSES, rows=SMALL_ROWS, dropout_rate=0.0, drop_connect_rate=0.0, **form
        )

    return build


def _variant(key: str, label: str, published: str, *form) -> Variant:
    return Variant(key, label, network(*form), published, integers=True)


EXPERIMENTS = (
    Experiment(
        "lite_forms",
        "EfficientNet-Lite: why ReLU6",
        "Post-training quantisation of EfficientNet-B0, with swish and squeeze-and-excite, fell from 75 % to 48 %; "
        "of the lite form from 75.1 % to 74.4 %.",
        "tensorflow/tpu, efficientnet/lite/README.md; the story is that of its announcement",
        "float32, int8",
        (
            _variant("lite", "ReLU6 (lite)", "75.1 %, 74.4 %", "relu6", 0.0),
            _variant("lite_swish", "swish", "", "silu", 0.0),
            _variant("lite_squeeze", "ReLU6, squeeze-and-excite", "", "relu6", 0.25),
            _variant("lite_b0", "swish, squeeze-and-excite (B0)", "75 %, 48 %", "silu", 0.25),
        ),
        note="The fall from 75 % to 48 % does not appear at this size, neither with today's stock converter nor with "
        "ours, and neither per channel nor per tensor. A refused file is one that XNNPACK does not run. Where the "
        "inner channels of a squeeze-and-excite are 0 "
        "for every image, the stock converter gives this tensor so small a scale that XNNPACK refuses the convolution. "
        "Ours widens the range of such a tensor (`quantize/steps/model_ranges.py`).",
    ),
)
