"""Transformer layers over the patches of a feature map, of stock Keras layers that export to few TFLite ops.

A feature map (N, H, W, C) is unfolded to (N, 4, H/2 x W/2, C): four sequences, one for each pixel of the 2x2 patches.
Attention is within a sequence. The feature map stays unfolded for a whole block, and every projection is a 1x1
convolution, because the converter puts a reshape before and after each ``Dense``. All sizes but the batch's are fixed.
"""

import numpy as np
from keras import KerasTensor, layers, ops

from mobilenets_tf.networks.blocks import activate

PATCH = 2
EPSILON = 1e-5


def unfold(x: KerasTensor, name: str) -> KerasTensor:
    """Unfold (N, H, W, C) to (N, 4, H/2 x W/2, C); H and W are even.

    This needs one TRANSPOSE between two RESHAPEs. In the file these are a SPACE_TO_DEPTH, a RESHAPE and a TRANSPOSE of
    four axes, which GPUs and NPUs take (``conversion.four_axes``).
    """
    height, width, channels = x.shape[1:]
    x = layers.Reshape((height // PATCH, PATCH, width // PATCH, PATCH, channels), name=f"{name}_unfold_split")(x)
    x = layers.Permute((2, 4, 1, 3, 5), name=f"{name}_unfold")(x)
    return layers.Reshape((PATCH * PATCH, height * width // PATCH**2, channels), name=f"{name}_unfold_merge")(x)


def fold(x: KerasTensor, height: int, width: int, name: str) -> KerasTensor:
    """Reverse ``unfold``: (N, 4, height/2 x width/2, C) -> (N, height, width, C)."""
    channels = x.shape[-1]
    x = layers.Reshape((PATCH, PATCH, height // PATCH, width // PATCH, channels), name=f"{name}_fold_split")(x)
    x = layers.Permute((3, 1, 4, 2, 5), name=f"{name}_fold")(x)
    return layers.Reshape((height, width, channels), name=f"{name}_fold_merge")(x)


def self_attention(x: KerasTensor, heads: int, name: str) -> KerasTensor:
    """Apply scaled dot-product attention within each sequence (arXiv 1706.03762, section 3.2). Shape unchanged.

    Queries, keys and values share one projection and one TRANSPOSE. The scale is applied right after the projection,
    whose weights the converter multiplies by it, and not to the scores.
    """
    sequences, length, dim = x.shape[1:]
    size = dim // heads
    qkv = layers.Conv2D(3 * dim, 1, name=f"{name}_qkv")(x)
    qkv = layers.Rescaling([size**-0.5] * dim + [1.0] * (2 * dim), name=f"{name}_qkv_scale")(qkv)
    qkv = layers.Reshape((sequences, length, 3 * heads, size), name=f"{name}_heads_split")(qkv)
    qkv = layers.Permute((3, 1, 2, 4), name=f"{name}_heads")(qkv)
    qkv = layers.Reshape((3 * heads * sequences, length, size), name=f"{name}_heads_merge")(qkv)
    queries, keys, values = ops.split(qkv, 3, axis=1)
    scores = layers.Softmax(name=f"{name}_softmax")(ops.matmul(queries, ops.transpose(keys, (0, 1, 3, 2))))
    out = layers.Reshape((heads, sequences, length, size), name=f"{name}_out_split")(ops.matmul(scores, values))
    out = layers.Permute((2, 3, 1, 4), name=f"{name}_out_heads")(out)
    out = layers.Reshape((sequences, length, dim), name=f"{name}_out_merge")(out)
    return layers.Conv2D(dim, 1, name=f"{name}_out")(out)


def separable_attention(x: KerasTensor, name: str) -> KerasTensor:
    """Apply separable attention (arXiv 2206.02680, section 3.2), whose cost is linear. Shape unchanged.

    Each position has one score, each sequence one context vector.
    """
    sequences, length, dim = x.shape[1:]
    qkv = layers.Conv2D(1 + 2 * dim, 1, name=f"{name}_qkv")(x)
    query, keys, values = ops.split(qkv, (1, 1 + dim), axis=-1)
    # TFLite's SOFTMAX is over the last axis. (4, length, 1) and (4, 1, length) have the same layout in memory.
    scores = layers.Softmax(name=f"{name}_softmax")(layers.Reshape((sequences, 1, length), name=f"{name}_row")(query))
    scores = layers.Reshape((sequences, length, 1), name=f"{name}_column")(scores)
    context = ops.sum(layers.Multiply(name=f"{name}_weigh")([keys, scores]), axis=2, keepdims=True)
    out = layers.Multiply(name=f"{name}_context")([activate(values, "relu", f"{name}_values"), context])
    return layers.Conv2D(dim, 1, name=f"{name}_out")(out)


def transformer_layer(x: KerasTensor, heads: int | None, name: str, dropout_rate: float = 0.0) -> KerasTensor:
    """Apply attention and a perceptron of two layers, each normalised before and added to its input. Shape unchanged.

    The perceptron has twice the width and SiLU.

    heads: number of heads of ``self_attention``, with LayerNormalization; None: ``separable_attention``, which is
        normalised over positions and channels together.
    dropout_rate: share that training drops of the output of each.
    """

    def normalise(x: KerasTensor, part: str) -> KerasTensor:
        return norm(x, heads is not None, f"{name}_{part}_norm")

    def drop(x: KerasTensor, part: str) -> KerasTensor:
        return layers.Dropout(dropout_rate, name=f"{name}_{part}_drop")(x) if dropout_rate else x

    y = normalise(x, "attention")
    y = self_attention(y, heads, name) if heads else separable_attention(y, name)
    x = layers.Add(name=f"{name}_attention_add")([x, drop(y, "attention")])
    y = layers.Conv2D(2 * x.shape[-1], 1, name=f"{name}_mlp_expand")(normalise(x, "mlp"))
    y = layers.Conv2D(x.shape[-1], 1, name=f"{name}_mlp_project")(activate(y, "silu", f"{name}_mlp"))
    return layers.Add(name=f"{name}_mlp_add")([x, drop(y, "mlp")])


def norm(x: KerasTensor, each_position: bool, name: str) -> KerasTensor:
    """Normalise the channels of each position, or, if not ``each_position``, the whole feature map as one group."""
    if each_position:
        return layers.LayerNormalization(epsilon=EPSILON, name=name)(x)
    return layers.GroupNormalization(1, epsilon=EPSILON, name=name)(x)


def resize_corners_aligned(x: KerasTensor, height: int, width: int, name: str) -> KerasTensor:
    """Resize bilinearly with PyTorch's align_corners=True, which no Keras layer has: corner pixels keep their values.

    The interpolation is linear in each direction: one product with a constant matrix for the rows, one for the columns.
    """
    _, rows, columns, channels = x.shape
    x = layers.Reshape((rows, columns * channels), name=f"{name}_rows")(x)
    x = ops.matmul(_interpolation(rows, height), x)
    x = layers.Reshape((height, columns, channels), name=f"{name}_columns")(x)
    return ops.matmul(_interpolation(columns, width), x)


def _interpolation(old: int, new: int) -> np.ndarray:
    """Return the matrix (new, old) that interpolates ``old`` values at ``new`` positions."""
    position = np.arange(new) * (old - 1) / max(new - 1, 1)
    return np.maximum(0, 1 - np.abs(position[:, None] - np.arange(old))).astype(np.float32)
