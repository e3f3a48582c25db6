"""Take a normalisation at the model's input into the first convolution, so that it costs nothing.

x * factor + term, a value for each channel, becomes part of weights and bias. Only at the border is that not the same:
there the convolution pads with zeros, which stood for 0 behind the normalisation and stand for another picture in front
of it. Where that picture is zero to within half a level of the input, as with a mean of 127.5 stored as 127 or 128, the
integers cannot tell; elsewhere, as with a mean for each channel, and in float, its values are put around the input by
two concatenations, which copy and do not compute.
"""

import numpy as np

from mobilenets_tf.tflite import flatbuffer
from mobilenets_tf.tflite.flatbuffer import schema
from mobilenets_tf.tflite.lean import channel_affine

# Op -> the axis of its weights that has the input channels; a depthwise one's outputs stand in groups, one an input.
_CONVOLUTIONS = {"CONV_2D", "DEPTHWISE_CONV_2D"}


def fold_input(model: bytes, half_level: float) -> bytes:
    """A float model of the same function without a MUL and an ADD with constants between its input and a convolution.

    half_level: padding may be off by that much, in the input's own units; 0 for not at all.
    """
    tree = flatbuffer.read(model)
    graph = flatbuffer.Graph(tree)
    source = graph.inputs[0]
    if len(graph.inputs) != 1 or len(graph.shape(source)) != 4:
        return model
    channels = graph.shape(source)[-1]
    factor, term, last, dropped = np.ones(channels), np.zeros(channels), source, []
    while (reader := _only_reader(graph, last)) is not None and (step := channel_affine(graph, reader)):
        factor, term = factor * step.scale, term * step.scale + step.shift
        last = reader.outputs[0]
        dropped.append(reader)
    if not dropped or not factor.all():
        return model
    pad = None
    if reader is not None and graph.name(reader) == "PAD" and _pads_sides_alone(graph, reader):
        pad, last = reader, reader.outputs[0]
        reader = _only_reader(graph, last)
    if reader is None or graph.name(reader) not in _CONVOLUTIONS or reader.inputs[0] != last:
        return model
    weights, bias = (graph.constant(index) for index in reader.inputs[1:3])
    if weights is None or bias is None or (graph.name(reader) == "CONV_2D" and weights.shape[-1] != channels):
        return model
    if pad is not None and reader.builtinOptions.padding != schema.Padding.VALID:
        return model
    margins = _margins(graph, reader, pad, graph.shape(source))
    border = -term / factor  # what the convolution is to see around the picture
    operators = [operator for operator in graph.operators if operator not in dropped]
    if np.abs(border).max() <= 1.001 * half_level or not any(map(any, margins)):
        _feed(pad or reader, source)
    else:
        around = _surrounded(tree, source, margins, border)
        operators = [*around, *(operator for operator in operators if operator is not pad)]
        _feed(reader, around[-1].outputs[0])
        reader.builtinOptions = flatbuffer.with_fields(reader.builtinOptions, padding=schema.Padding.VALID)
    if graph.name(reader) == "DEPTHWISE_CONV_2D":
        factor, term = (np.repeat(values, weights.shape[-1] // channels) for values in (factor, term))
    axes = (1, 2, 3) if graph.name(reader) == "CONV_2D" else (0, 1, 2)
    flatbuffer.replace_constant(tree, reader, 1, weights * factor)
    flatbuffer.replace_constant(tree, reader, 2, bias + (weights * term).sum(axis=axes))
    tree.subgraphs[0].operators = operators
    return flatbuffer.write(tree)


def _feed(operator, index: int) -> None:
    operator.inputs = [index, *operator.inputs[1:]]


def _only_reader(graph: flatbuffer.Graph, index: int):
    readers = graph.readers[index]
    return readers[0] if len(readers) == 1 and not graph.is_output(index) else None


def _pads_sides_alone(graph: flatbuffer.Graph, operator) -> bool:
    paddings = graph.integers(operator.inputs[1]).reshape(-1, 2)
    return not paddings[[0, -1]].any()


def _margins(graph: flatbuffer.Graph, convolution, pad, shape) -> list[tuple[int, int]]:
    """(before, behind) the picture's rows and columns, as far as the convolution reads them."""
    options = convolution.builtinOptions
    weights = graph.shape(convolution.inputs[1])
    results = graph.shape(convolution.outputs[0])
    strides, dilations = (options.strideH, options.strideW), (options.dilationHFactor, options.dilationWFactor)
    before = [0, 0] if pad is None else graph.integers(pad.inputs[1]).reshape(-1, 2)[1:3, 0].tolist()
    margins = []
    for axis in (0, 1):
        read = (results[1 + axis] - 1) * strides[axis] + (weights[1 + axis] - 1) * dilations[axis] + 1
        if pad is None and options.padding == schema.Padding.SAME:
            before[axis] = max(read - shape[1 + axis], 0) // 2
        margins.append((before[axis], max(read - shape[1 + axis] - before[axis], 0)))
    return margins


def _surrounded(tree, source: int, margins: list[tuple[int, int]], border: np.ndarray) -> list:
    """The operators that put a border of constant values, one a channel, around a picture: columns first, then rows."""
    tensors = tree.subgraphs[0].tensors
    name, last, made = tensors[source].name.decode(), source, []
    for axis in (2, 1):
        shape = list(tensors[last].shape)
        sides = [
            [
                flatbuffer.add_constant(
                    tree, f"{name}/border", np.broadcast_to(border, [*shape[:axis], count, *shape[axis + 1 :]])
                )
            ]
            if count
            else []
            for count in margins[axis - 1]
        ]
        if not any(sides):
            continue
        shape[axis] += sum(margins[axis - 1])
        options = schema.ConcatenationOptionsT()
        options.axis = axis
        result = flatbuffer.add_tensor(tree, f"{name}/bordered{axis}", shape)
        made.append(flatbuffer.make_operator(tree, "CONCATENATION", [*sides[0], last, *sides[1]], [result], options))
        last = result
    return made
