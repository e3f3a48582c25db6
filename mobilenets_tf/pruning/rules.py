"""How channels pass each kind of layer and operation: a table, and the few rules that its rows name.

A rule is called with the trace and a call of a layer, and gives the channels of the call's outputs. What the table does
not name may mix the channels: nothing that goes into such a layer can shrink, and nothing that comes out of it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from mobilenets_tf.conversion.rewriting import is_elementwise_function
from mobilenets_tf.pruning.labels import Channels, Labels

if TYPE_CHECKING:
    import keras


@dataclass(eq=False)
class Call:
    """One call of a layer or operation in a model.

    name: of the layer, with the models that it is in before it: "backbone/stem_conv".
    arguments: positional arguments, symbolic tensors among them.
    inputs, outputs: the channels of the tensors that the call reads and writes, in the order of ``input_shapes`` and
    ``output_shapes``.
    """

    operation: Any
    name: str
    arguments: Sequence[Any]
    input_shapes: list[tuple]
    output_shapes: list[tuple]
    inputs: list[Channels]
    outputs: list[Channels] = field(default_factory=list)

    @property
    def label(self) -> str:
        """The layer as messages name it."""
        return f"{self.name!r} ({type(self.operation).__name__})"


# What a layer is to channels: it makes them, passes them on with weights of its own for each, or reads them.
Part = Literal["producers", "followers", "consumers"]


class Trace(Protocol):
    """What rules ask of the trace of a model."""

    labels: Labels

    def fix(self, channels: Channels, reason: str) -> Channels:
        """Let channels stay; return channels that stay for the same reason."""

    def channels(self, axis: int, labels: np.ndarray, reason: str) -> Channels:
        """Return channels along an axis; if there is one only, it stays for the reason given."""

    def make(self, call: Call, count: int, axis: int) -> Channels:
        """Return the channels that a layer makes, which are the same at each of its calls."""

    def note(self, call: Call, labels: np.ndarray, part: Part) -> None:
        """Note which part a layer has for the channels of its input."""

    def weigh(self, variable: "keras.Variable | None", axis: int, labels: np.ndarray, part: Part) -> None:
        """Note which channels an axis of a weight belongs to, and which part the weight has."""

    def again(self, operation: Any, *channels: Channels) -> None:
        """Join the channels with those at earlier calls, because the layer's configuration depends on them."""


Rule = Callable[[Trace, Call], list[Channels]]

_ALL_TOGETHER = "computes each of them from all"


def channel_axis(operation: Any, rank: int) -> int:
    """Return the axis along which a layer has the channels of an image."""
    return 1 if getattr(operation, "data_format", None) == "channels_first" else rank - 1


def _along(trace: Trace, call: Call, axis: int) -> Channels:
    """Return the channels of the first input if they lie along the axis; fix those along another axis."""
    x = call.inputs[0]
    return x if x.axis in (None, axis) else trace.fix(x, f"{call.label} takes another axis for the channels")


def _activated(trace: Trace, call: Call, channels: Channels) -> Channels:
    """Return what the activation inside a layer makes of the channels."""
    function = getattr(call.operation, "activation", None)
    if is_elementwise_function(function):
        return channels
    name = getattr(function, "__name__", type(function).__name__)
    return trace.fix(channels, f"{call.label} has the activation {name}, which may compute each of them from all")


def _elementwise(trace: Trace, call: Call) -> list[Channels]:
    """Each value is computed from the values at the same place, of any number of inputs that may be broadcast."""
    return [_activated(trace, call, _joined(trace, call))]


