"""What detection and segmentation heads take from a backbone: its features by stride."""

import re

_BLOCK = re.compile(r"(stem|stage\d+_block\d+)_")


def features(model) -> dict:
    """The output of the last block at each stride: {2: tensor, 4: ..., 8: ..., 16: ..., 32: ...}.

    Works on any network of this package, just built or loaded from a file; with ``output_stride`` 8 or 16 the dict ends
    there. ``keras.Model(model.inputs, list(features(model).values()))`` is the extractor.
    """
    stride, last_of_block = {}, {}
    for layer in model.operations:  # layers, and operations such as a product of two tensors
        inbound = layer._inbound_nodes[0].parent_nodes if layer._inbound_nodes else ()
        own = layer.strides[0] if hasattr(layer, "strides") else 1
        stride[layer.name] = own * max((stride[node.operation.name] for node in inbound), default=1)
        if match := _BLOCK.match(layer.name):
            last_of_block[match[1]] = layer
    # Layers come in the order of the graph, so a later block overwrites an earlier one of the same stride.
    return {stride[layer.name]: layer.output for layer in last_of_block.values()}
