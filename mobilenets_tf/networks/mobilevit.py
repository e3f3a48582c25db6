"""MobileViT: inverted residuals, and blocks that attend over the whole feature map.

There are three versions: v1 (Mehta and Rastegari 2021, arXiv 2110.02178; XXS, XS, S), v2 (2022, arXiv 2206.02680; 0.5,
0.75, 1.0), and v3 (Wadekar and Chaurasia 2022, arXiv 2209.15159), which changes the blocks of v1 and of v2. Tables and
blocks follow apple/ml-cvnets and micronDLA/MobileViTv3, for which weights are published.
"""

from dataclasses import dataclass, replace

import keras
from keras import KerasTensor, layers, ops

from mobilenets_tf.conventions import PYTORCH, Convention
from mobilenets_tf.errors import RequestError
from mobilenets_tf.networks.attention import fold, norm, resize_corners_aligned, transformer_layer, unfold
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

DEPTHS = (2, 4, 3)  # transformer layers in the blocks of stages 3, 4 and 5
HEADS = 4


@dataclass(frozen=True)
class MobileViTSize:
    """One network of the family.

    filters: of the stem and of the five stages.
    dims: transformer width in stages 3, 4 and 5.
    expansion: of the inverted residuals.
    stage2: number of blocks in stage 2.
    head: filters of the last convolution; None: there is none.
    v2: separable attention.
    v3: depthwise local convolution, fusion with the local feature instead of the input, a residual around the block.
    dropout: share that training drops in the transformer; classifier_dropout: before the classifier.
    """

    filters: tuple[int, int, int, int, int, int]
    dims: tuple[int, int, int]
    expansion: int
    stage2: int = 3
    head: int | None = None
    v2: bool = False
    v3: bool = False
    dropout: float = 0.0
    classifier_dropout: float = 0.1


def _v2(width: float) -> MobileViTSize:
    stem = make_divisible(min(max(32 * width, 16), 64))
    stage1 = make_divisible(64 * width, 16)
    stage2, stage3, stage4, stage5 = (make_divisible(channels * width) for channels in (128, 256, 384, 512))
    dim3, dim4, dim5 = (make_divisible(dim * width) for dim in (128, 192, 256))
    return MobileViTSize(
        (stem, stage1, stage2, stage3, stage4, stage5), (dim3, dim4, dim5), 2, stage2=2, v2=True, classifier_dropout=0.0
    )


_XXS = MobileViTSize((16, 16, 24, 48, 64, 80), (64, 80, 96), 2, head=320, dropout=0.05)
_XS = MobileViTSize((16, 32, 48, 64, 80, 96), (96, 120, 144), 4, head=384, dropout=0.1)
_S = MobileViTSize((16, 32, 64, 96, 128, 160), (144, 192, 240), 4, head=640, dropout=0.1)
_WIDTHS = {"050": _v2(0.5), "075": _v2(0.75), "100": _v2(1.0)}
SIZES = {
    "mobilevit_xxs": _XXS,
    "mobilevit_xs": _XS,
    "mobilevit_s": _S,
    **{f"mobilevit_v2_{width}": size for width, size in _WIDTHS.items()},
    # v3 widens stages 3 to 5 of v1. The last convolution is four times as wide as stage 5, at most 960 (the paper
    # prints 1280).
    "mobilevit_v3_xxs": replace(_XXS, filters=(16, 16, 24, 64, 80, 128), head=512, v3=True),
    "mobilevit_v3_xs": replace(_XS, filters=(16, 32, 48, 96, 160, 160), head=640, v3=True),
    "mobilevit_v3_s": replace(_S, filters=(16, 32, 64, 128, 256, 320), head=960, v3=True),
    **{f"mobilevit_v3_{width}": replace(size, v3=True) for width, size in _WIDTHS.items()},
}


def mobilevit_block(
    x: KerasTensor, dim: int, depth: int, size: MobileViTSize, name: str, convention: Convention, dilation: int = 1
) -> KerasTensor:
    """Apply a local convolution, a transformer over the patches, and the fusion of its output with local features.

    The shape stays (N, H, W, C), but with separable attention an odd side grows by one, as in the published code.
    """
    height, width, channels = x.shape[1:]
    even = height + height % 2, width + width % 2
    if size.v2 and even != (height, width):
        x = resize_corners_aligned(x, *even, f"{name}_even")
    shortcut = x
    depthwise = size.v2 or size.v3
    local = conv_bn(
        x, None if depthwise else channels, 3, f"{name}_local", convention,
        dilation=dilation, activation="silu", depthwise=depthwise,
    )  # fmt: skip
    local = layers.Conv2D(dim, 1, use_bias=False, name=f"{name}_embed_conv")(local)
    y = local
    resized = not size.v2 and even != (height, width)
    if resized:
        # Not layers.Resizing: without a training argument it assumes training, and so do the layers after it.
        y = ops.image.resize(y, even)
    y = unfold(y, name)
    for layer in range(1, depth + 1):
        y = transformer_layer(y, None if size.v2 else HEADS, f"{name}_layer{layer}", size.dropout)
    y = fold(norm(y, not size.v2, f"{name}_norm"), *even, name)
    if resized:
        y = ops.image.resize(y, (height, width))
    if size.v2:
        if size.v3:
            y = layers.Concatenate(name=f"{name}_concat")([y, local])
        y = conv_bn(y, channels, 1, f"{name}_global", convention, activation=None)
    else:
        y = conv_bn(y, channels, 1, f"{name}_global", convention, activation="silu")
        y = layers.Concatenate(name=f"{name}_concat")([local, y] if size.v3 else [shortcut, y])
        y = conv_bn(y, channels, 1 if size.v3 else 3, f"{name}_fusion", convention, activation="silu")
    return layers.Add(name=f"{name}_add")([shortcut, y]) if size.v3 else y


