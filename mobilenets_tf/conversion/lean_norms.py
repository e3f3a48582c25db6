"""LayerNormalization and GroupNormalization of one group, written with the fewest ops.

Keras' own layers multiply gamma into the scale of every position and reshape around groups: eleven to fourteen TFLite
ops. Here it is seven, and gamma and beta stand last, where ``lean.fold_affines`` takes them into the next weights.
"""

import numpy as np

from mobilenets_tf.conversion.rewriting import reachable_layers, rebuild


def with_lean_norms(model):
    """The same function with every such layer replaced; the model itself if there is none. Shares its other layers."""
    if not any(_is_normalisation(layer) for layer in reachable_layers(model)):
        return model
    return rebuild(
        model, lambda part: {layer: _lean(layer) for layer in part.layers if _is_normalisation(layer)}, share=True
    )


def _is_normalisation(layer) -> bool:
    """Over the last axis, or over all at once, with one gamma and beta a channel."""
    import keras

    if isinstance(layer, keras.layers.LayerNormalization):
        return layer.axis in (-1, [-1], (-1,)) and not layer.rms_scaling
    return isinstance(layer, keras.layers.GroupNormalization) and layer.groups == 1 and layer.axis == -1


def _lean(layer):
    import keras
    from keras import ops

    each_position = isinstance(layer, keras.layers.LayerNormalization)
    gamma = np.asarray(layer.gamma) if layer.scale else None
    beta = np.asarray(layer.beta) if layer.center else None

    # A layer, not bare operations: the graph's names, and with them the file's bytes, then come from this layer's name
    # and not from how many operations Keras has counted so far.
    class Normalise(keras.layers.Layer):
        def call(self, x):
            axes = -1 if each_position else tuple(range(1, len(x.shape)))
            centred = ops.subtract(x, ops.mean(x, axes, keepdims=True))
            variance = ops.mean(ops.square(centred), axes, keepdims=True)
            x = ops.multiply(centred, ops.rsqrt(variance + layer.epsilon))
            x = x if gamma is None else ops.multiply(x, gamma)
            return x if beta is None else ops.add(x, beta)

    return Normalise(name=layer.name)
