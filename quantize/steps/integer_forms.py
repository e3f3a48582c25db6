"""Replace ops for which XNNPACK has no integer kernel by ops for which it has one.

One such op in the middle cuts an integer network in two, and each cut costs more than the op. The float file keeps the
single op, for which there is a float kernel: the scheme decides the form, and the weights are the same.
"""

import numpy as np

from mobilenets_tf.tflite import flatbuffer
from mobilenets_tf.tflite.flatbuffer import schema
from mobilenets_tf.tflite.lean import fold_affines

_RECTIFIERS = {"RELU": schema.ActivationFunctionType.RELU, "RELU6": schema.ActivationFunctionType.RELU6}
# Ops that can have a rectifier as their fused activation.
_CARRIERS = {"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "ADD", "SUB", "MUL"}


def integer_forms(model: bytes) -> bytes:
    """Rewrite a float model of the same function without HARD_SWISH, RELU and RELU6 ops.

    hard_swish(x) = x * relu6(x + 3) / 6 becomes an ADD with a fused ReLU6 and a MUL. The 1/6 goes into the weights that
    follow, through a squeeze-and-excite where there is one. A ReLU or ReLU6 that is an op of its own (the converter
    fuses most of them) is fused into the op before it, or into a product with 1 where that op has other readers.

    Args:
        model: the float file's content.

    Returns:
        The new file's content.
    """
    tree = flatbuffer.read(model)
    operators = tree.subgraphs[0].operators
    for place in reversed(range(len(operators))):
        name = flatbuffer.operator_name(tree, operators[place])
        if name == "HARD_SWISH":
            operators[place : place + 1] = _hard_swish(tree, operators[place])
        elif name in _RECTIFIERS:
            operators[place : place + 1] = _rectifier(tree, operators[place], _RECTIFIERS[name])
    fold_affines(tree)
    return flatbuffer.write(tree)


def _hard_swish(tree: schema.ModelT, operator: schema.OperatorT) -> list[schema.OperatorT]:
    (x,), (out,) = operator.inputs, operator.outputs
    tensors = tree.subgraphs[0].tensors
    name, shape = tensors[out].name.decode(), tensors[out].shape
    gate = flatbuffer.add_tensor(tree, f"{name}/gate", shape)
    product = flatbuffer.add_tensor(tree, f"{name}/product", shape)
    three = flatbuffer.add_constant(tree, f"{name}/three", np.array(3.0))
    sixth = flatbuffer.add_constant(tree, f"{name}/sixth", np.array(1 / 6))
    add = schema.AddOptionsT()
    add.fusedActivationFunction = schema.ActivationFunctionType.RELU6
    return [
        flatbuffer.make_operator(tree, "ADD", [x, three], [gate], add),
        flatbuffer.make_operator(tree, "MUL", [x, gate], [product], schema.MulOptionsT()),
        flatbuffer.make_operator(tree, "MUL", [product, sixth], [out], schema.MulOptionsT()),
    ]


def _rectifier(tree: schema.ModelT, operator: schema.OperatorT, activation: int) -> list[schema.OperatorT]:
    (x,), (out,) = operator.inputs, operator.outputs
    graph = flatbuffer.Graph(tree)
    writer = graph.writer.get(x)
    alone = len(graph.readers[x]) == 1 and not graph.is_output(x)
    if alone and writer and graph.name(writer) in _CARRIERS and not writer.builtinOptions.fusedActivationFunction:
        writer.builtinOptions.fusedActivationFunction, writer.outputs = activation, [out]
        return []
    options = schema.MulOptionsT()
    options.fusedActivationFunction = activation
    one = flatbuffer.add_constant(tree, f"{tree.subgraphs[0].tensors[out].name.decode()}/one", np.array(1.0))
    return [flatbuffer.make_operator(tree, "MUL", [x, one], [out], options)]
