"""SSD and SSDLite: boxes and scores from six feature maps (Liu et al. 2016, arXiv 1512.02325).

There are two layouts. MobileNetV1 to V3 have that of TensorFlow's object detection API (research/object_detection,
ssd_mobilenet_v*_feature_extractor): boxes and classes are predicted from the maps by separate layers. The MobileViTs
have that of apple/ml-cvnets (SingleShotDetector): each map is projected first, and boxes and classes share one
depthwise convolution. Where SSD has a 3x3 convolution, SSDLite has a depthwise and a 1x1 convolution (arXiv
1801.04381, section 6.2).

Both layouts have as many anchors per pixel, because ``mobilenets_tf.networks.heads.anchors`` serves both.
"""

import math
import re
from dataclasses import dataclass
from typing import Any

import keras
from keras import layers

from mobilenets_tf.conventions import Convention
from mobilenets_tf.networks.blocks import InputShape, activate, check_positive, conv_bn
from mobilenets_tf.networks.builders import CONVENTION, on_backbone
from mobilenets_tf.networks.features import expansion, feature
from mobilenets_tf.weights.load import Weights

ANCHORS = (3, 6, 6, 6, 6, 6)  # per pixel of each map, from the finest on
PRIOR = 0.01  # each score before training, so that the many empty anchors do not dominate the loss (arXiv 1708.02002)
_LEVEL = re.compile(r"ssd_level\d+_boxes")


@dataclass(frozen=True)
class HeadLayout:
    """The maps that follow the backbone's two, and how predictions read them.

    extras: of each further map, the filters of the 1x1 convolution before it (None: there is none) and its own filters.
    pooled: the last map is the mean of the map before it, one pixel, instead of a strided convolution.
    projections: filters to which each map is projected for its predictions; None: the maps stay as they are.
    activation: activation after every BatchNorm, but for those of depthwise convolutions of ``projections``.
    """

    extras: tuple[tuple[int | None, int], ...]
    activation: str
    pooled: bool = False
    projections: tuple[int, ...] | None = None


TENSORFLOW = HeadLayout(((256, 512), (128, 256), (128, 256), (64, 128)), "relu6")
CVNETS = HeadLayout(
    ((None, 256), (None, 128), (None, 128), (None, 64)),
    "relu",
    pooled=True,
    projections=(512, 256, 256, 128, 128, 64),
)


def SSD(
    backbone: str = "mobilenet_v2",
    input_shape: InputShape = (320, 320, 3),
    classes: int = 80,
    weights: Weights = None,
    classifier_activation: str | None = "sigmoid",
    name: str | None = None,
    *,
    lite: bool = True,
    reduced_tail: bool = False,
    convention: Convention | None = None,
    **backbone_options: Any,
) -> keras.Model:
    """Build SSDLite (arXiv 1801.04381, section 6.2) or SSD (arXiv 1512.02325) on a classifier's features.

    SSDLite on MobileNetV2 with 80 classes has 4,337,013 parameters and 788,830,144 multiply-adds at 320x320.

    The finest of six feature maps has stride 16. In TensorFlow's layout, on a backbone with inverted residuals
    (MobileNetV2, V3, EfficientNet-Lite), it is the expansion in the first block of stride 32; otherwise it is the last
    feature map of stride 16. The second is the backbone's last feature map, of MobileNetV2 the 1280 channels. Four more
    maps follow, each of half the resolution.

    Args:
        backbone: the registry name of a classifier.
        input_shape: (height, width, 3), sides at least 32, all fixed.
        classes: number of kinds of objects, without the background.
        weights: None (random); the tag of a weight set of the backbone ("imagenet") or the path of a classifier's
            weight file, for the backbone alone; or a ``.keras`` or ``.weights.h5`` file of such a detector. If that
            file has another number of classes, the layers that depend on it stay random, with a warning.
        classifier_activation: "sigmoid", or None for logits.
        name: name of the model; None: its registry name.
        lite: True: SSDLite. False: SSD, whose head has full 3x3 convolutions: on MobileNetV2 14.8 M parameters in the
            head instead of 2.1 M.
        reduced_tail: MobileNetV2 and V3: half the filters from stride 32 on (the last two rows of arXiv 1905.02244,
            table 6). The weights do not fit this tail, which stays random.
        convention: padding and BatchNorm epsilon of the backbone. None: the weight set's; without weights, its own.
        backbone_options: further arguments of the backbone's builder: alpha, drop_connect_rate, reparameterized, ...

    Returns:
        ``keras.Model``: (N, height, width, 3) -> two outputs for A anchors. Each pixel of the finest map has 3 anchors,
        each pixel of the other maps 6, in the order of ``anchors.ssd_anchors(grids(model))``:

        * ``boxes`` (N, A, 4): ty, tx, th, tw relative to the anchor, in TFLite's scales: (centre - anchor's centre) /
          anchor's side x 10, and ln(side / anchor's side) x 5;
        * ``scores`` (N, A, classes + 1); column 0 is the background. Without the activation it is called ``logits``.

    Raises:
        RequestError: an argument is out of range; the weights are missing, damaged or do not fit the network.
    """
    check_positive(classes=classes)
    name = name or f"ssd{'lite' if lite else ''}_{backbone}" + ("_reduced" if reduced_tail else "")
    layout = CVNETS if backbone.startswith("mobilevit") else TENSORFLOW
    options = backbone_options | ({"reduced_tail": "outputs"} if reduced_tail else {})

    def head(body):
        fine = expansion(body, 32) if layout is TENSORFLOW else None
        maps = [feature(body, 16) if fine is None else fine, body.output]
        for number in range(1, len(layout.extras) + 1):
            maps.append(_extra(maps[-1], number, layout, lite))
        levels = [_predict(x, level, classes, layout, lite) for level, x in enumerate(maps, 1)]
        boxes, logits = (_join([level[name] for level in levels], name) for name in ("boxes", "logits"))
        scores = layers.Activation(classifier_activation, name="scores")(logits) if classifier_activation else logits
        return [boxes, scores]

    return on_backbone(head, backbone, name, input_shape, weights, convention, options)


