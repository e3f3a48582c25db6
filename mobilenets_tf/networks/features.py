"""The feature maps of a backbone that detection and segmentation heads read, by stride."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from mobilenets_tf.errors import RequestError

if TYPE_CHECKING:
    import keras

_BLOCK = re.compile(r"(stem|stage\d+_block\d+)_")


def features(model: keras.Model) -> dict[int, Any]:
    """Return the output of the last block at each stride: {2: tensor, 4: ..., 8: ..., 16: ..., 32: ...}.

    Args:
        model: a network of this package, built or loaded from a file. With an ``output_stride`` of 8 or 16 there is no
            larger stride.

    Returns:
        Stride (input pixels per pixel of the feature map) -> symbolic tensor (N, height / stride, width / stride,
        channels). ``keras.Model(model.inputs, list(features(model).values()))`` extracts the features.
    """
    # Blocks come in the order of the graph, so a later one overwrites an earlier one of the same stride.
    return {stride: layer.output for stride, _, layer in _last_of_blocks(model)}


def feature(model: keras.Model, stride: int) -> Any:
    """Return the feature map of one stride.

    Raises:
        RequestError: the backbone, with rows of the caller's, has none.
    """
    found = features(model)
    if stride not in found:
        raise RequestError(
            f"{model.name} has no feature map of stride {stride}, which the head reads; its strides are "
            f"{', '.join(map(str, found))}. Give rows with more strides of 2, or another output_stride."
        )
    return found[stride]


def expansion(model: keras.Model, stride: int) -> Any | None:
    """Return the expanded tensor in the first block of a stride; None if that block does not expand its channels.

    The tensor has half the stride, because the depthwise convolution after it takes the step. MobileNetV2 and V3 detect
    their smallest objects on it (arXiv 1801.04381, section 6.2; 1905.02244, section 6.3).
    """
    block = next((block for block_stride, block, _ in _last_of_blocks(model) if block_stride == stride), None)
    expanding = [layer for layer in model.operations if layer.name.startswith(f"{block}_expand_")]
    return expanding[-1].output if expanding else None


def _last_of_blocks(model: keras.Model) -> list[tuple[int, str, Any]]:
    """List (stride, name, last layer) of each block, in the order of the graph."""
    stride: dict[str, int] = {}
    last_of_block: dict[str, Any] = {}
    for layer in model.operations:  # layers, and operations such as a product of two tensors
        inbound = layer._inbound_nodes[0].parent_nodes if layer._inbound_nodes else ()
        own = layer.strides[0] if hasattr(layer, "strides") else 1
        stride[layer.name] = own * max((stride[node.operation.name] for node in inbound), default=1)
        if match := _BLOCK.match(layer.name):
            last_of_block[match[1]] = layer
    return [(stride[layer.name], block, layer) for block, layer in last_of_block.items()]
