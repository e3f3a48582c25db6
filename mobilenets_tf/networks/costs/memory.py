"""What a network's activations take: MobileNetV2's formulas on the graph (arXiv 1801.04381, section 5.1).

Figures are in elements, to be multiplied by the bytes of the type (4 float32, 2 float16 and int16, 1 int8), for a batch
of 1, and belong to no engine (``tflite.arena`` has the bytes that LiteRT takes for a file):

* ``peak_activation``: the general formula, op by op in the graph's order: the largest sum of what an op reads, what it
  writes, and what is kept for later ops.
* ``bottleneck_split``: the same with each bottleneck as one op, whose inner tensors exist one part at a time.
* ``largest_tensor``: the largest single tensor with bottlenecks as one op, the "max" row of the paper's table 3.

What counts as an op: a layer or Keras operation of the graph, with these exceptions. Dropout and reshapes are no op at
all in inference. Elementwise ones (BatchNorm, activations, additions, ...) write over an input that nobody reads again,
so that convolution, BatchNorm and activation together hold one tensor. Zero padding that only convolutions read is part
of them. What goes on inside a layer (attention's scores in MultiHeadAttention) is not seen.
"""

import math
import re
from collections import Counter, defaultdict
from dataclasses import dataclass

from mobilenets_tf.errors import RequestError

# Classes of Keras 3's layers and operations (keras.ops), by name.
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
    """Where the most memory is needed: ``elements``, and the name of the ``layer`` (or bottleneck) that needs them."""

    elements: int
    layer: str


@dataclass(frozen=True)
class _TracedOp:
    """One op of the graph; tensors are numbers. ``inner``: elements that it needs besides what it reads and writes."""

    name: str
    kind: str
    reads: tuple[int, ...]
    writes: tuple[int, ...]
    inner: int = 0


@dataclass(frozen=True)
class _Trace:
    """A model as the list of its calls in order of execution. The first one writes the inputs.

    shapes: of each tensor, without the batch. outputs: the model's, which stay to the end.
    """

    calls: list[_TracedOp]
    shapes: list[tuple[int, ...]]
    outputs: list[int]

    def size(self, tensor: int) -> int:
        return math.prod(self.shapes[tensor])


def peak_activation(model) -> Peak:
    """The most elements that are live at once when the graph runs op by op in the model's order, and where.

    ``max over ops of sum(live tensors)``, the live ones being the op's inputs and outputs and all that later ops, or
    the caller, still read. It is the least that this order, op by op, can do with. A file's arena (``arena_bytes``) has
    the model's input on top, which TFLite keeps to the end; for MobileNetV1 and V2 of full width that is the whole
    difference. LiteRT's own kernels take more where a PAD is not folded (torch's padding), where hard-swish or a
    sigmoid writes a tensor of its own, and where im2col at the stem outweighs all else (narrow networks).

    Args:
        model: any functional or sequential Keras model with a fixed input size and the batch as each tensor's first
            axis; nested ones are followed.

    Raises:
        RequestError: a side of a tensor is None; the memory depends on it.
    """
    return _peak(_trace(model))


def bottleneck_split(model, parts: int | None = None) -> Peak:
    """``peak_activation`` with each bottleneck as one op, computed in ``parts`` groups of its inner channels.

    F(x) = sum over t parts of (A_i . N . B_i)(x) (arXiv 1801.04381, section 5.1): the inner channels need not exist all
    at once. With sides s and s', k and k' channels, n inner channels, a bottleneck then needs

        s^2 k + s'^2 k' + (s^2 + s'^2) ceil(n / t)

    elements: its input, its output, and one part of the expanded and of the depthwise tensor. The multiply-adds do not
    change; the weights are read in slices. The paper finds t from 2 to 5 useful; TFLite has no such op, so this is a
    figure of what a kernel of one's own would gain.

    A bottleneck is a group ``stageS_blockB_`` from its expanding convolution to its linear project_conv. Where it does
    not expand, a stem whose output it alone reads is its expansion: that is how table 3 has 16 channels, not the stem's
    32, at MobileNetV2's first resolution. Without either (the block's own residual reads the stem too) only the
    depthwise tensor is inner. All others run op by op: those with an activation after project (MobileNetV1's blocks),
    and those with squeeze-and-excite, which wants every inner channel's mean before it scales the first.

    Args:
        parts: t. 1 is the bottleneck as one op, not split (it holds input, output and both inner tensors, more than op
            by op); None a channel at a time, the paper's limit. A block with fewer channels has as many parts as those.

    Raises:
        RequestError: parts below 1, or a side of a tensor is None.
    """
    if parts is not None and parts < 1:
        raise RequestError(f"parts={parts!r}: expected at least 1, or None for one channel at a time.")
    return _peak(_with_bottlenecks(_trace(model), parts))


