"""Weights to integers: each to the nearest, or so that the errors of a layer's weights cancel out on real inputs.

``learned`` is the rounding of optimal brain compression and GPTQ (Frantar et al. 2022, arXiv 2208.11580 and 2210.17323)
on a convolution's patches: the weights of a channel are rounded one input after the other, and what rounding one
changes in the output is taken back, as well as the second moments of the inputs allow, by those still to come.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from mobilenets_tf.progress import Progress, silent, track
from mobilenets_tf.quantize.integers import LARGEST_WEIGHT, WEIGHTED, RoundedWeights, round_weights
from mobilenets_tf.tflite import flatbuffer
from mobilenets_tf.tflite.flatbuffer import schema
from mobilenets_tf.tflite.runtime import Runner

_POSITIONS = 64  # patches of a layer's input that are looked at in each sample
_DAMPING = 0.01  # of the mean power, added to every input's: moments of few samples are not to be believed
_BLOCK = 64  # inputs whose errors are passed on together
_LEARNED = ("CONV_2D", "DEPTHWISE_CONV_2D")  # a fully connected layer sees one patch a sample, too few


def nearest(model: bytes, per_tensor: bool = False) -> dict[int, RoundedWeights]:
    """Every layer's weights, each rounded to the nearest integer, by the layer's place among the operators."""
    return {
        place: round_weights(weights, None if per_tensor else WEIGHTED[name].output_axis)
        for place, _, name, weights in _layers(flatbuffer.Graph(flatbuffer.read(model)))
    }


def learned(
    model: bytes, samples: list[list[np.ndarray]], per_tensor: bool = False, progress: Progress = silent
) -> dict[int, RoundedWeights]:
    """As ``nearest``, with errors that cancel out on the samples (arrays in the order of the model's inputs).

    Fully connected layers, grouped convolutions and layers whose weights are not constant are rounded to the nearest.
    """
    tree = flatbuffer.read(model)
    graph = flatbuffer.Graph(tree)
    rounded = nearest(model, per_tensor)
    layers = [
        _Layer(place, operator, name, weights, graph)
        for place, operator, name, weights in _layers(graph)
        if name in _LEARNED and _whole(graph, operator, name, weights)
    ]
    for layer, moments in _second_moments(model, layers, samples, progress):
        rounded[layer.place] = layer.round(moments, rounded[layer.place].scale)
    return rounded


def _layers(graph: flatbuffer.Graph) -> Iterator[tuple]:
    for place, operator in enumerate(graph.operators):
        name = graph.name(operator)
        if name in WEIGHTED:
            weights = graph.constant(operator.inputs[WEIGHTED[name].weights])
            if weights is not None:
                yield place, operator, name, weights


def _whole(graph: flatbuffer.Graph, operator, name: str, weights: np.ndarray) -> bool:
    """Whether it is no grouped convolution, and no depthwise one with several outputs a channel."""
    return weights.shape[-1] == graph.shape(operator.inputs[0])[-1]


@dataclass
class _Layer:
    """A convolution, and how its weights lie against the patches of its input."""

    place: int
    operator: object
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
        """Some patches of its input: (patches, inputs of one output), for a depthwise one (channels, patches, taps)."""
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
        chosen = random.choice(rows * columns, count, replace=False)
        top, left = chosen // columns * strides[0], chosen % columns * strides[1]
        taps = [
            values[0, top + dilations[0] * row, left + dilations[1] * column]
            for row in range(height)
            for column in range(width)
        ]
        if self.depthwise:
            return np.stack(taps, axis=-1).transpose(1, 0, 2)
        return np.concatenate(taps, axis=-1)

    def round(self, moments: np.ndarray, scale: np.ndarray) -> RoundedWeights:
        """moments: E[x y] of its inputs, (inputs, inputs), for depthwise (channels, taps, taps)."""
        if self.depthwise:
            channels = self.weights.shape[-1]
            rows = self.weights.reshape(-1, channels).T[:, None]  # each channel a problem of its own
            integers = _round_in_turn(rows, moments, np.broadcast_to(scale, channels)[:, None])[:, 0].T
        else:
            rows = self.weights.reshape(1, len(self.weights), -1)
            integers = _round_in_turn(rows, moments[None], np.broadcast_to(scale, len(self.weights))[None])[0]
        return RoundedWeights(integers.reshape(self.weights.shape).astype(np.int8), scale)


def _second_moments(
    model: bytes, layers: list[_Layer], samples, progress: Progress
) -> Iterator[tuple[_Layer, np.ndarray]]:
    """Of each layer's patches, over all samples."""
    tree = flatbuffer.read(model)
    inputs = tree.subgraphs[0].inputs
    tree.subgraphs[0].outputs = sorted({layer.source for layer in layers} - set(inputs))
    tree.signatureDefs = []
    runner = Runner(flatbuffer.write(tree)) if len(tree.subgraphs[0].outputs) else None
    random = np.random.default_rng(0)
    products, counts = {}, {}
    for arrays in track(samples, "looking at inputs", progress):
        if runner:
            runner.invoke(*arrays)
        for layer in layers:
            given = layer.source in inputs
            values = arrays[inputs.index(layer.source)] if given else runner.raw(layer.source)
            patches = layer.patches(values, random)
            del values  # a view, which must not outlive the next call
            turned = np.swapaxes(patches, -1, -2)
            products[layer.place] = products.get(layer.place, 0) + turned @ patches
            counts[layer.place] = counts.get(layer.place, 0) + patches.shape[-2]
    for layer in layers:
        yield layer, products[layer.place].astype(np.float64) / counts[layer.place]


def _round_in_turn(weights: np.ndarray, moments: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Integers for weights (problems, outputs, inputs) under second moments (problems, inputs, inputs), with a scale
    for each output (problems, outputs).

    Inputs are taken in the order of falling power, so that the large errors come first and find help. With U the upper
    Cholesky factor of the inverse of the moments, the error e of input i (in units of U[i, i]) is taken back by
    subtracting e U[i, j] from every later weight j.
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
