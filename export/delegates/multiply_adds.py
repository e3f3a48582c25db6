"""Count the multiply-adds of a file's operators."""

import math

from mobilenets_tf.errors import RequestError
from mobilenets_tf.tflite.operators import Call, Tensor


def multiply_adds(call: Call) -> int:
    """Count the multiply-adds of a convolution, linear layer or matrix product, as ``complexity.multiply_adds`` does.

    Other operators count as 0.

    Raises:
        RequestError: the operator lacks inputs or dimensions that every such operator has.
    """
    rule = _COUNTS.get(call.name)
    if rule is None:
        return 0
    try:
        return rule(call)
    except (AttributeError, IndexError) as error:
        what = f"operator {call.place}, {call.name}, lacks inputs or dimensions that it needs"
        raise RequestError(f"a damaged TFLite file ({what}).") from error


def _convolution(call: Call) -> int:
    _, height, width, channels = _dimensions(call.inputs[1], 4)
    return math.prod(call.outputs[0].shape) * height * width * channels


def _depthwise(call: Call) -> int:
    _, height, width, _ = _dimensions(call.inputs[1], 4)
    return math.prod(call.outputs[0].shape) * height * width


def _convolution_3d(call: Call) -> int:
    depth, height, width, channels, _ = _dimensions(call.inputs[1], 5)
    return math.prod(call.outputs[0].shape) * depth * height * width * channels


def _fully_connected(call: Call) -> int:
    return math.prod(call.outputs[0].shape) * call.inputs[1].shape[-1]


def _transposed(call: Call) -> int:
    channels, height, width, _ = _dimensions(call.inputs[1], 4)
    return math.prod(call.inputs[2].shape) * height * width * channels


def _products(call: Call) -> int:
    return math.prod(call.outputs[0].shape) * call.inputs[0].shape[-2 if call.option("adjX") else -1]


_COUNTS = {
    "BATCH_MATMUL": _products,
    "CONV_2D": _convolution,
    "CONV_3D": _convolution_3d,
    "DEPTHWISE_CONV_2D": _depthwise,
    "FULLY_CONNECTED": _fully_connected,
    "TRANSPOSE_CONV": _transposed,
}


def _dimensions(tensor: Tensor, rank: int) -> tuple[int, ...]:
    if len(tensor.shape) != rank:
        raise IndexError
    return tensor.shape
