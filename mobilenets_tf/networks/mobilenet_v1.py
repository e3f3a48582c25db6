"""MobileNetV1: depthwise separable convolutions (Howard et al. 2017, arXiv 1704.04861)."""

import keras

from mobilenets_tf.networks.blocks import Dilator, conv_bn, image_input, top
from mobilenets_tf.weights.load import resolve

# (filters, blocks, stride of the first block), arXiv 1704.04861 table 1. The table prints "s2" for the last
# depthwise layer; every implementation, and the table's own output sizes, have 1.
STAGES = (
    (64, 1, 1),  # 112
    (128, 2, 2),  # 56
    (256, 2, 2),  # 28
    (512, 6, 2),  # 14
    (1024, 2, 2),  # 7
)


def MobileNetV1(
    input_shape=(224, 224, 3),
    alpha=1.0,
    include_top=True,
    weights=None,
    pooling=None,
    classes=1000,
    classifier_activation="softmax",
    dropout_rate=1e-3,
    name="mobilenet_v1",
    *,
    output_stride=32,
    convention=None,
):
    """MobileNetV1 as a functional ``keras.Model``. At alpha 1.0: 4,231,976 parameters, 568,740,352 multiply-adds.

    Args:
        input_shape: (height, width, 3), sides at least 32 (the paper's resolution multiplier) or None.
        alpha: width multiplier; every layer has ``int(filters * alpha)``. Published: 0.25, 0.5, 0.75, 1.0.
        include_top: end in the classifier.
        weights: None (random), a tag ("imagenet"), or the path of a weight file; see ``weights.load.resolve``.
        pooling: without the top: None, "avg" or "max".
        classes: size of the classifier. Other than the weight set's: the backbone is kept, the head is fresh.
        classifier_activation: "softmax", or None for logits.
        dropout_rate: before the classifier, in training.
        output_stride: 32; 16 or 8 trade strides for dilation.
        convention: padding and BatchNorm epsilon; None takes the weight set's, else TensorFlow's.

    Returns:
        ``keras.Model``: (N, height, width, 3) -> (N, classes). Its input wants ``(pixel - 127.5) / 127.5``.

    Raises:
        RequestError: an argument out of range, or weights that are not to be found or do not fit.
    """
    source = resolve(weights, "mobilenet_v1", alpha=alpha, convention=convention)
    dilate = Dilator(output_stride)
    inputs = x = image_input(input_shape)
    x = conv_bn(x, int(32 * alpha), 3, "stem", source.convention, **dilate(2))
    for stage, (filters, blocks, stride) in enumerate(STAGES, 1):
        for block in range(1, blocks + 1):
            prefix = f"stage{stage}_block{block}"
            step = dilate(stride if block == 1 else 1)
            x = conv_bn(x, None, 3, f"{prefix}_depthwise", source.convention, depthwise=True, **step)
            x = conv_bn(x, int(filters * alpha), 1, f"{prefix}_project", source.convention)
    x = top(x, include_top, pooling, classes, classifier_activation, dropout_rate)
    model = keras.Model(inputs, x, name=name)
    source.load_into(model)
    return model
