"""Which operators LiteRT's GPU accelerator runs: ML Drift, which CompiledModel uses (on phones with OpenCL).

Its rules are those of the parsers in ``model_builder.cc``; an intermediate representation with rules of its own is in
the source too (``use_ir_model``), and is switched off. The rules are tested against the accelerator, operator by
operator (``tests/export/delegates/test_gpu.py``).
"""

from collections.abc import Collection

import numpy as np

from mobilenets_tf.export.delegates.rules import (
    FLOAT,
    Check,
    Rule,
    RuleSource,
    activation,
    all_ends,
    computed,
    constant,
    count,
    dims,
    ends,
    listed,
    positive,
    two_operands,
    types,
)
from mobilenets_tf.tflite import flatbuffer
from mobilenets_tf.tflite.operators import Call

FILE = "ml_drift_delegate/tflite/model_builder.cc"
# What inspect, the report and the Android page say of integer files, which the delegate takes.
ON_INTEGERS = (
    "GPUs compute in floating point: an int8 file runs there no faster than a float16 file, with scores that may "
    "differ by some levels from those of the CPU, and an int16x8 file does not run there. Use integer files on the CPU "
    "and on NPUs, and deploy a float16 file for GPUs."
)
_INTEGERS, _UNSIGNED = {"int8", "int16", "int32"}, {"uint8", "uint16", "uint32"}
_WEIGHTS = {"float32", "float16", "int4", "int8", "uint8", "int32"}  # PreCheckCopyData


def _rule(parser: str, version: int | None, *checks: Check) -> Rule:
    return Rule(RuleSource(FILE, f"{parser}::IsSupported"), checks, version)


# Types of computed inputs and outputs, besides those that every operator may have (GetOpsToReplaceWithOptions).
_COMPARISONS = ("EQUAL", "GREATER", "GREATER_EQUAL", "LESS", "LESS_EQUAL", "NOT_EQUAL")
_LOGICAL = ("LOGICAL_AND", "LOGICAL_NOT", "LOGICAL_OR")
_WITH_INTEGERS = (
    "ABS", "ADD", "ATAN2", "COS", "DIV", "FLOOR_DIV", "FLOOR_MOD", "MAXIMUM", "MINIMUM", "MUL", "NEG", "REDUCE_MAX",
    "REDUCE_MIN", "REDUCE_PROD", "RIGHT_SHIFT", "SIGN", "SIN", "STABLEHLO_CLAMP", "STABLEHLO_REMAINDER",
    "STABLEHLO_SHIFT_LEFT", "SUB", "SUM", "TILE",
)  # fmt: skip
_WITH_ALL = (
    "BITCAST", "CAST", "CONCATENATION", "DYNAMIC_UPDATE_SLICE", "GATHER", "PACK", "PAD", "PADV2", "RESHAPE",
    "REVERSE_V2", "SELECT", "SELECT_V2", "SLICE", "STABLEHLO_BROADCAST_IN_DIM", "STRIDED_SLICE", "TRANSPOSE",
)  # fmt: skip


def _types(name: str) -> tuple[set[str], set[str]]:
    """Return the types that the computed inputs, and the outputs, of an operator may have."""
    before, after = FLOAT | {"bool", "int2", "int4", "int8", "uint8"}, FLOAT | {"int8", "uint8"}
    if name == "ARG_MAX":  # the release 2.3.0 takes int32 too, which the source does not say yet
        return before | {"int32"}, {"int32"}
    if name in ("REDUCE_ALL", "REDUCE_ANY"):
        return {"bool"}, {"bool"}
    if name in _LOGICAL:
        return {"bool"} | _INTEGERS, {"bool"} | _INTEGERS
    if name in _COMPARISONS:
        return before | _INTEGERS | _UNSIGNED, after | {"bool"}
    if name in _WITH_ALL:
        return before | _INTEGERS | _UNSIGNED, after | _INTEGERS | _UNSIGNED | {"bool"}
    if name in _WITH_INTEGERS:
        return before | _INTEGERS, after | _INTEGERS
    if name in ("EMBEDDING_LOOKUP", "ONE_HOT"):
        return before | {"int32"}, after
    return before, after | ({"int32"} if name == "TOPK_V2" else set())


