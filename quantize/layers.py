"""Tell which Keras layer each operator of a converted model belongs to, by the names of the tensors.

Keras opens a scope for each layer, inside the scope of the nested model or layer that contains it. The converter names
a tensor after the operations that were fused into its operator, the last one first, such as
"model_1/stem_relu_1/Relu6;model_1/stem_bn_1/batchnorm/mul_1;model_1/stem_conv_1/convolution". Every rewrite of the
graph keeps those names or adds to their end.
"""

import re
from collections.abc import Collection

from mobilenets_tf.quantize.integers import WEIGHTED
from mobilenets_tf.tflite import flatbuffer

# The names of operations that have weights, in the scope of their layer; several of them are numbered.
_WITH_WEIGHTS = re.compile(r"(convolution|depthwise|separable_conv2d|conv2d_transpose|conv_transpose|MatMul|Einsum)\w*")


def of_operators(model: bytes, known: Collection[str] | None) -> list[str]:
    """Give the name of the layer of each operator of a float model, in the operators' order.

    An operator into which several layers were fused belongs to the layer whose weights it has; without weights, to the
    last of the layers. A layer inside another layer or a nested model is called "outer/inner"; a layer that is used
    twice has one name. An operation in no layer, such as ``keras.ops.add`` between two layers, has its own name.

    Args:
        model: the file's content.
        known: the names of the Keras model's layers, nested ones too. None for a model without layers: each operator
            is named by its result.
    """
    graph = flatbuffer.Graph(flatbuffer.read(model))
    if known is None:
        return [graph.tensors[operator.outputs[0]].name.decode().split(";")[0] for operator in graph.operators]
    return [_layer(graph, operator, set(known)) for operator in graph.operators]


def named_in(model: bytes) -> set[str]:
    """Find the names of Keras layers in a file's tensors: the scopes to which TensorFlow has appended a number, without
    the number. The set is empty for a file whose tensors have other names.
    """
    graph = flatbuffer.Graph(flatbuffer.read(model))
    names = (graph.tensors[index].name.decode() for operator in graph.operators for index in operator.outputs)
    scopes = {scope for name in names for place in name.split(";") for scope in place.split("/")[1:-1]}
    return {_without_number(scope) for scope in scopes if scope != _without_number(scope)}


def _layer(graph: flatbuffer.Graph, operator: flatbuffer.schema.OperatorT, known: set[str]) -> str:
    tensors, op = [operator.outputs[0]], graph.name(operator)
    if op in WEIGHTED:
        # The name of a model's output says nothing of the layer. The name of the operator's weights does, or the name
        # of another operator's output if that reads the same weights.
        weights = operator.inputs[WEIGHTED[op].weights]
        tensors += [weights, *(reader.outputs[0] for reader in graph.readers[weights])]
    scopes = [name.split("/") for index in tensors for name in graph.tensors[index].name.decode().split(";")]
    if op in WEIGHTED:  # the operations that have weights first, in the same order otherwise
        scopes.sort(key=lambda parts: not _WITH_WEIGHTS.fullmatch(parts[-1]))
    names = (_layer_name(parts, known) for parts in scopes)
    return next((name for name in names if name), scopes[0][min(1, len(scopes[0]) - 1)])


def _layer_name(parts: list[str], known: set[str]) -> str:
    """Join the layers among the parts of one operation's name; "" if there are none.

    A name of one part is that of a model's output, which has the name of its layer.
    """
    if len(parts) == 1:
        candidates = (parts[0], _without_number(parts[0]))
        return next((name for name in candidates if name in known), "")
    layers = []
    for part in parts[1:]:  # the first is the model's own scope
        # TensorFlow has put a number behind the name of every layer, and of nothing else: "conv2d_1" is "conv2d", even
        # if there is a layer "conv2d_1".
        name = _without_number(part)
        if name == part or name not in known:
            break
        layers.append(name)
    return "/".join(layers)


def _without_number(name: str) -> str:
    return re.sub(r"_\d+$", "", name)
