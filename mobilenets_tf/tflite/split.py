"""Split bottlenecks: compute the inner channels of a bottleneck a part at a time, so that an arena can be smaller.

A bottleneck is a convolution that expands, a depthwise convolution and a convolution that projects. Nothing but the
projection mixes the inner channels, and the projection sums over them. So a bottleneck is the sum of T bottlenecks
with a T-th of the inner channels each, and only one part's inner tensors have to exist at a time (MobileNetV2's
memory-efficient inference, arXiv 1801.04381, section 5.1). The multiply-adds and the weights stay the same.

The sum is formed in one of two ways, whichever leaves the lower peak; of two that are alike, the first:

* Inside the projection: the parts' depthwise results are joined, and the projection reads them all. The outputs stay
  the same to the last bit. It saves memory where the depthwise convolution has a stride, so that its result is small.
* Behind the projection: each part has a projection of its own, and their results are added. In float32 the order of the
  additions changes. In int8 files each part's projection gives int16, in steps so fine that the sum of all parts is off
  by less than one int8 level; the sum is rounded to int8 once, as without a split. Sums of int8 parts would need less
  memory, but each part and each sum would be rounded to a whole level.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mobilenets_tf.errors import RequestError
from mobilenets_tf.tflite import flatbuffer
from mobilenets_tf.tflite.arena import live_bytes
from mobilenets_tf.tflite.flatbuffer import schema

_FLOAT, _INT8, _INT16 = schema.TensorType.FLOAT32, schema.TensorType.INT8, schema.TensorType.INT16
# Ops of one activation that compute each channel by itself. They may stand between the convolutions.
_PER_CHANNEL = {"PAD", "HARD_SWISH", "RELU", "RELU6", "LOGISTIC"}
_LEAST_PARTS, _MOST_PARTS = 2, 64


@dataclass(frozen=True)
class SplitBlock:
    """A bottleneck that was split.

    name: of its result. parts: how many. channels: its inner channels. joined: the sum is formed inside the projection,
    so the result is equal to the last bit. deviation: by how many int8 levels the result
    can differ from the unsplit result before both are rounded (below 1, the rounded results differ by at most one
    level); 0 where the parts are joined, and in float32, where the order of the additions alone changes.
    """

    name: str
    parts: int
    channels: int
    joined: bool
    deviation: float


@dataclass(frozen=True)
class Split:
    """The result of ``split_bottlenecks``.

    content: of the file. blocks: those that were split, in the file's order. bytes_before, bytes_after: the most bytes
    of activations that live together (``arena.live_bytes``). peak: name of the result of the op that needs the most
    memory now.
    """

    content: bytes
    blocks: tuple[SplitBlock, ...]
    bytes_before: int
    bytes_after: int
    peak: str

    def as_dict(self) -> dict:
        """Return the fields but the content as plain data."""
        return {
            "blocks": [vars(block) for block in self.blocks],
            "bytes_before": self.bytes_before,
            "bytes_after": self.bytes_after,
            "peak": self.peak,
        }


def check_parts(parts: int) -> None:
    """Refuse a number of parts that makes no sense.

    Raises:
        RequestError: it is not from 2 to 64.
    """
    if not _LEAST_PARTS <= parts <= _MOST_PARTS:
        raise RequestError(f"split={parts}: expected {_LEAST_PARTS} to {_MOST_PARTS} parts, of which 2 to 4 save most.")


def split_bottlenecks(content: bytes, parts: int) -> Split:
    """Write the bottlenecks that set the peak of a file's activations as parts whose sums are added.

    The bottleneck at the peak is split, then the one at the new peak, and so on, until an op that is in no bottleneck
    sets the peak, or until a split makes it no smaller. Bottlenecks are found by their operators, not by their names:
    MobileNetV1's layers count too, where an activation follows the projection.

    Args:
        content: a float32 file, or a file whose bottlenecks compute in int8.
        parts: T, from 2 to 64. A bottleneck with fewer inner channels has as many parts as channels.

    Raises:
        RequestError: ``parts`` is not from 2 to 64.
    """
    check_parts(parts)
    tree = flatbuffer.read(content)
    before, own = max(live_bytes(tree), default=0), len(tree.subgraphs[0].tensors)
    blocks: list[SplitBlock] = []
    while better := _improved(tree, parts, own):
        tree, block = better
        blocks.append(block)
    live = live_bytes(tree)
    at_peak = tree.subgraphs[0].operators[int(np.argmax(live))] if live else None
    order = {tensor.name.decode(): place for place, tensor in enumerate(tree.subgraphs[0].tensors)}
    return Split(
        content=flatbuffer.write(tree) if blocks else content,
        blocks=tuple(sorted(blocks, key=lambda block: order[block.name])),
        bytes_before=before,
        bytes_after=max(live, default=0),
        peak=tree.subgraphs[0].tensors[at_peak.outputs[0]].name.decode().split(";")[0] if at_peak else "",
    )


def _improved(tree: schema.ModelT, parts: int, own: int) -> tuple[schema.ModelT, SplitBlock] | None:
    """Split the bottleneck at the peak; None if there is none, or if no split lowers the peak.

    Where several ops need the most memory, as equal blocks do, a split that leaves fewer of them counts as well.

    own: how many tensors the file had before any split. What has a tensor behind these is a part already.
    """
    live = live_bytes(tree)
    tried: list[tuple[int, int, int, schema.ModelT, SplitBlock]] = []
    chains = [chain for chain in _chains(flatbuffer.Graph(tree)) if _is_whole_at_peak(tree, chain, live, own)]
    for chain, joined in itertools.product(chains, (True, False)):
        candidate = flatbuffer.with_fields(tree, subgraphs=_copied(tree), buffers=list(tree.buffers))
        candidate.operatorCodes = [flatbuffer.with_fields(code) for code in tree.operatorCodes]
        block = _split(candidate, chain, parts, joined)
        after = live_bytes(candidate)
        tried.append((max(after), after.count(max(after)), len(tried), candidate, block))
    if not tried:
        return None
    least, times, _, candidate, block = min(tried, key=lambda each: each[:3])
    return (candidate, block) if (least, times) < (max(live), live.count(max(live))) else None


def _is_whole_at_peak(tree: schema.ModelT, chain: list[int], live: list[int], own: int) -> bool:
    """Tell whether a bottleneck sets the peak, and is no part and has no parts."""
    operators = [tree.subgraphs[0].operators[place] for place in chain]
    whole = all(index < own for operator in operators for index in (operator.inputs[0], *operator.outputs))
    return whole and max(live) in live[chain[0] : chain[-1] + 1]


def _copied(tree: schema.ModelT) -> list[schema.SubGraphT]:
    graph, *others = tree.subgraphs
    return [flatbuffer.with_fields(graph, tensors=list(graph.tensors), operators=list(graph.operators)), *others]


def _chains(graph: flatbuffer.Graph) -> list[list[int]]:
    """Find the bottlenecks that can be split: the places of their operators, the projection's last."""
    place = {id(operator): number for number, operator in enumerate(graph.operators)}
    chains = []
    for project in graph.operators:
        if graph.name(project) != "CONV_2D" or not _weights_are_known(graph, project):
            continue
        operators, found = [project], {"DEPTHWISE_CONV_2D": False}
        while (before := _only_writer(graph, operators[-1])) is not None:
            name = graph.name(before)
            operators.append(before)
            if name == "CONV_2D":
                if found["DEPTHWISE_CONV_2D"] and _weights_are_known(graph, before):
                    chains.append([place[id(operator)] for operator in reversed(operators)])
                break
            if name == "DEPTHWISE_CONV_2D" and not found[name] and _is_depthwise(graph, before):
                found[name] = True
            elif name not in _PER_CHANNEL or (name == "PAD" and not _pads_sides_alone(graph, before)):
                break
    return [chain for chain in chains if _type_of(graph, chain) is not None]


