"""MobileViT: inverted residuals, and blocks that attend over the whole feature map.

There are three versions: v1 (Mehta and Rastegari 2021, arXiv 2110.02178; XXS, XS, S), v2 (2022, arXiv 2206.02680; 0.5,
0.75, 1.0), and v3 (Wadekar and Chaurasia 2022, arXiv 2209.15159), which changes the blocks of v1 and of v2. Tables and
blocks follow apple/ml-cvnets and micronDLA/MobileViTv3, for which weights are published.
"""

from dataclasses import dataclass
from typing import NamedTuple

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
from mobilenets_tf.networks.rows import Rows, table
from mobilenets_tf.weights.load import Weights, resolve

HEADS = 4


class Row(NamedTuple):
    """One stage: ``blocks`` inverted residuals to ``filters`` channels, the first with ``stride``; then, if ``depth``
    is above 0, a MobileViT block with ``depth`` transformer layers of ``dim`` channels.

    expansion: channels of a depthwise convolution, as a factor to those of its block's input.
    """

    expansion: float
    filters: int
    blocks: int
    stride: int
    dim: int
    depth: int


@dataclass(frozen=True)
class BlockForm:
    """What a MobileViT block is made of. Version 3 changes the last four (arXiv 2209.15159, section 3 and table 7).

    separable: the separable attention of version 2 (arXiv 2206.02680).
    depthwise_local: the local convolution is depthwise.
    fuse_local: the local features, of version 1 instead of the block's input, are concatenated to the global features.
    fusion_kernel: kernel of the convolution that mixes both; 0: there is none, as in version 2.
    shortcut: the block's input is added to its output.
    """

    separable: bool
    depthwise_local: bool
    fuse_local: bool
    fusion_kernel: int
    shortcut: bool


V1 = BlockForm(separable=False, depthwise_local=False, fuse_local=False, fusion_kernel=3, shortcut=False)
V2 = BlockForm(separable=True, depthwise_local=True, fuse_local=False, fusion_kernel=0, shortcut=False)
V3 = BlockForm(separable=False, depthwise_local=True, fuse_local=True, fusion_kernel=1, shortcut=True)
V3_SEPARABLE = BlockForm(separable=True, depthwise_local=True, fuse_local=True, fusion_kernel=0, shortcut=True)


@dataclass(frozen=True)
class MobileViTSize:
    """One network of the family.

    stem: filters of the first convolution.
    head: filters of the last convolution; None: there is none.
    dropout: share that training drops in the transformer; classifier_dropout: before the classifier.
    """

    stem: int
    rows: tuple[Row, ...]
    form: BlockForm
    head: int | None = None
    dropout: float = 0.0
    classifier_dropout: float = 0.1


def _rows(expansion: int, filters: tuple[int, ...], stage2: int, dims: tuple[int, int, int]) -> tuple[Row, ...]:
    """Make the table from the filters of the five stages, the blocks of stage 2, and the dims of stages 3, 4 and 5."""
    convolutional = (Row(expansion, filters[0], 1, 1, 0, 0), Row(expansion, filters[1], stage2, 2, 0, 0))
    attentive = zip(filters[2:], dims, (2, 4, 3), strict=True)
    return (*convolutional, *(Row(expansion, channels, 1, 2, dim, depth) for channels, dim, depth in attentive))


def _separable(width: float, form: BlockForm) -> MobileViTSize:
    stem = make_divisible(min(max(32 * width, 16), 64))
    filters = (make_divisible(64 * width, 16), *(make_divisible(width * channels) for channels in (128, 256, 384, 512)))
    dim3, dim4, dim5 = (make_divisible(dim * width) for dim in (128, 192, 256))
    return MobileViTSize(stem, _rows(2, filters, 2, (dim3, dim4, dim5)), form, classifier_dropout=0.0)


def _transformer(
    expansion: int, filters: tuple[int, ...], dims: tuple[int, int, int], form: BlockForm, head: int, dropout: float
) -> MobileViTSize:
    return MobileViTSize(16, _rows(expansion, filters, 3, dims), form, head, dropout)


_XXS, _XS, _S = (64, 80, 96), (96, 120, 144), (144, 192, 240)  # dims
_WIDTHS = {"050": 0.5, "075": 0.75, "100": 1.0}
SIZES = {
    "mobilevit_xxs": _transformer(2, (16, 24, 48, 64, 80), _XXS, V1, 320, 0.05),
    "mobilevit_xs": _transformer(4, (32, 48, 64, 80, 96), _XS, V1, 384, 0.1),
    "mobilevit_s": _transformer(4, (32, 64, 96, 128, 160), _S, V1, 640, 0.1),
    **{f"mobilevit_v2_{name}": _separable(width, V2) for name, width in _WIDTHS.items()},
    # v3 widens stages 3 to 5 of v1. The last convolution is four times as wide as stage 5, at most 960 (the paper
    # prints 1280).
    "mobilevit_v3_xxs": _transformer(2, (16, 24, 64, 80, 128), _XXS, V3, 512, 0.05),
    "mobilevit_v3_xs": _transformer(4, (32, 48, 96, 160, 160), _XS, V3, 640, 0.1),
    "mobilevit_v3_s": _transformer(4, (32, 64, 128, 256, 320), _S, V3, 960, 0.1),
    **{f"mobilevit_v3_{name}": _separable(width, V3_SEPARABLE) for name, width in _WIDTHS.items()},
}


