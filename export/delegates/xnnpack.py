"""Which operators XNNPACK runs on a phone's CPU. The rules are tested against XNNPACK (tests/export/delegates)."""

import math
import struct
from collections.abc import Callable

import numpy as np

from mobilenets_tf.export.delegates.rules import (
    FLOAT,
    FLOAT_OR_8,
    Check,
    Rule,
    RuleSource,
    activation,
    constant,
    count,
    dims,
    known,
    positive,
    same_type,
    scaled,
    types,
)
from mobilenets_tf.tflite.operators import Call, Tensor


def _weights(position: int, axis: Callable[[Call], int]) -> Check:
    """Check that weights are float, or 8-bit with one scale, or int8 with one scale for each output channel.

    axis: returns the dimension of the output channels.
    """

    def check(call):
        tensor = call.input(position)
        if tensor is None:
            return "it has no weights"
        if tensor.type in ("float32", "float16"):
            return None
        if tensor.type not in ("int8", "uint8"):
            return f"input {position} is {tensor.type}; it takes float16, float32, int8, uint8"
        if not len(tensor.scales):
            return f"input {position} is {tensor.type} without a scale"
        several = len(tensor.scales) > 1
        if tensor.type == "uint8" and several:
            return f"input {position} is uint8 with {len(tensor.scales)} scales; it takes one"
        if several and tensor.axis != axis(call):
            return f"input {position} has its scales along dimension {tensor.axis}; it takes them along {axis(call)}"
        return None

    return check


def _bias(position: int, needed: bool) -> Check:
    """Check that a bias is float, or int32 with scales."""

    def check(call):
        tensor = call.input(position)
        if tensor is None:
            return "it has no bias" if needed else None
        if tensor.type in ("float32", "float16"):
            return None
        if tensor.type != "int32":
            return f"the bias is {tensor.type}; it takes float16, float32, int32"
        return None if len(tensor.scales) and tensor.axis == 0 else "the bias is int32 without scales of dimension 0"

    return check


def _weighted_types(dynamic: bool) -> Check:
    """Check that input, weights and output have one type. ``dynamic`` also allows int8 weights with a float32 input."""

    def check(call):
        data, kernel, result = call.input(0), call.input(1), call.outputs[0]
        if data is None or kernel is None:
            return "an input is left out"
        if data.type == result.type:
            if data.type == kernel.type or ({data.type, kernel.type} == FLOAT and kernel.unpacked):
                return None
            if dynamic and data.type == "float32" and kernel.type == "int8":
                return None
        return f"mixed types: {data.type} input, {kernel.type} weights, {result.type} output"

    return check


def _scale(tensor: Tensor) -> float:
    return float(tensor.scales[0]) if tensor.type in ("int8", "uint8") and len(tensor.scales) == 1 else math.nan


def _ratio(low: float, high: float, product: bool = False) -> Check:
    """Check that the scale of each input (or their ``product``) divided by the output's scale is in [low, high)."""

    def check(call):
        result, scales = _scale(call.outputs[0]), [_scale(tensor) for tensor in call.inputs if tensor is not None]
        for scale in [math.prod(scales)] if product else scales:
            if scale / result < low or scale / result >= high:
                return f"the input's scale is {scale / result:.3g} of the output's; it takes {low:.3g} to {high:.3g}"
        return None

    return check


def _quantize(call: Call) -> str | None:
    data, result = call.inputs[0], call.outputs[0]
    if data.type in ("float32", "float16"):
        return None
    if data.type != result.type:
        return f"from {data.type} to {result.type}"
    ratio = _scale(data) / _scale(result)
    return (
        None if 1 / 256 <= ratio <= 128 else f"the input's scale is {ratio:.3g} of the output's; 1/256 to 128 is taken"
    )


def _leaky(call: Call) -> str | None:
    alpha = float(call.option("alpha", 0.0))
    if not math.isfinite(alpha) or abs(alpha) < np.finfo(np.float32).tiny:
        return f"its slope is {alpha}"
    ratio = _scale(call.inputs[0]) / _scale(call.outputs[0])
    if math.isnan(ratio):
        return None
    slope = ratio * alpha
    inside = 1 / 256 <= ratio <= 128 and -127.99609375 <= slope <= 128 and abs(slope) >= 1 / 256
    if inside:
        return None
    return f"the input's scale is {ratio:.3g} of the output's, and {slope:.3g} of it for negative values"