def _joined(trace: Trace, call: Call) -> Channels:
    """Join the channels of inputs that meet at the same places."""
    rank = len(call.output_shapes[0])
    # Tensors of fewer axes are aligned at their last: so broadcasts NumPy, and a merging layer puts axes after the
    # batch's.
    offsets = [rank - len(shape) for shape in call.input_shapes]
    pairs = list(zip(call.inputs, offsets, strict=True))
    axes = {x.axis + offset for x, offset in pairs if x.axis is not None}
    if not axes:
        return call.inputs[0]
    if len(axes) > 1:
        return _fixed(trace, call, "joins them with channels along another axis")
    (axis,) = axes
    first = next(x for x in call.inputs if x.axis is not None)
    for (x, offset), shape in zip(pairs, call.input_shapes, strict=True):
        if axis >= offset and shape[axis - offset] != 1:  # otherwise all channels meet the same value
            trace.labels.join(first.labels, x.labels)
    return Channels(axis, first.labels)


def _fixed(trace: Trace, call: Call, what: str) -> Channels:
    """Fix all inputs of a call, and what it makes of them."""
    reason = f"{call.label} {what}"
    for x in call.inputs:
        trace.fix(x, reason)
    return trace.labels.fixed(reason)


def unknown(trace: Trace, call: Call) -> list[Channels]:
    """Fix the channels before and after a layer that may do anything with them."""
    return [_fixed(trace, call, "may mix them: how they pass such a layer is not known") for _ in call.output_shapes]


def _rescaling(trace: Trace, call: Call) -> list[Channels]:
    x, layer = call.inputs[0], call.operation
    if np.ndim(layer.scale) or np.ndim(layer.offset):
        trace.again(layer, x)
    return [x]


def _clip(trace: Trace, call: Call) -> list[Channels]:
    if np.ndim(call.operation.x_min) or np.ndim(call.operation.x_max):
        return [_fixed(trace, call, "has bounds of several values")]
    return _elementwise(trace, call)


def _spatial(trace: Trace, call: Call) -> list[Channels]:
    """Each channel is computed from the same channel at other places."""
    return [_along(trace, call, channel_axis(call.operation, len(call.input_shapes[0])))]


def _global_pooling(trace: Trace, call: Call) -> list[Channels]:
    (x,) = _spatial(trace, call)
    return [x if x.axis is None or call.operation.keepdims else Channels(1, x.labels)]


def _reduction(trace: Trace, call: Call) -> list[Channels]:
    x, rank, axes = call.inputs[0], len(call.input_shapes[0]), call.operation.axis
    axes = range(rank) if axes is None else {axis % rank for axis in np.atleast_1d(axes).tolist()}
    if x.axis is None:
        return [x]
    if x.axis in axes:
        return [trace.fix(x, f"{call.label} computes one value from all of them")]
    gone = 0 if call.operation.keepdims else sum(axis < x.axis for axis in axes)
    return [Channels(x.axis - gone, x.labels)]


def _convolution(trace: Trace, call: Call) -> list[Channels]:
    layer, shape = call.operation, call.input_shapes[0]
    axis = channel_axis(layer, len(shape))
    x, made = _along(trace, call, axis), trace.make(call, layer.filters, axis)
    labels = x.over(shape[axis])
    trace.note(call, labels, "consumers")
    if layer.groups == 1:
        trace.weigh(layer.kernel, -2, labels, "consumers")
    else:  # as many channels in each group, so groups go whole
        each = zip(np.split(labels, layer.groups), np.split(made.over(layer.filters), layer.groups), strict=True)
        for group in map(np.concatenate, each):
            trace.labels.join(group[:1], group)
    return _made(trace, call, made, layer.filters, layer.kernel, -1)


def _transposed_convolution(trace: Trace, call: Call) -> list[Channels]:
    layer, shape = call.operation, call.input_shapes[0]
    axis = channel_axis(layer, len(shape))
    labels = _along(trace, call, axis).over(shape[axis])
    trace.note(call, labels, "consumers")
    trace.weigh(layer.kernel, -1, labels, "consumers")
    return _made(trace, call, trace.make(call, layer.filters, axis), layer.filters, layer.kernel, -2)


