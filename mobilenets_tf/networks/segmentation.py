"""DeepLabv3, R-ASPP and LR-ASPP: the class of every place, from one feature map or two."""

from keras import layers, ops

from mobilenets_tf.errors import RequestError
from mobilenets_tf.networks.blocks import conv_bn
from mobilenets_tf.networks.features import features
from mobilenets_tf.networks.heads import CONVENTION, check_positive, on_backbone

# Which of the backbones' reduced tails arXiv 1905.02244 counts in its table 7 (its "RF2").
_REDUCED = {"mobilenet_v2": "outputs", "mobilenet_v3_large": "blocks", "mobilenet_v3_small": "blocks"}


def DeepLabV3(
    backbone="mobilenet_v2",
    input_shape=(512, 512, 3),
    classes=21,
    weights=None,
    dropout_rate=0.1,
    name=None,
    *,
    output_stride=16,
    atrous_rates=(6, 12, 18),
    filters=256,
    last_convolution=False,
    reduced_tail=False,
    convention=None,
    **backbone_options,
):
    """DeepLabv3 (Chen et al. 2017, arXiv 1706.05587) on a classifier of this package, as a functional ``keras.Model``.

    Branches on one feature map: a 1x1 convolution, a dilated 3x3 convolution for each rate, and the mean of the whole
    image; they are joined and mixed by a 1x1 convolution, and another gives the classes. On MobileNetV2 4,523,541
    parameters and 5,070,209,024 multiply-adds; with ``atrous_rates=()``, as arXiv 1801.04381, table 7, advises for
    phones, 2,113,557 and 2,603,958,272.

    Args:
        backbone: the registry name of a classifier.
        input_shape: (height, width, 3), sides at least 32, all fixed; they need not be equal.
        classes: with the background, where it is one.
        weights: None (random); a tag of the backbone's ("imagenet") or the path of a classifier's weight file, for the
            backbone alone; or a ``.keras`` or ``.weights.h5`` file of such a segmenter: with other classes its
            classifier is fresh.
        dropout_rate: before the classifier, in training.
        output_stride: input pixels a place of the feature map and of the logits: 32, 16 or 8. Below 32 the backbone
            trades strides for dilation.
        atrous_rates: dilation of the 3x3 convolutions at output stride 16; at 8 they are doubled, so that they see the
            same picture. Empty for none.
        filters: of each branch and of their mixture.
        last_convolution: read the 1280 channels of MobileNetV2's or EfficientNet-Lite's last convolution. Left False,
            the bottleneck before it (the paper's V2*), and the convolution is left out. Others have no such choice.
        reduced_tail: MobileNetV2 and V3: half the filters from stride 32 on (arXiv 1905.02244, table 7, RF2); the tail
            is fresh.
        convention: the backbone's padding and BatchNorm epsilon; None takes the weight set's, else its own.
        backbone_options: more of the backbone's: alpha, drop_connect_rate, reparameterized, ...

    Returns:
        ``keras.Model``: (N, height, width, 3) -> ``logits`` (N, height / stride, width / stride, classes), rounded up.

    Raises:
        RequestError: an argument out of range, or weights that are not to be found or do not fit.
    """
    check_positive(classes=classes, filters=filters)
    if any(not isinstance(rate, int) or rate < 1 for rate in atrous_rates):
        raise RequestError(f"atrous_rates={atrous_rates!r}: expected whole numbers above 0, at output stride 16.")
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
    backbone="mobilenet_v2",
    input_shape=(512, 512, 3),
    classes=19,
    weights=None,
    name=None,
    *,
    output_stride=16,
    filters=256,
    reduced_tail=False,
    convention=None,
    **backbone_options,
):
    """R-ASPP (arXiv 1905.02244, section 6.4): ``DeepLabV3`` without its dilated convolutions, nor dropout.

    On MobileNetV2 with Cityscapes' 19 classes 2,113,043 parameters. Arguments, output and errors are ``DeepLabV3``'s.
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
    backbone="mobilenet_v3_large",
    input_shape=(512, 512, 3),
    classes=19,
    weights=None,
    name=None,
    *,
    output_stride=16,
    filters=128,
    reduced_tail=False,
    convention=None,
    **backbone_options,
):
    """Lite R-ASPP (arXiv 1905.02244, figure 10) on a classifier of this package, as a functional ``keras.Model``.

    A 1x1 convolution of the last feature, scaled by gates from large windows of it, goes to the size of the feature of
    stride 8; each of the two gives logits, which are added. On MobileNetV3 with a reduced tail, as the paper has it,
    1,505,550 parameters for Cityscapes' 19 classes (small: 467,486).

    The windows are the paper's 49x49 places, 16 rows and 20 columns apart, for 1024x2048 pixels at output stride 16.
    For other sizes they keep their proportion to the shorter side (25x25, 8 and 10 apart for 512x1024). Where a single
    one would fit, as in a square, it would leave out a border: then the gates are of the whole map, as torchvision's
    always are.

    Args:
        output_stride: of the last feature: 32 or 16.
        filters: of the 1x1 convolution and the gates.

    The other arguments, the output, which has stride 8, and the errors are ``DeepLabV3``'s.
    """
    check_positive(classes=classes, filters=filters)
    if output_stride not in (16, 32):
        raise RequestError(f"output_stride={output_stride!r}: expected 16 or 32; the logits' is 8.")

    def head(body):
        coarse, fine = _last(body), features(body)[8]
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
    """The feature of the last stage; of MobileNetV2, what its convolution to 1280 channels reads."""
    return list(features(body).values())[-1]


def _resize(x, height: int, width: int):
    # Not layers.Resizing, which takes "training" for true where nothing is said of it, and tells the layers behind.
    return ops.image.resize(x, (height, width), interpolation="bilinear")


def _windows(x, name: str):
    """Means of the paper's windows (see ``LRASPP``), or of the whole map."""
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
