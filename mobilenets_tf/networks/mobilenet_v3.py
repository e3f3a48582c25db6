"""MobileNetV3: large, small, and both minimalistic (Howard et al. 2019, arXiv 1905.02244)."""

import keras

from mobilenets_tf.conventions import Convention
from mobilenets_tf.errors import RequestError
from mobilenets_tf.networks.blocks import (
    Dilator,
    InputShape,
    Pooling,
    check_positive,
    conv_bn,
    image_input,
    inverted_residual,
    make_divisible,
    top,
)
from mobilenets_tf.networks.builders import document
from mobilenets_tf.weights.load import Weights, resolve

# A stage is a tuple of blocks: (kernel, expansion, filters, squeeze-and-excite, activation, stride).
# The paper prints the expanded channels. We give the factor to the block's input, as its code does, for widths other
# than 1.
_Block = tuple[int, float, int, bool, str, int]
_RE, _HS = "relu", "hard_swish"
LARGE: tuple[tuple[_Block, ...], ...] = (  # table 1
    ((3, 1, 16, False, _RE, 1),),  # 112
    ((3, 4, 24, False, _RE, 2), (3, 3, 24, False, _RE, 1)),  # 56
    ((5, 3, 40, True, _RE, 2), (5, 3, 40, True, _RE, 1), (5, 3, 40, True, _RE, 1)),  # 28
    (
        (3, 6, 80, False, _HS, 2),  # 14
        (3, 2.5, 80, False, _HS, 1),
        (3, 2.3, 80, False, _HS, 1),
        (3, 2.3, 80, False, _HS, 1),
    ),
    ((3, 6, 112, True, _HS, 1), (3, 6, 112, True, _HS, 1)),  # 14
    ((5, 6, 160, True, _HS, 2), (5, 6, 160, True, _HS, 1), (5, 6, 160, True, _HS, 1)),  # 7
)
SMALL: tuple[tuple[_Block, ...], ...] = (  # table 2
    ((3, 1, 16, True, _RE, 2),),  # 56
    ((3, 4.5, 24, False, _RE, 2), (3, 88 / 24, 24, False, _RE, 1)),  # 28
    ((5, 4, 40, True, _HS, 2), (5, 6, 40, True, _HS, 1), (5, 6, 40, True, _HS, 1)),  # 14
    ((5, 3, 48, True, _HS, 1), (5, 3, 48, True, _HS, 1)),  # 14
    ((5, 6, 96, True, _HS, 2), (5, 6, 96, True, _HS, 1), (5, 6, 96, True, _HS, 1)),  # 7
)
# size: (stages, hidden units of the classifier). Table 2 prints 1280 for small; every implementation has 1024.
SIZES = {"large": (LARGE, 1280), "small": (SMALL, 1024)}


def _builder(size: str, figures: str, minimalistic_figures: str, hidden_note: str):
    stages, published_units = SIZES[size]

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
        minimalistic: bool = False,
        hidden_units: int = published_units,
        output_stride: int = 32,
        reduced_tail: str | None = None,
        convention: Convention | None = None,
    ) -> keras.Model:
        registered = f"mobilenet_v3_{size}" + ("_minimalistic" if minimalistic else "")
        check_positive(hidden_units=hidden_units)
        if reduced_tail not in (None, "outputs", "blocks"):
            raise RequestError(f"reduced_tail={reduced_tail!r}: expected None, 'outputs' or 'blocks'.")
        source = resolve(weights, registered, alpha=alpha, convention=convention)
        outer = _RE if minimalistic else _HS
        dilate = Dilator(output_stride)
        inputs = x = image_input(input_shape)
        # Below alpha 1 the stem keeps its 16 filters, and the hidden layer its units.
        x = conv_bn(
            x, make_divisible(16 * max(1.0, alpha)), 3, "stem", source.convention, activation=outer, **dilate(2)
        )
        for stage, blocks in enumerate(stages, 1):
            for block, (kernel, expansion, filters, squeeze, activation, stride) in enumerate(blocks, 1):
                reduced = reduced_tail is not None and stage == len(stages)
                width = filters / 2 if reduced else filters
                if reduced and reduced_tail == "blocks" and block == 1:  # the other blocks' input is halved already
                    expansion /= 2
                expanded = make_divisible(expansion * x.shape[-1])
                x = inverted_residual(
                    x,
                    make_divisible(width * alpha),
                    3 if minimalistic else kernel,
                    expanded,
                    f"stage{stage}_block{block}",
                    source.convention,
                    activation=_RE if minimalistic else activation,
                    squeezed=make_divisible(expanded / 4) if squeeze and not minimalistic else None,
                    **dilate(stride),
                )
        # The last convolution is a stage, so that detection and segmentation heads read it, not the bottleneck before.
        last = f"stage{len(stages) + 1}"
        x = conv_bn(
            x, make_divisible(6 * x.shape[-1]), 1, f"{last}_block1_pointwise", source.convention, activation=outer
        )
        hidden = make_divisible(hidden_units * max(1.0, alpha)), outer
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
        f"{6 * stages[-1][-1][2]} channels.",
        dropout_rate="share of the classifier's inputs that training drops (the paper's 0.8 is the share it keeps).",
        name="name of the model; None: its registry name.",
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
