"""MobileNetV3: large, small, and both minimalistic (Howard et al. 2019, arXiv 1905.02244)."""

from typing import NamedTuple

import keras

from mobilenets_tf.conventions import Convention
from mobilenets_tf.errors import RequestError, unknown
from mobilenets_tf.networks.blocks import (
    Dilator,
    InputShape,
    Pooling,
    Squeeze,
    check_positive,
    check_squeeze_ratio,
    conv_bn,
    image_input,
    inverted_residual,
    make_divisible,
    top,
)
from mobilenets_tf.networks.builders import document
from mobilenets_tf.networks.rows import ACTIVATIONS, Rows, staged_table
from mobilenets_tf.weights.load import Weights, resolve

_RE, _HS = "relu", "hard_swish"


class Row(NamedTuple):
    """One bottleneck.

    expansion: channels of the depthwise convolution, as a factor to those of the block's input. The paper prints the
        channels; the factor, as in its code, also serves widths other than 1.
    squeeze: whether it has a squeeze-and-excite.
    """

    kernel: int
    expansion: float
    filters: int
    squeeze: bool
    activation: str
    stride: int


# Bottlenecks by stage.
LARGE: tuple[tuple[Row, ...], ...] = (  # table 1
    (Row(3, 1, 16, False, _RE, 1),),  # 112
    (Row(3, 4, 24, False, _RE, 2), Row(3, 3, 24, False, _RE, 1)),  # 56
    (Row(5, 3, 40, True, _RE, 2), Row(5, 3, 40, True, _RE, 1), Row(5, 3, 40, True, _RE, 1)),  # 28
    (
        Row(3, 6, 80, False, _HS, 2),  # 14
        Row(3, 2.5, 80, False, _HS, 1),
        Row(3, 2.3, 80, False, _HS, 1),
        Row(3, 2.3, 80, False, _HS, 1),
    ),
    (Row(3, 6, 112, True, _HS, 1), Row(3, 6, 112, True, _HS, 1)),  # 14
    (Row(5, 6, 160, True, _HS, 2), Row(5, 6, 160, True, _HS, 1), Row(5, 6, 160, True, _HS, 1)),  # 7
)
SMALL: tuple[tuple[Row, ...], ...] = (  # table 2
    (Row(3, 1, 16, True, _RE, 2),),  # 56
    (Row(3, 4.5, 24, False, _RE, 2), Row(3, 88 / 24, 24, False, _RE, 1)),  # 28
    (Row(5, 4, 40, True, _HS, 2), Row(5, 6, 40, True, _HS, 1), Row(5, 6, 40, True, _HS, 1)),  # 14
    (Row(5, 3, 48, True, _HS, 1), Row(5, 3, 48, True, _HS, 1)),  # 14
    (Row(5, 6, 96, True, _HS, 2), Row(5, 6, 96, True, _HS, 1), Row(5, 6, 96, True, _HS, 1)),  # 7
)
# size: (stages, hidden units of the classifier). Table 2 prints 1280 for small; every implementation has 1024.
SIZES = {"large": (LARGE, 1280), "small": (SMALL, 1024)}
# The last stage before the paper made it efficient (figure 5): this bottleneck, and a convolution before the pooling.
_ORIGINAL_LAST_ROW = Row(3, 6, 320, False, _HS, 1)