def _pool(call: Call) -> str | None:
    filters = call.option("filterWidth"), call.option("filterHeight")
    strides = call.option("strideW"), call.option("strideH")
    if min(filters) <= 0 or min(strides) <= 0:
        return "its window or its stride is not positive"
    if strides[0] > filters[0] or strides[1] > filters[1]:
        return f"its stride {strides} is larger than its window {filters}"
    return None


def _depth_multiplier(call: Call) -> str | None:
    multiplier, channels = call.option("depthMultiplier"), call.inputs[1].shape[3]
    return None if multiplier > 0 and channels % multiplier == 0 else f"its depth multiplier is {multiplier}"


def _groups(call: Call) -> str | None:
    return None if call.inputs[0].shape[3] >= call.inputs[1].shape[3] else "its input has fewer channels than a group"


def _products(call: Call) -> str | None:
    left, right = call.inputs[0], call.inputs[1]
    if len(left.shape) < 2 or len(right.shape) < 2:
        return "an input has fewer than 2 dimensions"
    if left.type == "float32" and right.type == "int8":
        return None
    if left.type != right.type or (left.type == "int8" and len(right.scales) > 1):
        return f"mixed types: {left.type} and {right.type}"
    if right.type == "int8" and right.zero_points[0] != 0:
        return f"input 1 has the zero point {right.zero_points[0]}; it takes 0"
    return None


def _concatenation(call: Call) -> str | None:
    axis, result = call.option("axis"), call.outputs[0]
    for tensor in call.inputs:
        if axis >= len(tensor.shape):
            return f"along dimension {axis} of {len(tensor.shape)}"
        if result.type == "uint8" and (_scale(tensor), *tensor.zero_points) != (_scale(result), *result.zero_points):
            return "its inputs and its output have different scales"
    return None


def _fully_connected(call: Call) -> str | None:
    data, weights, bias, result = call.inputs[0], call.inputs[1], call.input(2), call.outputs[0]
    if call.option("weightsFormat"):
        return "its weights are shuffled"
    if call.version == 8:
        return "its weights are sparse (version 8)"
    if not weights.known:  # accepted only with TFLITE_XNNPACK_DELEGATE_FLAG_DYNAMIC_FULLY_CONNECTED
        return "its weights are computed"
    if weights.type in ("int8", "int4", "int2"):
        if not len(weights.scales) or (len(weights.scales) > 1 and weights.axis != 0):
            return "its weights have no scales, or several that are not one for each output"
    elif weights.type not in ("float32", "float16", "uint8"):
        return f"its weights are {weights.type}"
    if bias is not None and (not bias.known or math.prod(bias.shape) != weights.shape[0]):
        return "its bias is computed, or does not have one value for each output"
    small = weights.type in ("int8", "int4", "int2")
    converted = {data.type, weights.type} == {"float32", "float16"} and weights.unpacked
    mixed = small and data.type in ("float32", "float16", "int8")
    if data.type != result.type or not (data.type == weights.type or mixed or converted):
        return f"mixed types: {data.type} input, {weights.type} weights, {result.type} output"
    if data.type == "int8" and weights.type == "int8" and any(weights.zero_points):
        return f"its weights have the zero point {weights.zero_points[0]}; it takes 0"
    step = {"int4": 2, "int2": 4}.get(weights.type, 1)
    return (
        f"{weights.shape[1]} inputs of {weights.type}; a multiple of {step} is taken"
        if weights.shape[1] % step
        else None
    )


def _axes(call: Call) -> str | None:
    axes = call.inputs[1]
    if len(axes.shape) > 1 or not axes.integers():
        return "its axes are empty, or have more than one dimension"
    if not call.inputs[0].shape or len(axes.integers()) > 6:
        return "its input is a scalar, or it has more than 6 axes"
    return None


