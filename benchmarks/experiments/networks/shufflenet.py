"""ShuffleNet v1 (Zhang et al. 2017, arXiv 1707.01083), for the tables of MobileNetV2 alone, which compare with it."""

import keras
from keras import KerasTensor, layers

from mobilenets_tf.conventions import TENSORFLOW
from mobilenets_tf.networks.blocks import conv_bn, image_input, top

# Table 1: filters of the three stages by the number of groups, at scale 1; blocks of each stage.
FILTERS = {1: (144, 288, 576), 2: (200, 400, 800), 3: (240, 480, 960), 4: (272, 544, 1088), 8: (384, 768, 1536)}
BLOCKS = (4, 8, 4)
# Filters of the stem by scale, as megvii-model/ShuffleNet-Series has them: they give the published multiply-adds.
STEMS = {0.5: 12, 1.0: 24, 1.5: 24, 2.0: 48}


def ShuffleNet(scale: float = 1.0, groups: int = 3, side: int = 224, classes: int = 1000) -> keras.Model:
    """Build ShuffleNet v1: (N, side, side, 3) -> (N, classes).

    Args:
        scale: 0.5, 1, 1.5 or 2, of all filters but those of the stem.
        groups: of the 1x1 convolutions: 1, 2, 3, 4 or 8.
    """
    inputs = image_input((side, side, 3))
    x = conv_bn(inputs, STEMS[scale], 3, "stem", TENSORFLOW, stride=2, activation="relu")
    x = layers.MaxPooling2D(3, 2, "same", name="stem_pool")(x)
    for stage, (filters, blocks) in enumerate(zip(FILTERS[groups], BLOCKS, strict=True), 2):
        for block in range(1, blocks + 1):
            # The paper leaves the very first 1x1 convolution without groups: it has few inputs.
            first = stage == 2 and block == 1
            name, stride = f"stage{stage}_block{block}", 2 if block == 1 else 1
            x = _unit(x, int(filters * scale), stride, groups, 1 if first else groups, name)
    return keras.Model(inputs, top(x, True, None, classes, "softmax", 0.0), name="shufflenet")


def _unit(x: KerasTensor, filters: int, stride: int, groups: int, first_groups: int, name: str) -> KerasTensor:
    """Apply a unit (figure 2): grouped 1x1, shuffle, depthwise, grouped 1x1; added to its input, or, with stride 2,
    concatenated to its mean."""
    inner = filters // 4 // groups * groups
    y = _grouped(x, inner, first_groups, f"{name}_squeeze")
    y = layers.ReLU(name=f"{name}_squeeze_relu")(y)
    y = _shuffled(y, groups, name)
    y = conv_bn(y, None, 3, f"{name}_depthwise", TENSORFLOW, stride=stride, activation=None, depthwise=True)
    if stride == 1:
        y = layers.Add(name=f"{name}_add")([x, _grouped(y, filters, groups, f"{name}_expand")])
    else:
        y = _grouped(y, filters - x.shape[-1], groups, f"{name}_expand")
        x = layers.AveragePooling2D(3, 2, "same", name=f"{name}_pool")(x)
        y = layers.Concatenate(name=f"{name}_concat")([x, y])
    return layers.ReLU(name=f"{name}_relu")(y)


def _grouped(x: KerasTensor, filters: int, groups: int, name: str) -> KerasTensor:
    x = layers.Conv2D(filters, 1, groups=groups, use_bias=False, name=f"{name}_conv")(x)
    return layers.BatchNormalization(epsilon=TENSORFLOW.batchnorm_epsilon, name=f"{name}_bn")(x)


def _shuffled(x: KerasTensor, groups: int, name: str) -> KerasTensor:
    height, width, channels = x.shape[1:]
    x = layers.Reshape((height, width, groups, channels // groups), name=f"{name}_groups")(x)
    x = layers.Permute((1, 2, 4, 3), name=f"{name}_shuffle")(x)
    return layers.Reshape((height, width, channels), name=f"{name}_channels")(x)
