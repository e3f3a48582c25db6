"""Write moves of data over five and six axes with four, which GPUs and NPUs take, at the same number of operators.

A TRANSPOSE between two RESHAPEs moves blocks of data. Axes that stay side by side are one axis, and axes of one element
are none. The unfolding of a feature map into patches (arXiv 2110.02178), and its reverse, still have five: with square
patches these are a SPACE_TO_DEPTH, or a DEPTH_TO_SPACE, and a TRANSPOSE of four.
"""

from typing import NamedTuple

import numpy as np

from mobilenets_tf.tflite import flatbuffer
from mobilenets_tf.tflite.flatbuffer import schema

_MOST = 4
_SWAP = (0, 2, 1, 3)  # of the inner two axes
_UNFOLDS, _FOLDS = (1, 3, 0, 2, 4), (2, 0, 3, 1, 4)


class _Move(NamedTuple):
    """A RESHAPE, a TRANSPOSE and a RESHAPE, the numbers of their places, and the axes that are left of the TRANSPOSE's.

    sides, order: of the axes that do not stay beside the axis before.
    """

    places: tuple[int, int, int]
    sides: tuple[int, ...]
    order: tuple[int, ...]


def in_four_axes(content: bytes) -> bytes:
    """Rewrite the moves of a file's first graph that have more than four axes, where four are enough.

    Types, scales, and the number and order of the operators stay, so this is for files of every scheme. LiteRT's
    kernels of SPACE_TO_DEPTH and DEPTH_TO_SPACE take no int16: such tensors keep their five axes.

    Returns:
        The new content; the same object where nothing changes.
    """
    tree = flatbuffer.read(content)
    rewriting = _Rewriting(tree)
    changed = [rewriting.change(move) for move in _moves(flatbuffer.Graph(tree))]
    return flatbuffer.write(tree) if any(changed) else content


def _moves(graph: flatbuffer.Graph) -> list[_Move]:
    places = {id(operator): place for place, operator in enumerate(graph.operators)}
    found = []
    for operator in graph.operators:
        if graph.name(operator) != "TRANSPOSE" or len(graph.shape(operator.inputs[0])) <= _MOST:
            continue
        before, after = graph.writer.get(operator.inputs[0]), graph.readers[operator.outputs[0]]
        order = graph.integers(operator.inputs[1])
        if before is None or len(after) != 1 or order is None:
            continue
        chain = (before, operator, after[0])
        inner = (operator.inputs[0], operator.outputs[0])
        whole = [graph.name(each) for each in chain] == ["RESHAPE", "TRANSPOSE", "RESHAPE"]
        if whole and not any(len(graph.readers[index]) > 1 or graph.is_output(index) for index in inner):
            sides, order = _fewest(graph.shape(operator.inputs[0]), tuple(order.tolist()))
            found.append(_Move(tuple(places[id(each)] for each in chain), sides, order))
    return found


