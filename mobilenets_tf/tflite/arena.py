"""The arena: the memory in which a runtime keeps a file's activations. Measured in LiteRT, or counted from the file."""

import math
from collections.abc import Iterable

from mobilenets_tf.errors import RequestError, first_line
from mobilenets_tf.tflite import flatbuffer
from mobilenets_tf.tflite.flatbuffer_check import TYPES, tensor_bytes

_ARENA_ALIGNMENT = 64  # bytes; kDefaultTensorAlignment in LiteRT


def arena_bytes(content: bytes) -> int:
    """Measure the bytes of the arena in which LiteRT's own kernels keep a file's activations.

    The arena is the span of memory in which the planner puts the main graph's tensors: inputs (kept to the end),
    activations and the kernels' scratch memory, such as im2col patches, each at a multiple of 64 bytes. The span is
    measured on an interpreter after allocate_tensors, with one thread and without delegates. Weights are not in the
    arena: they stay in the file's memory. Neither are the buffers that kernels keep between calls (transposed or
    dequantised weights), nor tensors whose size is known only in a run. Files are comparable by this figure. With
    XNNPACK, the default on a phone, ops that XNNPACK takes over keep their tensors in a workspace of its own, which is
    not measured here.

    Args:
        content: a TFLite file's content. LiteRT's interpreter is native code: call this in a ``Worker`` for a file that
            is not trusted.

    Raises:
        RequestError: the content is no TFLite file, or LiteRT cannot run the file.
    """
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    tree = flatbuffer.read(content)
    try:
        interpreter = Interpreter(
            model_content=content,
            num_threads=1,
            experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        )
        interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        raise RequestError(f"The model cannot be run: {first_line(error)}") from error
    buffers = {number for number, buffer in enumerate(tree.buffers) if buffer.data is not None and len(buffer.data)}
    constants = {index for index, tensor in enumerate(tree.subgraphs[0].tensors) if tensor.buffer in buffers}
    places = {}
    for details in interpreter.get_tensor_details():  # the kernels' scratch tensors too, after those of the file
        index = details["index"]
        if index not in constants:
            try:
                view = interpreter.tensor(index)()
            except ValueError:  # no memory yet
                continue
            start = view.__array_interface__["data"][0]
            places[index] = (start, start + view.nbytes)
    return _span(places.values(), places[interpreter.get_input_details()[0]["index"]][0])


def live_bytes(tree: flatbuffer.schema.ModelT) -> list[int]:
    """Count, for each operator of the main graph, the bytes of the activations that exist while it runs.

    These are what the operator reads and writes, and what later operators or the caller read. An input exists until its
    last reader has run, as in TensorFlow Lite Micro. No arena can be smaller than the largest of these figures; arenas
    also hold scratch memory and what lies between tensors, and in LiteRT the inputs to the end.
    """
    graph = tree.subgraphs[0]
    stored = {number for number, buffer in enumerate(tree.buffers) if buffer.data is not None and len(buffer.data)}
    last = {index: place for place, operator in enumerate(graph.operators) for index in operator.inputs}
    last |= dict.fromkeys(graph.outputs, len(graph.operators))
    sizes = [
        0 if tensor.buffer in stored else tensor_bytes(TYPES[tensor.type], tensor.shape) or 0
        for tensor in graph.tensors
    ]
    live, counts = set(graph.inputs), []
    for place, operator in enumerate(graph.operators):
        live.update(operator.outputs)
        counts.append(sum(sizes[index] for index in live))
        live = {index for index in live if last.get(index, place) > place}
    return counts


def _span(places: Iterable[tuple[int, int]], within: int) -> int:
    """Measure the run of (start, end) addresses without gaps that contains the address ``within``.

    The planner starts each tensor where another ends, rounded up to its alignment. Other blocks of memory, such as a
    second arena for persistent tensors, are further away, at least by the allocator's header and the arena's unused
    end.
    """
    runs: list[list[int]] = []
    for start, end in sorted(places):
        if runs and start <= math.ceil(runs[-1][1] / _ARENA_ALIGNMENT) * _ARENA_ALIGNMENT:
            runs[-1][1] = max(runs[-1][1], end)
        else:
            runs.append([start, end])
    return next(end - start for start, end in runs if start <= within < end)