def _only_writer(graph: flatbuffer.Graph, operator: schema.OperatorT) -> schema.OperatorT | None:
    """Give the operator that writes another one's data, if nothing else reads that data."""
    data = operator.inputs[0]
    alone = len(graph.readers[data]) == 1 and not graph.is_output(data)
    return graph.writer.get(data) if alone and len(graph.shape(data)) == 4 else None


def _values(graph: flatbuffer.Graph, index: int) -> np.ndarray | None:
    """Give the values of a constant of float32, int8, int32 or int64; None if the tensor is no such constant."""
    dtypes = {_FLOAT: "<f4", _INT8: "i1", schema.TensorType.INT32: "<i4", schema.TensorType.INT64: "<i8"}
    tensor = graph.tensors[index]
    data = graph.model.buffers[tensor.buffer].data
    if index < 0 or data is None or not len(data) or tensor.type not in dtypes or tensor.sparsity is not None:
        return None
    return np.frombuffer(data.tobytes(), dtypes[tensor.type]).reshape(tensor.shape)


def _known(graph: flatbuffer.Graph, index: int) -> np.ndarray:
    """Give the values of a constant of a bottleneck that can be split."""
    values = _values(graph, index)
    assert values is not None
    return values


def _weights_are_known(graph: flatbuffer.Graph, operator: schema.OperatorT) -> bool:
    """Tell whether a convolution has constants as weights and bias, and no groups."""
    if len(operator.inputs) != 3:
        return False
    data, *constants = operator.inputs
    weights, bias = (_values(graph, index) for index in constants)
    return weights is not None and bias is not None and weights.shape[-1] == graph.shape(data)[-1]