def _fewest(shape: tuple[int, ...], order: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Join the axes that a permutation leaves side by side, and leave out those of one element."""
    order = tuple(axis for axis in order if shape[axis] != 1)
    groups: list[list[int]] = []
    kept = [axis for axis in range(len(shape)) if shape[axis] != 1]
    for axis in order:
        beside = groups and kept.index(axis) == kept.index(groups[-1][-1]) + 1
        groups[-1].append(axis) if beside else groups.append([axis])
    ranked = sorted(groups)
    sides = tuple(int(np.prod([shape[axis] for axis in group])) for group in ranked)
    return sides, tuple(ranked.index(group) for group in groups)


class _Rewriting:
    """Writes moves of a file anew."""

    def __init__(self, tree: schema.ModelT):
        self._tree = tree
        self._tensors = tree.subgraphs[0].tensors
        graph = flatbuffer.Graph(tree)
        # Shapes and orders that the file has already; the first of equal ones.
        vectors = [
            index
            for index, tensor in enumerate(self._tensors)
            if tensor.shape is not None and len(tensor.shape) == 1 and not _is_quantised(tensor)
        ]
        known = ((graph.integers(index), index) for index in reversed(vectors))
        self._constants = {tuple(values.tolist()): index for values, index in known if values is not None}

    def change(self, move: _Move) -> bool:
        """Write a move with four axes, if they are enough; tell whether they are."""
        operators = self._tree.subgraphs[0].operators
        source, result = operators[move.places[0]].inputs[0], operators[move.places[2]].outputs[0]
        between = tuple(operators[place].outputs[0] for place in move.places[:2])
        rank = len(move.sides)
        if 1 < rank <= _MOST:
            steps = self._in_few_axes(move, source, *between, result)
        elif rank == _MOST + 1 and self._tensors[source].type != schema.TensorType.INT16:
            steps = self._in_blocks(move, source, *between, result)
        else:
            steps = []
        for place, step in zip(move.places, steps, strict=False):
            operators[place] = step
        return bool(steps)

    def _in_few_axes(self, move: _Move, source: int, first: int, second: int, result: int) -> list[schema.OperatorT]:
        filled = _MOST - len(move.sides)
        sides = (1,) * filled + move.sides
        order = (*range(filled), *(filled + axis for axis in move.order))
        self._give(first, sides)
        self._give(second, tuple(sides[axis] for axis in order))
        return [
            self._reshape(source, first),
            self._transpose(first, second, order),
            self._reshape(second, result),
        ]

    def _in_blocks(self, move: _Move, source: int, first: int, second: int, result: int) -> list[schema.OperatorT]:
        """Unfold a map into patches, or fold it, if that is what the move does."""
        if move.order == _UNFOLDS:
            height, patch, width, other, channels = move.sides
            whole, parts = source, result
        elif move.order == _FOLDS:
            patch, other, height, width, channels = move.sides
            whole, parts = result, source
        else:
            return []
        unfolded = (1, patch * other, height * width, channels)
        folded = (1, height * patch, width * other, channels)
        if patch != other or self._shape(whole) != folded or self._shape(parts) != unfolded:
            return []
        deep, swapped = (1, height, width, patch * patch * channels), tuple(unfolded[axis] for axis in _SWAP)
        if whole == source:
            self._give(first, deep)
            self._give(second, swapped)
            return [
                self._blocks("SPACE_TO_DEPTH", schema.SpaceToDepthOptionsT, source, first, patch),
                self._reshape(first, second),
                self._transpose(second, result, _SWAP),
            ]
        self._give(first, swapped)
        self._give(second, deep)
        return [
            self._transpose(source, first, _SWAP),
            self._reshape(first, second),
            self._blocks("DEPTH_TO_SPACE", schema.DepthToSpaceOptionsT, second, result, patch),
        ]

    def _shape(self, index: int) -> tuple[int, ...]:
        return tuple(self._tensors[index].shape)

    def _give(self, index: int, shape: tuple[int, ...]) -> None:
        """Give a tensor another shape, and another name, since its values are in another order."""
        tensor = self._tensors[index]
        scope = tensor.name.rpartition(b"/")[0]  # which tells the layer
        tensor.shape, tensor.shapeSignature, tensor.name = list(shape), None, scope + b"/moved"

    def _constant(self, values: tuple[int, ...]) -> int:
        if values not in self._constants:
            self._constants[values] = flatbuffer.add_constant(self._tree, "moved", np.array(values, np.int32))
        return self._constants[values]

    def _reshape(self, source: int, result: int) -> schema.OperatorT:
        return flatbuffer.make_operator(self._tree, "RESHAPE", [source, self._constant(self._shape(result))], [result])

    def _transpose(self, source: int, result: int, order: tuple[int, ...]) -> schema.OperatorT:
        options = schema.TransposeOptionsT()
        return flatbuffer.make_operator(self._tree, "TRANSPOSE", [source, self._constant(order)], [result], options)

    def _blocks(self, name: str, options_of: type, source: int, result: int, size: int) -> schema.OperatorT:
        options = options_of()
        options.blockSize = size
        in_8_bits = self._tensors[source].type == schema.TensorType.INT8
        version = 2 if in_8_bits and name == "SPACE_TO_DEPTH" else 1
        return flatbuffer.make_operator(self._tree, name, [source], [result], options, version)


def _is_quantised(tensor: schema.TensorT) -> bool:
    return (
        tensor.quantization is not None and tensor.quantization.scale is not None and len(tensor.quantization.scale) > 0
    )
