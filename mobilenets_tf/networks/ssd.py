"""SSD and SSDLite: boxes and scores from six maps of features (Liu et al. 2016, arXiv 1512.02325).

Two layouts. TensorFlow's object detection API (research/object_detection, ssd_mobilenet_v*_feature_extractor), to which
MobileNetV1 to V3 were published: predictions right on the maps, boxes and classes apart. apple/ml-cvnets' (its
SingleShotDetector), to which the MobileViTs were: each map is projected first, and one depthwise convolution serves
both. Where SSD has a 3x3 convolution, SSDLite has a depthwise and a 1x1 one (arXiv 1801.04381, section 6.2).

Anchors are laid on the maps by ``mobilenets_tf.networks.anchors``, which is why both layouts have as many a place.
"""

import math
import re
from dataclasses import dataclass

import keras
from keras import layers

from mobilenets_tf.networks.blocks import activate, conv_bn
from mobilenets_tf.networks.features import expansion, features
from mobilenets_tf.networks.heads import CONVENTION, check_positive, on_backbone

ANCHORS = (3, 6, 6, 6, 6, 6)  # a place, from the finest map on
PRIOR = 0.01  # what every score is before training, so that the many empty places do not drown the rest (1708.02002)
_LEVEL = re.compile(r"ssd_level\d+_boxes")


@dataclass(frozen=True)
class Layout:
    """What stands behind the backbone's two maps.

    extras: of each further map, the filters of the 1x1 convolution before it, None for none, and of its own.
    pooled: the last of them is the mean of the map before instead of a strided convolution, and has but one place.
    projections: filters that each map is brought to for its predictions; None leaves the maps as they are.
    activation: behind every BatchNorm, the depthwise ones of ``projections`` excepted.
    """

    extras: tuple[tuple[int | None, int], ...]
    activation: str
    pooled: bool = False
    projections: tuple[int, ...] | None = None


TENSORFLOW = Layout(((256, 512), (128, 256), (128, 256), (64, 128)), "relu6")
CVNETS = Layout(
    ((None, 256), (None, 128), (None, 128), (None, 64)),
    "relu",
    pooled=True,
    projections=(512, 256, 256, 128, 128, 64),
)