def _is_depthwise(graph: flatbuffer.Graph, operator: schema.OperatorT) -> bool:
    """Tell whether each output channel is computed of the input channel of the same number."""
    data, *constants = operator.inputs
    known = len(constants) == 2 and all(_values(graph, index) is not None for index in constants)
    return known and graph.shape(data)[-1] == graph.shape(operator.outputs[0])[-1]


def _pads_sides_alone(graph: flatbuffer.Graph, pad: schema.OperatorT) -> bool:
    margins = _values(graph, pad.inputs[1])
    return margins is not None and not margins[[0, 3]].any()


def _type_of(graph: flatbuffer.Graph, chain: list[int]) -> int | None:
    """Give the type that a bottleneck computes in, float32 or int8; None for a mixture and for other types."""
    operators = [graph.operators[place] for place in chain]
    indices = [index for operator in operators for index in (operator.inputs[0], *operator.outputs)]
    types = {graph.tensors[index].type for index in indices}
    weights = {graph.tensors[operators[-1].inputs[1]].type}
    return types.pop() if types == weights and types <= {_FLOAT, _INT8} else None


def _split(tree: schema.ModelT, chain: list[int], parts: int, joined: bool) -> SplitBlock:
    """Replace the operators of a bottleneck by those of its parts and of their sum."""
    graph = flatbuffer.Graph(tree)
    operators = [graph.operators[place] for place in chain]
    project, result = operators[-1], operators[-1].outputs[0]
    channels = graph.shape(project.inputs[0])[-1]
    bounds = [int(each) for each in np.linspace(0, channels, min(parts, channels) + 1).round()]
    splitter = _Splitter(graph, operators, list(itertools.pairwise(bounds)))
    new = splitter.joined() if joined else splitter.added()
    rest = [operator for operator in graph.operators[: chain[-1]] if operator not in operators]
    tree.subgraphs[0].operators = [*rest, *new, *graph.operators[chain[-1] + 1 :]]
    return SplitBlock(
        graph.tensors[result].name.decode(), len(bounds) - 1, channels, joined, 0.0 if joined else splitter.deviation
    )


