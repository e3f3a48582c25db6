"""Bias correction: rounding a layer's weights shifts the mean of its output; subtract that shift from the bias.

Nagel et al. 2019, arXiv 1906.04721, section 4.2, in the empirical form: the shift of output channel o is the sum over
inputs of (rounded weight - weight) x (mean input), with means measured on the calibration data. A tap of the kernel
that lies over zero padding for some of the outputs counts only for the others. The correction costs one small product a
layer, and nothing at run time.
"""

from collections.abc import Mapping

import numpy as np

from mobilenets_tf.quantize.integers import WEIGHTED, RoundedWeights
from mobilenets_tf.quantize.steps.statistics import ActivationStatistics
from mobilenets_tf.tflite import flatbuffer
from mobilenets_tf.tflite.flatbuffer import schema

_LAYERS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")


def correct_biases(
    model: bytes, rounded: Mapping[int, RoundedWeights], statistics: Mapping[int, ActivationStatistics]
) -> bytes:
    """Give a float model the biases that its quantised form should have.

    Layers without a bias, or whose input was not observed, stay as they are.

    Args:
        model: the float file's content.
        rounded: the integer weights of each operator that has weights, by the operator's place.
        statistics: of each activation tensor, by index.

    Returns:
        The new file's content.
    """
    tree = flatbuffer.read(model)
    graph = flatbuffer.Graph(tree)
    operators = tree.subgraphs[0].operators
    for place, weights in rounded.items():
        operator = operators[place]
        name = flatbuffer.operator_name(tree, operator)
        observed = statistics.get(operator.inputs[0])
        if name not in _LAYERS or observed is None or len(operator.inputs) < 3 or operator.inputs[2] < 0:
            continue
        bias = flatbuffer.constant(tree, operator.inputs[2])
        if bias is None:
            continue
        axis = WEIGHTED[name].output_axis
        error = weights.values(axis) - flatbuffer.constant(tree, operator.inputs[1])
        if error.ndim == 4:
            error = error * _inside(graph, operator, error.shape[1:3])[None, :, :, None]
        shift = _output_shift(error, axis, observed.channel_mean)
        if shift is not None:
            flatbuffer.replace_constant(tree, operator, 2, bias - shift)
    return flatbuffer.write(tree)


def _output_shift(error: np.ndarray, axis: int, input_mean: np.ndarray) -> np.ndarray | None:
    """Compute the mean shift of each output channel; None for a grouped convolution, whose kernel has fewer input
    channels than its input.
    """
    if axis == 3:  # depthwise: channel i feeds outputs i * multiplier ... (i + 1) * multiplier
        multiplier = error.shape[3] // len(input_mean)
        return error.sum(axis=(0, 1, 2)) * np.repeat(input_mean, multiplier)
    taps = error.reshape(error.shape[0], -1, error.shape[-1]).sum(axis=1)
    return taps @ input_mean if taps.shape[1] == len(input_mean) else None


def _inside(graph: flatbuffer.Graph, operator: schema.OperatorT, kernel: tuple[int, int]) -> np.ndarray:
    """Compute for each tap of a convolution's kernel the share of the outputs for which it is not over zero padding."""
    options = operator.builtinOptions
    if options.padding == schema.Padding.VALID:
        return np.ones(kernel)
    shares = []
    for taps, side, count, stride, dilation in zip(
        kernel,
        graph.shape(operator.inputs[0])[1:3],
        graph.shape(operator.outputs[0])[1:3],
        (options.strideH, options.strideW),
        (options.dilationHFactor, options.dilationWFactor),
        strict=True,
    ):
        before = max((count - 1) * stride + dilation * (taps - 1) + 1 - side, 0) // 2
        place = np.arange(count)[:, None] * stride + np.arange(taps) * dilation - before
        shares.append(((place >= 0) & (place < side)).mean(axis=0))
    return shares[0][:, None] * shares[1]
