"""Bias correction: rounding a layer's weights shifts the mean of its output; take the shift off its bias.

Nagel et al. 2019, arXiv 1906.04721, section 4.2, in its empirical form: the shift of output channel o is the sum over
inputs of (rounded weight - weight) x (mean input), with means measured on the calibration data. Zero padding at the
border is ignored. Costs one small product a layer and nothing at run time.
"""

import numpy as np

from mobilenets_tf import flatbuffer
from mobilenets_tf.quantize.statistics import Statistics

# Op -> the axis of its weights that holds the output channels (TFLite's own layouts: OHWI, 1HWO, OI).
_CHANNEL_AXIS = {"CONV_2D": 0, "DEPTHWISE_CONV_2D": 3, "FULLY_CONNECTED": 0}
_LARGEST = 127  # TFLite's int8 weights are symmetric: -127 to 127


def round_weights(weights: np.ndarray, axis: int) -> np.ndarray:
    """The values that symmetric int8 with one scale a channel can hold, as the converter rounds them."""
    others = tuple(i for i in range(weights.ndim) if i != axis)
    scale = np.abs(weights).max(axis=others, keepdims=True) / _LARGEST
    scale = np.where(scale == 0, 1, scale)
    return np.clip(np.round(weights / scale), -_LARGEST, _LARGEST) * scale


def correct_biases(model: bytes, statistics: dict[int, Statistics]) -> bytes:
    """The float model with the biases that its quantised form should have.

    Layers whose weights are computed, that have no bias, or whose input was not observed are left as they are.
    """
    tree = flatbuffer.read(model)
    for operator in tree.subgraphs[0].operators:
        axis = _CHANNEL_AXIS.get(flatbuffer.operator_name(tree, operator))
        if axis is None or len(operator.inputs) < 3 or operator.inputs[2] < 0:
            continue
        observed = statistics.get(int(operator.inputs[0]))
        weights = flatbuffer.constant(tree, operator.inputs[1])
        bias = flatbuffer.constant(tree, operator.inputs[2])
        if observed is None or weights is None or bias is None:
            continue
        shift = _output_shift(round_weights(weights, axis) - weights, axis, observed.channel_mean)
        if shift is not None:
            flatbuffer.replace_constant(tree, operator, 2, bias - shift)
    return flatbuffer.write(tree)


def _output_shift(error: np.ndarray, axis: int, input_mean: np.ndarray) -> np.ndarray | None:
    """Mean change of each output channel, or None where the layer's input has another number of channels (groups)."""
    if axis == 3:  # depthwise: channel i feeds outputs i * multiplier ... (i + 1) * multiplier
        multiplier = error.shape[3] // len(input_mean)
        return error.sum(axis=(0, 1, 2)) * np.repeat(input_mean, multiplier)
    taps = error.reshape(error.shape[0], -1, error.shape[-1]).sum(axis=1)
    return taps @ input_mean if taps.shape[1] == len(input_mean) else None
