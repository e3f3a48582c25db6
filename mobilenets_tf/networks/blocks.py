"""The blocks that the networks are made of: functions on Keras tensors that use stock Keras layers only.

Layer names are a contract: ``stem_conv``, ``stage3_block2_expand_conv`` (also ``depthwise``, ``project``, and without a
BatchNorm ``squeeze``, ``excite``), ``head_conv``, ``classifier``. The BatchNorm of ``stem_conv`` is ``stem_bn``, and so
on. Weight import (weights/spellings.py), the features by stride and ``reparameterize`` read these names.
"""

from typing import Literal, NamedTuple, TypedDict

import keras
from keras import KerasTensor, layers

from mobilenets_tf.conventions import Convention
from mobilenets_tf.errors import RequestError

InputShape = tuple[int | None, int | None, int]  # height, width, channels
Pooling = Literal["avg", "max"] | None


def make_divisible(channels: float, divisor: int = 8) -> int:
    """Round ``channels`` to a multiple of ``divisor``, but not below 90 % of it (the code of arXiv 1801.04381)."""
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded


def check_positive(most: int | None = None, **numbers: object) -> None:
    """Refuse an argument that is not a whole number above 0, or is above ``most``.

    Raises:
        RequestError: gives the argument's name and value.
    """
    for name, value in numbers.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1 or (most is not None and value > most):
            limit = "" if most is None else f", at most {most}"
            raise RequestError(f"{name}={value!r}: expected a whole number above 0{limit}.")


def check_squeeze_ratio(squeeze_ratio: float) -> None:
    """Refuse a share of channels inside of squeeze-and-excites that is not from 0 to 1.

    Raises:
        RequestError: gives the value.
    """
    if not 0 <= squeeze_ratio <= 1:
        raise RequestError(f"squeeze_ratio={squeeze_ratio!r}: expected 0 (no squeeze-and-excite) to 1.")


def activate(x: KerasTensor, activation: str | None, name: str) -> KerasTensor:
    """Apply an activation whose layer is named ``{name}_{activation}``; None leaves ``x`` as it is."""
    if activation is None:
        return x
    if activation in ("relu", "relu6"):
        return layers.ReLU(6.0 if activation == "relu6" else None, name=f"{name}_relu")(x)
    return layers.Activation(activation, name=f"{name}_{activation}")(x)


