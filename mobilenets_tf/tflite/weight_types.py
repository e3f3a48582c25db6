"""Store the weights of a float TFLite file in half precision or in eight bits; activations stay float32.

The converter does the same while it converts a Keras model; these functions do it to a file that is there. What is
stored, and how, is the converter's: TensorFlow's ``quantize_weights`` (tensorflow/compiler/mlir/lite/quantization).
"""

import numpy as np

from mobilenets_tf.tflite import flatbuffer
from mobilenets_tf.tflite.flatbuffer import schema

_LEAST_VALUES = 1024  # of weights that are stored in eight bits; fewer save nothing
# Ops whose kernels quantise their activations while the file runs: the axis of the weights that has the outputs, and
# the least version of the op with a scale for each output.
_HYBRID = {"CONV_2D": (0, 5), "DEPTHWISE_CONV_2D": (3, 6), "FULLY_CONNECTED": (0, 12)}

# Ops with weights, which half precision may round to zero as the converter does. Other constants have to stay what they
# are: the small term before a root keeps a quotient finite.
_LAYERS = {*_HYBRID, "TRANSPOSE_CONV"}


def with_weights(content: bytes, weights: str) -> bytes:
    """Store the weights of a float file in another type.

    Args:
        content: of the file.
        weights: "float32", "float16", or "int8": some kernels then also quantise their activations while the file runs
            (the scheme "dynamic").

    Returns:
        The new file's content.
    """
    tree = flatbuffer.read(content)
    if weights == "float16":
        _halve(tree)
    elif weights == "int8":
        _to_bytes(tree)
    return flatbuffer.write(tree)


def _halve(tree: schema.ModelT) -> None:
    """Store float32 constants in half precision, with a DEQUANTIZE that XNNPACK folds when the file is loaded.

    What half precision would make infinite stays, and of what no layer has as its weights also what it would make zero.
    """
    graph = flatbuffer.Graph(tree)
    halves: dict[int, int] = {}
    first = []
    for operator in graph.operators:
        inputs, has_weights = list(operator.inputs), graph.name(operator) in _LAYERS
        for place, index in enumerate(inputs):
            values = graph.constant(index) if index >= 0 else None
            if values is None:
                continue
            with np.errstate(over="ignore"):
                half_values = values.astype(np.float16)
            lost = not has_weights and (half_values[values != 0] == 0).any()
            if lost or not np.isfinite(half_values).all():
                continue
            if index not in halves:
                name = graph.tensors[index].name.decode()
                half = flatbuffer.add_constant(tree, name, half_values)
                halves[index] = flatbuffer.add_tensor(tree, f"{name}/float32", values.shape)
                first.append(flatbuffer.make_operator(tree, "DEQUANTIZE", [half], [halves[index]], version=3))
            inputs[place] = halves[index]
        operator.inputs = inputs
    tree.subgraphs[0].operators = [*first, *graph.operators]


def _to_bytes(tree: schema.ModelT) -> None:
    """Store the weights of convolutions and matrix products in eight bits, symmetric, with a scale for each output."""
    graph = flatbuffer.Graph(tree)
    stored: dict[tuple[int, int], int] = {}
    for operator in graph.operators:
        op = graph.name(operator)
        if op not in _HYBRID:
            continue
        axis, version = _HYBRID[op]
        index = operator.inputs[1]
        values = graph.constant(index)
        if values is None or values.size < _LEAST_VALUES:
            continue
        if (index, axis) not in stored:
            stored[index, axis] = _stored(tree, index, values, axis)
        operator.inputs = [operator.inputs[0], stored[index, axis], *operator.inputs[2:]]
        if hasattr(operator.builtinOptions, "asymmetricQuantizeInputs"):
            operator.builtinOptions.asymmetricQuantizeInputs = True
        code = tree.operatorCodes[operator.opcodeIndex]
        code.version = max(code.version, version)


def _stored(tree: schema.ModelT, index: int, values: np.ndarray, axis: int) -> int:
    others = tuple(each for each in range(values.ndim) if each != axis)
    scale = np.abs(values).max(axis=others, keepdims=True).astype(np.float32) / np.float32(127)
    scale = np.where(scale == 0, np.float32(1), scale)
    integers = np.clip(np.round(values / scale), -127, 127).astype(np.int8)
    new = flatbuffer.add_constant(tree, tree.subgraphs[0].tensors[index].name.decode(), integers)
    parameters = schema.QuantizationParametersT()
    parameters.scale, parameters.zeroPoint = scale.ravel(), np.zeros(scale.size, np.int64)
    parameters.quantizedDimension = axis
    tree.subgraphs[0].tensors[new].quantization = parameters
    return new
