"""Which operators of a file a phone's accelerators leave to LiteRT's own kernels on the CPU, and by which rule.

The rules are data: for each way to run a file a table from operators to what is asked of them, each with the place in
LiteRT's source that asks it. They say what a delegate takes over when it looks at the graph; what a certain driver or
chip does with it afterwards, no file can tell. Here are those of NNAPI and of NPUs; ``xnnpack_rules`` and ``gpu_rules``
have the other two.
"""

from dataclasses import replace

from mobilenets_tf.export.delegates import gpu, xnnpack
from mobilenets_tf.export.delegates.gpu import COMPARISONS
from mobilenets_tf.export.delegates.rules import (
    FLOAT,
    FLOAT_OR_8,
    Check,
    Path,
    Rule,
    Source,
    Verdict,
    activation,
    constant,
    count,
    dims,
    known,
    same_type,
    types,
)
from mobilenets_tf.tflite.operators import Call, calls

# NNAPI, at feature level 7, with an accelerator asked for by name.

_NNAPI_SOURCE = Source("tflite/delegates/nnapi/nnapi_delegate.cc", "NNAPIDelegateKernel::Validate")
_QUANT8 = {"int8", "uint8"}


def _nnapi(version: int | None, *checks: Check) -> Rule:
    return Rule(_NNAPI_SOURCE, checks, version)


def _no_int32_activation(call: Call) -> str | None:
    return activation("NONE")(call) if call.inputs[0].type == "int32" else None


def _no_scalar(call: Call) -> str | None:
    return None if call.outputs[0].shape else "its output is a scalar"


def _nnapi_products(call: Call) -> str | None:
    first, second = call.inputs[:2]
    if first.shape[:-2] != second.shape[:-2]:
        return "it broadcasts one factor"
    return None


def _all_kept(call: Call) -> str | None:
    crops = call.inputs[2].integers() if call.input(2) is not None else []
    return None if crops == [0, 0, 0, 0] else "it crops"


