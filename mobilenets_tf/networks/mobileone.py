"""MobileOne: branches in training that fold into one convolution each (Vasu et al. 2022, arXiv 2206.04040).

S0-S4 are those of table 7 of the paper and of apple/ml-mobileone (mobileone.py), for which weights are published. Where
the two disagree, we follow the code: the stem has min(64, 64 x width) filters, and one branch in every size.
mu0-mu2 are our fit to their published counts (table 13), because their widths were never published;
benchmarks/mobileone_micro.py shows the search. The paper's accuracies do not hold for these three.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import keras
from keras import KerasTensor, layers

from mobilenets_tf.conventions import PYTORCH, Convention
from mobilenets_tf.conversion.reparameterization import reparameterize
from mobilenets_tf.errors import RequestError
from mobilenets_tf.networks.blocks import (
    Dilator,
    InputShape,
    Pooling,
    Squeeze,
    activate,
    check_positive,
    image_input,
    pad,
    squeeze_excite,
    top,
)
from mobilenets_tf.networks.builders import document
from mobilenets_tf.networks.rows import Rows, table
from mobilenets_tf.weights.load import Weights, resolve


class Row(NamedTuple):
    """One stage: ``blocks`` pairs of a depthwise and a 1x1 convolution to ``filters`` channels, the first with
    ``stride``; the last ``squeezed`` of them have squeeze-and-excite.
    """

    filters: int
    blocks: int
    stride: int
    squeezed: int


# (filters before the width multiplier, blocks): the code's stages; the paper's stages 4 and 5 are one here.
_STAGES = (
    (64, 2),  # 56
    (128, 8),  # 28
    (256, 10),  # 14
    (512, 1),  # 7
)
SQUEEZE_RATIO = 1 / 16


@dataclass(frozen=True)
class MobileOneSize:
    """One network of the family.

    widths: width multiplier of each stage. branches: of each convolution. squeezed: how many of the last blocks of each
    stage have squeeze-and-excite.
    """

    widths: tuple[float, float, float, float]
    branches: int = 1
    squeezed: tuple[int, int, int, int] = (0, 0, 0, 0)

    @property
    def rows(self) -> tuple[Row, ...]:
        """The table of the network."""
        return tuple(
            Row(int(filters * width), blocks, 2, squeezed)
            for (filters, blocks), width, squeezed in zip(_STAGES, self.widths, self.squeezed, strict=True)
        )


SIZES = {
    "s0": MobileOneSize((0.75, 1.0, 1.0, 2.0), branches=4),
    "s1": MobileOneSize((1.5, 1.5, 2.0, 2.5)),
    "s2": MobileOneSize((1.5, 2.0, 2.5, 4.0)),
    "s3": MobileOneSize((2.0, 2.5, 3.0, 4.0)),
    "s4": MobileOneSize((3.0, 3.5, 3.5, 4.0), squeezed=(0, 0, 5, 1)),
    # Multiples of 8 filters: 24, 48, 136, 312; 32, 88, 184, 480; 32, 112, 240, 504. Branches as in S0.
    "mu0": MobileOneSize((0.375, 0.375, 0.53125, 0.609375), branches=4),
    "mu1": MobileOneSize((0.5, 0.6875, 0.71875, 0.9375), branches=4),
    "mu2": MobileOneSize((0.5, 0.875, 0.9375, 0.984375), branches=4),
}


def unit(
    x: KerasTensor,
    filters: int | None,
    kernel: int,
    name: str,
    convention: Convention,
    *,
    stride: int = 1,
    dilation: int = 1,
    branches: int = 1,
    scale_branch: bool = True,
    skip_branch: bool = True,
    squeeze: bool = False,
    folded: bool = False,
) -> KerasTensor:
    """Apply one convolution of MobileOne (figure 3), depthwise if ``filters`` is None, and its ReLU.

    The training form is a sum of ``branches`` convolutions, of a 1x1 convolution if ``kernel`` is larger (the scale
    branch), and of the input if the shape stays (the skip branch); each summand has its own BatchNorm. The inference
    form, ``folded``, is one convolution with a bias. ``reparameterize`` recognises the branches by the layer names.
    """
    depthwise = filters is None
    padded, padding = pad(x, kernel, name, convention, stride, dilation)

    def convolution(x, kernel, name, stride, padding="same", dilation=1, use_bias=False):
        options = {"strides": stride, "dilation_rate": dilation, "padding": padding, "use_bias": use_bias}
        if depthwise:
            return layers.DepthwiseConv2D(kernel, **options, name=f"{name}_conv")(x)
        return layers.Conv2D(filters, kernel, **options, name=f"{name}_conv")(x)

    def normalise(x, name):
        return layers.BatchNormalization(momentum=0.9, epsilon=convention.batchnorm_epsilon, name=f"{name}_bn")(x)

    if folded:
        y = convolution(padded, kernel, name, stride, padding, dilation, use_bias=True)
    else:
        terms = []
        for branch in (f"{name}_branch{number}" for number in range(1, branches + 1)):
            terms.append(normalise(convolution(padded, kernel, branch, stride, padding, dilation), branch))
        if scale_branch and kernel > 1:
            # Pooling takes the stride: in TensorFlow 2.21 (oneDNN) the gradient of a strided 1x1 convolution of the
            # stem's three channels writes out of bounds.
            sampled = layers.MaxPooling2D(1, stride, name=f"{name}_sample")(x) if stride > 1 else x
            terms.append(normalise(convolution(sampled, 1, f"{name}_scale", 1), f"{name}_scale"))
        if skip_branch and stride == 1 and filters in (None, x.shape[-1]):
            terms.append(normalise(x, f"{name}_skip"))
        y = layers.Add(name=f"{name}_sum")(terms) if len(terms) > 1 else terms[0]
    if squeeze:
        y = squeeze_excite(y, Squeeze(max(1, int(y.shape[-1] * SQUEEZE_RATIO)), "sigmoid"), name)
    return activate(y, "relu", name)


def _builder(size: str, folded_figures: str, training_figures: str):
    plan = SIZES[size]
    registered = f"mobileone_{size}"

    def build(
        input_shape: InputShape = (224, 224, 3),
        include_top: bool = True,
        weights: Weights = None,
        pooling: Pooling = None,
        classes: int | None = None,
        classifier_activation: str | None = "softmax",
        dropout_rate: float = 0.0,
        name: str = registered,
        *,
        rows: Rows = plan.rows,
        reparameterized: bool = False,
        branches: int = plan.branches,
        scale_branch: bool = True,
        skip_branch: bool = True,
        output_stride: int = 32,
        convention: Convention | None = None,
    ) -> keras.Model:
        check_positive(64, branches=branches)
        stages = table(Row, rows)
        source = resolve(weights, registered, convention=convention, default=PYTORCH)
        weights_are_folded = source.has_bias("stem_conv")  # only the inference form has biases
        if weights_are_folded and not reparameterized:
            raise RequestError(
                f"{weights} holds the inference form of {registered}, which cannot be unfolded; "
                "pass reparameterized=True."
            )
        # Weights of the training form are folded after they are loaded.
        folded = reparameterized and (weights is None or weights_are_folded)
        dilate = Dilator(output_stride)
        form: dict[str, Any] = {
            "convention": source.convention, "folded": folded, "scale_branch": scale_branch, "skip_branch": skip_branch,
        }  # fmt: skip
        inputs = x = image_input(input_shape)
        x = unit(x, min(64, int(64 * plan.widths[0])), 3, "stem", **form, **dilate(2))
        for stage, (filters, blocks, stride, squeezed) in enumerate(stages, 1):
            for block in range(1, blocks + 1):
                position = f"stage{stage}_block{block}"
                options: dict[str, Any] = {**form, "branches": branches, "squeeze": block > blocks - squeezed}
                x = unit(x, None, 3, f"{position}_depthwise", **options, **dilate(stride if block == 1 else 1))
                x = unit(x, filters, 1, f"{position}_project", **options)
        x = top(x, include_top, pooling, source.classes(classes), classifier_activation, dropout_rate)
        model = keras.Model(inputs, x, name=name)
        source.load_into(model)
        return reparameterize(model) if reparameterized else model

    return document(
        build,
        f"MobileOne{size[0].upper()}{size[1:]}",
        registered,
        f"Inference form: {folded_figures}. Training form: {training_figures}",
        "The published weights expect an input normalised with ImageNet's mean and standard deviation.",
        dropout_rate="share of the classifier's inputs that training drops (the paper has no dropout).",
        rows="the stages, each (filters, blocks, stride of the first block, how many of the last blocks have "
        "squeeze-and-excite).",
        reparameterized="build the inference form; it takes weights of either form. Leave it False to train, then call "
        "``reparameterize`` (exporting calls it by itself).",
        branches="over-parameterised branches of each convolution after the stem, in the training form.",
        scale_branch="whether the training form has a 1x1 branch beside each larger convolution.",
        skip_branch="whether the training form has a BatchNorm branch where the shape stays.",
        convention="padding and BatchNorm epsilon. None: the weight set's; without weights, PyTorch's.",
    )


MobileOneS0 = _builder(
    "s0", "2,078,504 parameters, 275,110,400 multiply-adds", "5,293,272 parameters, 1,051,935,232 multiply-adds"
)
MobileOneS1 = _builder(
    "s1", "4,764,840 parameters, 825,057,024 multiply-adds", "4,825,192 parameters, 830,062,080 multiply-adds"
)
MobileOneS2 = _builder(
    "s2", "7,808,168 parameters, 1,298,426,496 multiply-adds", "7,884,648 parameters, 1,304,027,392 multiply-adds"
)
MobileOneS3 = _builder(
    "s3", "10,078,312 parameters, 1,895,790,592 multiply-adds", "10,170,600 parameters, 1,902,112,768 multiply-adds"
)
MobileOneS4 = _builder(
    "s4", "14,838,352 parameters, 2,979,269,760 multiply-adds", "14,951,248 parameters, 2,986,802,432 multiply-adds"
)
MobileOneMu0 = _builder(
    "mu0", "567,792 parameters, 67,785,000 multiply-adds", "1,357,808 parameters, 247,410,376 multiply-adds"
)
MobileOneMu1 = _builder(
    "mu1", "979,672 parameters, 139,206,840 multiply-adds", "2,513,304 parameters, 525,137,112 multiply-adds"
)
MobileOneMu2 = _builder(
    "mu2", "1,303,360 parameters, 213,895,472 multiply-adds", "3,747,112 parameters, 824,057,584 multiply-adds"
)
