"""Which operators NPUs run: those that LiteRT's compiler plugins translate for the vendor's compiler.

The vendor's compiler then checks types and shapes; its rules are not public. Those of Qualcomm's compiler were tried on
files of single operators (``benchmarks/npu_rules.py``).
"""

from mobilenets_tf.export.delegates.rules import Rule, RuleSource
from mobilenets_tf.tflite.operators import Call

QUALCOMM = (
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
QUALCOMM_SOURCE = RuleSource("litert/vendors/qualcomm/compiler/qnn_compose_graph.cc", "GetOpBuilders")
_TRIED = RuleSource("libQnnHtp.so", "QnnBackend_validateOpConfig, as tried for SM8750", "pypi:onnxruntime-qnn", "2.7.0")
_NOT_INT8 = {"CEIL", "COS", "EXP", "FLOOR", "LOG_SOFTMAX", "NEG", "ROUND", "SIGN", "SIN"}
_NOT_INT16 = _NOT_INT8 | {
    "ABS", "AVERAGE_POOL_2D", "DEPTHWISE_CONV_2D", "HARD_SWISH", "LOG", "MINIMUM", "REDUCE_MIN", "RELU6",
    "RELU_N1_TO_1", "RESIZE_NEAREST_NEIGHBOR",
}  # fmt: skip
_CONVOLUTIONS = ("CONV_2D", "DEPTHWISE_CONV_2D")
_MOST_DIMENSIONS = 5


def _qualcomm_types(call: Call) -> str | None:
    kind = call.outputs[0].type
    if (kind == "int8" and call.name in _NOT_INT8) or (kind == "int16" and call.name in _NOT_INT16):
        return f"it is {kind}"
    if kind == "int16" and call.name in _CONVOLUTIONS and call.option("fusedActivationFunction"):
        return "it is int16 and has an activation"
    weights = [tensor for tensor in call.inputs[1:] if tensor is not None and tensor.known and tensor.type == "int8"]
    if kind == "float32" and weights and call.name in _CONVOLUTIONS:
        return "its activations are float32 and its weights int8"
    most = max(len(tensor.shape) for tensor in (*call.outputs, *call.inputs) if tensor is not None)
    return f"a tensor has {most} dimensions; it takes up to {_MOST_DIMENSIONS}" if most > _MOST_DIMENSIONS else None


QUALCOMM_RULES = dict.fromkeys(QUALCOMM, Rule(_TRIED, (_qualcomm_types,)))
MEDIATEK = (
    "ABS", "ADD", "AVERAGE_POOL_2D", "BATCH_MATMUL", "CAST", "CONCATENATION", "CONV_2D", "DEPTHWISE_CONV_2D",
    "DEQUANTIZE", "DIV", "FULLY_CONNECTED", "GELU", "GREATER", "HARD_SWISH", "L2_NORMALIZATION", "LEAKY_RELU", "LESS",
    "LOGISTIC", "MAXIMUM", "MAX_POOL_2D", "MEAN", "MINIMUM", "MUL", "PAD", "PADV2", "PRELU", "QUANTIZE", "REDUCE_MAX",
    "RELU", "RESHAPE", "RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR", "RSQRT", "SLICE", "SOFTMAX", "SPLIT", "SQRT",
    "SQUARED_DIFFERENCE", "STRIDED_SLICE", "SUB", "SUM", "TANH", "TRANSPOSE", "TRANSPOSE_CONV",
)  # fmt: skip
MEDIATEK_SOURCE = RuleSource("litert/vendors/mediatek/compiler/compiler_plugin.cc", "kSupportedOps")
