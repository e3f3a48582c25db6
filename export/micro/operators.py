"""The operators of TensorFlow Lite Micro (TFLM), and what of a file it cannot run."""

import re
from collections.abc import Collection
from dataclasses import dataclass

from mobilenets_tf.errors import ConversionError, RequestError
from mobilenets_tf.quantize import layers
from mobilenets_tf.tflite import flatbuffer

# tensorflow/tflite-micro
COMMIT = "90b983c2b3f1480642e040bbd2ddb37b998f3424"
# Ops of TFLite, and the methods of MicroMutableOpResolver that register them (micro_mutable_op_resolver.h), as far as
# PythonOpsResolver calls them (python/tflite_micro/python_ops_resolver.cc).
RESOLVER = {
    "ABS": "AddAbs", "ADD": "AddAdd", "ADD_N": "AddAddN", "ARG_MAX": "AddArgMax", "ARG_MIN": "AddArgMin",
    "ASSIGN_VARIABLE": "AddAssignVariable", "AVERAGE_POOL_2D": "AddAveragePool2D", "BATCH_MATMUL": "AddBatchMatMul",
    "BATCH_TO_SPACE_ND": "AddBatchToSpaceNd", "BROADCAST_ARGS": "AddBroadcastArgs", "BROADCAST_TO": "AddBroadcastTo",
    "CALL_ONCE": "AddCallOnce", "CAST": "AddCast", "CEIL": "AddCeil", "CONCATENATION": "AddConcatenation",
    "CONV_2D": "AddConv2D", "COS": "AddCos", "CUMSUM": "AddCumSum", "DEPTH_TO_SPACE": "AddDepthToSpace",
    "DEPTHWISE_CONV_2D": "AddDepthwiseConv2D", "DEQUANTIZE": "AddDequantize", "DIV": "AddDiv",
    "DYNAMIC_UPDATE_SLICE": "AddDynamicUpdateSlice", "ELU": "AddElu", "EMBEDDING_LOOKUP": "AddEmbeddingLookup",
    "EQUAL": "AddEqual", "EXP": "AddExp", "EXPAND_DIMS": "AddExpandDims", "FILL": "AddFill", "FLOOR": "AddFloor",
    "FLOOR_DIV": "AddFloorDiv", "FLOOR_MOD": "AddFloorMod", "FULLY_CONNECTED": "AddFullyConnected",
    "GATHER": "AddGather", "GATHER_ND": "AddGatherNd", "GREATER": "AddGreater", "GREATER_EQUAL": "AddGreaterEqual",
    "HARD_SWISH": "AddHardSwish", "IF": "AddIf", "L2_NORMALIZATION": "AddL2Normalization",
    "L2_POOL_2D": "AddL2Pool2D", "LEAKY_RELU": "AddLeakyRelu", "LESS": "AddLess", "LESS_EQUAL": "AddLessEqual",
    "LOG": "AddLog", "LOGICAL_AND": "AddLogicalAnd", "LOGICAL_NOT": "AddLogicalNot", "LOGICAL_OR": "AddLogicalOr",
    "LOGISTIC": "AddLogistic", "LOG_SOFTMAX": "AddLogSoftmax", "MAXIMUM": "AddMaximum", "MAX_POOL_2D": "AddMaxPool2D",
    "MEAN": "AddMean", "MINIMUM": "AddMinimum", "MIRROR_PAD": "AddMirrorPad", "MUL": "AddMul", "NEG": "AddNeg",
    "NOT_EQUAL": "AddNotEqual", "PACK": "AddPack", "PAD": "AddPad", "PADV2": "AddPadV2", "PRELU": "AddPrelu",
    "QUANTIZE": "AddQuantize", "READ_VARIABLE": "AddReadVariable", "REDUCE_ALL": "AddReduceAll",
    "REDUCE_MAX": "AddReduceMax", "REDUCE_MIN": "AddReduceMin", "RELU": "AddRelu", "RELU6": "AddRelu6",
    "RESHAPE": "AddReshape", "RESIZE_BILINEAR": "AddResizeBilinear",
    "RESIZE_NEAREST_NEIGHBOR": "AddResizeNearestNeighbor", "REVERSE_V2": "AddReverseV2", "ROUND": "AddRound",
    "RSQRT": "AddRsqrt", "SELECT_V2": "AddSelectV2", "SHAPE": "AddShape", "SIN": "AddSin", "SLICE": "AddSlice",
    "SOFTMAX": "AddSoftmax", "SPACE_TO_BATCH_ND": "AddSpaceToBatchNd", "SPACE_TO_DEPTH": "AddSpaceToDepth",
    "SPLIT": "AddSplit", "SPLIT_V": "AddSplitV", "SQRT": "AddSqrt", "SQUARE": "AddSquare",
    "SQUARED_DIFFERENCE": "AddSquaredDifference", "SQUEEZE": "AddSqueeze", "STRIDED_SLICE": "AddStridedSlice",
    "SUB": "AddSub", "SUM": "AddSum", "SVDF": "AddSvdf", "TANH": "AddTanh", "TRANSPOSE": "AddTranspose",
    "TRANSPOSE_CONV": "AddTransposeConv", "UNIDIRECTIONAL_SEQUENCE_LSTM": "AddUnidirectionalSequenceLSTM",
    "UNPACK": "AddUnpack", "VAR_HANDLE": "AddVarHandle", "WHILE": "AddWhile", "ZEROS_LIKE": "AddZerosLike",
    "TFLite_Detection_PostProcess": "AddDetectionPostprocess",
}  # fmt: skip
# What to do where TFLM lacks an op; the other ops have _REMEDY.
_REMEDIES = {
    "GELU": "use another activation, such as ReLU6 or hard-swish",
    "RELU_0_TO_1": "use ReLU6, or keras.ops.clip with other bounds",
    "RELU_N1_TO_1": "use ReLU6 or tanh",
    "TILE": "use keras.ops.broadcast_to or a concatenation",
}
# The most axes that a kernel of TFLM takes; LiteRT's reference kernels end the process with more.
MOST_AXES = {"TRANSPOSE": 5}
_REFUSED = re.compile(r"Node \w+ \(number (\d+)\)")
_REMEDY = "replace the layer by one of ops that TFLM has, or give the application a kernel of its own (AddCustom)"