def _pads(call: Call) -> str | None:
    pads = call.inputs[1]
    if pads.shape != (len(call.inputs[0].shape), 2):
        return f"its paddings have the shape {list(pads.shape)}"
    return "a padding is negative" if any(side < 0 for side in pads.integers()) else None


def _reshape(call: Call) -> str | None:
    data, result = call.inputs[0], call.outputs[0]
    if result.type in ("int8", "uint8"):
        before, after = (_scale(data), *data.zero_points), (_scale(result), *result.zero_points)
        if before != after:
            return "its input and its output have different scales"
    if call.input(1) is not None:
        if any(side != 1 for side in call.inputs[1].shape[:-1]):
            return "its new shape has more than one dimension"
        new = call.inputs[1].integers()
    else:
        new = call.option("newShape", None)
        new = [] if new is None else list(new)
    return "its new shape is [0] or [-1], which stood for a scalar in old files" if new in ([0], [-1]) else None


def _sizes(call: Call) -> str | None:
    new = call.inputs[1].integers()
    return None if len(call.inputs[1].shape) == 1 and min(new, default=0) > 0 else f"its new size is {new}"


def _slice(call: Call) -> str | None:
    begin, size = call.inputs[1], call.inputs[2]
    if len(begin.shape) != 1 or begin.shape != size.shape:
        return "its bounds do not have the same one dimension"
    return None if min(size.integers(), default=1) > 0 else "one of its sizes is 0, or -1 (up to the end)"


def _strided(call: Call) -> str | None:
    for mask in ("ellipsisMask", "newAxisMask", "shrinkAxisMask"):
        if call.option(mask):
            return f"it has {mask}"
    rank = len(call.inputs[0].shape)
    if any(tensor.shape != (rank,) for tensor in call.inputs[1:4]):
        return "its bounds do not cover each dimension"
    return None if all(step == 1 for step in call.inputs[3].integers()) else "its stride is not 1"


def _split(call: Call) -> str | None:
    return None if call.option("numSplits") == len(call.outputs) else "numSplits is not the number of its outputs"


def _transposed(call: Call) -> str | None:
    shape, weights, data = call.inputs[0].integers(), call.inputs[1], call.inputs[2]
    if len(shape) != 4 or shape[3] != weights.shape[0] or data.shape[3] != weights.shape[3]:
        return "the shape of its weights does not match its input and output"
    return None


def _blocks(call: Call) -> str | None:
    size = call.option("blockSize")
    if size <= 1:
        return f"its block size is {size}"
    sides = call.inputs[0].shape[1:3]
    if call.name == "SPACE_TO_DEPTH" and any(side % size for side in sides):
        return f"blocks of {size} do not divide {sides}"
    return None


def _mediapipe(windows: bool) -> Check:
    """Check the options of an op of MediaPipe's: padding, strides, and for ``windows`` the window, five or three int32.

    What the file leaves out is 0 (SafeCopyCustomData).
    """

    def check(call):
        padding, *sizes = struct.unpack("<5i", (call.custom_options or b"")[:20].ljust(20, b"\0"))
        strides, window = sizes[:2], sizes[2:]
        if min(sizes if windows else strides) <= 0:
            return "its window or its stride is not positive"
        if windows and window != strides:
            return f"its window {window} is not its stride {strides}"
        return None if padding in (1, 2) else "its padding is neither SAME nor VALID"

    return check


FILE = "tflite/delegates/xnnpack/xnnpack_delegate.cc"
_FLOAT_OR_INT8 = FLOAT | {"int8"}
_CLAMPS = ("NONE", "RELU", "RELU_N1_TO_1", "RELU6")
_MOST_DIMS = 6  # XNN_MAX_TENSOR_DIMS


def _xnnpack(where: str, *checks: Check) -> Rule:
    return Rule(RuleSource(FILE, where), checks)


def _unary(types, *checks) -> Rule:
    return _xnnpack("VisitUnaryNode", count(1), dims(0, 0, _MOST_DIMS), scaled(types, 0, -1), *checks)


