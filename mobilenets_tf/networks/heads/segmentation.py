"""DeepLabv3, R-ASPP and LR-ASPP: segmentation heads that read one feature map of a classifier, or two."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import layers, ops

from mobilenets_tf.conventions import Convention
from mobilenets_tf.errors import RequestError
from mobilenets_tf.networks.blocks import InputShape, check_positive, conv_bn
from mobilenets_tf.networks.builders import CONVENTION, on_backbone
from mobilenets_tf.networks.features import feature, features
from mobilenets_tf.weights.load import Weights

_MOST_RATES = 32
# Which of the backbones' reduced tails arXiv 1905.02244 counts in its table 7 (its "RF2").
_REDUCED = {"mobilenet_v2": "outputs", "mobilenet_v3_large": "blocks", "mobilenet_v3_small": "blocks"}


def DeepLabV3(
    backbone: str = "mobilenet_v2",
    input_shape: InputShape = (512, 512, 3),
    classes: int = 21,
    weights: Weights = None,
    dropout_rate: float = 0.1,
    name: str | None = None,
    *,
    output_stride: int = 16,
    atrous_rates: Sequence[int] = (6, 12, 18),
    filters: int = 256,
    last_convolution: bool = False,
    reduced_tail: bool = False,
    convention: Convention | None = None,
    **backbone_options: Any,
) -> keras.Model:
    """Build DeepLabv3 (Chen et al. 2017, arXiv 1706.05587) on a classifier's features, as a functional ``keras.Model``.

    Its branches read one feature map: a 1x1 convolution, a dilated 3x3 convolution for each rate, and the mean of the
    whole image. They are concatenated and mixed by a 1x1 convolution; another 1x1 convolution gives the classes.
    On MobileNetV2 it has 4,523,541 parameters and 5,070,209,024 multiply-adds; with ``atrous_rates=()``, as arXiv
    1801.04381, table 7, advises for phones, 2,113,557 and 2,603,958,272.

    Args:
        backbone: the registry name of a classifier.
        input_shape: (height, width, 3), sides at least 32, all fixed; they need not be equal.
        classes: number of classes, the background included where it is a class.
        weights: None (random); the tag of a weight set of the backbone ("imagenet") or the path of a classifier's
            weight file, for the backbone alone; or a ``.keras`` or ``.weights.h5`` file of such a segmenter. If that
            file has another number of classes, the classifier stays random, with a warning.
        dropout_rate: share of the classifier's inputs that training drops.
        name: name of the model; None: "deeplabv3_" and the backbone's.
        output_stride: input pixels per pixel of the feature map and of the logits: 32, 16 or 8. The
            backbone replaces strides by dilation for it.
        atrous_rates: dilation of the 3x3 convolutions at output stride 16, where () has none. At 8 the rates are
            doubled, so that the convolutions see the same part of the image.
        filters: filters of each branch and of the convolution that mixes them.
        last_convolution: read the 1280 channels of MobileNetV2's or EfficientNet-Lite's last convolution. False: read
            the bottleneck before it (the paper's V2*) and build no last convolution. Other backbones have none.
        reduced_tail: MobileNetV2 and V3: half the filters from stride 32 on (arXiv 1905.02244, table 7, RF2). The
            weights do not fit this tail, which stays random.
        convention: padding and BatchNorm epsilon of the backbone. None: the weight set's; without weights, its own.
        backbone_options: further arguments of the backbone's builder: alpha, drop_connect_rate, reparameterized, ...

    Returns:
        ``keras.Model``: (N, height, width, 3) -> ``logits`` (N, height / stride, width / stride, classes), rounded up.

    Raises:
        RequestError: an argument is out of range; the weights are missing, damaged or do not fit the network.
    """
    check_positive(classes=classes, filters=filters)
    if len(atrous_rates) > _MOST_RATES or any(not isinstance(rate, int) or rate < 1 for rate in atrous_rates):
        raise RequestError(
            f"atrous_rates={atrous_rates!r:.100}: expected at most {_MOST_RATES} whole numbers above 0, at output "
            "stride 16."
        )
    if not 0 <= dropout_rate < 1:
        raise RequestError(f"dropout_rate={dropout_rate!r}: expected at least 0 and below 1.")

    def head(body):
        x = body.output if last_convolution else _last(body)
        branches = [conv_bn(x, filters, 1, "aspp_pointwise", CONVENTION, activation="relu")]
        for number, rate in enumerate(atrous_rates, 1):
            rate = max(1, rate * 16 // output_stride)
            branches.append(
                conv_bn(x, filters, 3, f"aspp_atrous{number}", CONVENTION, dilation=rate, activation="relu")
            )
        image = layers.GlobalAveragePooling2D(keepdims=True, name="aspp_image_pool")(x)
        image = conv_bn(image, filters, 1, "aspp_image", CONVENTION, activation="relu")
        branches.append(_resize(image, *x.shape[1:3]))
        x = layers.Concatenate(name="aspp_concat")(branches)
        x = conv_bn(x, filters, 1, "aspp_project", CONVENTION, activation="relu")
        if dropout_rate:
            x = layers.Dropout(dropout_rate, name="aspp_dropout")(x)
        return layers.Identity(name="logits")(layers.Conv2D(classes, 1, name="aspp_classifier")(x))

    options = backbone_options | {"output_stride": output_stride} | _tail(backbone, reduced_tail)
    return on_backbone(head, backbone, name or f"deeplabv3_{backbone}", input_shape, weights, convention, options)


def RASPP(
    backbone: str = "mobilenet_v2",
    input_shape: InputShape = (512, 512, 3),
    classes: int = 19,
    weights: Weights = None,
    name: str | None = None,
    *,
    output_stride: int = 16,
    filters: int = 256,
    reduced_tail: bool = False,
    convention: Convention | None = None,
    **backbone_options: Any,
) -> keras.Model:
    """Build R-ASPP (arXiv 1905.02244, section 6.4): ``DeepLabV3`` without dilated convolutions and without dropout.

    On MobileNetV2 it has 2,113,043 parameters for Cityscapes' 19 classes.

    Args:
        name: name of the model; None: "raspp_" and the backbone's.
        backbone, input_shape, classes, weights, output_stride, filters, reduced_tail, convention, backbone_options: as
            in ``DeepLabV3``.

    Returns:
        ``keras.Model``: (N, height, width, 3) -> ``logits`` (N, height / stride, width / stride, classes), rounded up.

    Raises:
        RequestError: an argument is out of range; the weights are missing, damaged or do not fit the network.
    """
    return DeepLabV3(
        backbone,
        input_shape,
        classes,
        weights,
        0.0,
        name or f"raspp_{backbone}",
        output_stride=output_stride,
        atrous_rates=(),
        filters=filters,
        reduced_tail=reduced_tail,
        convention=convention,
        **backbone_options,
    )


def LRASPP(
    backbone: str = "mobilenet_v3_large",
    input_shape: InputShape = (512, 512, 3),
    classes: int = 19,
    weights: Weights = None,
    name: str | None = None,
    *,
    output_stride: int = 16,
    filters: int = 128,
    reduced_tail: bool = False,
    convention: Convention | None = None,
    **backbone_options: Any,
) -> keras.Model:
    """Build Lite R-ASPP (arXiv 1905.02244, figure 10) on a classifier's features, as a functional ``keras.Model``.

    A 1x1 convolution of the last feature map is scaled by gates, which are computed from means over large windows of
    that map, and resized to stride 8. Its logits and those of the backbone's feature map of stride 8 are added. On
    MobileNetV3 with a reduced tail, as in the paper, it has 1,505,550 parameters for Cityscapes' 19 classes (small:
    467,486).

    The paper's windows are 49x49 pixels of the feature map, 16 rows and 20 columns apart, for 1024x2048 pixels at
    output stride 16. For other sizes they keep their proportion to the shorter side (25x25, 8 and 10 apart, for
    512x1024). If the map is too small for two windows, as in a square, the gates are computed from the whole map,
    because one window would leave out its border. torchvision always takes the whole map.

    Args:
        name: name of the model; None: "lraspp_" and the backbone's.
        output_stride: input pixels per pixel of the last feature map: 32 or 16.
        filters: filters of the 1x1 convolution and number of gates.
        backbone, input_shape, classes, weights, reduced_tail, convention, backbone_options: as in ``DeepLabV3``.

    Returns:
        ``keras.Model``: (N, height, width, 3) -> ``logits`` (N, height / 8, width / 8, classes), rounded up.

    Raises:
        RequestError: an argument is out of range; the weights are missing, damaged or do not fit the network.
    """
    check_positive(classes=classes, filters=filters)
    if output_stride not in (16, 32):
        raise RequestError(f"output_stride={output_stride!r}: expected 16 or 32; the logits' is 8.")

    def head(body):
        coarse, fine = _last(body), feature(body, 8)
        gates = _windows(coarse, "lraspp_gate_pool")
        gates = layers.Conv2D(filters, 1, use_bias=False, name="lraspp_gate_conv")(gates)
        gates = layers.Activation("sigmoid", name="lraspp_gate_sigmoid")(gates)
        if gates.shape[1:3] != (1, 1):
            gates = _resize(gates, *coarse.shape[1:3])
        x = conv_bn(coarse, filters, 1, "lraspp_pointwise", CONVENTION, activation="relu")
        x = layers.Multiply(name="lraspp_gate")([x, gates])
        x = layers.Conv2D(classes, 1, name="lraspp_classifier")(_resize(x, *fine.shape[1:3]))
        return layers.Add(name="logits")([x, layers.Conv2D(classes, 1, name="lraspp_fine_classifier")(fine)])

    options = backbone_options | {"output_stride": output_stride} | _tail(backbone, reduced_tail)
    return on_backbone(head, backbone, name or f"lraspp_{backbone}", input_shape, weights, convention, options)


def _last(body):
    """Return the feature map of the last stage; of MobileNetV2, the one before its convolution to 1280 channels."""
    return list(features(body).values())[-1]


def _resize(x, height: int, width: int):
    # Not layers.Resizing: without a training argument it assumes training, and so do the layers after it.
    return ops.image.resize(x, (height, width), interpolation="bilinear")


def _windows(x, name: str):
    """Average over the paper's windows (see ``LRASPP``), or over the whole map."""
    rows, columns = x.shape[1:3]
    side = min(rows, columns)
    window, strides = -(-49 * side // 64), (max(1, round(side * 16 / 64)), max(1, round(side * 20 / 64)))
    if rows < window + strides[0] and columns < window + strides[1]:
        return layers.GlobalAveragePooling2D(keepdims=True, name=name)(x)
    return layers.AveragePooling2D(window, strides, name=name)(x)


def _tail(backbone: str, reduced: bool) -> dict:
    if not reduced:
        return {}
    if backbone not in _REDUCED:
        raise RequestError(f"reduced_tail={reduced!r} is for {', '.join(_REDUCED)}; received backbone={backbone!r}.")
    return {"reduced_tail": _REDUCED[backbone]}