def runtime_types(call: Call) -> str | None:
    """Check types and numbers of dimensions of all inputs and outputs, as the accelerator does for every operator."""
    inputs, outputs = _types(call.name)
    for what, tensor in all_ends(call):
        if len(tensor.shape) > 4:
            return f"{what} has {len(tensor.shape)} dimensions; at most 4 are taken"
        allowed = inputs if what.startswith("input") else outputs
        if not tensor.known and tensor.type not in allowed:
            return f"{what} is {tensor.type}; {listed(allowed)} are taken"
        if not tensor.known and tensor.type in ("int8", "uint8") and len(tensor.scales) > 1:
            return f"{what} has {len(tensor.scales)} scales; it takes one for the whole tensor"
    return None


def _operands(*, same: bool) -> Check:
    """Check the two operands of an elementwise operator. same: whether they may be one tensor."""

    def check(call):
        first, second = call.inputs[:2]
        if not first.known and not second.known:
            if first.index == second.index and not same:
                return "both operands are the same tensor"
            if len(first.shape) != len(second.shape):
                if not first.shape or not second.shape:
                    return "an operand is a computed scalar"
                if not _broadcasts(first.shape, second.shape):
                    return f"it does not broadcast {list(second.shape)} to {list(first.shape)}"
        known = next((tensor for tensor in (first, second) if tensor.known), None)
        if known is not None and known.sparse:
            return "a constant operand is sparse"
        return None

    return check


def _broadcasts(first: tuple[int, ...], second: tuple[int, ...]) -> bool:
    pairs = zip(reversed(first), reversed(second), strict=False)
    return all(a == b or 1 in (a, b) for a, b in pairs)


def _constant_weights(call: Call) -> str | None:
    """Check weights in the file: PreCheckReadTensor to OHWI."""
    weights = call.inputs[1]
    if not weights.known:
        return None
    if len(weights.shape) != 4:
        return f"its weights have {len(weights.shape)} dimensions; it takes 4"
    return None if weights.type in _WEIGHTS else f"its weights are {weights.type}; {listed(_WEIGHTS)} are taken"


def _convolution(call: Call) -> str | None:
    data, weights = call.inputs[:2]
    if data.known:
        return "its input is a constant"
    if not weights.known and len(weights.scales) > 1:
        return "its weights are computed and have several scales"
    return None


def _depthwise(call: Call) -> str | None:
    data, weights, bias, result = call.inputs[0], call.inputs[1], call.input(2), call.outputs[0]
    if any(len(tensor.shape) != 4 for tensor in (data, weights, result)):
        return "an input or the output does not have 4 dimensions"
    channels = result.shape[3]
    fits = weights.shape[3] == channels == data.shape[3] * call.option("depthMultiplier")
    elements = channels if bias is None else int(np.prod(bias.shape))
    if not fits or data.shape[0] != result.shape[0] or elements != channels:
        return "the shapes of its weights or its bias do not match its output"
    return None


def _fully_connected(call: Call) -> str | None:
    data, weights = call.inputs[:2]
    if call.option("weightsFormat"):
        return "its weights are shuffled"
    if data.known:
        return "its input is a constant"
    if len(weights.scales):
        if weights.type not in ("int8", "int4", "int2"):
            return f"its weights are {weights.type}; int2, int4, int8 and floats are taken"
        if len(weights.shape) not in (2, 4) or weights.shape[1:-1] not in ((), (1, 1)):
            return f"its weights have the shape {list(weights.shape)}"
    same = len(data.shape) == len(call.outputs[0].shape)
    return "keepNumDims is set, and input and output differ in it" if call.option("keepNumDims") and not same else None


def _products(call: Call) -> str | None:
    first, second = call.inputs[:2]
    if first.known:
        return "its first factor is a constant"
    if second.known and not 2 <= len(second.shape) <= 4:
        return f"its constant factor has {len(second.shape)} dimensions; 2 to 4 are taken"
    return None


def _paddings(call: Call) -> str | None:
    pads = call.input(1)
    if pads is None or pads.shape not in ((3, 2), (4, 2)):
        return f"its paddings have the shape {list(pads.shape) if pads is not None else None}; 3x2 or 4x2 is taken"
    if call.name == "MIRROR_PAD" and call.option("mode") != flatbuffer.schema.MirrorPadMode.REFLECT:
        return "its mode is SYMMETRIC; it takes REFLECT"
    return None


def _dequantised(call: Call) -> str | None:
    data = call.inputs[0]
    if data.known:
        return None if 2 <= len(data.shape) <= 4 else f"its constant has {len(data.shape)} dimensions; 2 to 4 are taken"
    return None if len(data.scales) == 1 else f"its input has {len(data.scales)} scales; it takes one"