_NNAPI_SUM = _nnapi(
    3, types(FLOAT_OR_8 | {"int32"}, 0), _no_int32_activation, dims(0, 0, 4, False), dims(1, 0, 4, False)
)
_NNAPI_CLAMP = _nnapi(2, types(FLOAT_OR_8, 0))
_NNAPI_FLOAT = _nnapi(1, types(FLOAT, 0))
_NNAPI_COMPARE = _nnapi(2, types({"float32", "uint8", "int8", "bool", "int32"}, 0))
_NNAPI_RULES = {
    "ADD": replace(_NNAPI_SUM, version=2),
    **dict.fromkeys(("MUL", "SUB"), _NNAPI_SUM),
    "DIV": _nnapi(1, types({"float32"}, 0), dims(0, 0, 4, False), dims(1, 0, 4, False)),
    **dict.fromkeys(("AVERAGE_POOL_2D", "MAX_POOL_2D", "LOGISTIC", "RELU", "RELU6", "RELU_N1_TO_1"), _NNAPI_CLAMP),
    "TANH": _NNAPI_CLAMP,
    "HARD_SWISH": replace(_NNAPI_CLAMP, version=None),
    **dict.fromkeys(("ABS", "COS", "EXP", "LOG", "POW", "SIN", "SQRT"), _NNAPI_FLOAT),
    **dict.fromkeys(COMPARISONS, _NNAPI_COMPARE),
    **dict.fromkeys(("ARG_MAX", "ARG_MIN"), _nnapi(
        2, types(FLOAT_OR_8 | {"int32"}, 0), constant(1, types=("int32", "int64")), types({"int32"}, -1))),
    "BATCH_MATMUL": _nnapi(
        2, types({"float32", "int32", "int8"}, 0), same_type(0, 1), dims(0, 2, 4, False), _nnapi_products
    ),
    "BATCH_TO_SPACE_ND": _nnapi(2, _all_kept),
    "CAST": _nnapi(1, types({"float32", "int32", "uint8", "int8"}, 0, -1)),
    "CONCATENATION": _nnapi(2, activation("NONE"), dims(0, 0, 4, False), types(FLOAT_OR_8, 0)),
    "CONV_2D": _nnapi(5, count(3)),
    "DEPTHWISE_CONV_2D": _nnapi(3),
    "DEPTH_TO_SPACE": _nnapi(None, types({"float32", "uint8", "int8"}, 0)),
    "DEQUANTIZE": _nnapi(2, types(_QUANT8, 0)),
    "ELU": _nnapi(1, types({"float32"}, 0)),
    "EXPAND_DIMS": _nnapi(1, types(FLOAT_OR_8 | {"int32"}, 0), constant(1)),
    "FLOOR": _nnapi(1),
    "FULLY_CONNECTED": _nnapi(
        5, lambda call: "its output is int16" if call.outputs[0].type == "int16" else None
    ),
    "GATHER": _nnapi(2, types(FLOAT_OR_8 | {"int32"}, 0), types({"int32"}, 1)),
    "L2_NORMALIZATION": _nnapi(2, activation("NONE")),
    "L2_POOL_2D": _NNAPI_FLOAT,
    **dict.fromkeys(("LEAKY_RELU", "PRELU"), _nnapi(1, types({"float32", "uint8", "int8"}, 0))),
    "LOCAL_RESPONSE_NORMALIZATION": _nnapi(1),
    **dict.fromkeys(("LOGICAL_AND", "LOGICAL_NOT", "LOGICAL_OR"), _nnapi(1, types({"bool"}, 0))),
    "LOG_SOFTMAX": _nnapi(1, types({"float32"}, 0)),
    **dict.fromkeys(("MAXIMUM", "MINIMUM"), _nnapi(3, types({"float32", "uint8", "int8", "int32"}, 0))),
    "MEAN": _nnapi(2, types({"float32", "uint8", "int8"}, 0), _no_scalar, dims(0, 0, 4, False)),
    "NEG": _nnapi(2, types({"float32", "int32"}, 0)),
    "PACK": _nnapi(2, types({"float32", "uint8", "int8", "int32"}, 0)),
    **dict.fromkeys(("PAD", "PADV2"), _nnapi(2, types(FLOAT_OR_8, 0))),
    "QUANTIZE": _nnapi(2, types({"float32", "uint8", "int8"}, 0), types(_QUANT8, -1)),
    **dict.fromkeys(("REDUCE_MAX", "REDUCE_MIN"), _nnapi(2, types({"float32", "uint8", "int8"}, 0))),
    **dict.fromkeys(("REDUCE_PROD", "SUM"), _nnapi(1, types({"float32"}, 0), _no_scalar)),
    "RESHAPE": _nnapi(
        1, types(FLOAT_OR_8 | {"int32"}, 0), dims(0, 0, 4, False), dims(-1, 0, 4, False), known(1)
    ),
    "RESIZE_BILINEAR": _nnapi(3, dims(0, 4, positive=False), types(FLOAT_OR_8, 0), known(1)),
    "RESIZE_NEAREST_NEIGHBOR": _nnapi(3, types(FLOAT_OR_8, 0), known(1)),
    "RSQRT": _nnapi(2, types(FLOAT_OR_8, 0)),
    "SELECT": _nnapi(2, types({"float32", "uint8", "int8", "int32"}, 1)),
    "SLICE": _nnapi(2, types({"float32", "uint8", "int8", "int32"}, 0), types({"int32"}, 1, 2)),
    "SOFTMAX": _nnapi(2, types(FLOAT_OR_8, 0), dims(0, 0, 4, False)),
    "SPACE_TO_BATCH_ND": _nnapi(2),
    "SPACE_TO_DEPTH": _nnapi(2, types({"float32", "uint8", "int8"}, 0)),
    "SPLIT": _nnapi(3, types({"float32", "uint8", "int8", "int32"}, 1), constant(0)),
    "SPLIT_V": _nnapi(2, types({"float32", "uint8", "int8", "int32"}, 0), constant(1, 2)),
    "SQUARED_DIFFERENCE": _nnapi(
        2, types({"float32", "uint8", "int8", "int32"}, 0), dims(0, 0, 4, False), dims(1, 0, 4, False)
    ),
    "SQUEEZE": _nnapi(1),
    "STRIDED_SLICE": _nnapi(2, types(FLOAT_OR_8, 0)),
    "TILE": _nnapi(1, types({"float32", "uint8", "int8", "int32"}, 0), types({"int32"}, 1)),
    "TOPK_V2": _nnapi(2, types({"float32", "uint8", "int8", "int32"}, 0), constant(1)),
    "TRANSPOSE": _nnapi(2, known(1)),
    "TRANSPOSE_CONV": _nnapi(4, known(0, 1)),
    "UNPACK": _nnapi(2, types({"float32", "uint8", "int8"}, 0), dims(0, 2, 4, False)),
}  # fmt: skip


# NPUs, by LiteRT's compiler plugins: which operators they translate. Which types and shapes the vendor's own compiler
# then takes is not written there.