def _separable_convolution(trace: Trace, call: Call) -> list[Channels]:
    layer, shape = call.operation, call.input_shapes[0]
    axis = channel_axis(layer, len(shape))
    labels = _along(trace, call, axis).over(shape[axis])
    trace.note(call, labels, "consumers")
    trace.weigh(layer.depthwise_kernel, -2, labels, "consumers")
    trace.weigh(layer.pointwise_kernel, -2, np.repeat(labels, layer.depth_multiplier), "consumers")
    return _made(trace, call, trace.make(call, layer.filters, axis), layer.filters, layer.pointwise_kernel, -1)


def _dense(trace: Trace, call: Call) -> list[Channels]:
    layer, shape = call.operation, call.input_shapes[0]
    axis = len(shape) - 1
    labels = _along(trace, call, axis).over(shape[axis])
    trace.note(call, labels, "consumers")
    trace.weigh(layer.kernel, 0, labels, "consumers")
    return _made(trace, call, trace.make(call, layer.units, axis), layer.units, layer.kernel, 1)


def _made(trace: Trace, call: Call, made: Channels, count: int, kernel: Any, axis: int) -> list[Channels]:
    """Note the weights that make channels: the kernel, along an axis, and the bias."""
    labels = made.over(count)
    trace.weigh(kernel, axis, labels, "producers")
    trace.weigh(call.operation.bias, 0, labels, "producers")
    return [_activated(trace, call, made)]


def _embedding(trace: Trace, call: Call) -> list[Channels]:
    layer = call.operation
    made = trace.make(call, layer.output_dim, len(call.output_shapes[0]) - 1)
    trace.weigh(layer.embeddings, 1, made.over(layer.output_dim), "producers")
    return [made]


def _depthwise_convolution(trace: Trace, call: Call) -> list[Channels]:
    layer, shape = call.operation, call.input_shapes[0]
    axis = channel_axis(layer, len(shape))
    x = _along(trace, call, axis)
    labels, out = x.over(shape[axis]), x.repeated(layer.depth_multiplier)
    trace.weigh(layer.kernel, -2, labels, "followers")
    trace.weigh(layer.bias, 0, out.over(shape[axis] * layer.depth_multiplier), "followers")
    trace.note(call, labels, "followers")
    return [_activated(trace, call, out)]


def _batch_normalization(trace: Trace, call: Call) -> list[Channels]:
    x, layer, shape = call.inputs[0], call.operation, call.input_shapes[0]
    axis = layer.axis % len(shape)
    if x.axis in (None, axis):
        for variable in layer.weights:
            trace.weigh(variable, 0, x.over(shape[axis]), "followers")
        trace.note(call, x.over(shape[axis]), "followers")
    return [x]


def _group_normalization(trace: Trace, call: Call) -> list[Channels]:
    layer, shape = call.operation, call.input_shapes[0]
    axis = layer.axis % len(shape)
    x = _along(trace, call, axis)
    trace.again(layer, x)
    if layer.groups == 1:
        return [trace.fix(x, f"{call.label} {_ALL_TOGETHER}")]
    labels = x.over(shape[axis])
    for variable in layer.weights:
        trace.weigh(variable, 0, labels, "followers")
    for group in np.split(labels, layer.groups):  # the mean of a group is another one if a part of the group is gone
        trace.labels.join(group[:1], group)
    trace.note(call, labels, "followers")
    return [x]


def _normalization_over_axes(trace: Trace, call: Call) -> list[Channels]:
    """Each channel is computed from all of them, if they lie along an axis of the layer's."""
    x, rank = call.inputs[0], len(call.input_shapes[0])
    axes = {axis % rank for axis in np.atleast_1d(call.operation.axis).tolist()}
    return [trace.fix(x, f"{call.label} {_ALL_TOGETHER}") if x.axis in axes else x]


