"""Memory of a network's activations: MobileNetV2's formulas, applied to the graph (arXiv 1801.04381, section 5.1).

Figures are in elements for a batch of 1; an element has 4 bytes in float32, 2 in float16 and int16, 1 in int8. They are
independent of any engine; ``tflite.arena`` measures the bytes that LiteRT plans for a file.

* ``peak_activation``: the general formula, op by op in the order of the graph: the largest sum of the tensors that an
  op reads, the tensors that it writes, and those that later ops read.
* ``bottleneck_split``: the same, with each bottleneck as one op whose inner tensors exist one part at a time.
* ``largest_tensor``: the largest single tensor, with each bottleneck as one op: the "max" row of the paper's table 3.

Each layer or Keras operation of the graph is an op, with these exceptions. Dropout and reshapes are not ops in
inference. An elementwise op (BatchNorm, activation, addition, ...) overwrites an input that no later op reads, so that
convolution, BatchNorm and activation hold one tensor. Zero padding that only convolutions read is part of them. Tensors
inside a layer (the scores in MultiHeadAttention) are not counted.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mobilenets_tf.errors import RequestError

if TYPE_CHECKING:
    import keras

# Names of the classes of Keras 3's layers and operations (keras.ops).
_SAME_TENSOR = {
    "ActivityRegularization", "AlphaDropout", "Dropout", "ExpandDims", "Flatten", "GaussianDropout", "GaussianNoise",
    "Identity", "Reshape", "SpatialDropout1D", "SpatialDropout2D", "SpatialDropout3D", "Squeeze", "StopGradient",
}  # fmt: skip
_ACTIVATIONS = {
    "Activation", "ELU", "Elu", "Gelu", "HardSigmoid", "HardSilu", "LeakyReLU", "LeakyRelu", "PReLU", "ReLU", "Relu",
    "Relu6", "Sigmoid", "Silu", "Softmax", "Tanh",
}  # fmt: skip
_ELEMENTWISE = _ACTIVATIONS | {
    "Add", "Average", "BatchNormalization", "Clip", "Divide", "Maximum", "Minimum", "Multiply", "Negative", "Rescaling",
    "Subtract", "TrueDivide",
}  # fmt: skip
_CONVOLUTIONS = {"Conv2D", "DepthwiseConv2D", "SeparableConv2D"}
_PROJECT = re.compile(r"(stage\d+_block\d+)_project_conv$")


@dataclass(frozen=True)
class Peak:
    """The largest memory: number of ``elements``, and name of the ``layer`` (or bottleneck) that needs them."""

    elements: int
    layer: str


@dataclass(frozen=True)
class _TracedOp:
    """One op of the graph.

    reads, writes: numbers of tensors. inner: elements that the op needs in addition to these.
    """

    name: str
    kind: str
    reads: tuple[int, ...]
    writes: tuple[int, ...]
    inner: int = 0


@dataclass(frozen=True)
class _Trace:
    """A model as the list of its ops in the order of execution.

    calls: the ops; the first writes the model's inputs.
    shapes: shape of each tensor without the batch.
    outputs: numbers of the model's outputs, which exist to the end.
    """

    calls: list[_TracedOp]
    shapes: list[tuple[int, ...]]
    outputs: list[int]

    def size(self, tensor: int) -> int:
        """Number of elements of a tensor."""
        return math.prod(self.shapes[tensor])


def peak_activation(model: keras.Model) -> Peak:
    """Find the op during which most elements are live, when the graph runs op by op in the model's order.

    ``max over ops of sum(live tensors)``: an op's inputs and outputs are live, and all tensors that a later op or the
    caller reads. No engine that runs op by op in this order can do with less. A file's arena (``arena_bytes``) contains
    the model's input in addition, which TFLite keeps to the end; for MobileNetV1 and V2 of full width this is the whole
    difference. LiteRT's own kernels need more where a PAD is not folded (PyTorch's padding), where hard-swish or
    sigmoid writes a separate tensor, and where im2col at the stem is larger than everything else (narrow networks).

    Args:
        model: a functional or sequential Keras model with a fixed input size and the batch as the first axis of each
            tensor; it may contain such models.

    Raises:
        RequestError: a side of a tensor is None, on which the memory depends.
    """
    return _peak(_trace(model))


def bottleneck_split(model: keras.Model, parts: int | None = None) -> Peak:
    """Find ``peak_activation`` with each bottleneck as one op, computed in ``parts`` groups of its inner channels.

    F(x) = sum over t parts of (A_i . N . B_i)(x) (arXiv 1801.04381, section 5.1): not all inner channels must exist at
    once. With sides s and s', k and k' channels, and n inner channels, a bottleneck then needs

        s^2 k + s'^2 k' + (s^2 + s'^2) ceil(n / t)

    elements: its input, its output, and one part of the expanded and of the depthwise tensor. The multiply-adds do
    not change; the weights are read in slices. The paper finds t from 2 to 5 useful. TFLite has no such op: the
    figure tells what an own kernel could save; ``tflite.split`` writes the parts with the ops that TFLite has, whose
    results need memory of their own.

    A bottleneck is a group ``stageS_blockB_`` from its expanding convolution to its linear project_conv. If it does not
    expand, and only it reads the stem's output, the stem counts as its expansion: therefore table 3 has 16 channels,
    not the stem's 32, at MobileNetV2's first resolution. If the block's residual reads the stem too, only the depthwise
    tensor is inner. Other blocks run op by op: those with an activation after project (MobileNetV1's), and those with
    squeeze-and-excite, which needs the mean of every inner channel before it scales the first.

    Args:
        model: as in ``peak_activation``.
        parts: t. 1: the bottleneck is one op and not split (input, output and both inner tensors exist together, which
            is more than op by op). None: one channel at a time, the paper's limit. A block with fewer than t channels
            has as many parts as channels.

    Raises:
        RequestError: ``parts`` is below 1, or a side of a tensor is None.
    """
    if parts is not None and parts < 1:
        raise RequestError(f"parts={parts!r}: expected at least 1, or None for one channel at a time.")
    return _peak(_with_bottlenecks(_trace(model), parts))


def largest_tensor(model: keras.Model) -> Peak:
    """Find the largest tensor, the input included, and its layer, with each bottleneck as one op.

    Times 2 bytes it is the "max" of arXiv 1801.04381, table 3: 1600K for MobileNetV1, 400K for MobileNetV2. Bottlenecks
    are those of ``bottleneck_split``.

    Args:
        model: as in ``peak_activation``.

    Raises:
        RequestError: a side of a tensor is None.
    """
    graph = _with_bottlenecks(_trace(model), None)
    tensors = (Peak(graph.size(tensor), call.name) for call in graph.calls for tensor in call.writes)
    return max(tensors, key=lambda tensor: tensor.elements)


def _trace(model: keras.Model) -> _Trace:
    functional = _functional(model)
    graph = _Trace([], [], [])
    inputs = _new_tensors(graph, functional.inputs)
    graph.calls.append(_TracedOp(functional.inputs[0].name, "InputLayer", (), inputs))
    graph.outputs.extend(_follow(functional, inputs, graph))
    return graph


def _functional(model: Any) -> Any:
    return getattr(model, "_functional", None) or model  # a Sequential keeps its graph inside


def _new_tensors(graph: _Trace, tensors: Sequence[Any]) -> tuple[int, ...]:
    for tensor in tensors:
        if None in tensor.shape[1:]:
            raise RequestError(f"{tensor.name!r} has shape {tensor.shape}; build the model with a fixed input size.")
        graph.shapes.append(tuple(tensor.shape[1:]))
    return tuple(range(len(graph.shapes) - len(tensors), len(graph.shapes)))


def _follow(functional: Any, inputs: Sequence[int], graph: _Trace) -> tuple[int, ...]:
    """Append the ops of one use of a functional graph, and return the numbers of its outputs."""
    nodes = [node for _, nodes in sorted(functional._nodes_by_depth.items(), reverse=True) for node in nodes]
    readers: defaultdict[int, set[str]] = defaultdict(set)
    for node in nodes:
        for tensor in node.input_tensors:
            readers[id(tensor)].add(type(node.operation).__name__)
    for tensor in functional.outputs:
        readers[id(tensor)].add("the caller")
    number = dict(zip(map(id, functional.inputs), inputs, strict=True))
    for node in nodes:
        if node.is_input:
            continue
        operation, kind = node.operation, type(node.operation).__name__
        reads = tuple(number[id(tensor)] for tensor in node.input_tensors)
        padding = kind == "ZeroPadding2D" and readers[id(node.output_tensors[0])] <= _CONVOLUTIONS
        if hasattr(operation, "_functional") or hasattr(operation, "operations"):
            writes = _follow(_functional(operation), reads, graph)
        elif kind in _SAME_TENSOR or padding:
            writes = reads
        else:
            writes = _new_tensors(graph, node.output_tensors)
            graph.calls.append(_TracedOp(operation.name, kind, reads, writes))
        number.update(zip(map(id, node.output_tensors), writes, strict=True))
    return tuple(number[id(tensor)] for tensor in functional.outputs)


def _peak(graph: _Trace) -> Peak:
    last_read = {tensor: index for index, call in enumerate(graph.calls) for tensor in call.reads}
    last_read |= dict.fromkeys(graph.outputs, len(graph.calls))
    peaks: list[Peak] = []
    live: set[int] = set()
    for index, call in enumerate(graph.calls):
        live.update(call.writes)
        elements = sum(map(graph.size, live)) + call.inner
        # An op must not overwrite the caller's input.
        dying = {graph.size(t) for t in call.reads if last_read[t] == index and t not in graph.calls[0].writes}
        if call.kind in _ELEMENTWISE and graph.size(call.writes[0]) in dying:
            elements -= graph.size(call.writes[0])
        peaks.append(Peak(elements, call.name))
        live = {tensor for tensor in live if last_read.get(tensor, index) > index}
    return max(peaks, key=lambda peak: peak.elements)


def _with_bottlenecks(graph: _Trace, parts: int | None) -> _Trace:
    """Replace every bottleneck that can be split by one op, at the place of its project_conv."""
    calls: dict[_TracedOp, _TracedOp | None] = {call: call for call in graph.calls}
    for project in graph.calls:
        if (match := _PROJECT.match(project.name)) and (chain := _inner_chain(graph, project, match[1])):
            channels = graph.shapes[project.reads[0]][-1]
            part = math.ceil(channels / min(parts or channels, channels))
            inner = sum(graph.size(call.writes[0]) for call in chain if call.kind not in _ELEMENTWISE)
            bottleneck = _TracedOp(match[1], "Bottleneck", chain[-1].reads, project.writes, inner // channels * part)
            calls |= dict.fromkeys(chain)
            calls[project] = bottleneck
    return _Trace([call for call in calls.values() if call], graph.shapes, graph.outputs)


def _inner_chain(graph: _Trace, project: _TracedOp, block: str) -> list[_TracedOp]:
    """List the ops before ``project`` that can be computed a few channels at a time, the last op first."""
    if any(call.kind in _ACTIVATIONS and call.name.startswith(f"{block}_project_") for call in graph.calls):
        return []
    writer = {tensor: call for call in graph.calls for tensor in call.writes}
    readers = Counter(tensor for call in graph.calls for tensor in call.reads)
    chain: list[_TracedOp] = []
    call = writer[project.reads[0]]
    while call.name.startswith((f"{block}_", "stem_")) and len(call.reads) == 1 and readers[call.writes[0]] == 1:
        chain.append(call)
        call = writer[call.reads[0]]
    return chain if any(call.kind == "DepthwiseConv2D" for call in chain) else []
