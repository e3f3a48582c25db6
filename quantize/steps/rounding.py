"""Round weights to integers: each to the nearest, or so that the errors of a layer's weights cancel on real inputs.

``learned`` is the rounding of optimal brain compression and GPTQ (Frantar et al. 2022, arXiv 2208.11580 and 2210.17323)
on a convolution's patches. The weights of an output channel are rounded one input after the other. Each rounding error
changes the output; the weights that are not rounded yet are adjusted to undo that change, as far as the second moments
of the inputs allow.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from mobilenets_tf.progress import Progress, silent, track
from mobilenets_tf.quantize.integers import LARGEST_WEIGHT, WEIGHTED, RoundedWeights, round_weights
from mobilenets_tf.tflite import flatbuffer
from mobilenets_tf.tflite.flatbuffer import schema
from mobilenets_tf.tflite.runtime import Runner

_POSITIONS = 64  # patches of a layer's input that are taken from each sample
_DAMPING = 0.01  # this share of the mean power is added to every input's power: moments of few samples are uncertain
_BLOCK = 64  # inputs whose errors are passed on together
_LEARNED = ("CONV_2D", "DEPTHWISE_CONV_2D")  # a fully connected layer has one patch a sample, which is too few


def nearest(model: bytes, per_tensor: bool = False) -> dict[int, RoundedWeights]:
    """Round every weight to the nearest integer.

    Args:
        model: the float file's content.
        per_tensor: one scale for all channels of a layer's weights.

    Returns:
        The integer weights of each operator that has constant weights, by the operator's place.
    """
    return {
        place: round_weights(weights, None if per_tensor else WEIGHTED[name].output_axis)
        for place, _, name, weights in _layers(flatbuffer.Graph(flatbuffer.read(model)))
    }


def learned(
    model: bytes, samples: list[list[np.ndarray]], per_tensor: bool = False, progress: Progress = silent
) -> dict[int, RoundedWeights]:
    """Round the weights of convolutions so that their errors cancel on calibration samples.

    Fully connected layers and grouped convolutions are rounded to the nearest.

    Args:
        model: the float file's content.
        samples: each a list of arrays in the order of the model's inputs.
        per_tensor: one scale for all channels of a layer's weights.
        progress: called after each sample.

    Returns:
        As ``nearest``.
    """
    tree = flatbuffer.read(model)
    graph = flatbuffer.Graph(tree)
    rounded = nearest(model, per_tensor)
    layers = [
        _Layer(place, operator, name, weights, graph)
        for place, operator, name, weights in _layers(graph)
        if name in _LEARNED and _reads_all_channels(graph, operator, weights)
    ]
    for layer, moments in _second_moments(model, layers, samples, progress):
        rounded[layer.place] = layer.round(moments, rounded[layer.place].scale)
    return rounded


def _layers(graph: flatbuffer.Graph) -> Iterator[tuple[int, schema.OperatorT, str, np.ndarray]]:
    """Give the operators that have constant weights: place, operator, name, weights."""
    for place, operator in enumerate(graph.operators):
        name = graph.name(operator)
        if name in WEIGHTED:
            weights = graph.constant(operator.inputs[WEIGHTED[name].weights])
            if weights is not None:
                yield place, operator, name, weights


def _reads_all_channels(graph: flatbuffer.Graph, operator: schema.OperatorT, weights: np.ndarray) -> bool:
    """Tell whether a convolution is not grouped, and not depthwise with several outputs for each channel."""
    return weights.shape[-1] == graph.shape(operator.inputs[0])[-1]


@dataclass
class _Layer:
    """A convolution, and how its weights correspond to the patches of its input."""

    place: int
    operator: schema.OperatorT
    name: str
    weights: np.ndarray
    graph: flatbuffer.Graph

    @property
    def source(self) -> int:
        return self.operator.inputs[0]

    @property
    def depthwise(self) -> bool:
        return self.name == "DEPTHWISE_CONV_2D"

    def patches(self, values: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """Take patches of the layer's input at random positions.

        Returns shape (patches, inputs of one output), or, for a depthwise convolution, (channels, patches, taps).
        """
        options = self.operator.builtinOptions
        height, width = self.weights.shape[1:3]
        strides, dilations = (
            (options.strideH, options.strideW),
            (options.dilationHFactor, options.dilationWFactor),
        )
        rows, columns = self.graph.shape(self.operator.outputs[0])[1:3]
        if options.padding == schema.Padding.SAME:
            reach = [
                max((out - 1) * stride + dilation * (kernel - 1) + 1 - side, 0)
                for out, stride, dilation, kernel, side in zip(
                    (rows, columns), strides, dilations, (height, width), values.shape[1:3], strict=True
                )
            ]
            values = np.pad(values, [(0, 0), *((r // 2, r - r // 2) for r in reach), (0, 0)])
        count = min(_POSITIONS, rows * columns)
        positions = random.choice(rows * columns, count, replace=False)
        top, left = positions // columns * strides[0], positions % columns * strides[1]
        taps = [
            values[0, top + dilations[0] * row, left + dilations[1] * column]
            for row in range(height)
            for column in range(width)
        ]
        if self.depthwise:
            return np.stack(taps, axis=-1).transpose(1, 0, 2)
        return np.concatenate(taps, axis=-1)

    def round(self, moments: np.ndarray, scale: np.ndarray) -> RoundedWeights:
        """Round the weights under the second moments of the layer's inputs.

        moments: E[x y], shape (inputs, inputs), or (channels, taps, taps) for a depthwise convolution.
        scale: of each output channel, or one for all.
        """
        if self.depthwise:
            channels = self.weights.shape[-1]
            rows = self.weights.reshape(-1, channels).T[:, None]  # each channel a problem of its own
            integers = _round_in_turn(rows, moments, np.broadcast_to(scale, channels)[:, None])[:, 0].T
        else:
            rows = self.weights.reshape(1, len(self.weights), -1)
            integers = _round_in_turn(rows, moments[None], np.broadcast_to(scale, len(self.weights))[None])[0]
        return RoundedWeights(integers.reshape(self.weights.shape).astype(np.int8), scale)


def _second_moments(
    model: bytes, layers: list[_Layer], samples: list[list[np.ndarray]], progress: Progress
) -> Iterator[tuple[_Layer, np.ndarray]]:
    """Measure the second moments of each layer's patches over all samples."""
    tree = flatbuffer.read(model)
    inputs = tree.subgraphs[0].inputs
    computed = sorted({layer.source for layer in layers} - set(inputs))
    runner = Runner(flatbuffer.with_outputs(tree, computed), trusted=True) if computed else None
    random = np.random.default_rng(0)
    products, counts = {}, {}
    for arrays in track(samples, "looking at inputs", progress):
        if runner:
            runner.invoke(*arrays)
        for layer in layers:
            is_input = layer.source in inputs
            values = arrays[inputs.index(layer.source)] if is_input else runner.raw(layer.source)
            patches = layer.patches(values, random)
            del values  # a view, which must not outlive the next call
            turned = np.swapaxes(patches, -1, -2)
            products[layer.place] = products.get(layer.place, 0) + turned @ patches
            counts[layer.place] = counts.get(layer.place, 0) + patches.shape[-2]
    for layer in layers:
        yield layer, products[layer.place].astype(np.float64) / counts[layer.place]


