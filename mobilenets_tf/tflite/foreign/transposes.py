"""Take out the TRANSPOSE ops of graphs that a converter has brought from channels first to channels last.

Such a converter puts a TRANSPOSE before and behind each convolution and pooling. The ops between them, which compute
each value by itself or name their axes, compute the same on the tensor that was not transposed. So a TRANSPOSE moves
forward through them, until it meets its inverse and both are gone, or an op that needs it.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mobilenets_tf.data.input_shapes import takes_channels_first
from mobilenets_tf.tflite import flatbuffer
from mobilenets_tf.tflite.flatbuffer import schema

_VALUE_BY_VALUE = {
    "ABS", "ADD", "CAST", "COS", "DIV", "ELU", "EXP", "FLOOR", "GELU", "HARD_SWISH", "LEAKY_RELU", "LOG", "LOGISTIC",
    "MAXIMUM", "MINIMUM", "MUL", "NEG", "POW", "PRELU", "RELU", "RELU6", "RELU_0_TO_1", "RELU_N1_TO_1", "RSQRT", "SIN",
    "SQRT", "SQUARE", "SQUARED_DIFFERENCE", "SUB", "TANH",
}  # fmt: skip
_REDUCE = {"MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN"}
_TO_CHANNELS_FIRST = (0, 3, 1, 2)


class _Behind(NamedTuple):
    """A tensor that is a TRANSPOSE of another: axis i is axis ``order[i]`` of ``source``."""

    source: int
    order: tuple[int, ...]


def image_channels_last(tree: schema.ModelT) -> bool:
    """Let a graph of one image with its channels first take the image with its channels last; tell whether it did."""
    graph = tree.subgraphs[0]
    if len(graph.inputs) != 1 or not takes_channels_first(graph.tensors[graph.inputs[0]].shape):
        return False
    (old,) = graph.inputs
    _, channels, height, width = graph.tensors[old].shape
    new = flatbuffer.add_tensor(tree, graph.tensors[old].name.decode(), (1, height, width, channels))
    graph.inputs = [new]
    graph.operators.insert(0, _transpose(tree, new, _TO_CHANNELS_FIRST, old))
    return True


def _transpose(tree: schema.ModelT, source: int, order: Sequence[int], result: int) -> schema.OperatorT:
    name = tree.subgraphs[0].tensors[result].name.decode()
    constant = flatbuffer.add_constant(tree, f"{name}/order", np.array(order, np.int32))
    return flatbuffer.make_operator(tree, "TRANSPOSE", [source, constant], [result], schema.TransposeOptionsT())


def cancel_transposes(tree: schema.ModelT) -> None:
    """Move every TRANSPOSE forward until it meets its inverse. Where that leaves no fewer, the graph stays as it is."""
    operators, graph = tree.subgraphs[0].operators, flatbuffer.Graph(tree)
    before = sum(graph.name(operator) == "TRANSPOSE" for operator in operators)
    if not before:
        return
    moved = _Sinking(tree).operators()
    if sum(graph.name(operator) == "TRANSPOSE" for operator in moved) < before:
        tree.subgraphs[0].operators = moved
        flatbuffer.drop_unneeded(tree)


class _Sinking:
    def __init__(self, tree: schema.ModelT):
        self._tree, self._graph = tree, flatbuffer.Graph(tree)
        self._behind: dict[int, _Behind] = {}
        self._same: dict[int, int] = {}  # a tensor -> the tensor that has its values
        self._done: list[schema.OperatorT] = []

    def operators(self) -> list[schema.OperatorT]:
        """Return the operators of the graph with every TRANSPOSE as late as it can be."""
        for operator in self._graph.operators:
            inputs = [self._same.get(index, index) for index in operator.inputs]
            operator = flatbuffer.with_fields(operator, inputs=inputs)
            if not self._moved(operator, self._graph.name(operator)):
                for index in operator.inputs:
                    self._settle(index)
                self._done.append(operator)
        for index in self._graph.outputs:
            self._settle(index)
        return self._done

    def _settle(self, index: int) -> None:
        """Write the TRANSPOSE that a tensor is, since something reads the tensor."""
        if index in self._behind:
            source, order = self._behind.pop(index)
            self._done.append(_transpose(self._tree, source, order, index))

    def _moved(self, operator: schema.OperatorT, name: str) -> bool:
        """Let an operator compute on what is before the TRANSPOSE; tell whether it does."""
        graph, (out, *others) = self._graph, operator.outputs
        if others or not operator.inputs:
            return False
        if name == "TRANSPOSE":
            return self._transposed(operator)
        first = self._behind.get(operator.inputs[0])
        if name == "RESHAPE" and first is not None:
            sides = graph.shape(first.source)
            if [axis for axis in first.order if sides[axis] > 1] != [i for i, side in enumerate(sides) if side > 1]:
                return False
            self._done.append(flatbuffer.with_fields(operator, inputs=[first.source, *operator.inputs[1:]]))
            return True
        if name in _REDUCE and first is not None:
            return self._reduced(operator, first)
        if name == "PAD" and first is not None and (sizes := graph.integers(operator.inputs[1])) is not None:
            sizes = sizes.reshape(-1, 2)[np.argsort(first.order)]
            constant = flatbuffer.add_constant(self._tree, f"{self._name(out)}/sizes", sizes)
            self._put(operator, [first.source, constant], first.order)
            return True
        if name in _VALUE_BY_VALUE or name == "CONCATENATION":
            return self._by_value(operator, name == "CONCATENATION")
        return False

    def _transposed(self, operator: schema.OperatorT) -> bool:
        source, axes = operator.inputs[0], self._graph.integers(operator.inputs[1])
        (out,) = operator.outputs
        if axes is None:
            return False
        before = self._behind.get(source) or _Behind(source, tuple(range(len(axes))))
        order = tuple(before.order[axis] for axis in axes.tolist())
        if order == tuple(range(len(order))) and not self._graph.is_output(out):
            self._same[out] = before.source
        else:
            self._behind[out] = _Behind(before.source, order)
        return True

    def _reduced(self, operator: schema.OperatorT, first: _Behind) -> bool:
        graph, (out,) = self._graph, operator.outputs
        told = graph.integers(operator.inputs[1])
        if told is None:
            return False
        rank = len(first.order)
        axes = [axis % rank for axis in told.ravel().tolist()]
        mapped = flatbuffer.add_constant(
            self._tree, f"{self._name(out)}/axes", np.array(sorted(first.order[axis] for axis in axes), np.int32)
        )
        if operator.builtinOptions.keepDims:
            self._put(operator, [first.source, mapped], first.order)
            return True
        kept = [first.order[axis] for axis in range(rank) if axis not in axes]
        if kept == sorted(kept):
            self._done.append(flatbuffer.with_fields(operator, inputs=[first.source, mapped]))
        else:
            self._put(operator, [first.source, mapped], tuple(sorted(kept).index(axis) for axis in kept))
        return True

    def _by_value(self, operator: schema.OperatorT, joins: bool) -> bool:
        graph, (out,) = self._graph, operator.outputs
        orders = {self._behind[index].order for index in operator.inputs if index in self._behind}
        if len(orders) != 1:
            return False
        (order,) = orders
        if len(order) != len(graph.shape(out)):
            return False
        inputs = []
        for index in operator.inputs:
            behind, values = self._behind.get(index), graph.constant(index)
            if behind is not None:
                inputs.append(behind.source)
            elif values is None:
                return False
            elif values.size == 1 and not joins:
                inputs.append(index)
            else:
                values = values.reshape((1,) * (len(order) - values.ndim) + values.shape)
                values = values.transpose(np.argsort(order))
                inputs.append(flatbuffer.add_constant(self._tree, self._name(index), values))
        if joins:
            axis = order[operator.builtinOptions.axis % len(order)]
            operator.builtinOptions = flatbuffer.with_fields(operator.builtinOptions, axis=axis)
        self._put(operator, inputs, order)
        return True

    def _put(self, operator: schema.OperatorT, inputs: list[int], order: tuple[int, ...]) -> None:
        """Let an operator read ``inputs``; its old result is then a TRANSPOSE of the new one."""
        (out,) = operator.outputs
        shape = self._graph.shape(out)
        new = flatbuffer.add_tensor(self._tree, self._name(out), [shape[axis] for axis in np.argsort(order)])
        self._graph.tensors[new].type = self._graph.tensors[out].type
        self._done.append(flatbuffer.with_fields(operator, inputs=inputs, outputs=[new]))
        self._behind[out] = _Behind(new, order)

    def _name(self, index: int) -> str:
        return self._graph.tensors[index].name.decode()
