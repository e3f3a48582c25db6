"""Choose the ops that stay float in an int8 file because that is faster and more accurate.

XNNPACK has no integer kernel for a softmax, a matrix product of two activations, a reciprocal square root, a squared
difference or a choice between two tensors: in int8 each of them falls out of the accelerated graph. Eight bits are also
too few for a variance, or for the scores of hundreds of positions. Between a DEQUANTIZE and a QUANTIZE, for which
XNNPACK has kernels, these ops run in float and the graph stays whole. A convolutional network has none of these ops and
stays integer throughout.
"""

from mobilenets_tf.tflite import flatbuffer

_FLOAT_ONLY = {"SOFTMAX", "BATCH_MATMUL", "RSQRT", "SQUARED_DIFFERENCE", "SELECT", "SELECT_V2"}
_JOINS = {"ADD", "SUB", "MUL", "MEAN", "SQUARE"}


def float_islands(tree: flatbuffer.schema.ModelT) -> list[int]:
    """List the places of the operators to keep in float, in the graph's order.

    These are the ops named above, except for a softmax that ends the model, whose result is to be integers; the product
    that applies a reciprocal square root; and the sums, products and means that only such ops read, which are the rest
    of a normalisation and the residual sums between normalisations.
    """
    graph = flatbuffer.Graph(tree)
    operators = graph.operators

    def readers(operator):
        return [reader for out in operator.outputs for reader in graph.readers[out]]

    island = {
        id(operator) for operator in operators if graph.name(operator) in _FLOAT_ONLY and not _ends(graph, operator)
    }
    for operator in operators:
        if graph.name(operator) == "RSQRT":
            products = [reader for reader in readers(operator) if graph.name(reader) == "MUL"]
            island |= {id(product) for product in products if not _ends(graph, product)}
    # From the end: whether an op joins depends on the ops that read its result.
    for operator in reversed(operators):
        read_by = {id(reader) for reader in readers(operator)}
        if graph.name(operator) in _JOINS and read_by and read_by <= island and not _ends(graph, operator):
            island.add(id(operator))
    return [place for place, operator in enumerate(operators) if id(operator) in island]


def _ends(graph: flatbuffer.Graph, operator: flatbuffer.schema.OperatorT) -> bool:
    return any(graph.is_output(out) for out in operator.outputs)
