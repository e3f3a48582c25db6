"""MobileNetV2: inverted residuals and linear bottlenecks (Sandler et al. 2018, arXiv 1801.04381)."""

import keras

from mobilenets_tf.errors import RequestError
from mobilenets_tf.networks.blocks import Dilator, conv_bn, image_input, inverted_residual, make_divisible, top
from mobilenets_tf.weights.load import resolve

# (expansion, filters, blocks, stride of the first block), arXiv 1801.04381 table 2.
STAGES = (
    (1, 16, 1, 1),  # 112
    (6, 24, 2, 2),  # 56
    (6, 32, 3, 2),  # 28
    (6, 64, 4, 2),  # 14
    (6, 96, 3, 1),  # 14
    (6, 160, 3, 2),  # 7
    (6, 320, 1, 1),  # 7
)
TAIL = ("stage6", "stage7", "head")  # of stride 32


def MobileNetV2(
    input_shape=(224, 224, 3),
    alpha=1.0,
    include_top=True,
    weights=None,
    pooling=None,
    classes=1000,
    classifier_activation="softmax",
    dropout_rate=0.2,
    name="mobilenet_v2",
    *,
    output_stride=32,
    reduced_tail=None,
    convention=None,
):
    """MobileNetV2 as a functional ``keras.Model``. At alpha 1.0: 3,504,872 parameters, 300,774,272 multiply-adds.

    Args:
        input_shape: (height, width, 3), sides at least 32 or None.
        alpha: width multiplier; ``make_divisible(filters * alpha, 8)``. The last convolution keeps its 1280 filters
            below 1. Published: 0.35, 0.5, 0.75, 1.0, 1.3, 1.4.
        include_top: end in the classifier.
        weights: None (random), a tag ("imagenet"), or the path of a weight file; see ``weights.load.resolve``.
        pooling: without the top: None, "avg" or "max".
        classes: size of the classifier. Other than the weight set's: the backbone is kept, the head is fresh.
        classifier_activation: "softmax", or None for logits.
        dropout_rate: before the classifier, in training (the paper keeps 0.8).
        output_stride: 32; 16 or 8 trade strides for dilation.
        reduced_tail: "outputs" halves the filters of stages 6 and 7, as the segmenters of arXiv 1905.02244, table 7,
            have them. Weights fill the tail where they fit it; the rest of it is fresh, with a warning.
        convention: padding and BatchNorm epsilon; None takes the weight set's, else TensorFlow's.

    Returns:
        ``keras.Model``: (N, height, width, 3) -> (N, classes). What its input wants depends on the weight set:
        ``model_info("mobilenet_v2")["weights"]``.

    Raises:
        RequestError: an argument out of range, or weights that are not to be found or do not fit.
    """
    if reduced_tail not in (None, "outputs"):
        raise RequestError(f"reduced_tail={reduced_tail!r}: expected None or 'outputs'.")
    source = resolve(weights, "mobilenet_v2", alpha=alpha, convention=convention)
    dilate = Dilator(output_stride)
    inputs = x = image_input(input_shape)
    x = conv_bn(x, make_divisible(32 * alpha), 3, "stem", source.convention, **dilate(2))
    for stage, (expansion, filters, blocks, stride) in enumerate(STAGES, 1):
        if reduced_tail and f"stage{stage}" in TAIL:
            filters /= 2
        for block in range(1, blocks + 1):
            x = inverted_residual(
                x,
                make_divisible(filters * alpha),
                3,
                expansion * x.shape[-1],
                f"stage{stage}_block{block}",
                source.convention,
                **dilate(stride if block == 1 else 1),
            )
    x = conv_bn(x, make_divisible(1280 * max(1.0, alpha)), 1, "head", source.convention)
    x = top(x, include_top, pooling, classes, classifier_activation, dropout_rate)
    model = keras.Model(inputs, x, name=name)
    source.load_into(model, TAIL if reduced_tail else ())
    return model
