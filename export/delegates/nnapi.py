"""Which operators the NNAPI delegate runs, at feature level 7, on an accelerator that the app names."""

from dataclasses import replace

from mobilenets_tf.export.delegates.classic_gpu import COMPARISONS
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
    same_type,
    types,
)
from mobilenets_tf.tflite.operators import Call

SOURCE = RuleSource("tflite/delegates/nnapi/nnapi_delegate.cc", "NNAPIDelegateKernel::Validate")
_QUANT8 = {"int8", "uint8"}


def _rule(version: int | None, *checks: Check) -> Rule:
    return Rule(SOURCE, checks, version)


def _no_int32_activation(call: Call) -> str | None:
    return activation("NONE")(call) if call.inputs[0].type == "int32" else None


def _no_scalar(call: Call) -> str | None:
    return None if call.outputs[0].shape else "its output is a scalar"


def _products(call: Call) -> str | None:
    first, second = call.inputs[:2]
    if first.shape[:-2] != second.shape[:-2]:
        return "it broadcasts one factor"
    return None


def _all_kept(call: Call) -> str | None:
    crops = call.inputs[2].integers() if call.input(2) is not None else []
    return None if crops == [0, 0, 0, 0] else "it crops"


_SUM = _rule(3, types(FLOAT_OR_8 | {"int32"}, 0), _no_int32_activation, dims(0, 0, 4, False), dims(1, 0, 4, False))
_CLAMP = _rule(2, types(FLOAT_OR_8, 0))
_FLOAT = _rule(1, types(FLOAT, 0))
_COMPARE = _rule(2, types({"float32", "uint8", "int8", "bool", "int32"}, 0))
RULES = {
    "ADD": replace(_SUM, version=2),
    **dict.fromkeys(("MUL", "SUB"), _SUM),
    "DIV": _rule(1, types({"float32"}, 0), dims(0, 0, 4, False), dims(1, 0, 4, False)),
    **dict.fromkeys(("AVERAGE_POOL_2D", "MAX_POOL_2D", "LOGISTIC", "RELU", "RELU6", "RELU_N1_TO_1"), _CLAMP),
    "TANH": _CLAMP,
    "HARD_SWISH": replace(_CLAMP, version=None),
    **dict.fromkeys(("ABS", "COS", "EXP", "LOG", "POW", "SIN", "SQRT"), _FLOAT),
    **dict.fromkeys(COMPARISONS, _COMPARE),
    **dict.fromkeys(("ARG_MAX", "ARG_MIN"), _rule(
        2, types(FLOAT_OR_8 | {"int32"}, 0), constant(1, types=("int32", "int64")), types({"int32"}, -1))),
    "BATCH_MATMUL": _rule(
        2, types({"float32", "int32", "int8"}, 0), same_type(0, 1), dims(0, 2, 4, False), _products
    ),
    "BATCH_TO_SPACE_ND": _rule(2, _all_kept),
    "CAST": _rule(1, types({"float32", "int32", "uint8", "int8"}, 0, -1)),
    "CONCATENATION": _rule(2, activation("NONE"), dims(0, 0, 4, False), types(FLOAT_OR_8, 0)),
    "CONV_2D": _rule(5, count(3)),
    "DEPTHWISE_CONV_2D": _rule(3),
    "DEPTH_TO_SPACE": _rule(None, types({"float32", "uint8", "int8"}, 0)),
    "DEQUANTIZE": _rule(2, types(_QUANT8, 0)),
    "ELU": _rule(1, types({"float32"}, 0)),
    "EXPAND_DIMS": _rule(1, types(FLOAT_OR_8 | {"int32"}, 0), constant(1)),
    "FLOOR": _rule(1),
    "FULLY_CONNECTED": _rule(
        5, lambda call: "its output is int16" if call.outputs[0].type == "int16" else None
    ),
    "GATHER": _rule(2, types(FLOAT_OR_8 | {"int32"}, 0), types({"int32"}, 1)),
    "L2_NORMALIZATION": _rule(2, activation("NONE")),
    "L2_POOL_2D": _FLOAT,
    **dict.fromkeys(("LEAKY_RELU", "PRELU"), _rule(1, types({"float32", "uint8", "int8"}, 0))),
    "LOCAL_RESPONSE_NORMALIZATION": _rule(1),
    **dict.fromkeys(("LOGICAL_AND", "LOGICAL_NOT", "LOGICAL_OR"), _rule(1, types({"bool"}, 0))),
    "LOG_SOFTMAX": _rule(1, types({"float32"}, 0)),
    **dict.fromkeys(("MAXIMUM", "MINIMUM"), _rule(3, types({"float32", "uint8", "int8", "int32"}, 0))),
    "MEAN": _rule(2, types({"float32", "uint8", "int8"}, 0), _no_scalar, dims(0, 0, 4, False)),
    "NEG": _rule(2, types({"float32", "int32"}, 0)),
    "PACK": _rule(2, types({"float32", "uint8", "int8", "int32"}, 0)),
    **dict.fromkeys(("PAD", "PADV2"), _rule(2, types(FLOAT_OR_8, 0))),
    "QUANTIZE": _rule(2, types({"float32", "uint8", "int8"}, 0), types(_QUANT8, -1)),
    **dict.fromkeys(("REDUCE_MAX", "REDUCE_MIN"), _rule(2, types({"float32", "uint8", "int8"}, 0))),
    **dict.fromkeys(("REDUCE_PROD", "SUM"), _rule(1, types({"float32"}, 0), _no_scalar)),
    "RESHAPE": _rule(
        1, types(FLOAT_OR_8 | {"int32"}, 0), dims(0, 0, 4, False), dims(-1, 0, 4, False), known(1)
    ),
    "RESIZE_BILINEAR": _rule(3, dims(0, 4, positive=False), types(FLOAT_OR_8, 0), known(1)),
    "RESIZE_NEAREST_NEIGHBOR": _rule(3, types(FLOAT_OR_8, 0), known(1)),
    "RSQRT": _rule(2, types(FLOAT_OR_8, 0)),
    "SELECT": _rule(2, types({"float32", "uint8", "int8", "int32"}, 1)),
    "SLICE": _rule(2, types({"float32", "uint8", "int8", "int32"}, 0), types({"int32"}, 1, 2)),
    "SOFTMAX": _rule(2, types(FLOAT_OR_8, 0), dims(0, 0, 4, False)),
    "SPACE_TO_BATCH_ND": _rule(2),
    "SPACE_TO_DEPTH": _rule(2, types({"float32", "uint8", "int8"}, 0)),
    "SPLIT": _rule(3, types({"float32", "uint8", "int8", "int32"}, 1), constant(0)),
    "SPLIT_V": _rule(2, types({"float32", "uint8", "int8", "int32"}, 0), constant(1, 2)),
    "SQUARED_DIFFERENCE": _rule(
        2, types({"float32", "uint8", "int8", "int32"}, 0), dims(0, 0, 4, False), dims(1, 0, 4, False)
    ),
    "SQUEEZE": _rule(1),
    "STRIDED_SLICE": _rule(2, types(FLOAT_OR_8, 0)),
    "TILE": _rule(1, types({"float32", "uint8", "int8", "int32"}, 0), types({"int32"}, 1)),
    "TOPK_V2": _rule(2, types({"float32", "uint8", "int8", "int32"}, 0), constant(1)),
    "TRANSPOSE": _rule(2, known(1)),
    "TRANSPOSE_CONV": _rule(4, known(0, 1)),
    "UNPACK": _rule(2, types({"float32", "uint8", "int8"}, 0), dims(0, 2, 4, False)),
}  # fmt: skip