def _builder(registered: str, label: str, figures: str):
    size = SIZES[registered]

    def build(
        input_shape: InputShape = (256, 256, 3),
        include_top: bool = True,
        weights: Weights = None,
        pooling: Pooling = None,
        classes: int | None = None,
        classifier_activation: str | None = "softmax",
        dropout_rate: float = size.classifier_dropout,
        name: str | None = None,
        *,
        stage4_depth: int = DEPTHS[1],
        output_stride: int = 32,
        convention: Convention | None = None,
    ) -> keras.Model:
        check_positive(stage4_depth=stage4_depth)
        inputs = x = image_input(input_shape)
        if None in inputs.shape[1:]:
            raise RequestError(
                f"input_shape={input_shape!r}: attention is laid out for one size; give all three numbers."
            )
        network = f"{registered}_l2" if size.v3 and stage4_depth == 2 else registered
        source = resolve(weights, network, convention=convention, default=PYTORCH)
        convention = source.convention
        dilate = Dilator(output_stride)

        def residual(x, filters, position, stride):
            expanded = make_divisible(size.expansion * x.shape[-1])
            options = dilate(stride)
            return inverted_residual(x, filters, 3, expanded, position, convention, activation="silu", **options)

        stem, *filters = size.filters
        x = conv_bn(x, stem, 3, "stem", convention, activation="silu", **dilate(2))
        x = residual(x, filters[0], "stage1_block1", 1)
        for block in range(1, size.stage2 + 1):
            x = residual(x, filters[1], f"stage2_block{block}", 2 if block == 1 else 1)
        for stage, dim, depth in zip((3, 4, 5), size.dims, (DEPTHS[0], stage4_depth, DEPTHS[2]), strict=True):
            x = residual(x, filters[stage - 1], f"stage{stage}_block1", 2)
            # The published v1 code dilates the inverted residuals alone, the v2 code this convolution too.
            dilation = dilate(1)["dilation"] if size.v2 else 1
            x = mobilevit_block(x, dim, depth, size, f"stage{stage}_block2", convention, dilation)
        if size.head and include_top:
            x = conv_bn(x, size.head, 1, "head", convention, activation="silu")
        x = top(x, include_top, pooling, source.classes(classes), classifier_activation, dropout_rate)
        model = keras.Model(inputs, x, name=name or network)
        source.load_into(model)
        return model

    return document(
        build,
        label,
        registered,
        figures,
        "The published weights expect pixels / 255.",
        input_shape="(height, width, 3), sides at least 32, all fixed; they need not be multiples of the patch.",
        include_top="whether the network ends in the classifier. False: it ends in stage 5, which detection and "
        "segmentation heads read.",
        name="name of the model; None: its registry name.",
        stage4_depth='transformer layers in stage 4: 4, or 2 for the "-L2" networks of arXiv 2209.15159.',
        convention="padding and BatchNorm epsilon. None: the weight set's; without weights, PyTorch's.",
    )


MobileViTXXS = _builder("mobilevit_xxs", "MobileViTXXS", "1,272,024 parameters, 407,364,096 multiply-adds")
MobileViTXS = _builder("mobilevit_xs", "MobileViTXS", "2,317,848 parameters, 1,025,911,808 multiply-adds")
MobileViTS = _builder("mobilevit_s", "MobileViTS", "5,578,632 parameters, 2,000,831,488 multiply-adds")
MobileViTV2_050 = _builder("mobilevit_v2_050", "MobileViTV2_050", "1,370,593 parameters, 464,594,944 multiply-adds")
MobileViTV2_075 = _builder("mobilevit_v2_075", "MobileViTV2_075", "2,866,009 parameters, 1,027,980,288 multiply-adds")
MobileViTV2_100 = _builder("mobilevit_v2_100", "MobileViTV2_100", "4,901,841 parameters, 1,812,090,880 multiply-adds")
MobileViTV3XXS = _builder("mobilevit_v3_xxs", "MobileViTV3XXS", "1,249,448 parameters, 332,163,072 multiply-adds")
MobileViTV3XS = _builder("mobilevit_v3_xs", "MobileViTV3XS", "2,490,360 parameters, 966,618,112 multiply-adds")
MobileViTV3S = _builder("mobilevit_v3_s", "MobileViTV3S", "5,763,912 parameters, 1,832,711,680 multiply-adds")
MobileViTV3_050 = _builder("mobilevit_v3_050", "MobileViTV3_050", "1,429,985 parameters, 479,799,296 multiply-adds")
MobileViTV3_075 = _builder("mobilevit_v3_075", "MobileViTV3_075", "2,999,641 parameters, 1,062,190,080 multiply-adds")
MobileViTV3_100 = _builder("mobilevit_v3_100", "MobileViTV3_100", "5,139,409 parameters, 1,872,908,288 multiply-adds")
