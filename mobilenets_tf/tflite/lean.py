"""Rewrite a float TFLite graph so that it has fewer ops and the same outputs.

``fold_affines`` pushes constant factors and terms (a normalisation's gamma and beta, the 1/6 of hard-swish and
hard-sigmoid) forward into the weights of the layers that read them. ``split_convolutions`` replaces a convolution whose
channels are then split by one convolution for each part.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from mobilenets_tf.tflite import flatbuffer
from mobilenets_tf.tflite.flatbuffer import schema

# Ops that move or pool positions and leave the channels as they are.
_PASSES = {"RESHAPE", "TRANSPOSE", "RESIZE_BILINEAR", "MEAN"}


def lean(model: bytes) -> bytes:
    """Apply both rewrites to a float file's content."""
    tree = flatbuffer.read(model)
    split_convolutions(tree)
    fold_affines(tree)
    return flatbuffer.write(tree)


def fold_affines(tree: schema.ModelT) -> None:
    """Fold a MUL or ADD with a constant of one value a channel into the weights of all layers that read its result.

    Where one of the readers has no weights that can take the constant, the op stays.
    """
    # Backwards: in "x * gamma + beta" the term is folded first, and the weights are then right behind the factor.
    for operator in list(reversed(tree.subgraphs[0].operators)):
        graph = flatbuffer.Graph(tree)
        step = channel_affine(graph, operator)
        if step is None:
            continue
        source, scale, shift = step
        (out,) = operator.outputs
        push = Push(graph)
        if not push.through(out, scale, shift) or not push.is_linear():
            continue
        for edit in push.edits:
            edit()
        for reader in graph.readers[out]:
            reader.inputs = [source if index == out else index for index in reader.inputs]
        tree.subgraphs[0].operators.remove(operator)


class ChannelAffine(NamedTuple):
    """An operator that computes source * scale + shift, with one scale and one shift for each channel.

    source: the index of the tensor that the operator reads. scale, shift: shape (channels), float64.
    """

    source: int
    scale: np.ndarray
    shift: np.ndarray


def channel_affine(graph: flatbuffer.Graph, operator: schema.OperatorT) -> ChannelAffine | None:
    """Describe a MUL or ADD of an activation and a constant of one value, or one value a channel.

    Returns None for every other operator, and for one with a fused activation.
    """
    name = graph.name(operator)
    if name not in ("MUL", "ADD") or operator.builtinOptions.fusedActivationFunction:
        return None
    (out,) = operator.outputs
    channels = graph.shape(out)[-1] if graph.shape(out) else 1
    for source, other in (operator.inputs, reversed(operator.inputs)):
        values = graph.constant(other)
        if values is None or graph.constant(source) is not None or graph.shape(source) != graph.shape(out):
            continue
        if values.size in (1, channels) and (values.ndim == 0 or values.size == values.shape[-1]):
            values = np.broadcast_to(values.ravel(), channels).astype(np.float64)
            ones, zeros = np.ones(channels), np.zeros(channels)
            return ChannelAffine(source, *((values, zeros) if name == "MUL" else (ones, values)))
    return None


class _Changed(NamedTuple):
    """A tensor that becomes ``tensor * scale + shift``; both of shape (channels)."""

    tensor: int
    scale: np.ndarray
    shift: np.ndarray