_QUALCOMM = (
    "ABS", "ADD", "ARG_MAX", "ARG_MIN", "AVERAGE_POOL_2D", "BATCH_MATMUL", "BATCH_TO_SPACE_ND", "BROADCAST_TO", "CAST",
    "CEIL", "CONCATENATION", "CONV_2D", "CONV_3D", "COS", "CUMSUM", "DEPTHWISE_CONV_2D", "DEPTH_TO_SPACE", "DEQUANTIZE",
    "DIV", "DYNAMIC_UPDATE_SLICE", "ELU", "EMBEDDING_LOOKUP", "EQUAL", "EXP", "FLOOR", "FLOOR_DIV", "FLOOR_MOD",
    "FULLY_CONNECTED", "GATHER", "GATHER_ND", "GELU", "GREATER", "GREATER_EQUAL", "HARD_SWISH", "L2_NORMALIZATION",
    "L2_POOL_2D", "LEAKY_RELU", "LESS", "LESS_EQUAL", "LOG", "LOGICAL_AND", "LOGICAL_NOT", "LOGICAL_OR", "LOGISTIC",
    "LOG_SOFTMAX", "MAXIMUM", "MAX_POOL_2D", "MEAN", "MINIMUM", "MIRROR_PAD", "MUL", "NEG", "NOT_EQUAL", "ONE_HOT",
    "PACK", "PAD", "PADV2", "POW", "PRELU", "QUANTIZE", "REDUCE_ALL", "REDUCE_ANY", "REDUCE_MAX", "REDUCE_MIN", "RELU",
    "RELU6", "RELU_0_TO_1", "RELU_N1_TO_1", "RESHAPE", "RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR", "REVERSE_V2",
    "ROUND", "RSQRT", "SCATTER_ND", "SELECT", "SELECT_V2", "SIGN", "SIN", "SLICE", "SOFTMAX", "SPACE_TO_BATCH_ND",
    "SPACE_TO_DEPTH", "SPLIT", "SPLIT_V", "SQRT", "SQUARE", "SQUARED_DIFFERENCE", "STRIDED_SLICE", "SUB", "SUM", "TANH",
    "TILE", "TOPK_V2", "TRANSPOSE", "TRANSPOSE_CONV", "UNPACK",
)  # fmt: skip
_QUALCOMM_SOURCE = Source("litert/vendors/qualcomm/compiler/qnn_compose_graph.cc", "GetOpBuilders")
_MEDIATEK = (
    "ABS", "ADD", "AVERAGE_POOL_2D", "BATCH_MATMUL", "CAST", "CONCATENATION", "CONV_2D", "DEPTHWISE_CONV_2D",
    "DEQUANTIZE", "DIV", "FULLY_CONNECTED", "GELU", "GREATER", "HARD_SWISH", "L2_NORMALIZATION", "LEAKY_RELU", "LESS",
    "LOGISTIC", "MAXIMUM", "MAX_POOL_2D", "MEAN", "MINIMUM", "MUL", "PAD", "PADV2", "PRELU", "QUANTIZE", "REDUCE_MAX",
    "RELU", "RESHAPE", "RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR", "RSQRT", "SLICE", "SOFTMAX", "SPLIT", "SQRT",
    "SQUARED_DIFFERENCE", "STRIDED_SLICE", "SUB", "SUM", "TANH", "TRANSPOSE", "TRANSPOSE_CONV",
)  # fmt: skip
_MEDIATEK_SOURCE = Source("litert/vendors/mediatek/compiler/compiler_plugin.cc", "kSupportedOps")

_STATIC = Source("tflite/core/subgraph.cc", "Subgraph::ModifyGraphWithDelegateImpl")
PATHS = (
    Path(
        "xnnpack",
        "XNNPACK (CPU)",
        "the default on a phone's CPU",
        xnnpack.RULES,
        missing=Source(xnnpack.FILE, "VisitNode"),
        unpacks=frozenset({"float16", "int8"}),
        main_graph=False,
    ),
    Path(
        "gpu",
        "GPU delegate",
        "OpenCL or OpenGL; computes int8 in float",
        gpu.RULES,
        missing=Source(gpu.FILE, "NewOperationParser"),
        everywhere=(Rule(Source(gpu.FILE, "GetOpsToReplace"), (gpu.runtime_types,)),),
        single=Source("tflite/delegates/gpu/delegate_options.cc", "max_delegated_partitions"),
        static=_STATIC,
    ),
    Path(
        "nnapi",
        "NNAPI delegate",
        "feature level 7, an accelerator asked for by name; deprecated since Android 15",
        _NNAPI_RULES,
        missing=_NNAPI_SOURCE,
        static=_STATIC,
    ),
    Path(
        "npu_qualcomm",
        "Qualcomm's NPU",
        "by operator alone; types and shapes are for the vendor's compiler",
        dict.fromkeys(_QUALCOMM, Rule(_QUALCOMM_SOURCE)),
        missing=_QUALCOMM_SOURCE,
    ),
    Path(
        "npu_mediatek",
        "MediaTek's NPU",
        "by operator alone; types and shapes are for the vendor's compiler",
        dict.fromkeys(_MEDIATEK, Rule(_MEDIATEK_SOURCE)),
        missing=_MEDIATEK_SOURCE,
    ),
)


def verdicts(model) -> tuple[Verdict, ...]:
    """What each path would take of a model (the schema's objects, from ``flatbuffer.read``)."""
    graphs = [calls(model, number) for number in range(len(model.subgraphs))]
    return tuple(path.verdict(graphs) for path in PATHS)