def _extra(x, number: int, layout: HeadLayout, lite: bool):
    """Append map ``number`` of the extras, counted from 1: half the resolution of ``x``, or its mean."""
    name, (squeezed, filters) = f"ssd_extra{number}", layout.extras[number - 1]
    options: dict[str, Any] = {"convention": CONVENTION, "activation": layout.activation}
    if layout.pooled and number == len(layout.extras):
        x = layers.GlobalAveragePooling2D(keepdims=True, name=f"{name}_pool")(x)
        return activate(layers.Conv2D(filters, 1, use_bias=False, name=f"{name}_conv")(x), layout.activation, name)
    if squeezed:
        x = conv_bn(x, squeezed, 1, f"{name}_squeeze", **options)
    if not lite:
        return conv_bn(x, filters, 3, name, stride=2, **options)
    return conv_bn(_depthwise(x, name, layout, stride=2), filters, 1, f"{name}_project", **options)


def _depthwise(x, name: str, layout: HeadLayout, stride: int = 1):
    activation = None if layout.projections else layout.activation
    name = f"{name}_depthwise"
    return conv_bn(x, None, 3, name, CONVENTION, stride=stride, activation=activation, depthwise=True)


def _predict(x, level: int, classes: int, layout: HeadLayout, lite: bool):
    """Predict from a map: "boxes" (N, pixels x anchors, 4) and "logits" (N, pixels x anchors, classes + 1)."""
    name = f"ssd_level{level}"
    single = layout.pooled and level == len(ANCHORS)  # one pixel has no neighbours for a 3x3 kernel
    separable = lite and not single
    if layout.projections and not single:
        filters = layout.projections[level - 1]
        if x.shape[-1] != filters:
            x = conv_bn(x, filters, 1, f"{name}_project", CONVENTION, activation=layout.activation)
        if separable:
            x = _depthwise(x, name, layout)

    def predict(part, depth, start):
        y = _depthwise(x, f"{name}_{part}", layout) if separable and not layout.projections else x
        y = layers.Conv2D(
            ANCHORS[level - 1] * depth,
            1 if separable or single else 3,
            padding="same",
            bias_initializer=keras.initializers.Constant(start),
            name=f"{name}_{part}",
        )(y)
        return layers.Reshape((math.prod(y.shape[1:]) // depth, depth), name=f"{name}_{part}_rows")(y)

    return {"boxes": predict("boxes", 4, 0.0), "logits": predict("classifier", classes + 1, -math.log(1 / PRIOR - 1))}


def _join(parts, name: str):
    """Concatenate the rows of all maps, the finest first, in two steps: XNNPACK takes five tensors at a time at most.

    The rows of the small maps are those that are copied twice.
    """
    coarse = layers.Concatenate(axis=1, name=f"ssd_{name}_coarse")(parts[1:])
    return layers.Concatenate(axis=1, name=name)([parts[0], coarse])


def grids(model: keras.Model) -> tuple[tuple[int, int], ...]:
    """Return (rows, columns) of each map of an SSD, from the finest on. The model may come from a file.

    ``anchors.ssd_anchors(grids(model))`` are the model's anchors.
    """
    levels = sorted((layer.name, layer) for layer in model.layers if _LEVEL.fullmatch(layer.name))
    return tuple(tuple(layer.output.shape[1:3]) for _, layer in levels)