def _prelu(trace: Trace, call: Call) -> list[Channels]:
    x, layer, shape = call.inputs[0], call.operation, call.input_shapes[0]
    for axis in range(1, len(shape)):
        # The weight says which axes share it: Keras counts shared_axes from 1, and wraps 0 and negative ones around.
        if layer.alpha.shape[axis - 1] == shape[axis] and x.axis in (None, axis):
            trace.weigh(layer.alpha, axis - 1, x.over(shape[axis]), "followers")
            trace.note(call, x.over(shape[axis]), "followers")
    return [x]


def _concatenate(trace: Trace, call: Call) -> list[Channels]:
    axis = call.operation.axis % len(call.output_shapes[0])
    axes = {x.axis for x in call.inputs} - {None}
    if not axes or axis not in axes:  # at other places, or not at all
        return [_joined(trace, call)]
    if len(axes) > 1:
        return [_fixed(trace, call, "joins them with channels along another axis")]
    parts = [x.over(shape[axis]) for x, shape in zip(call.inputs, call.input_shapes, strict=True)]
    return [Channels(axis, np.concatenate(parts))]


def _split(trace: Trace, call: Call) -> list[Channels]:
    x, operation = call.inputs[0], call.operation
    if x.axis is None or x.axis != operation.axis % len(call.input_shapes[0]):
        return [x] * len(call.output_shapes)
    parts = np.split(x.labels, operation.indices_or_sections)
    return [trace.channels(x.axis, part, f"{call.label} takes one of them alone") for part in parts]


def _matmul(trace: Trace, call: Call) -> list[Channels]:
    """The last axis of the second factor passes; every value of the product is a sum along the others."""
    import keras

    first, second = (isinstance(argument, keras.KerasTensor) for argument in call.arguments)
    reason = f"{call.label} sums over them"
    if first:
        trace.fix(call.inputs[0], reason)
    x = call.inputs[-1]
    if second and x.axis is not None and x.axis == len(call.input_shapes[-1]) - 1:
        return [Channels(len(call.output_shapes[0]) - 1, x.labels)]
    return [trace.fix(x, reason)]


def _reshape(trace: Trace, call: Call) -> list[Channels]:
    (x,), (old,), (new,) = call.inputs, call.input_shapes, call.output_shapes
    trace.again(call.operation, x)
    if x.axis is not None and x.axis == len(old) - 1 and new[-1] == old[-1]:
        return [Channels(len(new) - 1, x.labels)]  # the sides may be open
    return _moved(trace, call, lambda labels: labels.reshape([-1 if side is None else side for side in new]))


def _flatten(trace: Trace, call: Call) -> list[Channels]:
    is_first = call.operation.data_format == "channels_first"  # then the layer brings them to the end

    def flat(labels: np.ndarray) -> np.ndarray:
        return (np.moveaxis(labels, 1, -1) if is_first else labels).reshape(len(labels), -1)

    return _moved(trace, call, flat)


def _get_item(trace: Trace, call: Call) -> list[Channels]:
    keys, x = whole_key(call.arguments[1], len(call.input_shapes[0])), call.inputs[0]
    if any(not isinstance(key, (slice, int, type(None))) for key in keys):
        return unknown(trace, call)
    along = slice(None) if x.axis is None else [key for key in keys if key is not None][x.axis]
    if isinstance(along, slice) and along.step not in (None, 1):
        return [trace.fix(x, f"{call.label} picks some of them")]
    return _moved(trace, call, lambda labels: labels[tuple(keys)])


def whole_key(key: Any, rank: int) -> list[Any]:
    """Write the key of ``x[key]`` with one entry for each axis of ``x``, and None for each new axis."""
    keys = list(key) if isinstance(key, (tuple, list)) else [key]
    used = sum(each is not None and each is not Ellipsis for each in keys)
    place = next((place for place, each in enumerate(keys) if each is Ellipsis), len(keys))
    keys[place : place + 1] = [slice(None)] * (rank - used)
    return keys