def pad(
    x: KerasTensor, kernel: int, name: str, convention: Convention, stride: int, dilation: int
) -> tuple[KerasTensor, str]:
    """Pad the input of a convolution where ``convention`` differs from "same".

    Returns:
        The input, and the ``padding`` that the convolution itself is to have: "same" or "valid".
    """
    if stride == 1 or convention.padding == "same":
        return x, "same"
    # XNNPACK folds a zero PAD into the convolution that follows it (benchmarks/padding.py), so this is free.
    return layers.ZeroPadding2D(dilation * (kernel - 1) // 2, name=f"{name}_pad")(x), "valid"


def conv_bn(
    x: KerasTensor,
    filters: int | None,
    kernel: int,
    name: str,
    convention: Convention,
    *,
    stride: int = 1,
    dilation: int = 1,
    activation: str | None = "relu6",
    depthwise: bool = False,
) -> KerasTensor:
    """Apply a convolution without bias, BatchNorm and an activation.

    (N, H, W, C) -> (N, ceil(H/stride), ceil(W/stride), filters).

    filters: None for a depthwise convolution, which keeps the channels.
    activation: "relu6", or as in ``activate``.
    """
    x, padding = pad(x, kernel, name, convention, stride, dilation)
    options = {"strides": stride, "dilation_rate": dilation, "padding": padding, "use_bias": False}
    if depthwise:
        convolution = layers.DepthwiseConv2D(kernel, **options, name=f"{name}_conv")
    else:
        convolution = layers.Conv2D(filters, kernel, **options, name=f"{name}_conv")
    x = convolution(x)
    x = layers.BatchNormalization(epsilon=convention.batchnorm_epsilon, name=f"{name}_bn")(x)
    return activate(x, activation, name)


class Squeeze(NamedTuple):
    """A squeeze-and-excite: channels between its two convolutions, the gates' activation, and the activation between.

    The defaults are MobileNetV3's (arXiv 1905.02244, section 5.3).
    """

    channels: int
    gate: str = "hard_sigmoid"
    activation: str = "relu"


def squeeze_excite(x: KerasTensor, squeeze: Squeeze, name: str) -> KerasTensor:
    """Scale each channel by a gate computed from all channels (Hu et al. 2018, arXiv 1709.01507). Shape unchanged."""
    # The pooled feature stays (N, 1, 1, C), so that neither the convolutions nor the product need a reshape.
    gates = layers.GlobalAveragePooling2D(keepdims=True, name=f"{name}_squeeze_pool")(x)
    gates = layers.Conv2D(squeeze.channels, 1, name=f"{name}_squeeze_conv")(gates)
    gates = activate(gates, squeeze.activation, f"{name}_squeeze")
    gates = layers.Conv2D(x.shape[-1], 1, name=f"{name}_excite_conv")(gates)
    gates = layers.Activation(squeeze.gate, name=f"{name}_excite_{squeeze.gate}")(gates)
    return layers.Multiply(name=f"{name}_excite")([x, gates])


def expand(
    x: KerasTensor,
    kernel: int,
    expanded: int,
    name: str,
    convention: Convention,
    *,
    stride: int = 1,
    dilation: int = 1,
    activation: str = "relu6",
    squeeze: Squeeze | None = None,
) -> KerasTensor:
    """Apply the wide half of MobileNetV2's bottleneck (arXiv 1801.04381, table 1): expand 1x1, depthwise.

    (N, H, W, C) -> (N, ceil(H/stride), ceil(W/stride), expanded).

    expanded: channels of the depthwise convolution. If the input has as many, there is no expanding convolution.
    squeeze: the squeeze-and-excite after the depthwise convolution (arXiv 1905.02244, figure 4); None: there is none.
    """
    if expanded != x.shape[-1]:
        x = conv_bn(x, expanded, 1, f"{name}_expand", convention, activation=activation)
    x = conv_bn(
        x, None, kernel, f"{name}_depthwise", convention,
        stride=stride, dilation=dilation, activation=activation, depthwise=True,
    )  # fmt: skip
    return squeeze_excite(x, squeeze, name) if squeeze else x


def project(
    x: KerasTensor,
    filters: int,
    name: str,
    convention: Convention,
    *,
    shortcut: KerasTensor | None = None,
    activation: str | None = None,
    drop_rate: float = 0.0,
) -> KerasTensor:
    """Apply the narrow half of MobileNetV2's bottleneck: project 1x1, and add the shortcut if it has as many channels.

    (N, H, W, C) -> (N, H, W, filters).

    shortcut: the input of the bottleneck; None if it has another size or is not to be added.
    activation: after the projection; None, as published: the bottleneck is linear.
    drop_rate: probability, in training, that a sample skips a block whose input is added (stochastic depth, arXiv
        1603.09382).
    """
    x = conv_bn(x, filters, 1, f"{name}_project", convention, activation=activation)
    if shortcut is not None and shortcut.shape[-1] == filters:
        if drop_rate:
            # Stochastic depth with a stock layer: dropout whose mask has one value per sample.
            x = layers.Dropout(drop_rate, noise_shape=(None, 1, 1, 1), name=f"{name}_drop")(x)
        x = layers.Add(name=f"{name}_add")([shortcut, x])
    return x


def inverted_residual(
    x: KerasTensor,
    filters: int,
    kernel: int,
    expanded: int,
    name: str,
    convention: Convention,
    *,
    stride: int = 1,
    dilation: int = 1,
    activation: str = "relu6",
    squeeze: Squeeze | None = None,
    drop_rate: float = 0.0,
) -> KerasTensor:
    """Apply MobileNetV2's bottleneck, ``expand`` and ``project``. The input is added where the output has its shape."""
    wide = expand(
        x, kernel, expanded, name, convention, stride=stride, dilation=dilation, activation=activation, squeeze=squeeze
    )
    return project(wide, filters, name, convention, shortcut=x if stride == 1 else None, drop_rate=drop_rate)


class Step(TypedDict):
    """Arguments of a convolution."""

    stride: int
    dilation: int


class Dilator:
    """Replaces strides by dilation once the feature map is ``output_stride`` times smaller than the input.

    A layer that loses its stride keeps its own dilation; the layers after it are dilated by the lost stride. This is
    the rule of TensorFlow's slim ``mobilenet_base``: every kernel sees the spacing that it was trained on.

    Raises:
        RequestError: ``output_stride`` is not 8, 16 or 32.
    """

    def __init__(self, output_stride: int):
        if output_stride not in (8, 16, 32):
            raise RequestError(f"output_stride={output_stride!r}: expected 8, 16 or 32.")
        self._limit, self._stride, self._dilation = output_stride, 1, 1

    def __call__(self, stride: int) -> Step:
        """Return the stride and dilation of the next layer, which has ``stride`` in the undilated network."""
        if self._stride * stride <= self._limit:
            self._stride *= stride
            return {"stride": stride, "dilation": self._dilation}
        current = self._dilation
        self._dilation *= stride
        return {"stride": 1, "dilation": current}


def image_input(input_shape: InputShape, name: str = "image") -> KerasTensor:
    """Create the input of a network, (height, width, channels). A height or width of None takes any size.

    Raises:
        RequestError: ``input_shape`` has not three numbers, or a side is below 32 pixels.
    """
    shape = tuple(input_shape)
    if len(shape) != 3 or shape[2] is None or any(side is not None and side < 32 for side in shape[:2]):
        raise RequestError(
            f"input_shape={input_shape!r}: expected (height, width, channels) with both sides at least 32."
        )
    return keras.Input(shape, name=name)


def top(
    x: KerasTensor,
    include_top: bool,
    pooling: Pooling,
    classes: int,
    activation: str | None,
    dropout_rate: float,
    hidden: tuple[int, str] | None = None,
) -> KerasTensor:
    """Append the classifier or, without a top, the pooling.

    (N, H, W, C) -> (N, classes) with a top; (N, C) with pooling "avg" or "max"; ``x`` itself otherwise.

    hidden: units and activation of a layer between pooling and classifier (MobileNetV3's); None: no such layer.

    Raises:
        RequestError: ``pooling``, ``classes`` or ``dropout_rate`` is out of range.
    """
    if pooling not in (None, "avg", "max"):
        raise RequestError(f"pooling={pooling!r}: expected None, 'avg' or 'max'.")
    if not 0 <= dropout_rate < 1:
        raise RequestError(f"dropout_rate={dropout_rate!r}: expected at least 0 and below 1.")
    if not include_top:
        if pooling is None:
            return x
        pool = layers.GlobalAveragePooling2D if pooling == "avg" else layers.GlobalMaxPooling2D
        return pool(name="pool")(x)
    check_positive(classes=classes)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    if hidden:
        units, hidden_activation = hidden
        x = activate(layers.Dense(units, name="hidden")(x), hidden_activation, "hidden")
    if dropout_rate:
        x = layers.Dropout(dropout_rate, name="dropout")(x)
    x = layers.Dense(classes, name="classifier")(x)
    return layers.Activation(activation, name="predictions")(x) if activation else x
