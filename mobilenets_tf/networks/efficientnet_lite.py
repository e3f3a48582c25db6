"""EfficientNet-Lite0-4: EfficientNet for integer hardware: ReLU6, no squeeze-and-excite, stem and head not scaled.

Source: tensorflow/tpu, models/official/efficientnet/lite (README and efficientnet_lite_builder.py).
"""

import math

import keras

from mobilenets_tf.conventions import Convention
from mobilenets_tf.networks.blocks import (
    Dilator,
    InputShape,
    Pooling,
    conv_bn,
    image_input,
    inverted_residual,
    make_divisible,
    top,
)
from mobilenets_tf.networks.builders import document
from mobilenets_tf.weights.load import Weights, resolve

# (kernel, expansion, filters, blocks, stride of the first block) of Lite0.
STAGES = (
    (3, 1, 16, 1, 1),  # 112
    (3, 6, 24, 2, 2),  # 56
    (5, 6, 40, 2, 2),  # 28
    (3, 6, 80, 3, 2),  # 14
    (5, 6, 112, 3, 1),  # 14
    (5, 6, 192, 4, 2),  # 7
    (3, 6, 320, 1, 1),  # 7
)

# size: (width, depth, resolution in pixels, dropout rate), the builder's efficientnet_lite_params.
SIZES = {
    0: (1.0, 1.0, 224, 0.2),
    1: (1.0, 1.1, 240, 0.2),
    2: (1.1, 1.2, 260, 0.3),
    3: (1.2, 1.4, 280, 0.3),
    4: (1.4, 1.8, 300, 0.3),
}


def _blocks(stage: int, blocks: int, depth: float) -> int:
    """Repeats of a stage: the first and the last are not deepened (the builder's ``fix_head_stem``)."""
    return blocks if stage in (1, len(STAGES)) else math.ceil(blocks * depth)


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
        drop_connect_rate: float = 0.2,
        output_stride: int = 32,
        convention: Convention | None = None,
    ) -> keras.Model:
        source = resolve(weights, registered, convention=convention)
        dilate = Dilator(output_stride)
        inputs = x = image_input(input_shape)
        x = conv_bn(x, 32, 3, "stem", source.convention, **dilate(2))
        total = sum(_blocks(stage, row[3], depth) for stage, row in enumerate(STAGES, 1))
        index = 0
        for stage, (kernel, expansion, filters, blocks, stride) in enumerate(STAGES, 1):
            for block in range(1, _blocks(stage, blocks, depth) + 1):
                x = inverted_residual(
                    x,
                    make_divisible(filters * width),
                    kernel,
                    expansion * x.shape[-1],
                    f"stage{stage}_block{block}",
                    source.convention,
                    drop_rate=drop_connect_rate * index / total,
                    **dilate(stride if block == 1 else 1),
                )
                index += 1
        x = conv_bn(x, 1280, 1, "head", source.convention)
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
        drop_connect_rate="stochastic depth: probability, in training, that a sample skips a residual block. It rises "
        "linearly from 0 at the first block to this value at the last.",
    )


EfficientNetLite0 = _builder(0, "4,652,008", "385,187,552")
EfficientNetLite1 = _builder(1, "5,416,680", "600,185,232")
EfficientNetLite2 = _builder(2, "6,092,072", "859,736,272")
EfficientNetLite3 = _builder(3, "8,197,096", "1,383,321,872")
EfficientNetLite4 = _builder(4, "13,006,568", "2,553,034,336")