def largest_tensor(model) -> Peak:
    """The largest tensor, the input included, and what writes it, with bottlenecks as one op (``bottleneck_split``).

    The max of arXiv 1801.04381, table 3, is this times 2 bytes: 1600K for MobileNetV1, 400K for MobileNetV2.

    Raises:
        RequestError: a side of a tensor is None.
    """
    graph = _with_bottlenecks(_trace(model), None)
    tensors = (Peak(graph.size(tensor), call.name) for call in graph.calls for tensor in call.writes)
    return max(tensors, key=lambda tensor: tensor.elements)


def _trace(model) -> _Trace:
    functional = _functional(model)
    graph = _Trace([], [], [])
    inputs = _new_tensors(graph, functional.inputs)
    graph.calls.append(_TracedOp(functional.inputs[0].name, "InputLayer", (), inputs))
    graph.outputs.extend(_follow(functional, inputs, graph))
    return graph


def _functional(model):
    return getattr(model, "_functional", None) or model  # a Sequential keeps its graph inside


def _new_tensors(graph: _Trace, tensors) -> tuple[int, ...]:
    for tensor in tensors:
        if None in tensor.shape[1:]:
            raise RequestError(f"{tensor.name!r} has shape {tensor.shape}; build the model with a fixed input size.")
        graph.shapes.append(tuple(tensor.shape[1:]))
    return tuple(range(len(graph.shapes) - len(tensors), len(graph.shapes)))


def _follow(functional, inputs, graph: _Trace) -> list[int]:
    """Append the calls of one use of a functional graph; the numbers of its outputs."""
    nodes = [node for _, nodes in sorted(functional._nodes_by_depth.items(), reverse=True) for node in nodes]
    readers = defaultdict(set)
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
    return [number[id(tensor)] for tensor in functional.outputs]


def _peak(graph: _Trace) -> Peak:
    last_read = {tensor: index for index, call in enumerate(graph.calls) for tensor in call.reads}
    last_read |= dict.fromkeys(graph.outputs, len(graph.calls))
    peaks, live = [], set()
    for index, call in enumerate(graph.calls):
        live.update(call.writes)
        elements = sum(map(graph.size, live)) + call.inner
        # The caller's own input is not written over.
        dying = {graph.size(t) for t in call.reads if last_read[t] == index and t not in graph.calls[0].writes}
        if call.kind in _ELEMENTWISE and graph.size(call.writes[0]) in dying:
            elements -= graph.size(call.writes[0])
        peaks.append(Peak(elements, call.name))
        live = {tensor for tensor in live if last_read.get(tensor, index) > index}
    return max(peaks, key=lambda peak: peak.elements)


def _with_bottlenecks(graph: _Trace, parts: int | None) -> _Trace:
    """The graph with every bottleneck that can be split as one call, at the place of its project_conv."""
    calls = {call: call for call in graph.calls}
    for project in graph.calls:
        if (match := _PROJECT.match(project.name)) and (chain := _inner_chain(graph, project, match[1])):
            channels = graph.shapes[project.reads[0]][-1]
            part = math.ceil(channels / min(parts or channels, channels))
            inner = sum(graph.size(call.writes[0]) for call in chain if call.kind not in _ELEMENTWISE)
            bottleneck = _TracedOp(match[1], "Bottleneck", chain[-1].reads, project.writes, inner // channels * part)
            calls |= dict.fromkeys(chain) | {project: bottleneck}
    return _Trace([call for call in calls.values() if call], graph.shapes, graph.outputs)


def _inner_chain(graph: _Trace, project: _TracedOp, block: str) -> list[_TracedOp]:
    """What can be computed a few channels at a time before ``project``, the last call first; empty if nothing can."""
    if any(call.kind in _ACTIVATIONS and call.name.startswith(f"{block}_project_") for call in graph.calls):
        return []
    writer = {tensor: call for call in graph.calls for tensor in call.writes}
    readers = Counter(tensor for call in graph.calls for tensor in call.reads)
    chain = []
    call = writer[project.reads[0]]
    while call.name.startswith((f"{block}_", "stem_")) and len(call.reads) == 1 and readers[call.writes[0]] == 1:
        chain.append(call)
        call = writer[call.reads[0]]
    return chain if any(call.kind == "DepthwiseConv2D" for call in chain) else []