def _binary(types, *checks) -> Rule:
    sizes = dims(0, 0, _MOST_DIMS), dims(1, 0, _MOST_DIMS)
    return _xnnpack("VisitBinaryNode", count(2), *sizes, scaled(types, 0, 1, -1), *checks)


_SUM = _binary(FLOAT_OR_8, same_type(0, 1, -1), _ratio(1 / 1024, 256), activation(*_CLAMPS))
_REDUCE = _xnnpack("VisitReduceNode", count(2), scaled(FLOAT_OR_8, 0, -1), constant(1), _axes)
RULES = {
    **dict.fromkeys(
        (
            "ABS", "CEIL", "COS", "EXP", "FLOOR", "GELU", "HARD_SWISH", "LOG", "NEG", "RELU", "RELU6", "RELU_N1_TO_1",
            "ROUND", "RSQRT", "SIN", "SQRT", "SQUARE",
        ),
        _unary(FLOAT),
    ),
    **dict.fromkeys(("LOGISTIC", "TANH"), _unary(FLOAT_OR_8)),
    "ELU": _unary(_FLOAT_OR_INT8),
    "LEAKY_RELU": _unary(FLOAT_OR_8, _leaky),
    "QUANTIZE": _unary(FLOAT_OR_8, _quantize),
    "DEQUANTIZE": _xnnpack(
        "VisitUnaryNode", count(1), dims(0, 0, _MOST_DIMS), scaled({"int8", "uint8"}, 0), types(FLOAT, -1)
    ),
    **dict.fromkeys(("ADD", "SUB"), _SUM),
    "MUL": _binary(
        FLOAT_OR_8, same_type(0, 1, -1), _ratio(1 / 65536, 256, product=True), activation(*_CLAMPS)
    ),
    "DIV": _binary(FLOAT, activation(*_CLAMPS)),
    **dict.fromkeys(("MAXIMUM", "MINIMUM", "SQUARED_DIFFERENCE"), _binary(FLOAT)),
    "PRELU": _binary(FLOAT, known(1)),
    "AVERAGE_POOL_2D": _xnnpack(
        "VisitAveragePool2DNode", count(1), types(FLOAT, 0, -1), _pool, activation(*_CLAMPS)
    ),
    "MAX_POOL_2D": _xnnpack("VisitMaxPool2DNode", count(1), scaled(FLOAT_OR_8, 0, -1), _pool, activation(*_CLAMPS)),
    "BATCH_MATMUL": _xnnpack(
        "VisitBatchMatMulNode",
        count(2),
        scaled(FLOAT_OR_8, 0, -1),
        _weights(1, lambda call: len(call.inputs[1].shape) - (2 if call.option("adjY") else 1)),
        _products,
    ),
    "CONCATENATION": _xnnpack(
        "VisitConcatenationNode", count((2, 5)), scaled(FLOAT_OR_8, 0, 1, 2, 3, 4, -1), _concatenation
    ),
    "CONV_2D": _xnnpack(
        "VisitConv2DNode",
        positive("strideW", "strideH", "dilationWFactor", "dilationHFactor"),
        count(3),
        scaled(FLOAT_OR_8, 0, -1),
        *(dims(end, 4) for end in (0, 1, -1)),
        _weights(1, lambda call: 0),
        _bias(2, needed=True),
        dims(2, 1),
        known(1, 2),
        _weighted_types(dynamic=True),
        _groups,
        activation(*_CLAMPS),
    ),
    "DEPTHWISE_CONV_2D": _xnnpack(
        "VisitDepthwiseConv2DNode",
        positive("strideW", "strideH", "dilationWFactor", "dilationHFactor"),
        count(3),
        scaled(FLOAT_OR_8, 0, -1),
        *(dims(end, 4) for end in (0, 1, -1)),
        _weights(1, lambda call: 3),
        _bias(2, needed=True),
        dims(2, 1),
        known(1, 2),
        _weighted_types(dynamic=False),
        _depth_multiplier,
        activation(*_CLAMPS),
    ),
    "TRANSPOSE_CONV": _xnnpack(
        "VisitTransposeConvNode",
        count((3, 4)),
        constant(0),
        scaled({"float32", "int8", "uint8"}, 2, -1),
        *(dims(end, 4) for end in (1, 2, -1)),
        _weights(1, lambda call: 0),
        _bias(3, needed=False),
        known(1, 3),
        _transposed,
        activation(*_CLAMPS),
    ),
    "FULLY_CONNECTED": _xnnpack(
        "VisitFullyConnectedNode",
        count((2, 3)),
        scaled(FLOAT_OR_8, 0, -1),
        dims(1, 2),
        _bias(2, needed=False),
        _fully_connected,
        activation(*_CLAMPS),
    ),
    "Convolution2DTransposeBias": _xnnpack(
        "VisitMediaPipeDeconvolutionNode",
        count(3),
        types({"float32"}, 0, 1, 2, -1),
        *(dims(end, 4) for end in (0, 1, -1)),
        dims(2, 1),
        known(1, 2),
        _mediapipe(windows=False),
    ),
    "MaxPoolingWithArgmax2D": _xnnpack(
        "VisitMediaPipeMaxPoolingNode",
        count(1, 2),
        types({"float32"}, 0),
        *(dims(end, 4) for end in (0, -1)),
        lambda call: None if call.outputs[0].type == "float32" else f"the output is {call.outputs[0].type}",
        _mediapipe(windows=True),
    ),
    "MaxUnpooling2D": _xnnpack(
        "VisitMediaPipeUnpoolingNode",
        count(2),
        types({"float32"}, 0, -1),
        *(dims(end, 4) for end in (0, 1, -1)),
        _mediapipe(windows=True),
    ),
    **dict.fromkeys(("MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN"), _REDUCE),
    "PAD": _xnnpack(
        "VisitPadNode",
        count(2),
        scaled(FLOAT_OR_8, 0, -1),
        dims(0, 1, _MOST_DIMS),
        dims(-1, 1, _MOST_DIMS),
        constant(1),
        _pads,
    ),
    "RESHAPE": _xnnpack(
        "VisitReshapeNode",
        count((1, 2)),
        scaled(FLOAT_OR_8, 0, -1),
        dims(0, 0, _MOST_DIMS),
        dims(-1, 0, _MOST_DIMS),
        constant(1),
        _reshape,
    ),
    "RESIZE_BILINEAR": _xnnpack(
        "VisitResizeBilinearNode",
        count(2),
        scaled(FLOAT_OR_8, 0, -1),
        dims(0, 4),
        dims(-1, 4),
        constant(1),
        _sizes,
    ),
    "SLICE": _xnnpack(
        "VisitSliceNode", count(3), scaled(FLOAT_OR_8, 0, -1), constant(1, 2, types=("int32", "int64")), _slice
    ),
    "SOFTMAX": _xnnpack(
        "VisitSoftmaxNode",
        count(1),
        types(FLOAT, 0, -1),
        lambda call: None if call.option("beta") == 1 else f"its beta is {call.option('beta')}",
    ),
    "DEPTH_TO_SPACE": _xnnpack("VisitDepthToSpaceNode", count(1), scaled(FLOAT_OR_8, 0, -1), _blocks),
    "SPACE_TO_DEPTH": _xnnpack(
        "VisitSpaceToDepthNode", count(1), scaled(FLOAT_OR_8, 0, -1), dims(0, 4, positive=False), _blocks
    ),
    "SPLIT": _xnnpack("VisitSplitNode", count(2, (2, 4)), constant(0), scaled(FLOAT_OR_8, 1, -1), _split),
    "TRANSPOSE": _xnnpack(
        "VisitTransposeNode",
        count(2),
        scaled(FLOAT_OR_8, 0),
        dims(0, 1, _MOST_DIMS),
        constant(1),
    ),
    "STRIDED_SLICE": _xnnpack(
        "VisitStridedSliceNode", count(4), constant(1, 2, 3), _strided, scaled(FLOAT_OR_8, 0, -1)
    ),
    "EXPAND_DIMS": _xnnpack("VisitExpandDimsNode", lambda call: "XNNPACK's code for it is switched off"),
}  # fmt: skip