def mobilevit_block(
    x: KerasTensor,
    dim: int,
    depth: int,
    form: BlockForm,
    name: str,
    convention: Convention,
    *,
    dilation: int = 1,
    dropout: float = 0.0,
) -> KerasTensor:
    """Apply a local convolution, a transformer over the patches, and the fusion of its output with local features.

    The shape stays (N, H, W, C), but with separable attention an odd side grows by one, as in the published code.

    dim, depth: channels and number of the transformer's layers. dropout: share that training drops in them.
    """
    height, width, channels = x.shape[1:]
    even = height + height % 2, width + width % 2
    if form.separable and even != (height, width):
        x = resize_corners_aligned(x, *even, f"{name}_even")
    block_input = x
    local = conv_bn(
        x, None if form.depthwise_local else channels, 3, f"{name}_local", convention,
        dilation=dilation, activation="silu", depthwise=form.depthwise_local,
    )  # fmt: skip
    local = layers.Conv2D(dim, 1, use_bias=False, name=f"{name}_embed_conv")(local)
    y = local
    resized = not form.separable and even != (height, width)
    if resized:
        # Not layers.Resizing: without a training argument it assumes training, and so do the layers after it.
        y = ops.image.resize(y, even)
    y = unfold(y, name)
    for layer in range(1, depth + 1):
        y = transformer_layer(y, None if form.separable else HEADS, f"{name}_layer{layer}", dropout)
    y = fold(norm(y, not form.separable, f"{name}_norm"), *even, name)
    if resized:
        y = ops.image.resize(y, (height, width))
    if form.separable:
        if form.fuse_local:
            y = layers.Concatenate(name=f"{name}_concat")([y, local])
        y = conv_bn(y, channels, 1, f"{name}_global", convention, activation=None)
    else:
        y = conv_bn(y, channels, 1, f"{name}_global", convention, activation="silu")
        y = layers.Concatenate(name=f"{name}_concat")([local if form.fuse_local else block_input, y])
        y = conv_bn(y, channels, form.fusion_kernel, f"{name}_fusion", convention, activation="silu")
    return layers.Add(name=f"{name}_add")([block_input, y]) if form.shortcut else y


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
        rows: Rows = size.rows,
        stage4_depth: int | None = None,
        depthwise_local: bool = size.form.depthwise_local,
        fuse_local: bool = size.form.fuse_local,
        fusion_kernel: int = size.form.fusion_kernel,
        shortcut: bool = size.form.shortcut,
        output_stride: int = 32,
        convention: Convention | None = None,
    ) -> keras.Model:
        form = BlockForm(size.form.separable, depthwise_local, fuse_local, fusion_kernel, shortcut)
        if fusion_kernel not in ((0,) if form.separable else (1, 3)):
            kernels = "0; with separable attention there is no such convolution" if form.separable else "1 or 3"
            raise RequestError(f"fusion_kernel={fusion_kernel!r}: expected {kernels}.")
        stages = _stages(rows, stage4_depth)
        inputs = x = image_input(input_shape)
        if None in inputs.shape[1:]:
            raise RequestError(
                f"input_shape={input_shape!r}: attention is laid out for one size; give all three numbers."
            )
        network = f"{registered}_l2" if "_v3_" in registered and stage4_depth == 2 else registered
        source = resolve(weights, network, convention=convention, default=PYTORCH)
        convention = source.convention
        dilate = Dilator(output_stride)

        x = conv_bn(x, size.stem, 3, "stem", convention, activation="silu", **dilate(2))
        for stage, (expansion, filters, blocks, stride, dim, depth) in enumerate(stages, 1):
            for block in range(1, blocks + 1):
                position, step = f"stage{stage}_block{block}", dilate(stride if block == 1 else 1)
                expanded = make_divisible(expansion * x.shape[-1])
                x = inverted_residual(x, filters, 3, expanded, position, convention, activation="silu", **step)
            if depth:
                # The published v1 code dilates the inverted residuals alone, the v2 code this convolution too.
                dilation = dilate(1)["dilation"] if form.separable else 1
                position = f"stage{stage}_block{blocks + 1}"
                x = mobilevit_block(x, dim, depth, form, position, convention, dilation=dilation, dropout=size.dropout)
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
        rows="the stages, each (expansion, filters, blocks, stride of the first block, channels and number of the "
        "transformer layers behind them; 0 layers: no MobileViT block). Expanded widths are multiples of 8.",
        stage4_depth='transformer layers in stage 4: 2 for the "-L2" networks of arXiv 2209.15159; None: as the rows '
        "say.",
        depthwise_local="whether the local convolution of a MobileViT block is depthwise (v2, v3).",
        fuse_local="whether the local features are concatenated to the global features (v3); False: the block's input "
        "(v1) or nothing (v2).",
        fusion_kernel="kernel of the convolution after the concatenation: 3 (v1) or 1 (v3); 0 with separable "
        "attention, which has no such convolution.",
        shortcut="whether the input of a MobileViT block is added to its output (v3).",
        convention="padding and BatchNorm epsilon. None: the weight set's; without weights, PyTorch's.",
    )


def _stages(rows: Rows, stage4_depth: int | None) -> tuple[Row, ...]:
    """Check the table, and put the depth of stage 4 into it."""
    stages = table(Row, rows)
    for index, row in enumerate(stages):
        if row.depth and (not row.dim or row.dim % HEADS):
            raise RequestError(f"rows[{index}].dim={row.dim}: expected a multiple of {HEADS} above 0.")
    if stage4_depth is None:
        return stages
    check_positive(64, stage4_depth=stage4_depth)
    if len(stages) < 4 or not stages[3].depth:
        raise RequestError(f"stage4_depth={stage4_depth}: the rows have no transformer in a fourth stage.")
    return (*stages[:3], stages[3]._replace(depth=stage4_depth), *stages[4:])


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