def SSD(
    backbone="mobilenet_v2",
    input_shape=(320, 320, 3),
    classes=80,
    weights=None,
    classifier_activation="sigmoid",
    name=None,
    *,
    lite=True,
    reduced_tail=False,
    convention=None,
    **backbone_options,
):
    """SSDLite, or SSD, on a classifier of this package, as a functional ``keras.Model``.

    SSDLite on MobileNetV2 with 80 classes: 4,337,013 parameters and 788,830,144 multiply-adds at 320x320.

    The finest map has stride 16. It is the expansion of the first block of stride 32 where the backbone has inverted
    residuals (MobileNetV2, V3, EfficientNet-Lite; not in cvnets' layout), else the last feature of stride 16. The
    second is the backbone's last feature, MobileNetV2's 1280 channels; four more follow, each of half the resolution.

    Args:
        backbone: the registry name of a classifier.
        input_shape: (height, width, 3), sides at least 32, all fixed.
        classes: kinds of objects, without the background.
        weights: None (random); a tag of the backbone's ("imagenet") or the path of a classifier's weight file, for the
            backbone alone; or a ``.keras`` or ``.weights.h5`` file of such a detector: with other classes the layers
            that depend on them are fresh.
        classifier_activation: "sigmoid", or None for logits.
        lite: False for SSD, with full 3x3 convolutions in the head: on MobileNetV2 14.8 M parameters there, not 2.1 M.
        reduced_tail: MobileNetV2 and V3: half the filters from stride 32 on (the last two rows of arXiv 1905.02244,
            table 6); the tail is fresh.
        convention: the backbone's padding and BatchNorm epsilon; None takes the weight set's, else its own.
        backbone_options: more of the backbone's: alpha, drop_connect_rate, reparameterized, ...

    Returns:
        ``keras.Model``: (N, height, width, 3) -> two outputs for A anchors, 3 on each place of the finest map and 6 on
        those of the others, row by row (``anchors.ssd_anchors(grids(model))``):

        * ``boxes`` (N, A, 4): ty, tx, th, tw against the anchor in TFLite's scales: (centre - anchor's centre) /
          anchor's side x 10, and ln(side / anchor's side) x 5;
        * ``scores`` (N, A, classes + 1), column 0 the background; called ``logits`` without the activation.

    Raises:
        RequestError: an argument out of range, or weights that are not to be found or do not fit.
    """
    check_positive(classes=classes)
    name = name or f"ssd{'lite' if lite else ''}_{backbone}" + ("_reduced" if reduced_tail else "")
    layout = CVNETS if backbone.startswith("mobilevit") else TENSORFLOW
    options = backbone_options | ({"reduced_tail": "outputs"} if reduced_tail else {})

    def head(body):
        fine = expansion(body, 32) if layout is TENSORFLOW else None
        maps = [features(body)[16] if fine is None else fine, body.output]
        for number in range(1, len(layout.extras) + 1):
            maps.append(_extra(maps[-1], number, layout, lite))
        levels = [_predict(x, level, classes, layout, lite) for level, x in enumerate(maps, 1)]
        boxes, logits = (_join([level[name] for level in levels], name) for name in ("boxes", "logits"))
        scores = layers.Activation(classifier_activation, name="scores")(logits) if classifier_activation else logits
        return [boxes, scores]

    return on_backbone(head, backbone, name, input_shape, weights, convention, options)


def _extra(x, number: int, layout: Layout, lite: bool):
    """A further map, from 1: half the resolution of the one before, or its mean."""
    name, (squeezed, filters) = f"ssd_extra{number}", layout.extras[number - 1]
    options = {"convention": CONVENTION, "activation": layout.activation}
    if layout.pooled and number == len(layout.extras):
        x = layers.GlobalAveragePooling2D(keepdims=True, name=f"{name}_pool")(x)
        return activate(layers.Conv2D(filters, 1, use_bias=False, name=f"{name}_conv")(x), layout.activation, name)
    if squeezed:
        x = conv_bn(x, squeezed, 1, f"{name}_squeeze", **options)
    if not lite:
        return conv_bn(x, filters, 3, name, stride=2, **options)
    return conv_bn(_depthwise(x, name, layout, stride=2), filters, 1, f"{name}_project", **options)


def _depthwise(x, name: str, layout: Layout, stride: int = 1):
    activation = None if layout.projections else layout.activation
    name = f"{name}_depthwise"
    return conv_bn(x, None, 3, name, CONVENTION, stride=stride, activation=activation, depthwise=True)


def _predict(x, level: int, classes: int, layout: Layout, lite: bool):
    """A map's "boxes" (N, places x anchors, 4) and "logits" (N, places x anchors, classes + 1)."""
    name = f"ssd_level{level}"
    single = layout.pooled and level == len(ANCHORS)  # with one place there is nothing around it to look at
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
    """All levels' rows, the finest first. XNNPACK joins five tensors at a time; the small ones are copied twice."""
    coarse = layers.Concatenate(axis=1, name=f"ssd_{name}_coarse")(parts[1:])
    return layers.Concatenate(axis=1, name=name)([parts[0], coarse])


def grids(model) -> tuple[tuple[int, int], ...]:
    """(rows, columns) of the maps of an SSD, just built or loaded from a file, from the finest on.

    ``anchors.ssd_anchors(grids(model))`` are the model's anchors.
    """
    found = sorted((layer.name, layer) for layer in model.layers if _LEVEL.fullmatch(layer.name))
    return tuple(tuple(layer.output.shape[1:3]) for _, layer in found)
