"""Round weights to integers: each to the nearest, or so that the errors of a layer's weights cancel on real inputs.

``learned`` is the rounding of optimal brain compression and GPTQ (Frantar et al. 2022, arXiv 2208.11580 and 2210.17323)
on a convolution's patches. The weights of an output channel are rounded one input after the other. Each rounding error
changes the output; the weights that are not rounded yet are adjusted to undo that change, as far as the second moments
of the inputs allow.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from mobilenets_tf.progress import Progress, silent, track
from mobilenets_tf.quantize.integers import LARGEST_WEIGHT, WEIGHTED, RoundedWeights, round_weights
from mobilenets_tf.tflite import flatbuffer
from mobilenets_tf.tflite.flatbuffer import schema
from mobilenets_tf.tflite.runtime import Runner
from mobilenets_tf.tflite.threads import in_order

_POSITIONS = 64  # patches of a layer's input that are taken from each sample
_DAMPING = 0.01  # this share of the mean power is added to every input's power: moments of few samples are uncertain
_BLOCK = 64  # inputs whose errors are passed on together
_HELD = 24 << 20  # bytes of patches that are kept until they are multiplied
# The most inputs among which errors cancel; the channels of a layer with more are parted. The moments take memory with
# the square of the inputs and time with their cube, and the patches are no more than 64 for each sample.
_MOST_INPUTS = 2304
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
        _Layer(place, operator, name, weights, graph, channels)
        for place, operator, name, weights in _layers(graph)
        if name in _LEARNED and _reads_all_channels(graph, operator, weights)
        for channels in _parts(name, weights)
    ]

    def rounding() -> Callable[[tuple[_Layer, np.ndarray]], tuple[_Layer, np.ndarray]]:
        return lambda item: (item[0], item[0].round(item[1], rounded[item[0].place].scale))

    for layer, integers in in_order(rounding, _second_moments(model, layers, samples, progress)):
        rounded[layer.place].integers[..., layer.channels] = integers
    return rounded


def _parts(name: str, weights: np.ndarray) -> list[slice]:
    """Part the input channels of a convolution, so that no part has more than ``_MOST_INPUTS`` inputs."""
    channels, taps = weights.shape[-1], weights.shape[1] * weights.shape[2]
    count = 1 if name == "DEPTHWISE_CONV_2D" else min(-(-channels * taps // _MOST_INPUTS), channels)
    return [slice(channels * part // count, channels * (part + 1) // count) for part in range(count)]


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
    """A convolution, or some of its input channels, and how its weights correspond to the patches of its input.

    channels: these input channels.
    """

    place: int
    operator: schema.OperatorT
    name: str
    weights: np.ndarray
    graph: flatbuffer.Graph
    channels: slice

    def __post_init__(self):
        self.weights = self.weights[..., self.channels]

    @property
    def source(self) -> int:
        return self.operator.inputs[0]

    @property
    def depthwise(self) -> bool:
        return self.name == "DEPTHWISE_CONV_2D"

    @property
    def taps(self) -> int:
        """How many taps the kernel has."""
        return math.prod(self.weights.shape[1:3])

    @property
    def _sides(self) -> tuple[int, int]:
        """Rows and columns of the layer's output: each position there reads a patch of the input."""
        return self.graph.shape(self.operator.outputs[0])[1:3]

    @property
    def patch_count(self) -> int:
        """How many patches are taken from each sample."""
        return min(_POSITIONS, math.prod(self._sides))

    def positions(self, random: np.random.Generator) -> np.ndarray:
        """Choose the positions of the patches in a sample."""
        return random.choice(math.prod(self._sides), self.patch_count, replace=False)

    def patches(self, values: np.ndarray, positions: np.ndarray) -> list[np.ndarray]:
        """Take patches of the layer's input, as ``positions`` chose them.

        Returns for each tap of the kernel, row by row, the channels under that tap, shape (patches, channels).
        """
        options = self.operator.builtinOptions
        kernel, sides = self.weights.shape[1:3], values.shape[1:3]
        values = values[..., self.channels]
        strides, dilations = (
            (options.strideH, options.strideW),
            (options.dilationHFactor, options.dilationWFactor),
        )
        rows, columns = self._sides
        before = (0, 0)
        if options.padding == schema.Padding.SAME:
            before = [
                max((out - 1) * stride + dilation * (taps - 1) + 1 - side, 0) // 2
                for out, stride, dilation, taps, side in zip(
                    (rows, columns), strides, dilations, kernel, sides, strict=True
                )
            ]
        tops, lefts = positions // columns * strides[0] - before[0], positions % columns * strides[1] - before[1]
        across = [_along(lefts + dilations[1] * column, sides[1]) for column in range(kernel[1])]
        found = []
        for row in range(kernel[0]):
            place, inside = _along(tops + dilations[0] * row, sides[0])
            for other, also_inside in across:
                tap = values[0, place, other]
                tap[~(inside & also_inside)] = 0  # padding
                found.append(tap)
        return found

    def round(self, moments: np.ndarray, scale: np.ndarray) -> np.ndarray:
        """Round the weights to integers under the second moments of the layer's inputs.

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
        return integers.reshape(self.weights.shape).astype(np.int8)


def _along(places: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Return places along a side of an image, those outside moved to its end, and whether each was inside."""
    return np.clip(places, 0, side - 1), (places >= 0) & (places < side)


