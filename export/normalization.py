"""LayerNormalization and GroupNormalization of one group, written with the fewest ops.

Keras' own layers multiply gamma into the scale of every position and reshape around groups: eleven to fourteen TFLite
ops. Here it is seven, and gamma and beta stand last, where ``lean.fold_affines`` takes them into the next weights.
"""

import numpy as np

from mobilenets_tf.rewriting import rebuild


def with_lean_norms(model):
    """The same function with every such layer replaced; the model itself if there is none."""
    if not any(_axes(layer) for layer in model._flatten_layers()):
        return model
    return rebuild(model, lambda part: {layer: _replacement(layer) for layer in part.layers if _axes(layer)})


def _axes(layer) -> tuple[int, ...] | None:
    """The axes that a layer normalises over together; None if it is not one of those."""
    import keras

    if isinstance(layer, keras.layers.LayerNormalization):
        rank = len(layer.input.shape)
        axes = layer.axis if isinstance(layer.axis, (list, tuple)) else [layer.axis]
        # gamma and beta have the normalised axes' shape: one value a channel only if that is the last one.
        return (rank - 1,) if [axis % rank for axis in axes] == [rank - 1] and not layer.rms_scaling else None
    if isinstance(layer, keras.layers.GroupNormalization) and layer.groups == 1:
        rank = len(layer.input.shape)
        return tuple(range(1, rank)) if layer.axis % rank == rank - 1 else None
    return None


def _replacement(layer):
    import keras
    from keras import ops

    axes = _axes(layer)
    gamma = np.asarray(layer.gamma) if layer.scale else None
    beta = np.asarray(layer.beta) if layer.center else None

    # A layer, not bare operations: the graph's names, and with them the file's bytes, then come from this layer's name
    # and not from how many operations Keras has counted so far.
    class Normalise(keras.layers.Layer):
        def call(self, x):
            centred = ops.subtract(x, ops.mean(x, axes, keepdims=True))
            variance = ops.mean(ops.square(centred), axes, keepdims=True)
            x = ops.multiply(centred, ops.rsqrt(variance + layer.epsilon))
            x = x if gamma is None else ops.multiply(x, gamma)
            return x if beta is None else ops.add(x, beta)

    return Normalise(name=layer.name)
