"""EfficientNet-Lite0-4: EfficientNet for integer hardware: ReLU6, no squeeze-and-excite, stem and head not scaled.

Source: tensorflow/tpu, models/official/efficientnet/lite (README and efficientnet_lite_builder.py).
"""

import math

import keras

from mobilenets_tf.networks.blocks import Dilator, conv_bn, image_input, inverted_residual, make_divisible, top
from mobilenets_tf.weights.load import resolve

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


def _build(
    size, input_shape, include_top, weights, pooling, classes, classifier_activation, dropout_rate, name,
    drop_connect_rate, output_stride, convention,
):  # fmt: skip
    width, depth, resolution, default_dropout = SIZES[size]
    source = resolve(weights, f"efficientnet_lite{size}", convention=convention)
    dilate = Dilator(output_stride)
    inputs = x = image_input(input_shape or (resolution, resolution, 3))
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
    dropout = default_dropout if dropout_rate is None else dropout_rate
    x = top(x, include_top, pooling, classes, classifier_activation, dropout)
    model = keras.Model(inputs, x, name=name or f"efficientnet_lite{size}")
    source.load_into(model)
    return model


def _builder(size: int, parameters: str, multiply_adds: str):
    def build(
        input_shape=None,
        include_top=True,
        weights=None,
        pooling=None,
        classes=1000,
        classifier_activation="softmax",
        dropout_rate=None,
        name=None,
        *,
        drop_connect_rate=0.2,
        output_stride=32,
        convention=None,
    ):
        return _build(
            size, input_shape, include_top, weights, pooling, classes, classifier_activation, dropout_rate, name,
            drop_connect_rate, output_stride, convention,
        )  # fmt: skip

    _, _, resolution, dropout = SIZES[size]
    build.__name__ = build.__qualname__ = f"EfficientNetLite{size}"
    build.__doc__ = f"""EfficientNet-Lite{size} as a functional ``keras.Model``.

    {parameters} parameters, {multiply_adds} multiply-adds at {resolution}x{resolution}.

    Args:
        input_shape: (height, width, 3), sides at least 32 or None; left out, {resolution}x{resolution}.
        include_top: end in the classifier.
        weights: None (random), a tag ("imagenet"), or the path of a weight file; see ``weights.load.resolve``.
        pooling: without the top: None, "avg" or "max".
        classes: size of the classifier. Other than the weight set's: the backbone is kept, the head is fresh.
        classifier_activation: "softmax", or None for logits.
        dropout_rate: before the classifier, in training; left out, {dropout}.
        drop_connect_rate: stochastic depth: the chance, in training, that a sample skips a residual block, rising
            linearly from 0 at the first block to this at the last.
        output_stride: 32; 16 or 8 trade strides for dilation.
        convention: padding and BatchNorm epsilon; None takes the weight set's, else TensorFlow's.

    Returns:
        ``keras.Model``: (N, height, width, 3) -> (N, classes). Its input wants ``(pixel - 127) / 128``.

    Raises:
        RequestError: an argument out of range, or weights that are not to be found or do not fit.
    """
    return build


EfficientNetLite0 = _builder(0, "4,652,008", "385,187,552")
EfficientNetLite1 = _builder(1, "5,416,680", "600,185,232")
EfficientNetLite2 = _builder(2, "6,092,072", "859,736,272")
EfficientNetLite3 = _builder(3, "8,197,096", "1,383,321,872")
EfficientNetLite4 = _builder(4, "13,006,568", "2,553,034,336")