def _quantised(call: Call) -> str | None:
    return None if len(call.outputs[0].scales) else "its output has no scale"


def _alpha(call: Call) -> str | None:
    data, alpha = call.inputs[:2]
    if not alpha.constant:
        return "input 1 is computed; it takes a constant"
    channels = data.shape[-1] if len(data.shape) > 1 else 1
    linear = all(side == 1 for side in alpha.shape[:-1]) and alpha.shape[-1:] == (channels,)
    whole = (1, 1, 1, *alpha.shape)[-3:] == (1, 1, 1, *data.shape)[-3:] and len(alpha.shape) in (3, 4)
    return None if linear or whole else f"its slopes have the shape {list(alpha.shape)}, its input {list(data.shape)}"


def _corners(call: Call) -> str | None:
    both = call.option("alignCorners") and call.option("halfPixelCenters")
    return "both alignCorners and halfPixelCenters are set" if both else None


def _slice(call: Call) -> str | None:
    begin, size = call.inputs[1].integers(), call.inputs[2].integers()
    rank = len(call.inputs[0].shape)
    if len(begin) != len(size) or not (len(begin) == rank or (rank, len(begin)) == (4, 3)):
        return "its bounds do not cover each dimension"
    return None


def _strides(call: Call) -> str | None:
    for mask in ("ellipsisMask", "newAxisMask", "shrinkAxisMask"):
        if call.option(mask):
            return f"it has {mask}"
    begin, step = call.inputs[1].integers(), call.inputs[3].integers()
    if len(call.inputs[0].shape) - len(begin) not in (0, 1):
        return "its bounds do not cover each dimension"
    return None if all(each > 0 for each in step) else "a stride is not positive"


def _blocks(call: Call) -> str | None:
    size = call.option("blockSize")
    return None if size > 1 else f"its block size is {size}"


def _permutation(call: Call) -> str | None:
    length = len(call.inputs[1].integers())
    return None if 2 <= length <= 4 else f"its permutation has {length} entries; 2 to 4 are taken"


def _top(call: Call) -> str | None:
    return None if len(call.inputs[1].integers()) == 1 else "the number of values is no constant"


def _branches(call: Call) -> str | None:
    condition, result = call.inputs[0], call.outputs[0]
    offset = len(result.shape) - len(condition.shape)
    fits = offset >= 0 and all(a in (b, 1) for a, b in zip(condition.shape, result.shape[offset:], strict=True))
    if not fits:
        return f"it does not broadcast {list(condition.shape)} to {list(result.shape)}"
    for what, tensor in ends(call, (1, 2)):
        if tensor.shape not in ((), (1,), result.shape):
            return f"{what} has the shape {list(tensor.shape)}, its output {list(result.shape)}"
    return None


def _one_hot(call: Call) -> str | None:
    indices, axis = call.inputs[0], call.option("axis", -1)
    if axis != -1 and axis != (indices.shape or (None,))[-1]:
        return f"its axis is {axis}; it takes the last"
    return "the last size of its 4 dimensions is not 1" if indices.shape[3:] not in ((), (1,)) else None


def _same(first: int, second: int) -> Check:
    def check(call):
        (_, a), (_, b) = ends(call, (first, second))
        return None if a.type == b.type else f"mixed types: {listed({a.type, b.type})}"

    return check


def _updated(call: Call) -> str | None:
    if call.inputs[2].known:
        return "input 2 is a constant; it takes computed indices"
    return None if len(call.inputs[0].shape) == len(call.inputs[1].shape) else "its inputs differ in their dimensions"


def _composite(names: Collection[str]) -> Check:
    def check(call):
        name = (call.option("name", b"") or b"").decode(errors="replace")
        return None if name in names else f"the composite {name!r} is not among {listed(names)}"

    return check