def _moved(trace: Trace, call: Call, move: Callable[[np.ndarray], np.ndarray], sides: bool = True) -> list[Channels]:
    """Move the labels as the values are moved.

    move: a function of the labels of all values of a tensor, which gives those of the values that come out.
    sides: whether the function needs to know all sides of the tensor.
    """
    x, shape = call.inputs[0], call.input_shapes[0]
    if x.axis is None:
        return [x]
    if sides and None in shape[1:]:
        return [trace.fix(x, f"{call.label} moves them, and the sides of its input are open")]
    labels = x.labels.reshape([-1 if axis == x.axis else 1 for axis in range(len(shape))])
    moved = move(np.broadcast_to(labels, [2 if side is None else side for side in shape]))  # 2: any length but 1
    axes = [axis for axis in range(moved.ndim) if moved.size and (moved != moved.take([0], axis)).any()]
    if len(axes) != 1 or axes == [0]:
        what = "spreads them over several axes" if axes else "takes one of them alone"
        return [trace.fix(x, f"{call.label} {what}")]
    return [Channels(axes[0], np.moveaxis(moved, axes[0], 0).reshape(moved.shape[axes[0]], -1)[:, 0])]


def _axes(move: Callable[[Any, np.ndarray], np.ndarray]) -> Rule:
    """Return the rule of a layer that moves axes as a whole."""
    return lambda trace, call: _moved(trace, call, lambda labels: move(call.operation, labels), sides=False)


def _as_tuple(axes: Any) -> tuple | None:
    return None if axes is None else tuple(np.atleast_1d(axes).tolist())


# Layers and operations that compute each value from the values at the same place.
_LAYERS_OF_VALUES = (
    "Activation", "ActivityRegularization", "Add", "AlphaDropout", "Average", "Dropout", "ELU", "GaussianDropout",
    "GaussianNoise", "Identity", "LeakyReLU", "Maximum", "Minimum", "Multiply", "ReLU", "SpatialDropout1D",
    "SpatialDropout2D", "SpatialDropout3D", "Subtract",
)  # fmt: skip
OPERATIONS_OF_VALUES = (
    "Abs", "Absolute", "Add", "Cast", "Celu", "Divide", "Elu", "Erf", "Exp", "Gelu", "HardSigmoid", "HardSilu",
    "HardTanh", "LeakyRelu", "Log", "Log1p", "LogSigmoid", "Maximum", "Minimum", "Multiply", "Negative", "Power",
    "Reciprocal", "Relu", "Relu6", "Rsqrt", "Selu", "Sigmoid", "Sign", "Silu", "Softplus", "Softsign", "Sqrt", "Square",
    "StopGradient", "Subtract", "Tanh", "TrueDivide",
)  # fmt: skip
_SPATIAL_LAYERS = (
    "AdaptiveAveragePooling1D", "AdaptiveAveragePooling2D", "AdaptiveAveragePooling3D", "AdaptiveMaxPooling1D",
    "AdaptiveMaxPooling2D", "AdaptiveMaxPooling3D", "AveragePooling1D", "AveragePooling2D", "AveragePooling3D",
    "Cropping1D", "Cropping2D", "Cropping3D", "MaxPooling1D", "MaxPooling2D", "MaxPooling3D", "Resizing",
    "UpSampling1D", "UpSampling2D", "UpSampling3D", "ZeroPadding1D", "ZeroPadding2D", "ZeroPadding3D",
)  # fmt: skip
_GLOBAL_POOLING = tuple(f"Global{kind}Pooling{rank}D" for kind in ("Average", "Max") for rank in (1, 2, 3))

