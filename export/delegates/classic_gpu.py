"""Which operators LiteRT's classic GPU delegate runs (tflite/delegates/gpu).

Browsers' GPU delegate of MediaPipe reads a file as this one does (``web_gpu``). LiteRT 2's accelerator is in ``gpu``.
"""

import math

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
    known,
    listed,
    positive,
    two_operands,
    types,
)
from mobilenets_tf.tflite import flatbuffer
from mobilenets_tf.tflite.operators import Call

FILE = "tflite/delegates/gpu/common/model_builder.cc"
_GPU_CHECKS = RuleSource("tflite/tools/versioning/gpu_compatibility.cc", "CheckGpuDelegateCompatibility")


def _gpu(version: int | None, *checks: Check) -> Rule:
    return Rule(_GPU_CHECKS, checks, version)


def runtime_types(call: Call) -> str | None:
    """Check types and numbers of dimensions of all inputs and outputs, as the delegate does for every operator."""
    inputs, outputs = FLOAT | {"int8", "uint8"}, FLOAT | {"int8", "uint8"}
    if call.name in COMPARISONS:
        outputs |= {"bool"}
    elif call.name == "CAST":
        inputs, outputs = inputs | {"bool", "int32"}, outputs | {"bool", "int32"}
    elif call.name in ("ONE_HOT", "GATHER"):
        inputs |= {"int32"}
    elif call.name in ("SELECT", "SELECT_V2", "LOGICAL_AND"):
        inputs |= {"bool"}
        outputs |= {"bool"} if call.name == "LOGICAL_AND" else set()
    for what, tensor in all_ends(call):
        if len(tensor.shape) > 4:
            return f"{what} has {len(tensor.shape)} dimensions; at most 4 are taken"
        allowed = inputs if what.startswith("input") else outputs
        if not tensor.known and tensor.type not in allowed:
            return f"{what} is {tensor.type}; {listed(allowed)} are taken"
    return None


def _broadcast(call: Call) -> str | None:
    first, second = (tensor.shape for tensor in call.inputs[:2])
    if min(len(first), len(second)) <= 1 or len(first) == len(second):
        return None
    longer, shorter = sorted((first, second), key=len, reverse=True)
    if len(longer) == 4 and (
        (len(shorter) == 3 and longer[0] == 1)
        or (shorter == (1, 1) and longer[0] == 1)
        or (len(shorter) == 2 and (longer[0], longer[3]) == shorter)
    ):
        return None
    return f"it does not broadcast {list(shorter)} to {list(longer)}"


def _gpu_depthwise(call: Call) -> str | None:
    data, weights, bias, result = call.inputs[0], call.inputs[1], call.input(2), call.outputs[0]
    if any(len(tensor.shape) != 4 for tensor in (data, weights, result)):
        return "an input or the output does not have 4 dimensions"
    channels = result.shape[3]
    fits = weights.shape[3] == channels == data.shape[3] * call.option("depthMultiplier")
    if not fits or data.shape[0] != result.shape[0] or (bias is not None and math.prod(bias.shape) != channels):
        return "the shapes of its weights or its bias do not match its output"
    return None


def _gpu_products(call: Call) -> str | None:
    second = call.inputs[1]
    if call.inputs[0].known or (second.known and len(second.shape) != 2):
        return "a constant factor has to be the second factor and to have 2 dimensions"
    return None


def _gpu_paddings(call: Call) -> str | None:
    pads = call.input(1)
    if pads is None or pads.shape not in ((3, 2), (4, 2)):
        return f"its paddings have the shape {list(pads.shape) if pads is not None else None}; 3x2 or 4x2 is taken"
    if call.name == "MIRROR_PAD" and call.option("mode") != flatbuffer.schema.MirrorPadMode.REFLECT:
        return "its mode is SYMMETRIC; it takes REFLECT"
    return None


def _gpu_keep_dims(call: Call) -> str | None:
    if call.option("weightsFormat"):
        return "its weights are shuffled"
    if call.inputs[0].known:
        return "its input is a constant"
    same = len(call.inputs[0].shape) == len(call.outputs[0].shape)
    return "keepNumDims is set, and input and output differ in it" if call.option("keepNumDims") and not same else None


def _gpu_resize(call: Call) -> str | None:
    both = call.option("alignCorners") and call.option("halfPixelCenters")
    return "both alignCorners and halfPixelCenters are set" if both else None


def _gpu_cast(call: Call) -> str | None:
    source, target = call.inputs[0].type, call.outputs[0].type
    numbers = {"float32", "int32"}
    accepted = (
        {source, target} <= numbers or (source == "bool" and target in FLOAT) or (target == "bool" and source in FLOAT)
    )
    return None if accepted else f"from {source} to {target}"


def _gpu_strides(call: Call) -> str | None:
    for mask in ("ellipsisMask", "newAxisMask", "shrinkAxisMask"):
        if call.option(mask):
            return f"it has {mask}"
    return None


def _gpu_blocks(call: Call) -> str | None:
    size = call.option("blockSize")
    return None if size > 1 else f"its block size is {size}"