class _Splitter:
    """Writes the operators of one bottleneck in parts.

    operators: of the bottleneck, the projection last. spans: (start, end) of the inner channels of each part.
    """

    def __init__(self, graph: flatbuffer.Graph, operators: Sequence[schema.OperatorT], spans: list[tuple[int, int]]):
        self._graph, self._tree = graph, graph.model
        (self._expand, *self._between), self._project = operators[:-1], operators[-1]
        self._spans, self._result = spans, self._project.outputs[0]
        self._wide = graph.tensors[self._result].type == _INT8
        self._step = self._finest_step() if self._wide else 0.0
        # The kernels want a bias, for int16 of int64.
        index = self._project.inputs[2]
        bias = _known(graph, index).astype(np.int64 if self._wide else np.float32)
        self._bias, self._no_bias = (self._constant_like(index, values) for values in (bias, np.zeros_like(bias)))

    @property
    def deviation(self) -> float:
        """By how many int8 levels the sum of the parts can be off before it is rounded.

        A part is rounded by half a step; and the kernels for int16 have multipliers of 16 bits, which costs another
        half step at most. The sums are exact: all have one scale.
        """
        if not self._wide:
            return 0.0
        return len(self._spans) * self._step / float(self._graph.tensors[self._result].quantization.scale[0])

    def joined(self) -> list[schema.OperatorT]:
        """Make the operators of parts that are joined for the projection."""
        new, parts = [], []
        for number, span in enumerate(self._spans):
            inner, data = self._inner(number, span)
            new += inner
            parts.append(data)
        options = schema.ConcatenationOptionsT()
        options.axis = 3
        version = 2 if self._wide else 1
        join = flatbuffer.make_operator(self._tree, "CONCATENATION", parts, [self._project.inputs[0]], options, version)
        return [*new, join, self._project]

    def added(self) -> list[schema.OperatorT]:
        """Make the operators of parts that are projected: each but the first followed by the sum so far."""
        new, total = self._part(0)
        for number in range(1, len(self._spans)):
            part, term = self._part(number)
            last = number == len(self._spans) - 1
            following = self._result if last and not self._wide else self._tensor("sum", number)
            new += [*part, self._sum(total, term, following, last)]
            total = following
        if self._wide:
            new.append(flatbuffer.make_operator(self._tree, "QUANTIZE", [total], [self._result], version=2))
        return new

    def _part(self, number: int) -> tuple[list[schema.OperatorT], int]:
        """Make a part's operators; give the tensor that holds the part's term of the sum, too."""
        inner, data = self._inner(number, self._spans[number])
        if self._wide:
            narrow, data = data, self._whole_numbers(data)
            inner.append(flatbuffer.make_operator(self._tree, "QUANTIZE", [narrow], [data], version=2))
        term = self._tensor("term", number)
        return [*inner, self._projection(data, term, self._spans[number], first=number == 0)], term

    def _sum(self, total: int, term: int, result: int, last: bool) -> schema.OperatorT:
        """Make an addition. The last one has the projection's activation."""
        options = schema.AddOptionsT()
        options.potScaleInt16 = False  # general scales, not powers of two
        if last:
            options.fusedActivationFunction = self._project.builtinOptions.fusedActivationFunction
        return flatbuffer.make_operator(
            self._tree, "ADD", [total, term], [result], options, version=3 if self._wide else 1
        )

    def _inner(self, number: int, span: tuple[int, int]) -> tuple[list[schema.OperatorT], int]:
        """Make a part's operators before the projection; give the tensor of their result, too."""
        data, new = self._expand.inputs[0], []
        for operator in (self._expand, *self._between):
            axis = {"CONV_2D": 0, "DEPTHWISE_CONV_2D": 3}.get(self._graph.name(operator))
            constants = list(operator.inputs[1:])
            if axis is not None:
                constants = [self._slice(constants[0], axis, span), self._slice(constants[1], 0, span)]
            part = self._part_of(operator.outputs[0], number, span)
            new.append(flatbuffer.with_fields(operator, inputs=[data, *constants], outputs=[part]))
            data = part
        return new, data

    def _projection(self, data: int, term: int, span: tuple[int, int], first: bool) -> schema.OperatorT:
        """Make a part's projection, without activation. The bias belongs to the first part."""
        options = flatbuffer.with_fields(
            self._project.builtinOptions, fusedActivationFunction=schema.ActivationFunctionType.NONE
        )
        weights = self._slice(self._project.inputs[1], 3, span)
        inputs = [data, weights, self._bias if first else self._no_bias]
        return flatbuffer.make_operator(self._tree, "CONV_2D", inputs, [term], options, 4 if self._wide else 1)

    def _finest_step(self) -> float:
        """Choose the scale of the int16 sums: the finest in which no sum of the first parts can overflow."""
        graph, (data, weights, bias) = self._graph, self._project.inputs
        zero = int(graph.tensors[data].quantization.zeroPoint[0])
        integers = _known(graph, weights).astype(np.int64)
        positive, negative = (np.clip(integers, *limits).sum(axis=(1, 2)) for limits in ((0, 127), (-128, 0)))
        high = positive * (127 - zero) + negative * (-128 - zero)  # (outputs, inner channels)
        low = positive * (-128 - zero) + negative * (127 - zero)
        start = _known(graph, bias).astype(np.int64)
        real = np.asarray(graph.tensors[weights].quantization.scale, np.float64)
        real = real * float(graph.tensors[data].quantization.scale[0])
        largest, sums = np.zeros(len(high)), {"low": start, "high": start}
        for begin, end in self._spans:
            for name, values in (("low", low), ("high", high)):
                term = values[:, begin:end].sum(axis=1)
                sums[name] = sums[name] + term
                largest = np.maximum(largest, np.maximum(abs(sums[name]), abs(term)))
        bound = float((largest * real).max())
        return float(np.float32(bound / (32767 - 2 * len(self._spans)))) or 1.0

    def _slice(self, index: int, axis: int, span: tuple[int, int]) -> int:
        """Add the constant that holds some channels of another constant; the scales of these channels too."""
        begin, end = span
        new = self._constant_like(index, np.take(_known(self._graph, index), range(begin, end), axis=axis))
        parameters = self._graph.tensors[index].quantization
        scales = parameters is not None and parameters.scale is not None and len(parameters.scale) > 1
        if scales and parameters.quantizedDimension == axis:
            self._graph.tensors[new].quantization = flatbuffer.with_fields(
                parameters, scale=parameters.scale[begin:end], zeroPoint=parameters.zeroPoint[begin:end]
            )
        return new

    def _constant_like(self, index: int, values: np.ndarray) -> int:
        tensor = self._graph.tensors[index]
        new = flatbuffer.add_constant(self._tree, tensor.name.decode(), values)
        self._graph.tensors[new].quantization = tensor.quantization
        return new

    def _part_of(self, index: int, number: int, span: tuple[int, int]) -> int:
        """Add the tensor that holds a part of the channels of another."""
        tensor = self._graph.tensors[index]
        shape = [*tensor.shape[:-1], span[1] - span[0]]
        return self._add(f"{tensor.name.decode()}/part{number}", shape, tensor.type, tensor.quantization)

    def _whole_numbers(self, index: int) -> int:
        """Add the int16 tensor that holds the values of an int8 tensor: the scale is the same, the zero point 0."""
        tensor = self._graph.tensors[index]
        return self._add(
            f"{tensor.name.decode()}/int16", tensor.shape, _INT16, self._parameters(tensor.quantization.scale)
        )

    def _tensor(self, name: str, number: int) -> int:
        """Add a tensor of the result's shape: a part's term, or the sum of the first terms."""
        result = self._graph.tensors[self._result]
        name = f"{result.name.decode()}/{name}{number}"
        if not self._wide:
            return self._add(name, result.shape, _FLOAT, None)
        return self._add(name, result.shape, _INT16, self._parameters([self._step]))

    def _parameters(self, scale: Sequence[float]) -> schema.QuantizationParametersT:
        parameters = schema.QuantizationParametersT()
        parameters.scale, parameters.zeroPoint = np.array(scale, np.float32), np.zeros(1, np.int64)
        parameters.quantizedDimension = 0
        return parameters

    def _add(self, name: str, shape: Sequence[int], kind: int, parameters: object) -> int:
        index = flatbuffer.add_tensor(self._tree, name, shape)
        self._graph.tensors[index].type, self._graph.tensors[index].quantization = kind, parameters
        return index