# Class of a stock layer -> the rule of how channels pass it.
LAYERS: dict[str, Rule] = {
    **dict.fromkeys(_LAYERS_OF_VALUES, _elementwise),
    **dict.fromkeys(_SPATIAL_LAYERS, _spatial),
    **dict.fromkeys(_GLOBAL_POOLING, _global_pooling),
    **dict.fromkeys(("Conv1D", "Conv2D", "Conv3D"), _convolution),
    **dict.fromkeys(("Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose"), _transposed_convolution),
    **dict.fromkeys(("DepthwiseConv1D", "DepthwiseConv2D"), _depthwise_convolution),
    **dict.fromkeys(("SeparableConv1D", "SeparableConv2D"), _separable_convolution),
    "Dense": _dense,
    "Embedding": _embedding,
    "BatchNormalization": _batch_normalization,
    "GroupNormalization": _group_normalization,
    **dict.fromkeys(
        ("LayerNormalization", "RMSNormalization", "UnitNormalization", "Softmax"), _normalization_over_axes
    ),
    "PReLU": _prelu,
    "Rescaling": _rescaling,
    "Concatenate": _concatenate,
    "Flatten": _flatten,
    "Reshape": _reshape,
    "Permute": _axes(lambda layer, labels: labels.transpose(0, *layer.dims)),
    "RepeatVector": _axes(lambda layer, labels: labels[:, None]),
}
# Class of an operation of keras.ops -> its rule.
OPERATIONS: dict[str, Rule] = {
    **dict.fromkeys(OPERATIONS_OF_VALUES, _elementwise),
    **dict.fromkeys(("Amax", "Amin", "Max", "Mean", "Min", "Prod", "Std", "Sum", "Var"), _reduction),
    **dict.fromkeys(("Resize", "PadImages", "CropImages"), _spatial),
    "Clip": _clip,
    "Concatenate": _concatenate,
    "Split": _split,
    "Matmul": _matmul,
    "GetItem": _get_item,
    "Reshape": _reshape,
    "Transpose": _axes(lambda operation, labels: labels.transpose(operation.axes)),
    "Swapaxes": _axes(lambda operation, labels: labels.swapaxes(operation.axis1, operation.axis2)),
    "Moveaxis": _axes(lambda operation, labels: np.moveaxis(labels, operation.source, operation.destination)),
    "ExpandDims": _axes(lambda operation, labels: np.expand_dims(labels, operation.axis)),
    "Squeeze": _axes(lambda operation, labels: np.squeeze(labels, _as_tuple(operation.axis))),
}
# Layers and operations of any number of inputs. A second input of one of the others, such as a mask, is not known.
_OF_SEVERAL = {
    "Add", "Average", "Concatenate", "Divide", "Matmul", "Maximum", "Minimum", "Multiply", "Power", "Subtract",
    "TrueDivide",
}  # fmt: skip


# Operations whose constants, arrays among the arguments, are cut with the channels, or have nothing to do with them.
_WITH_CONSTANTS = {*OPERATIONS_OF_VALUES, "GetItem", "Matmul"}


def _is_constant(argument: Any) -> bool:
    import keras

    return not isinstance(argument, keras.KerasTensor) and hasattr(argument, "shape") and np.ndim(argument) > 0


def rule_of(call: Call) -> Rule:
    """Return the rule of a call."""
    import keras

    operation, kind = call.operation, type(call.operation)
    table = LAYERS if isinstance(operation, keras.Layer) else OPERATIONS
    is_stock = kind.__module__.startswith("keras.")
    # Integers, or weights in two parts: not the kernel that the layer computes with.
    is_changed = getattr(operation, "quantization_mode", None) or getattr(operation, "lora_enabled", False)
    if not is_stock or is_changed or (len(call.inputs) != 1 and kind.__name__ not in _OF_SEVERAL):
        return unknown
    constants = [each for each in keras.tree.flatten(list(call.arguments)) if _is_constant(each)]
    if constants and (isinstance(operation, keras.Layer) or kind.__name__ not in _WITH_CONSTANTS):
        return unknown
    return table.get(kind.__name__, unknown)