COMPARISONS = ("EQUAL", "GREATER", "GREATER_EQUAL", "LESS", "LESS_EQUAL", "NOT_EQUAL")
_ACTIVATIONS = activation("NONE", "RELU", "RELU_N1_TO_1", "RELU6", "TANH")
_GPU_POOL = _gpu(2, computed(1), positive("filterWidth", "filterHeight", "strideW", "strideH"), _ACTIVATIONS)
_GPU_PAD = _gpu(2, computed(1), _gpu_paddings)
_GPU_REDUCE = _gpu(None, computed(1, constants=(1,)), constant(1))
_GPU_RESIZE = _gpu(3, computed(1), _gpu_resize)
RULES = {
    **dict.fromkeys(
        (
            "ABS", "COS", "ELU", "EXP", "FLOOR", "GELU", "LOG", "LOGISTIC", "NEG", "RSQRT", "SIGN", "SIN", "SQRT",
            "SQUARE", "TANH",
        ),
        _gpu(2, computed(1, constants=(0,))),
    ),
    **dict.fromkeys(
        ("DIV", "FLOOR_DIV", "FLOOR_MOD", "LOGICAL_AND", "MAXIMUM", "MINIMUM", "POW", "SQUARED_DIFFERENCE", "SUB"),
        _gpu(2, two_operands, _ACTIVATIONS),
    ),
    **dict.fromkeys(COMPARISONS, _gpu(2, two_operands)),
    "ADD": _gpu(2, count(2), _broadcast),
    "ADD_N": _gpu(2, count(2)),
    "MUL": _gpu(3, count(2), _broadcast, _ACTIVATIONS),
    **dict.fromkeys(("AVERAGE_POOL_2D", "MAX_POOL_2D"), _GPU_POOL),
    "BATCH_MATMUL": _gpu(None, count(2), _gpu_products),
    "CAST": _gpu(None, computed(1), _gpu_cast),
    "CONCATENATION": _gpu(2),
    "CONV_2D": _gpu(
        6, computed(1, 2), positive("strideW", "strideH", "dilationWFactor", "dilationHFactor"), _ACTIVATIONS
    ),
    "CUMSUM": _gpu(1, count(2), types(FLOAT, 0, -1), constant(1)),
    "DENSIFY": _gpu(1, computed(0)),
    "DEPTHWISE_CONV_2D": _gpu(
        6,
        computed(1, 2),
        positive("strideW", "strideH", "dilationWFactor", "dilationHFactor"),
        _ACTIVATIONS,
        _gpu_depthwise,
    ),
    **dict.fromkeys(("DEPTH_TO_SPACE", "SPACE_TO_DEPTH"), _gpu(None, computed(1), _gpu_blocks)),
    "DEQUANTIZE": _gpu(3, count(1), types({"float16", "int8", "uint8"}, 0)),
    "FULLY_CONNECTED": _gpu(9, computed(1, 2, outputs=None), _gpu_keep_dims),
    "GATHER": _gpu(1, two_operands, types({"int32"}, 1), dims(1, 1, positive=False)),
    "HARD_SWISH": _gpu(None, computed(1)),
    **dict.fromkeys(("LEAKY_RELU", "RELU", "RELU6", "RELU_0_TO_1", "RELU_N1_TO_1"), _gpu(2)),
    **dict.fromkeys(("MEAN", "REDUCE_MAX", "REDUCE_MIN", "REDUCE_PROD", "SUM"), _GPU_REDUCE),
    **dict.fromkeys(("MIRROR_PAD", "PAD", "PADV2"), _GPU_PAD),
    "ONE_HOT": _gpu(1, count(4), types({"int32"}, 0), known(2, 3)),
    "PACK": _gpu(None),
    "PRELU": _gpu(1),
    "QUANTIZE": _gpu(2, computed(1)),
    "RESHAPE": _gpu(1, computed(1)),
    **dict.fromkeys(("RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR"), _GPU_RESIZE),
    **dict.fromkeys(("SELECT", "SELECT_V2"), _gpu(1, count(3), types(FLOAT | {"bool"}, 0))),
    "SLICE": _gpu(2, count(3), dims(0, 3, 4, positive=False)),
    "SOFTMAX": _gpu(2, lambda call: None if call.option("beta") == 1 else f"its beta is {call.option('beta')}"),
    "SPLIT": _gpu(None),
    "SPLIT_V": _gpu(None),
    "STRIDED_SLICE": _gpu(4, _gpu_strides, count(4), dims(0, 3, 4, positive=False)),
    "TILE": _gpu(None, computed(1)),
    "TRANSPOSE": _gpu(4, computed(1)),
    "TRANSPOSE_CONV": _gpu(3, computed(1, 2), positive("strideW", "strideH")),
    "UNPACK": _gpu(None),
    **dict.fromkeys(
        ("Convolution2DTransposeBias", "MaxPoolingWithArgmax2D", "MaxUnpooling2D", "Resampler"), _gpu(None)
    ),
}  # fmt: skip