_ACTIVATIONS = activation("NONE", "RELU", "RELU_N1_TO_1", "RELU6", "TANH")
_ELEMENTWISE = "ElementwiseOperationParser"
_ONE = computed(1, constants=(0,))
_STEPS = positive("strideW", "strideH", "dilationWFactor", "dilationHFactor")
_REDUCE = _rule("ReduceOperationParser", None, computed(1, constants=(1,)), constant(1), dims(0, 1, 4, positive=False))
_RELU = _rule("ReLUOperationParser", 2, _ONE)
_PAD = _rule("PadOperationParser", 5, computed(1), constant(1), _paddings)
_POOL = _rule(
    "Pooling2DOperationParser",
    2,
    computed(1),
    positive("filterWidth", "filterHeight", "strideW", "strideH"),
    _ACTIVATIONS,
)
_CUSTOM_CALLS = {
    "custom_call.GroupNorm": "GroupNormParser",
    "custom_call.LayerNorm": "LayerNormParser",
    "custom_call.RmsNorm": "RmsNormParser",
    "custom_call.PixelShuffle": "PixelShuffleParser",
    "custom_call.absolute_positional_embedding": "PositionalEmbeddingParser",
    "custom_call.rotary_positional_embedding": "RoPEParser",
}
RULES = {
    **{
        name: _rule(_ELEMENTWISE, {"ABS": 5, "GELU": 3}.get(name, 2), _ONE)
        for name in (
            "ABS", "CEIL", "COS", "ELU", "EXP", "FLOOR", "GELU", "LOG", "LOGICAL_NOT", "LOGISTIC", "NEG", "ROUND",
            "RSQRT", "SIGN", "SIN", "SQRT", "SQUARE", "TANH",
        )
    },
    **{
        name: _rule(
            _ELEMENTWISE,
            {"ADD": 6, "ADD_N": 6, "FLOOR_DIV": 3, "MAXIMUM": 4, "MINIMUM": 4, "MUL": 8}.get(name, 2),
            two_operands,
            _ACTIVATIONS,
            _operands(same=name in ("ADD", "ADD_N", "MUL")),
        )
        for name in (
            *_COMPARISONS, "ADD", "ADD_N", "ATAN2", "DIV", "FLOOR_DIV", "FLOOR_MOD", "LOGICAL_AND", "LOGICAL_OR",
            "MAXIMUM", "MINIMUM", "MUL", "POW", "RIGHT_SHIFT", "SQUARED_DIFFERENCE", "STABLEHLO_SHIFT_LEFT", "SUB",
        )
    },
    "ARG_MAX": _rule(
        "ArgMaxOperationParser", None, computed(1, constants=(1,)), constant(1), dims(0, 1, 4, positive=False)
    ),
    **dict.fromkeys(("AVERAGE_POOL_2D", "MAX_POOL_2D"), _POOL),
    "BATCH_MATMUL": _rule("BatchedMatMulOperationParser", None, count(2), _products),
    "BITCAST": _rule("BitcastOperationParser", None, computed(1)),
    "CAST": _rule("CastOperationParser", None, _ONE),
    "CONCATENATION": _rule("ConcatenationOperationParser", 6, _ACTIVATIONS),
    "CONV_2D": _rule("Conv2DOperationParser", 6, computed(1, 2), _STEPS, _ACTIVATIONS, _convolution),
    "CUMSUM": _rule("CumsumOperationParser", 1, count(2), types(FLOAT, 0, -1), constant(1)),
    "DEPTHWISE_CONV_2D": _rule(
        "DepthwiseConvolutionOperationParser",
        6,
        computed(1, 2),
        _STEPS,
        _ACTIVATIONS,
        _depthwise,
        _constant_weights,
    ),
    "DEPTH_TO_SPACE": _rule("DepthToSpaceOperationParser", None, computed(1), _blocks),
    "DEQUANTIZE": _rule(
        "DequantizeOperationParser", 3, count(1), types({"float16", "int2", "int4", "int8", "uint8"}, 0), _dequantised
    ),
    "DYNAMIC_UPDATE_SLICE": _rule(
        "DynamicUpdateSliceOperationParser",
        None,
        count(3),
        _same(0, 1),
        types({"int32"}, 2),
        dims(0, 1, 4, positive=False),
        dims(2, 1, positive=False),
        _updated,
    ),
    "EMBEDDING_LOOKUP": _rule(
        "EmbeddingLookupOperationParser",
        None,
        count(2),
        dims(0, 1, positive=False),
        dims(1, 2, 4, positive=False),
        types({"float32", "int8", "int4", "int2"}, 1),
    ),
    "FULLY_CONNECTED": _rule("FullyConnectedOperationParser", 14, computed(1, 2), _ACTIVATIONS, _fully_connected),
    "GATHER": _rule(
        "GatherOperationParser", None, two_operands, types({"int32"}, 1), dims(1, 1, positive=False), _same(0, -1)
    ),
    "HARD_SWISH": _rule("HardSwishOperationParser", None, computed(1)),
    **dict.fromkeys(("LEAKY_RELU", "RELU", "RELU6", "RELU_N1_TO_1"), _RELU),
    **dict.fromkeys(("MEAN", "REDUCE_ALL", "REDUCE_ANY", "REDUCE_MAX", "REDUCE_MIN", "REDUCE_PROD", "SUM"), _REDUCE),
    **dict.fromkeys(("MIRROR_PAD", "PAD", "PADV2"), _PAD),
    "ONE_HOT": _rule("OneHotOperationParser", 1, count(4), _one_hot),
    "PACK": _rule("PackOperationParser", None, count((1, 1 << 16)), dims(-1, 1, 4, positive=False)),
    "PRELU": _rule("PReLUOperationParser", 1, count(2), _alpha),
    "QUANTIZE": _rule("QuantizeOperationParser", 2, computed(1), _quantised),
    "RESHAPE": _rule("ReshapeOperationParser", 1, computed(1)),
    "RESIZE_BILINEAR": _rule("Resize2DOperationParser", 3, computed(1), _corners),
    "RESIZE_NEAREST_NEIGHBOR": _rule("Resize2DOperationParser", 3, computed(1)),
    "REVERSE_V2": _rule(
        "ReverseOperationParser", None, computed(1, constants=(1,)), constant(1), dims(0, 1, 4, positive=False)
    ),
    **dict.fromkeys(
        ("SELECT", "SELECT_V2"),
        _rule("SelectV2OperationParser", 1, count(3), types(FLOAT | {"bool"}, 0), _branches),
    ),
    "SLICE": _rule(
        "SliceOperationParser", 8, count(3), computed(1), constant(1, 2), dims(0, 1, 4, positive=False), _slice
    ),
    "SOFTMAX": _rule(
        "SoftmaxOperationParser",
        4,
        _ONE,
        lambda call: None if call.option("beta") == 1 else f"its beta is {call.option('beta')}",
    ),
    "SPACE_TO_DEPTH": _rule("SpaceToDepthOperationParser", 2, _ONE, _blocks),
    "SPLIT": _rule("SplitOperationParser", None, constant(0), dims(1, 1, 4, positive=False)),
    "SPLIT_V": _rule("SplitVOperationParser", None, computed(1, constants=(2,), outputs=None), constant(2)),
    "STABLEHLO_BROADCAST_IN_DIM": _rule(
        "BroadcastInDimOperationParser",
        None,
        computed(1, constants=(1,)),
        constant(1),
        dims(1, 1, positive=False),
        dims(0, 1, 4, positive=False),
    ),
    "STABLEHLO_CBRT": _rule("CbrtOperationParser", None, _ONE, types(FLOAT, 0, -1)),
    "STABLEHLO_CLAMP": _rule("ClampOperationsParser", None, computed(3, constants=(0,))),
    "STABLEHLO_COMPOSITE": Rule(
        RuleSource(FILE, "NewOperationParser"),
        (_composite(("odml.group_norm", "odml.rms_norm", "odml.rope", "odml.scaled_dot_product_attention")),),
    ),
    "STABLEHLO_REMAINDER": _rule("RemainderOperationParser", None, two_operands),
    "STRIDED_SLICE": _rule(
        "StridedSliceOperationParser",
        2,
        count(4),
        constant(1, 2, 3),
        dims(0, 3, 4, positive=False),
        _strides,
    ),
    "TILE": _rule("TileOperationParser", None, computed(1)),
    "TOPK_V2": _rule("TopKOperationParser", 1, computed(1, outputs=2), constant(1), _top),
    "TRANSPOSE": _rule("TransposeOperationParser", 9, computed(1), constant(1), _permutation),
    "TRANSPOSE_CONV": _rule(
        "TransposeConvBuiltinOperationParser", 3, computed(1, 2), positive("strideW", "strideH"), _constant_weights
    ),
    "UNPACK": _rule("UnpackOperationParser", None, dims(0, 1, 4, positive=False)),
    "Convolution2DTransposeBias": _rule("TransposeConvCustomOperationParser", None, _constant_weights),
    "MaxPoolingWithArgmax2D": _rule("Pooling2DOperationParser", 2, computed(1, outputs=2)),
    "MaxUnpooling2D": _rule("Unpooling2DOperationParser", None, computed(2)),
    "Resampler": _rule("ResamplerOperationParser", None, computed(2)),
    **{name: _rule(parser, None) for name, parser in _CUSTOM_CALLS.items()},
}  # fmt: skip