@dataclass(frozen=True)
class MissingOperator:
    """An op that TFLM lacks.

    layers: the Keras layers (or, without layers, the tensors) that need it. remedy: what to do.
    """

    name: str
    layers: tuple[str, ...]
    remedy: str


def missing_operators(content: bytes, known: Collection[str] | None = None) -> list[MissingOperator]:
    """Find the ops of a file that TFLM lacks.

    Args:
        known: the names of the Keras model's layers; None: tensors are named instead.
    """
    graph = flatbuffer.Graph(flatbuffer.read(content))
    needing: dict[str, list[str]] = {}
    for operator, layer in zip(graph.operators, layers.of_operators(content, known), strict=True):
        name = graph.name(operator)
        axes = len(graph.shape(operator.inputs[0])) if name in MOST_AXES else 0
        if name not in RESOLVER:
            needing.setdefault(name, []).append(layer)
        elif axes > MOST_AXES.get(name, axes):
            needing.setdefault(f"{name} of {axes} axes", []).append(layer)
    return [
        MissingOperator(name, tuple(dict.fromkeys(found)), _REMEDIES.get(name, _REMEDY))
        for name, found in needing.items()
    ]


def check_operators(content: bytes, known: Collection[str] | None = None) -> None:
    """Refuse a file with ops that TFLM lacks.

    Args:
        known: as in ``missing_operators``.

    Raises:
        ConversionError: the message names each op, its layers and a remedy.
    """
    found = missing_operators(content, known)
    if found:
        told = "; ".join(f"{each.name} of {', '.join(each.layers[:4])}: {each.remedy}" for each in found)
        raise ConversionError(f"TensorFlow Lite Micro has no kernel for {told}.")


def operator_of(content: bytes, known: Collection[str] | None, place: int) -> str:
    """Name an operator and its layer. known: as in ``missing_operators``."""
    tree = flatbuffer.read(content)
    layer = layers.of_operators(content, known)[place]
    return f"{flatbuffer.operator_name(tree, tree.subgraphs[0].operators[place])} of {layer}"


def refused_operator(content: bytes, known: Collection[str] | None, error: RequestError) -> ConversionError | None:
    """Turn TFLM's words on an operator whose kernel refuses it into an error that names the operator's layer.

    Args:
        error: with the words, such as "Node TRANSPOSE (number 49) failed to prepare". known: as in
            ``missing_operators``.

    Returns:
        None if the words are not about an operator.
    """
    told = _REFUSED.search(str(error))
    if not told or int(told[1]) >= len(flatbuffer.read(content).subgraphs[0].operators):
        return None
    refused = operator_of(content, known, int(told[1]))
    return ConversionError(f"TensorFlow Lite Micro's kernel refuses {refused} ({error}). Remedy: {_REMEDY}.")


def resolver_calls(content: bytes) -> list[str]:
    """List the methods of MicroMutableOpResolver that register a file's ops, in alphabetical order."""
    counts = flatbuffer.operator_counts(flatbuffer.read(content))
    return sorted(RESOLVER[name] for name in counts)