class Push:
    """Follows a scale and a shift forward to the weights and constant factors that can take them.

    edits: functions that change these constants; to be called when all readers can take the scale and the shift.

    Args:
        graph: of the operators.
        least, most: the magnitudes between which a factor, and the largest weight of a channel, has to stay.
    """

    def __init__(self, graph: flatbuffer.Graph, least: float = 0.0, most: float = np.inf):
        self._graph, self._least, self._most = graph, least, most
        self.edits: list[Callable[[], None]] = []
        self._scaled: set[int] = set()
        self._products: list[schema.OperatorT] = []

    def is_linear(self) -> bool:
        """Tell whether no product gets the scale from both of its factors."""
        return all(sum(index in self._scaled for index in product.inputs) == 1 for product in self._products)

    def through(self, index: int, scale: np.ndarray, shift: np.ndarray) -> bool:
        """Tell whether all readers of a tensor can take ``tensor * scale + shift`` instead, with other weights."""
        graph = self._graph
        waiting: list[tuple[schema.OperatorT, _Changed]] = []
        changed: _Changed | None = _Changed(index, scale, shift)
        while changed is not None or waiting:
            if changed is not None:
                if graph.is_output(changed.tensor) or not graph.readers[changed.tensor]:
                    return False
                self._scaled.add(changed.tensor)
                waiting += [(reader, changed) for reader in reversed(graph.readers[changed.tensor])]
            reader, before = waiting.pop()
            takes, changed = self._into(reader, *before)
            if not takes:
                return False
        return True

    def _into(
        self, reader: schema.OperatorT, index: int, scale: np.ndarray, shift: np.ndarray
    ) -> "tuple[bool, _Changed | None]":
        """Tell whether a reader can take a changed tensor, and how its result changes then; None if it stays."""
        graph, name = self._graph, self._graph.name(reader)
        inputs, channels = reader.inputs, len(scale)
        if name in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"):
            return inputs[0] == index and self._into_weights(reader, name, scale, shift), None
        out = reader.outputs[0]
        if name in ("MUL", "DIV") and not shift.any() and self._into_factor(reader, name, index, scale):
            return True, None
        if name in _PASSES:
            last, axes = len(graph.shape(index)) - 1, graph.integers(inputs[1]) if len(inputs) > 1 else None
            keeps = graph.shape(out)[-1:] == (channels,)
            if name in ("TRANSPOSE", "MEAN"):
                moved = axes is None or (axes[-1] != last if name == "TRANSPOSE" else {last, -1} & set(axes.tolist()))
                keeps = keeps and not moved
            return inputs[0] == index and keeps, _Changed(out, scale, shift)
        if name == "ADD" and not reader.builtinOptions.fusedActivationFunction:
            return self._into_other_term(reader, index, scale), _Changed(out, scale, shift)
        if name == "CONCATENATION" and inputs.count(index) == 1:
            axis = reader.builtinOptions.axis % len(graph.shape(out))
            if axis != len(graph.shape(out)) - 1 or reader.builtinOptions.fusedActivationFunction:
                return False, None
            parts = [
                (scale, shift)
                if other == index
                else (np.ones(graph.shape(other)[-1]), np.zeros(graph.shape(other)[-1]))
                for other in inputs
            ]
            return True, _Changed(out, *(np.concatenate(part) for part in zip(*parts, strict=True)))
        if name == "MUL" and not shift.any() and not reader.builtinOptions.fusedActivationFunction:
            self._products.append(reader)
            # Two changed factors are not linear; to stop here keeps chains of squares from taking exponential time.
            linear = sum(each in self._scaled for each in inputs) == 1
            return linear and graph.shape(out)[-1:] == (channels,), _Changed(out, scale, shift)
        return False, None

    def _into_other_term(self, add: schema.OperatorT, index: int, scale: np.ndarray) -> bool:
        """Tell whether the other term of a sum can be divided by the scale: x s + y = s (x + y / s).

        This needs a convolution without activation that writes the other term, and no reader but this sum.
        """
        graph = self._graph
        others = [other for other in add.inputs if other != index]
        writer = graph.writer.get(others[0]) if len(others) == 1 else None
        if writer is None or graph.name(writer) != "CONV_2D" or writer.builtinOptions.fusedActivationFunction:
            return False
        weights, bias = (graph.constant(i) for i in writer.inputs[1:3])
        alone = len(graph.readers[others[0]]) == 1 and not graph.is_output(others[0])
        # Scales that differ much would give the sum's channels ranges for which no common int8 scale is good.
        uneven = np.abs(scale).min() < np.abs(scale).max() / 16
        if not alone or weights is None or bias is None or len(weights) != len(scale) or uneven:
            return False
        if not self._may_be(np.abs(weights).max(axis=(1, 2, 3)), 1 / scale):
            return False

        def edit() -> None:  # reads the weights anew: another edit may have changed them
            weights, bias = (graph.constant(i) for i in writer.inputs[1:3])
            flatbuffer.replace_constant(graph.model, writer, 1, weights / scale[:, None, None, None])
            flatbuffer.replace_constant(graph.model, writer, 2, bias / scale)

        self.edits.append(edit)
        return True

    def _into_factor(self, reader: schema.OperatorT, name: str, index: int, scale: np.ndarray) -> bool:
        """Tell whether the constant by which a reader multiplies or divides can take the scale."""
        graph, inputs = self._graph, list(reader.inputs)
        position = 1 - inputs.index(index)
        values = graph.constant(inputs[position])
        keeps = graph.shape(reader.outputs[0])[-1:] == (len(scale),) and (name == "MUL" or position == 1)
        factor = scale if name == "MUL" else 1 / scale
        if (factor == factor[0]).all():
            factor = factor[:1].reshape(())  # a constant of one value stays one
        if values is None or not keeps or not self._may_be(values, factor):
            return False

        def edit() -> None:  # reads the constant anew: another edit may have changed it
            values = np.asarray(graph.constant(reader.inputs[position]))
            flatbuffer.replace_constant(graph.model, reader, position, values * factor)

        self.edits.append(edit)
        return True

    def _may_be(self, values: np.ndarray, scale: np.ndarray) -> bool:
        """Tell whether scaled constants stay within ``most``, and those that shrink above ``least``."""
        magnitudes = np.abs(values * scale)
        too_small = (scale < 1) & (magnitudes > 0) & (magnitudes < self._least)
        return not too_small.any() and bool(magnitudes.max(initial=0) <= self._most)

    def _into_weights(self, reader: schema.OperatorT, name: str, scale: np.ndarray, shift: np.ndarray) -> bool:
        graph, inputs = self._graph, reader.inputs
        weights = graph.constant(inputs[1])
        if weights is None:
            return False
        if name == "DEPTHWISE_CONV_2D":  # (1, H, W, channels x multiplier)
            scale, shift = (np.repeat(part, weights.shape[-1] // len(part)) for part in (scale, shift))
        if weights.shape[-1] != len(scale) or not self._may_be(weights, scale):
            return False
        taps = weights.shape[1] * weights.shape[2] if weights.ndim == 4 else 1
        if shift.any() and taps > 1 and reader.builtinOptions.padding == schema.Padding.SAME:
            return False  # the padding at the border, which is zero, would have to be shifted too
        bias = graph.constant(inputs[2]) if len(inputs) > 2 and inputs[2] >= 0 else None
        if shift.any() and bias is None:
            return False

        def edit() -> None:
            weights = graph.constant(reader.inputs[1])
            flatbuffer.replace_constant(graph.model, reader, 1, weights * scale)
            if shift.any():
                bias = graph.constant(reader.inputs[2])
                axes = {"CONV_2D": (1, 2, 3), "DEPTHWISE_CONV_2D": (0, 1, 2), "FULLY_CONNECTED": -1}[name]
                flatbuffer.replace_constant(graph.model, reader, 2, bias + (weights * shift).sum(axis=axes))

        self.edits.append(edit)
        return True


def split_convolutions(tree: schema.ModelT) -> None:
    """Replace a convolution that only a split of its channels reads by one convolution for each part, which saves the
    copies.
    """
    graph = flatbuffer.Graph(tree)
    for split in list(tree.subgraphs[0].operators):
        if graph.name(split) != "SPLIT_V":
            continue
        source = split.inputs[0]
        convolution = graph.writer.get(source)
        if convolution is None or graph.name(convolution) != "CONV_2D" or len(graph.readers[source]) != 1:
            continue
        sizes = [graph.shape(out)[-1] for out in split.outputs]
        weights, bias = (graph.constant(index) for index in convolution.inputs[1:3])
        if weights is None or bias is None:
            continue
        grouped = weights.shape[-1] != graph.shape(convolution.inputs[0])[-1]
        if grouped or graph.is_output(source) or sum(sizes) != graph.shape(source)[-1]:
            continue
        operators = tree.subgraphs[0].operators
        ends = np.cumsum(sizes)
        parts = []
        for out, end, size in zip(split.outputs, ends, sizes, strict=True):
            # Named as the convolution's constants, whose names tell the layer.
            tensors = [
                flatbuffer.add_constant(tree, graph.tensors[index].name.decode(), values[end - size : end])
                for index, values in zip(convolution.inputs[1:3], (weights, bias), strict=True)
            ]
            data = convolution.inputs[0]
            parts.append(flatbuffer.make_operator(tree, "CONV_2D", [data, *tensors], [out], convolution.builtinOptions))
        # At the convolution's place, before every reader of the parts.
        place = next(i for i, operator in enumerate(operators) if operator is convolution)
        operators.remove(split)
        operators[place : place + 1] = parts
