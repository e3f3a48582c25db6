"""Fold a normalisation at the model's input into the first convolution, so that it costs nothing.

x * factor + term, with one factor and one term for each channel, becomes part of weights and bias. The border of the
image needs care: a convolution pads with zeros. Before the fold, these are zeros of the normalised image; after the
fold, they are pixels of another colour. The right padding is -term / factor. Where that is zero to within half a level
of the input, as with a mean of 127.5 stored as 127 or 128, integers cannot show the difference. Elsewhere, as with a
mean for each channel, and in float files, two concatenations put the right values around the input; they only copy.
"""

import numpy as np

from mobilenets_tf.tflite import flatbuffer
from mobilenets_tf.tflite.flatbuffer import schema
from mobilenets_tf.tflite.lean import channel_affine

_CONVOLUTIONS = {"CONV_2D", "DEPTHWISE_CONV_2D"}


def fold_input(model: bytes, half_level: float) -> bytes:
    """Remove MULs and ADDs with constants between a model's input and the first convolution.

    Args:
        model: the float file's content.
        half_level: by how much the padding may be wrong, in units of the input; 0 for not at all.

    Returns:
        The content of a file of the same function; ``model`` itself if there is nothing to fold.
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
    border = -term / factor  # the right padding around the image
    operators = [operator for operator in graph.operators if operator not in dropped]
    if np.abs(border).max() <= 1.001 * half_level or not any(map(any, margins)):
        _feed(pad or reader, source)
    else:
        around = _surround(tree, source, margins, border)
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


def _feed(operator: schema.OperatorT, index: int) -> None:
    """Let an operator read a tensor as its data."""
    operator.inputs = [index, *operator.inputs[1:]]


def _only_reader(graph: flatbuffer.Graph, index: int) -> schema.OperatorT | None:
    readers = graph.readers[index]
    return readers[0] if len(readers) == 1 and not graph.is_output(index) else None


def _pads_sides_alone(graph: flatbuffer.Graph, operator: schema.OperatorT) -> bool:
    """Tell whether a PAD adds to rows and columns only."""
    paddings = np.asarray(graph.integers(operator.inputs[1])).reshape(-1, 2)
    return not paddings[[0, -1]].any()


def _margins(
    graph: flatbuffer.Graph, convolution: schema.OperatorT, pad: schema.OperatorT | None, shape: tuple[int, ...]
) -> list[tuple[int, int]]:
    """Compute how many rows, and how many columns, the convolution reads before and behind the image."""
    options = convolution.builtinOptions
    weights = graph.shape(convolution.inputs[1])
    results = graph.shape(convolution.outputs[0])
    strides, dilations = (options.strideH, options.strideW), (options.dilationHFactor, options.dilationWFactor)
    before = [0, 0] if pad is None else np.asarray(graph.integers(pad.inputs[1])).reshape(-1, 2)[1:3, 0].tolist()
    margins = []
    for axis in (0, 1):
        read = (results[1 + axis] - 1) * strides[axis] + (weights[1 + axis] - 1) * dilations[axis] + 1
        if pad is None and options.padding == schema.Padding.SAME:
            before[axis] = max(read - shape[1 + axis], 0) // 2
        margins.append((before[axis], max(read - shape[1 + axis] - before[axis], 0)))
    return margins


def _surround(
    tree: schema.ModelT, source: int, margins: list[tuple[int, int]], border: np.ndarray
) -> list[schema.OperatorT]:
    """Make the operators that put a border of one constant value a channel around an image: columns, then rows."""
    tensors = tree.subgraphs[0].tensors
    name, last, operators = tensors[source].name.decode(), source, []
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
        parts = [*sides[0], last, *sides[1]]
        operators.append(flatbuffer.make_operator(tree, "CONCATENATION", parts, [result], options))
        last = result
    return operators
