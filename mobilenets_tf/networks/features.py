"""What detection and segmentation heads take from a backbone: its features by stride."""

import re

_BLOCK = re.compile(r"(stem|stage\d+_block\d+)_")


def features(model) -> dict:
    """The output of the last block at each stride: {2: tensor, 4: ..., 8: ..., 16: ..., 32: ...}.

    Works on any network of this package, just built or loaded from a file; with ``output_stride`` 8 or 16 the dict ends
    there. ``keras.Model(model.inputs, list(features(model).values()))`` is the extractor.
    """
    # Blocks come in the order of the graph, so a later one overwrites an earlier one of the same stride.
    return {stride: layer.output for stride, _, layer in _last_of_blocks(model)}


def expansion(model, stride: int):
    """The first block of a stride, expanded and not yet strided; None if that block does not expand its channels.

    It still has half the stride: MobileNetV2 and V3 detect their smallest objects on it (arXiv 1801.04381, section 6.2;
    1905.02244, section 6.3).
    """
    block = next((block for found, block, _ in _last_of_blocks(model) if found == stride), None)
    expanding = [layer for layer in model.operations if layer.name.startswith(f"{block}_expand_")]
    return expanding[-1].output if expanding else None


def _last_of_blocks(model) -> list[tuple]:
    """(stride, name, last layer) of each block, in the order of the graph."""
    stride, last_of_block = {}, {}
    for layer in model.operations:  # layers, and operations such as a product of two tensors
        inbound = layer._inbound_nodes[0].parent_nodes if layer._inbound_nodes else ()
        own = layer.strides[0] if hasattr(layer, "strides") else 1
        stride[layer.name] = own * max((stride[node.operation.name] for node in inbound), default=1)
        if match := _BLOCK.match(layer.name):
            last_of_block[match[1]] = layer
    return [(stride[layer.name], block, layer) for block, layer in last_of_block.items()]
