"""MobileNetV2: inverted residuals and linear bottlenecks (Sandler et al. 2018, arXiv 1801.04381)."""

from itertools import accumulate
from operator import mul
from typing import Literal, NamedTuple

import keras
from keras import layers

from mobilenets_tf.conventions import Convention
from mobilenets_tf.errors import RequestError
from mobilenets_tf.networks.blocks import (
    Dilator,
    InputShape,
    Pooling,
    conv_bn,
    expand,
    image_input,
    make_divisible,
    project,
    top,
)
from mobilenets_tf.networks.rows import Rows, table
from mobilenets_tf.weights.load import Weights, resolve


class Row(NamedTuple):
    """One stage: ``blocks`` bottlenecks to ``filters`` channels, the first with ``stride``.

    expansion: channels of the depthwise convolution, as a factor to those of the block's input.
    """

    expansion: float
    filters: int
    blocks: int
    stride: int


# arXiv 1801.04381, table 2.
ROWS = (
    Row(1, 16, 1, 1),  # 112
    Row(6, 24, 2, 2),  # 56
    Row(6, 32, 3, 2),  # 28
    Row(6, 64, 4, 2),  # 14
    Row(6, 96, 3, 1),  # 14
    Row(6, 160, 3, 2),  # 7
    Row(6, 320, 1, 1),  # 7
)
SHORTCUTS = (None, "bottlenecks", "expansions")


def MobileNetV2(
    input_shape: InputShape = (224, 224, 3),
    alpha: float = 1.0,
    include_top: bool = True,
    weights: Weights = None,
    pooling: Pooling = None,
    classes: int | None = None,
    classifier_activation: str | None = "softmax",
    dropout_rate: float = 0.2,
    name: str = "mobilenet_v2",
    *,
    rows: Rows = ROWS,
    linear: bool = True,
    shortcut: Literal["bottlenecks", "expansions"] | None = "bottlenecks",
    output_stride: int = 32,
    reduced_tail: str | None = None,
    convention: Convention | None = None,
) -> keras.Model:
    """Build MobileNetV2 (arXiv 1801.04381, table 2) as a functional ``keras.Model``.

    At alpha 1.0 it has 3,504,872 parameters and 300,774,272 multiply-adds.

    Args:
        input_shape: (height, width, 3), sides at least 32 or None.
        alpha: width multiplier; a layer has ``make_divisible(filters * alpha, 8)`` filters. Below alpha 1 the last
            convolution keeps its 1280. Published: 0.35, 0.5, 0.75, 1.0, 1.3, 1.4.
        include_top: whether the network ends in the classifier. False: it ends in the last feature map.
        weights: None (random), the tag of a weight set ("imagenet"), or the path of a weight file; see
            ``weights.load.resolve``.
        pooling: without the top, how the last feature map becomes a vector: "avg", "max", or None (it stays a map).
        classes: number of outputs; None: that of the weights, 1000 without weights. If the weights have another number,
            the classifier stays random, with a warning.
        classifier_activation: "softmax", or None for logits.
        dropout_rate: share of the classifier's inputs that training drops (the paper keeps 0.8).
        name: name of the model.
        rows: the stages, each (expansion, filters, blocks, stride of the first block); filters before the width
            multiplier. An expanded width is a multiple of 8.
        linear: whether a bottleneck has no activation. False: ReLU6 (figure 6a of the paper).
        shortcut: what is added (the paper's figure 6b): the inputs of "bottlenecks", as published; "expansions": the
            output of each depthwise convolution, to that of the next block if it has the same shape; None: nothing.
        output_stride: input pixels per pixel of the last feature map: 32; 16 and 8 replace strides by dilation.
        reduced_tail: "outputs" halves the filters of the stages of stride 32, as in the segmenters of arXiv 1905.02244,
            table 7; None leaves them. Layers that the weights then do not fit stay random, with a warning.
        convention: padding and BatchNorm epsilon. None: the weight set's; without weights, TensorFlow's.

    Returns:
        ``keras.Model``: (N, height, width, 3) -> (N, classes). The weight set says how its input is normalised:
        ``model_info("mobilenet_v2")["weights"]``.

    Raises:
        RequestError: an argument is out of range; the weights are missing, damaged or do not fit the network.
    """
    if reduced_tail not in (None, "outputs"):
        raise RequestError(f"reduced_tail={reduced_tail!r}: expected None or 'outputs'.")
    if shortcut not in SHORTCUTS:
        raise RequestError(f"shortcut={shortcut!r}: expected 'bottlenecks', 'expansions' or None.")
    stages = table(Row, rows)
    source = resolve(weights, "mobilenet_v2", alpha=alpha, convention=convention)
    dilate = Dilator(output_stride)
    inputs = x = image_input(input_shape)
    x = conv_bn(x, make_divisible(32 * alpha), 3, "stem", source.convention, **dilate(2))
    tail = _stages_of_stride_32(stages) if reduced_tail else ()
    wide = None
    for stage, (expansion, filters, blocks, stride) in enumerate(stages, 1):
        width = filters / 2 if f"stage{stage}" in tail else filters
        for block in range(1, blocks + 1):
            position = f"stage{stage}_block{block}"
            step = dilate(stride if block == 1 else 1)
            before, wide = (
                wide,
                expand(x, 3, make_divisible(expansion * x.shape[-1]), position, source.convention, **step),
            )
            if shortcut == "expansions" and before is not None and before.shape == wide.shape:
                wide = layers.Add(name=f"{position}_depthwise_add")([before, wide])
            x = project(
                wide,
                make_divisible(width * alpha),
                position,
                source.convention,
                shortcut=x if shortcut == "bottlenecks" and step["stride"] == 1 else None,
                activation=None if linear else "relu6",
            )
    x = conv_bn(x, make_divisible(1280 * max(1.0, alpha)), 1, "head", source.convention)
    x = top(x, include_top, pooling, source.classes(classes), classifier_activation, dropout_rate)
    model = keras.Model(inputs, x, name=name)
    source.load_into(model, (*tail, "head") if tail else ())
    return model


def _stages_of_stride_32(stages: tuple[Row, ...]) -> tuple[str, ...]:
    strides = accumulate((row.stride for row in stages), mul, initial=2)  # the stem's
    return tuple(f"stage{stage}" for stage, stride in enumerate(strides) if stride >= 32 and stage)