def _second_moments(
    model: bytes, layers: list[_Layer], samples: list[list[np.ndarray]], progress: Progress
) -> Iterator[tuple[_Layer, np.ndarray]]:
    """Measure the second moments of each layer's patches over all samples."""
    tree = flatbuffer.read(model)
    inputs = tree.subgraphs[0].inputs
    computed = sorted({layer.source for layer in layers} - set(inputs))
    content = flatbuffer.with_outputs(tree, computed)
    random = np.random.default_rng(0)
    placed = ((arrays, [layer.positions(random) for layer in layers]) for arrays in samples)
    products: dict[int, np.ndarray] = {}  # the number of a layer -> the sum of the products of its inputs
    counts = [0] * len(layers)
    # One product for many samples takes a fraction of the time of a product for each.
    waiting: dict[int, list[np.ndarray]] = {i: [] for i, layer in enumerate(layers) if not layer.depthwise}
    held = 0

    def looking() -> Callable[[tuple[list[np.ndarray], list[np.ndarray]]], list[np.ndarray]]:
        runner = Runner(content, threads=1, trusted=True) if computed else None

        def look(item: tuple[list[np.ndarray], list[np.ndarray]]) -> list[np.ndarray]:
            """Take from one sample the patches of each layer, or for a depthwise convolution their products."""
            arrays, positions = item
            if runner:
                runner.invoke(*arrays)
            found = []
            for layer, at in zip(layers, positions, strict=True):
                is_input = layer.source in inputs
                values = arrays[inputs.index(layer.source)] if is_input else runner.raw(layer.source)
                taps = layer.patches(values, at)
                del values  # a view, which must not outlive the next call
                found.append(_products_by_channel(taps) if layer.depthwise else np.concatenate(taps, axis=-1))
            return found

        return look

    def multiply():
        for number, patches in waiting.items():
            rows = np.concatenate(patches)
            products[number] = products.get(number, 0) + rows.T @ rows
            patches.clear()

    for found in track(in_order(looking, placed), "looking at inputs", progress, len(samples)):
        for number, (layer, values) in enumerate(zip(layers, found, strict=True)):
            counts[number] += layer.patch_count
            if layer.depthwise:
                products[number] = products.get(number, 0) + values
            else:
                waiting[number].append(values)
                held += values.nbytes
        if held > _HELD:
            multiply()
            held = 0
    if held:
        multiply()
    for number, layer in enumerate(layers):
        moments = products.pop(number).astype(np.float64) / counts[number]
        yield layer, _moments_by_channel(moments, layer.taps) if layer.depthwise else moments


def _products_by_channel(taps: list[np.ndarray]) -> np.ndarray:
    """Multiply each two taps, channel by channel, and add up over the patches.

    taps: of each tap the values, shape (patches, channels). Returns shape (pairs of taps, channels); the pairs are in
    the order of ``np.triu_indices``.
    """
    values = np.stack(taps)
    return np.concatenate([np.einsum("pc,jpc->jc", values[i], values[i:]) for i in range(len(values))])


def _moments_by_channel(products: np.ndarray, taps: int) -> np.ndarray:
    """Return the products of ``_products_by_channel`` in the shape (channels, taps, taps)."""
    moments = np.empty((taps, taps, products.shape[-1]), products.dtype)
    rows, columns = np.triu_indices(taps)
    moments[rows, columns] = moments[columns, rows] = products
    return moments.transpose(2, 0, 1)


def _round_in_turn(weights: np.ndarray, moments: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Round weights one input after the other, and adjust the later weights for each error.

    The inputs come in the order of falling power, so that many weights are left to undo the large errors. With U the
    upper factor of the moments (moments = U U^T), errors d of the weights change the output by the power |U^T d|^2. Its
    term of input i is U[i, i] d[i] + the sum of U[j, i] d[j] over all earlier inputs j, and is least if that sum, in
    units of U[i, i], is added to the weight before it is rounded. (So no inverse of the moments is needed; the result
    is that of the papers.)

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
    backwards = order[:, ::-1]
    damped = np.take_along_axis(np.take_along_axis(damped, backwards[:, :, None], 1), backwards[:, None, :], 2)
    upper = np.linalg.cholesky(damped)[:, ::-1, ::-1]
    del damped  # as large as the moments
    upper /= np.diagonal(upper, axis1=-2, axis2=-1)[:, None, :].copy()
    upper = np.ascontiguousarray(upper)
    # Inputs come first, so that all outputs of an input lie side by side.
    given = np.take_along_axis(np.swapaxes(weights, 1, 2).astype(np.float64), order[:, :, None], 1)
    wanted, errors, integers = given.copy(), np.zeros(given.shape), np.zeros(given.shape)
    for start in range(0, count, _BLOCK):
        end = min(start + _BLOCK, count)
        wanted[:, start:end] += np.swapaxes(upper[:, :start, start:end], 1, 2) @ errors[:, :start]
        for i in range(start, end):
            integers[:, i] = np.clip(np.round(wanted[:, i] / scale), -LARGEST_WEIGHT, LARGEST_WEIGHT)
            errors[:, i] = given[:, i] - integers[:, i] * scale
            wanted[:, i + 1 : end] += upper[:, i, i + 1 : end, None] * errors[:, None, i]
    back = np.argsort(order, axis=-1)
    return np.swapaxes(np.take_along_axis(integers, back[:, :, None], 1), 1, 2)