def _builder(size: str, figures: str, minimalistic_figures: str, hidden_note: str):
    published_rows, published_units = SIZES[size]

    def build(
        input_shape: InputShape = (224, 224, 3),
        alpha: float = 1.0,
        include_top: bool = True,
        weights: Weights = None,
        pooling: Pooling = None,
        classes: int | None = None,
        classifier_activation: str | None = "softmax",
        dropout_rate: float = 0.2,
        name: str | None = None,
        *,
        rows: Rows = published_rows,
        minimalistic: bool = False,
        stem_filters: int = 16,
        stem_activation: str | None = None,
        hard_swish_from: int | None = None,
        squeeze_ratio: float = 0.25,
        efficient_last_stage: bool = True,
        hidden_units: int = published_units,
        output_stride: int = 32,
        reduced_tail: str | None = None,
        convention: Convention | None = None,
    ) -> keras.Model:
        registered = f"mobilenet_v3_{size}" + ("_minimalistic" if minimalistic else "")
        check_positive(hidden_units=hidden_units, stem_filters=stem_filters)
        stages = staged_table(Row, rows)
        if stem_activation not in (None, *ACTIVATIONS):
            raise unknown("stem_activation", stem_activation, ACTIVATIONS)
        check_squeeze_ratio(squeeze_ratio)
        if not efficient_last_stage and reduced_tail:
            raise RequestError(f"reduced_tail={reduced_tail!r} is for the efficient last stage.")
        if reduced_tail not in (None, "outputs", "blocks"):
            raise RequestError(f"reduced_tail={reduced_tail!r}: expected None, 'outputs' or 'blocks'.")
        source = resolve(weights, registered, alpha=alpha, convention=convention)
        outer = _RE if minimalistic else _HS
        dilate = Dilator(output_stride)
        inputs = x = image_input(input_shape)
        # Below alpha 1 the stem keeps its filters, and the hidden layer its units.
        stem = make_divisible(stem_filters * max(1.0, alpha))
        x = conv_bn(x, stem, 3, "stem", source.convention, activation=stem_activation or outer, **dilate(2))
        for stage, blocks in enumerate(stages, 1):
            for block, (kernel, expansion, filters, squeeze, activation, stride) in enumerate(blocks, 1):
                reduced = reduced_tail is not None and stage == len(stages)
                width = filters / 2 if reduced else filters
                if reduced and reduced_tail == "blocks" and block == 1:  # the other blocks' input is halved already
                    expansion /= 2
                if hard_swish_from is not None:
                    activation = _HS if filters >= hard_swish_from else _RE
                expanded = make_divisible(expansion * x.shape[-1])
                squeezes = squeeze and squeeze_ratio and not minimalistic
                x = inverted_residual(
                    x,
                    make_divisible(width * alpha),
                    3 if minimalistic else kernel,
                    expanded,
                    f"stage{stage}_block{block}",
                    source.convention,
                    activation=_RE if minimalistic else activation,
                    squeeze=Squeeze(make_divisible(expanded * squeeze_ratio)) if squeezes else None,
                    **dilate(stride),
                )
        # The last convolution is a stage, so that detection and segmentation heads read it, not the bottleneck before.
        last = f"stage{len(stages) + 1}"
        units = make_divisible(hidden_units * max(1.0, alpha))
        if efficient_last_stage:
            width, hidden = make_divisible(6 * x.shape[-1]), (units, outer)
        else:
            kernel, expansion, filters, *_ = _ORIGINAL_LAST_ROW
            expanded = make_divisible(expansion * x.shape[-1])
            filters = make_divisible(filters * alpha)
            x = inverted_residual(
                x, filters, kernel, expanded, f"{last}_block1", source.convention, activation=outer, **dilate(1)
            )
            last, width, hidden = f"stage{len(stages) + 2}", units, None
        x = conv_bn(x, width, 1, f"{last}_block1_pointwise", source.convention, activation=outer)
        x = top(x, include_top, pooling, source.classes(classes), classifier_activation, dropout_rate, hidden=hidden)
        model = keras.Model(inputs, x, name=name or registered)
        source.load_into(model, (f"stage{len(stages)}", last, "hidden") if reduced_tail else ())
        return model

    return document(
        build,
        f"MobileNetV3{size.capitalize()}",
        f"mobilenet_v3_{size}",
        f"At alpha 1.0 {figures}; minimalistic {minimalistic_figures}",
        f'The weight set says how its input is normalised: ``model_info("mobilenet_v3_{size}")["weights"]``.',
        alpha="width multiplier; a layer has ``make_divisible(filters * alpha, 8)`` filters. Published: 0.75, 1.0.",
        include_top="whether the network ends in the classifier. False: it ends in the convolution to "
        f"{6 * published_rows[-1][-1].filters} channels.",
        dropout_rate="share of the classifier's inputs that training drops (the paper's 0.8 is the share it keeps).",
        name="name of the model; None: its registry name.",
        rows="the stages, each a sequence of bottlenecks (kernel, expansion, filters, squeeze, activation, stride); "
        "filters before the width multiplier. Expanded widths are multiples of 8.",
        stem_filters="filters of the first convolution (32 before the paper's hard-swish, section 5.2).",
        stem_activation="its activation; None: hard-swish, or ReLU if minimalistic.",
        hard_swish_from="bottlenecks with at least so many filters have hard-swish, the others ReLU (the paper's table "
        "of activations has 16, 48, 80, 112); None: as the rows say.",
        squeeze_ratio="channels inside a squeeze-and-excite, as a share of the expanded channels; 0: none has it.",
        efficient_last_stage="the paper's efficient last stage (figure 5). False: the original, with a bottleneck to "
        "320 filters more, and a convolution to ``hidden_units`` before the pooling instead of a layer behind it.",
        minimalistic="no squeeze-and-excite, ReLU instead of hard-swish, 3x3 kernels only.",
        hidden_units=f"units of the layer before the classifier{hidden_note}.",
        reduced_tail='"outputs" halves the filters of the last stage\'s outputs and of the convolution after it, as in '
        'the paper\'s smaller detectors (table 6; tensorflow/models, object_detection). "blocks" also halves the '
        "expansion of the stage's first block, as in its segmenters (table 7). None halves nothing. Layers that the "
        "weights then do not fit stay random, with a warning.",
    )


MobileNetV3Large = _builder("large", "5,483,032 parameters, 216,589,760 multiply-adds", "3,924,288 and 209,136,704", "")
MobileNetV3Small = _builder(
    "small",
    "2,542,856 parameters, 56,510,400 multiply-adds",
    "2,044,736 and 52,288,448",
    ": 1024, as in every implementation and weight set; table 2 of the paper prints 1280, and only with 1280 has the "
    "network the 2.9 M parameters of its table 3",
)
