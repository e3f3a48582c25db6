"""MobileNetV1: depthwise separable convolutions (Howard et al. 2017, arXiv 1704.04861)."""

from typing import NamedTuple

import keras

from mobilenets_tf.conventions import Convention
from mobilenets_tf.networks.blocks import Dilator, InputShape, Pooling, conv_bn, image_input, top
from mobilenets_tf.networks.rows import Rows, table
from mobilenets_tf.weights.load import Weights, resolve


class Row(NamedTuple):
    """One stage: ``blocks`` separable convolutions to ``filters`` channels, the first with ``stride``."""

    filters: int
    blocks: int
    stride: int


# arXiv 1704.04861, table 1. The table prints stride 2 for the last depthwise layer; every implementation has 1, and so
# have the table's output sizes.
ROWS = (
    Row(64, 1, 1),  # 112
    Row(128, 2, 2),  # 56
    Row(256, 2, 2),  # 28
    Row(512, 6, 2),  # 14
    Row(1024, 2, 2),  # 7
)


def MobileNetV1(
    input_shape: InputShape = (224, 224, 3),
    alpha: float = 1.0,
    include_top: bool = True,
    weights: Weights = None,
    pooling: Pooling = None,
    classes: int | None = None,
    classifier_activation: str | None = "softmax",
    dropout_rate: float = 1e-3,
    name: str = "mobilenet_v1",
    *,
    rows: Rows = ROWS,
    output_stride: int = 32,
    convention: Convention | None = None,
) -> keras.Model:
    """Build MobileNetV1 (arXiv 1704.04861, table 1) as a functional ``keras.Model``.

    At alpha 1.0 it has 4,231,976 parameters and 568,740,352 multiply-adds.

    Args:
        input_shape: (height, width, 3), sides at least 32 or None.
        alpha: width multiplier; every layer has ``int(filters * alpha)`` filters. Published: 0.25, 0.5, 0.75, 1.0.
        include_top: whether the network ends in the classifier. False: it ends in the last feature map.
        weights: None (random), the tag of a weight set ("imagenet"), or the path of a weight file; see
            ``weights.load.resolve``.
        pooling: without the top, how the last feature map becomes a vector: "avg", "max", or None (it stays a map).
        classes: number of outputs; None: that of the weights, 1000 without weights. If the weights have another number,
            the classifier stays random, with a warning.
        classifier_activation: "softmax", or None for logits.
        dropout_rate: share of the classifier's inputs that training drops.
        name: name of the model.
        rows: the stages, each (filters, blocks, stride of the first block); filters before the width multiplier.
        output_stride: input pixels per pixel of the last feature map: 32; 16 and 8 replace strides by dilation.
        convention: padding and BatchNorm epsilon. None: the weight set's; without weights, TensorFlow's.

    Returns:
        ``keras.Model``: (N, height, width, 3) -> (N, classes). Its input is ``(pixel - 127.5) / 127.5``.

    Raises:
        RequestError: an argument is out of range; the weights are missing, damaged or do not fit the network.
    """
    stages = table(Row, rows)
    source = resolve(weights, "mobilenet_v1", alpha=alpha, convention=convention)
    dilate = Dilator(output_stride)
    inputs = x = image_input(input_shape)
    x = conv_bn(x, int(32 * alpha), 3, "stem", source.convention, **dilate(2))
    for stage, (filters, blocks, stride) in enumerate(stages, 1):
        for block in range(1, blocks + 1):
            prefix = f"stage{stage}_block{block}"
            step = dilate(stride if block == 1 else 1)
            x = conv_bn(x, None, 3, f"{prefix}_depthwise", source.convention, depthwise=True, **step)
            x = conv_bn(x, int(filters * alpha), 1, f"{prefix}_project", source.convention)
    x = top(x, include_top, pooling, source.classes(classes), classifier_activation, dropout_rate)
    model = keras.Model(inputs, x, name=name)
    source.load_into(model)
    return model
