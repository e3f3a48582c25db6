"""Which Keras layer each operator of a converted model belongs to.

Keras opens a scope a layer, and a layer in a nested model or in another layer stands in the scope of that. The
converter calls a tensor after the places it came from, the last of what was fused first, such as
"model_1/stem_relu_1/Relu6;model_1/stem_bn_1/batchnorm/mul_1;model_1/stem_conv_1/convolution". Every rewrite of the
graph keeps those names or adds to their end.
"""

import re
from collections.abc import Collection

from mobilenets_tf.quantize.integers import WEIGHTED
from mobilenets_tf.tflite import flatbuffer

# What the op with the weights is called in the scope of its layer, a number at the end where there are several.
_WITH_WEIGHTS = re.compile(r"(convolution|depthwise|separable_conv2d|conv2d_transpose|conv_transpose|MatMul|Einsum)\w*")


def of_operators(model: bytes, known: Collection[str]) -> list[str]:
    """For each operator of a float model, by place, its layer.

    An operator that several layers were fused into counts for the one whose weights it has; without weights, for the
    last of them. A layer inside another one or inside a nested model is "outer/inner"; a layer that is used twice has
    one name. What is in no layer, such as ``keras.ops.add`` between two, goes by its own name.

    Args:
        model: the file's content.
        known: the names of the Keras model's layers, nested ones too.
    """
    tree = flatbuffer.read(model)
    return [_layer(flatbuffer.Graph(tree), operator, set(known)) for operator in tree.subgraphs[0].operators]


def _layer(graph: flatbuffer.Graph, operator, known: set[str]) -> str:
    tensors, op = [operator.outputs[0]], graph.name(operator)
    if op in WEIGHTED:
        # What says least of an operator is the name of the model's output. Its weights' name, or if they are used
        # twice the other operator's, then says more.
        weights = operator.inputs[WEIGHTED[op].weights]
        tensors += [weights, *(reader.outputs[0] for reader in graph.readers[weights])]
    places = [place.split("/") for index in tensors for place in graph.tensors[index].name.decode().split(";")]
    if op in WEIGHTED:  # stable: those that say where the weights come from first
        places.sort(key=lambda parts: not _WITH_WEIGHTS.fullmatch(parts[-1]))
    found = (_scopes(parts, known) for parts in places)
    return next((layer for layer in found if layer), places[0][min(1, len(places[0]) - 1)])


def _scopes(parts: list[str], known: set[str]) -> str:
    """The layers among the scopes of a place, "" if there are none. A model's output is called after its layer."""
    if len(parts) == 1:
        candidates = (parts[0], _without_number(parts[0]))
        return next((name for name in candidates if name in known), "")
    layers = []
    for part in parts[1:]:  # the first is the model's own scope
        # TensorFlow has put a number behind every layer's name, and behind those alone: "conv2d_1" is "conv2d", even if
        # there is a "conv2d_1".
        name = _without_number(part)
        if name == part or name not in known:
            break
        layers.append(name)
    return "/".join(layers)


def _without_number(name: str) -> str:
    return re.sub(r"_\d+$", "", name)