def _round_in_turn(weights: np.ndarray, moments: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Round weights one input after the other, and adjust the later weights for each error.

    The inputs come in the order of falling power, so that many weights are left to undo the large errors. With U the
    upper Cholesky factor of the inverse of the moments, the error e of input i (in units of U[i, i]) is undone by
    subtracting e U[i, j] from every later weight j.

    Args:
        weights: shape (problems, outputs, inputs); problems are independent of each other.
        moments: the second moments of the inputs, shape (problems, inputs, inputs).
        scale: of each output, shape (problems, outputs).

    Returns:
        The integers, in the shape of the weights.
    """
    count = weights.shape[-1]
    power = np.diagonal(moments, axis1=-2, axis2=-1)
    order = np.argsort(-power, axis=-1, kind="stable")
    damped = moments + np.eye(count) * (_DAMPING * power.mean(axis=-1) + 1e-12)[:, None, None]
    damped = np.take_along_axis(np.take_along_axis(damped, order[:, :, None], 1), order[:, None, :], 2)
    upper = np.swapaxes(np.linalg.cholesky(np.linalg.inv(damped)), -1, -2)
    left = np.take_along_axis(weights.astype(np.float64), order[:, None, :], 2)
    integers = np.zeros(left.shape)
    for start in range(0, count, _BLOCK):
        end = min(start + _BLOCK, count)
        errors = np.zeros((*left.shape[:2], end - start))
        for i in range(start, end):
            integers[..., i] = np.clip(np.round(left[..., i] / scale), -LARGEST_WEIGHT, LARGEST_WEIGHT)
            error = (left[..., i] - integers[..., i] * scale) / upper[:, i, i, None]
            left[..., i + 1 : end] -= error[..., None] * upper[:, None, i, i + 1 : end]
            errors[..., i - start] = error
        left[..., end:] -= errors @ upper[:, start:end, end:]
    back = np.argsort(order, axis=-1)
    return np.take_along_axis(integers, back[:, None, :], 2)
