"""The blocks that the networks are made of: plain functions on Keras tensors, stock Keras layers only.

Layer names are a contract: ``stem_conv``, ``stage3_block2_expand_conv`` (also ``depthwise``, ``project``, and without a
BatchNorm ``squeeze``, ``excite``), ``head_conv``, ``classifier``, each with its ``_bn`` beside it. Weight import
(weights/spellings.py), the features by stride and ``reparameterize`` read them.
"""

import keras
from keras import layers

from mobilenets_tf.conventions import Convention
from mobilenets_tf.errors import RequestError


def make_divisible(channels: float, divisor: int = 8) -> int:
    """Round to a multiple of ``divisor`` that is not below 90 % of ``channels`` (arXiv 1801.04381, its code)."""
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded


def activate(x, activation: str | None, name: str):
    """An activation layer named after what comes before it; None is linear."""
    if activation is None:
        return x
    if activation in ("relu", "relu6"):
        return layers.ReLU(6.0 if activation == "relu6" else None, name=f"{name}_relu")(x)
    return layers.Activation(activation, name=f"{name}_{activation}")(x)


def pad(x, kernel: int, name: str, convention: Convention, stride: int, dilation: int):
    """The input of a convolution, padded where "same" would not do it as ``convention`` wants; and the padding left."""
    if stride == 1 or convention.padding == "same":
        return x, "same"
    # XNNPACK folds a zero PAD into the convolution that follows it (benchmarks/padding.py), so this is free.
    return layers.ZeroPadding2D(dilation * (kernel - 1) // 2, name=f"{name}_pad")(x), "valid"


def conv_bn(
    x,
    filters: int | None,
    kernel: int,
    name: str,
    convention: Convention,
    *,
    stride: int = 1,
    dilation: int = 1,
    activation: str | None = "relu6",
    depthwise: bool = False,
):
    """Convolution without bias, BatchNorm, activation. (N, H, W, C) -> (N, ceil(H/stride), ceil(W/stride), filters).

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


def squeeze_excite(x, squeezed: int, gate: str, name: str):
    """Scale each channel by a gate computed from all of them (Hu et al. 2018, arXiv 1709.01507). Shape unchanged.

    squeezed: channels between the two convolutions. gate: "hard_sigmoid" or "sigmoid".
    """
    # The pooled feature stays (N, 1, 1, C): a convolution needs no reshape before it, and the product none after it.
    gates = layers.GlobalAveragePooling2D(keepdims=True, name=f"{name}_squeeze_pool")(x)
    gates = layers.Conv2D(squeezed, 1, name=f"{name}_squeeze_conv")(gates)
    gates = activate(gates, "relu", f"{name}_squeeze")
    gates = layers.Conv2D(x.shape[-1], 1, name=f"{name}_excite_conv")(gates)
    gates = layers.Activation(gate, name=f"{name}_excite_{gate}")(gates)
    return layers.Multiply(name=f"{name}_excite")([x, gates])


def inverted_residual(
    x,
    filters: int,
    kernel: int,
    expanded: int,
    name: str,
    convention: Convention,
    *,
    stride: int = 1,
    dilation: int = 1,
    activation: str = "relu6",
    squeezed: int | None = None,
    drop_rate: float = 0.0,
):
    """MobileNetV2's bottleneck: expand 1x1, depthwise, linear project 1x1 (arXiv 1801.04381, table 1).

    expanded: channels of the depthwise convolution; where the input has as many, there is no expanding convolution.
    squeezed: of the squeeze-and-excite after the depthwise convolution (arXiv 1905.02244, figure 4); None for none.
    drop_rate: where the input is added (stride 1, as many channels), the chance in training that a sample skips the
        block (stochastic depth, arXiv 1603.09382).
    """
    shortcut = x
    channels = x.shape[-1]
    if expanded != channels:
        x = conv_bn(x, expanded, 1, f"{name}_expand", convention, activation=activation)
    x = conv_bn(
        x, None, kernel, f"{name}_depthwise", convention,
        stride=stride, dilation=dilation, activation=activation, depthwise=True,
    )  # fmt: skip
    if squeezed:
        x = squeeze_excite(x, squeezed, "hard_sigmoid", name)
    x = conv_bn(x, filters, 1, f"{name}_project", convention, activation=None)
    if stride == 1 and channels == filters:
        if drop_rate:
            # Dropout whose mask is one value a sample: stochastic depth out of a stock layer.
            x = layers.Dropout(drop_rate, noise_shape=(None, 1, 1, 1), name=f"{name}_drop")(x)
        x = layers.Add(name=f"{name}_add")([shortcut, x])
    return x


class Dilator:
    """Turns strides into dilation once the features are ``output_stride`` times smaller than the input.

    A layer whose stride is taken away still sees its input at the spacing it was trained on; only the layers after it
    are dilated. That is the rule of TensorFlow's slim ``mobilenet_base``, and it keeps trained weights valid.

    Raises:
        RequestError: ``output_stride`` is not 8, 16 or 32.
    """

    def __init__(self, output_stride: int):
        if output_stride not in (8, 16, 32):
            raise RequestError(f"output_stride={output_stride!r}: expected 8, 16 or 32.")
        self._limit, self._stride, self._dilation = output_stride, 1, 1

    def __call__(self, stride: int) -> dict[str, int]:
        """The stride and dilation to use for the next layer, whose own stride is ``stride``."""
        if self._stride * stride <= self._limit:
            self._stride *= stride
            return {"stride": stride, "dilation": self._dilation}
        current = self._dilation
        self._dilation *= stride
        return {"stride": 1, "dilation": current}


def image_input(input_shape, name: str = "image"):
    """The network's input: (height, width, 3); height and width may be None when there is no need for a fixed size.

    Raises:
        RequestError: not three numbers, or a side below 32 pixels.
    """
    shape = tuple(input_shape)
    if len(shape) != 3 or shape[2] is None or any(side is not None and side < 32 for side in shape[:2]):
        raise RequestError(
            f"input_shape={input_shape!r}: expected (height, width, channels) with both sides at least 32."
        )
    return keras.Input(shape, name=name)


def top(
    x,
    include_top: bool,
    pooling: str | None,
    classes: int,
    activation: str | None,
    dropout_rate: float,
    hidden: tuple[int, str] | None = None,
):
    """The classifier, or the pooling that stands for it when ``include_top`` is False.

    (N, H, W, C) -> (N, classes) with a top; (N, C) with pooling "avg" or "max"; x as it is otherwise.
    hidden: units and activation of a layer between pooling and classifier (MobileNetV3's); None for none.

    Raises:
        RequestError: pooling, classes or dropout_rate out of range.
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
    if not isinstance(classes, int) or classes < 1:
        raise RequestError(f"classes={classes!r}: expected a whole number above 0.")
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    if hidden:
        units, hidden_activation = hidden
        x = activate(layers.Dense(units, name="hidden")(x), hidden_activation, "hidden")
    if dropout_rate:
        x = layers.Dropout(dropout_rate, name="dropout")(x)
    x = layers.Dense(classes, name="classifier")(x)
    return layers.Activation(activation, name="predictions")(x) if activation else x
