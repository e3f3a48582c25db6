"""The arena: the memory in which LiteRT keeps a file's activations, in bytes."""

import math

from mobilenets_tf.errors import RequestError
from mobilenets_tf.tflite import flatbuffer

_ARENA_ALIGNMENT = 64  # bytes; kDefaultTensorAlignment in LiteRT


def arena_bytes(content: bytes) -> int:
    """The bytes of the arena in which LiteRT's own kernels keep a file's activations.

    It is the span of memory that the planner lays the main graph's tensors in, measured on an interpreter after
    allocate_tensors, with one thread and without delegates: inputs (kept to the end), activations and the kernels'
    scratch, such as im2col patches, each at a multiple of 64 bytes. Not in it: weights, which stay where the file is;
    what kernels keep between calls (transposed or dequantised weights); tensors whose size only the run tells. This is
    the figure to compare files by. With XNNPACK, the default on a phone, the ops that it takes over keep their tensors
    in a workspace of XNNPACK's instead, which this does not see.

    Args:
        content: a TFLite file. Its interpreter is native code: a file that is not trusted belongs in a ``Worker``.

    Raises:
        RequestError: not a TFLite file, or not one that LiteRT can run.
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
        raise RequestError(f"The model cannot be run: {str(error).splitlines()[0]}") from error
    filled = {number for number, buffer in enumerate(tree.buffers) if buffer.data is not None and len(buffer.data)}
    stored = {index for index, tensor in enumerate(tree.subgraphs[0].tensors) if tensor.buffer in filled}
    places = {}
    for details in interpreter.get_tensor_details():  # the kernels' scratch tensors too, after those of the file
        index = details["index"]
        if index not in stored:
            try:
                view = interpreter.tensor(index)()
            except ValueError:  # no memory yet
                continue
            start = view.__array_interface__["data"][0]
            places[index] = (start, start + view.nbytes)
    return _span(places.values(), places[interpreter.get_input_details()[0]["index"]][0])


def _span(places, within: int) -> int:
    """The length of the gapless run of (start, end) addresses that has the address ``within`` in it.

    The planner starts each tensor where another ends, rounded up to its alignment. Other blocks of memory (a second
    arena holds what persists) lie further off: at least their allocator's header and the arena's own slack.
    """
    runs: list[list[int]] = []
    for start, end in sorted(places):
        if runs and start <= math.ceil(runs[-1][1] / _ARENA_ALIGNMENT) * _ARENA_ALIGNMENT:
            runs[-1][1] = max(runs[-1][1], end)
        else:
            runs.append([start, end])
    return next(end - start for start, end in runs if start <= within < end)
