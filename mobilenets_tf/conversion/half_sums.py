"""Write sums as means, where the weights or constants after them take the number of terms.

A GPU keeps values in half precision, whose largest number is 65,504: a sum over the positions of a map passes it soon
and becomes infinite (LiteRT's issue 9249), and the mean of the same values does not. A MEAN takes the same time as a
SUM.
"""

import math

import numpy as np

from mobilenets_tf.tflite import flatbuffer
from mobilenets_tf.tflite.flatbuffer import schema
from mobilenets_tf.tflite.lean import Push

# A file may store weights and factors in half precision: none may become larger than its largest number, or so small
# that the weights beside it lose digits, which they do below 2^-14.
_LARGEST, _SMALLEST = float(np.finfo(np.float16).max), 2.0**-10
_FACTORS = ("MUL", "DIV")


def with_means(content: bytes) -> bytes:
    """Apply ``sums_as_means`` to a float file's content; return the same object where it changes nothing."""
    tree = flatbuffer.read(content)
    return flatbuffer.write(tree) if sums_as_means(tree) else content


def sums_as_means(tree: schema.ModelT) -> bool:
    """Replace each SUM by a MEAN whose readers multiply by the number of terms; tell whether there was one.

    The number goes into constant factors and into weights, so that no operator is added. A factor that becomes 1 is
    left out. Where a reader has no constant that can take the number, or the constant would pass half precision or lose
    digits in it, the SUM stays. So does a sum of values that shares weight: it is as small as its terms, and its mean
    would be too small.
    """
    found = False
    for operator in list(tree.subgraphs[0].operators):
        graph = flatbuffer.Graph(tree)
        if graph.name(operator) == "SUM" and _push_terms(graph, operator):
            mean = flatbuffer.make_operator(
                tree, "MEAN", list(operator.inputs), list(operator.outputs), operator.builtinOptions
            )
            graph.operators[_place(graph, operator)] = mean
            found = True
    if found:
        _drop_ones(tree)
    return found


def _push_terms(graph: flatbuffer.Graph, total: schema.OperatorT) -> bool:
    """Let all readers of a sum take its mean instead; tell whether they can."""
    (out,) = total.outputs
    if not graph.activations([total.inputs[0], out])[1:] or graph.integers(total.inputs[1]) is None:
        return False
    shape = graph.shape(out)
    results = math.prod(shape)
    terms = math.prod(graph.shape(total.inputs[0])) // results if results else 0
    if terms < 2 or _is_weighted(graph, total.inputs[0]):
        return False
    channels = shape[-1] if shape else 1
    push = Push(graph, _SMALLEST, _LARGEST)
    if not push.through(out, np.full(channels, float(terms)), np.zeros(channels)) or not push.is_linear():
        return False
    for edit in push.edits:
        edit()
    return True


def _is_weighted(graph: flatbuffer.Graph, index: int) -> bool:
    """Tell whether a tensor is the product of values and of shares that add up to 1: a softmax, or quotients of values
    by their sum."""
    product = graph.writer.get(index)
    if product is None or graph.name(product) != "MUL":
        return False
    for factor in product.inputs:
        writer = graph.writer.get(factor)
        while writer is not None and graph.name(writer) in ("RESHAPE", "TRANSPOSE"):
            writer = graph.writer.get(writer.inputs[0])
        if writer is not None and (graph.name(writer) == "SOFTMAX" or _is_shares(graph, writer)):
            return True
    return False


def _is_shares(graph: flatbuffer.Graph, operator: schema.OperatorT) -> bool:
    """Tell whether an operator divides values by their sum."""
    if graph.name(operator) != "DIV":
        return False
    values, divisor = operator.inputs
    writer = graph.writer.get(divisor)
    return writer is not None and graph.name(writer) in ("SUM", "MEAN") and writer.inputs[0] == values


def _drop_ones(tree: schema.ModelT) -> None:
    """Take out products with 1 and quotients by 1 whose other operand nothing else reads."""
    for operator in list(tree.subgraphs[0].operators):
        graph = flatbuffer.Graph(tree)
        source = _times_one(graph, operator)
        writer = graph.writer.get(source) if source is not None else None
        if writer is None or len(graph.readers[source]) > 1 or graph.is_output(source):
            continue
        writer.outputs = [operator.outputs[0] if index == source else index for index in writer.outputs]
        graph.operators.pop(_place(graph, operator))


def _times_one(graph: flatbuffer.Graph, operator: schema.OperatorT) -> int | None:
    """Return the tensor that an operator multiplies by 1, or divides by 1, and does nothing else to."""
    if graph.name(operator) not in _FACTORS or operator.builtinOptions.fusedActivationFunction:
        return None
    first, second = operator.inputs
    pairs = [(first, second), (second, first)] if graph.name(operator) == "MUL" else [(first, second)]
    for source, other in pairs:
        values = graph.constant(other)
        if values is not None and np.allclose(values, 1, rtol=0, atol=1e-6):
            return source if graph.shape(source) == graph.shape(operator.outputs[0]) else None
    return None


def _place(graph: flatbuffer.Graph, operator: schema.OperatorT) -> int:
    return next(place for place, each in enumerate(graph.operators) if each is operator)
