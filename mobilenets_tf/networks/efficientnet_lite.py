"""EfficientNet-Lite0-4: EfficientNet for integer hardware: ReLU6, no squeeze-and-excite, stem and head not scaled.

Source: tensorflow/tpu, models/official/efficientnet/lite (README and efficientnet_lite_builder.py).
"""

import math
from typing import NamedTuple

import keras

from mobilenets_tf.conventions import Convention
from mobilenets_tf.errors import RequestError, unknown
from mobilenets_tf.networks.blocks import (
    Dilator,
    InputShape,
    Pooling,
    Squeeze,
    check_squeeze_ratio,
    conv_bn,
    image_input,
    inverted_residual,
    make_divisible,
    top,
)
from mobilenets_tf.networks.builders import document
from mobilenets_tf.networks.rows import ACTIVATIONS, Rows, table
from mobilenets_tf.weights.load import Weights, resolve


class Row(NamedTuple):
    """One stage: ``blocks`` bottlenecks to ``filters`` channels, the first with ``stride``.

    expansion: channels of the depthwise convolution, as a factor to those of the block's input.
    """

    kernel: int
    expansion: float
    filters: int
    blocks: int
    stride: int


# Of Lite0.
ROWS = (
    Row(3, 1, 16, 1, 1),  # 112
    Row(3, 6, 24, 2, 2),  # 56
    Row(5, 6, 40, 2, 2),  # 28
    Row(3, 6, 80, 3, 2),  # 14
    Row(5, 6, 112, 3, 1),  # 14
    Row(5, 6, 192, 4, 2),  # 7
    Row(3, 6, 320, 1, 1),  # 7
)

# size: (width, depth, resolution in pixels, dropout rate), the builder's efficientnet_lite_params.
SIZES = {
    0: (1.0, 1.0, 224, 0.2),
    1: (1.0, 1.1, 240, 0.2),
    2: (1.1, 1.2, 260, 0.3),
    3: (1.2, 1.4, 280, 0.3),
    4: (1.4, 1.8, 300, 0.3),
}


def _depths(rows: tuple[Row, ...], depth: float, all_scaled: bool) -> list[int]:
    """Count the blocks of each stage. The first and the last are not deepened (the builder's ``fix_head_stem``)."""
    fixed = () if all_scaled else (0, len(rows) - 1)
    return [row.blocks if stage in fixed else math.ceil(row.blocks * depth) for stage, row in enumerate(rows)]


def _builder(size: int, parameters: str, multiply_adds: str):
    width, depth, resolution, published_dropout = SIZES[size]
    registered = f"efficientnet_lite{size}"

    def build(
        input_shape: InputShape = (resolution, resolution, 3),
        include_top: bool = True,
        weights: Weights = None,
        pooling: Pooling = None,
        classes: int | None = None,
        classifier_activation: str | None = "softmax",
        dropout_rate: float = published_dropout,
        name: str = registered,
        *,
        rows: Rows = ROWS,
        activation: str = "relu6",
        squeeze_ratio: float = 0.0,
        scaled_stem_and_head: bool = False,
        drop_connect_rate: float = 0.2,
        output_stride: int = 32,
        convention: Convention | None = None,
    ) -> keras.Model:
        stages = table(Row, rows)
        if activation not in ACTIVATIONS:
            raise unknown("activation", activation, ACTIVATIONS)
        check_squeeze_ratio(squeeze_ratio)
        if not 0 <= drop_connect_rate < 1:
            raise RequestError(f"drop_connect_rate={drop_connect_rate!r}: expected at least 0 and below 1.")
        source = resolve(weights, registered, convention=convention)
        dilate = Dilator(output_stride)
        inputs = x = image_input(input_shape)
        outer = width if scaled_stem_and_head else 1.0
        x = conv_bn(x, make_divisible(32 * outer), 3, "stem", source.convention, activation=activation, **dilate(2))
        depths = _depths(stages, depth, scaled_stem_and_head)
        index = 0
        for stage, (row, blocks) in enumerate(zip(stages, depths, strict=True), 1):
            for block in range(1, blocks + 1):
                channels = x.shape[-1]
                squeezed = max(1, int(channels * squeeze_ratio))  # of the block's input, in EfficientNet's code
                x = inverted_residual(
                    x,
                    make_divisible(row.filters * width),
                    row.kernel,
                    make_divisible(row.expansion * channels),
                    f"stage{stage}_block{block}",
                    source.convention,
                    activation=activation,
                    squeeze=Squeeze(squeezed, "sigmoid", activation) if squeeze_ratio else None,
                    drop_rate=drop_connect_rate * index / sum(depths),
                    **dilate(row.stride if block == 1 else 1),
                )
                index += 1
        x = conv_bn(x, make_divisible(1280 * outer), 1, "head", source.convention, activation=activation)
        x = top(x, include_top, pooling, source.classes(classes), classifier_activation, dropout_rate)
        model = keras.Model(inputs, x, name=name)
        source.load_into(model)
        return model

    return document(
        build,
        f"EfficientNetLite{size}",
        registered,
        f"{parameters} parameters, {multiply_adds} multiply-adds at {resolution}x{resolution}",
        "Its input is ``(pixel - 127) / 128``.",
        rows="the stages of Lite0, each (kernel, expansion, filters, blocks, stride of the first block), before the "
        "width and depth of this size. Expanded widths are multiples of 8.",
        activation='after every convolution but the projections. EfficientNet (arXiv 1905.11946) has "silu" (swish).',
        squeeze_ratio="channels inside a squeeze-and-excite, as a share of the block's input channels: EfficientNet "
        "has 0.25; 0: no block has a squeeze-and-excite.",
        scaled_stem_and_head="width and depth also scale the stem, the first and the last stage, and the last "
        "convolution, as in EfficientNet. With the three EfficientNet forms, Lite0 is EfficientNet-B0.",
        drop_connect_rate="stochastic depth: probability, in training, that a sample skips a residual block. It rises "
        "linearly from 0 at the first block to this value at the last.",
    )


EfficientNetLite0 = _builder(0, "4,652,008", "385,187,552")
EfficientNetLite1 = _builder(1, "5,416,680", "600,185,232")
EfficientNetLite2 = _builder(2, "6,092,072", "859,736,272")
EfficientNetLite3 = _builder(3, "8,197,096", "1,383,321,872")
EfficientNetLite4 = _builder(4, "13,006,568", "2,553,034,336")
