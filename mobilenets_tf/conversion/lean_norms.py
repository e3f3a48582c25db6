"""Replace LayerNormalization and GroupNormalization of one group by a form with the fewest ops.

Keras' own layers multiply gamma into the scale of every position and reshape around groups: eleven to fourteen TFLite
ops. The form here takes seven, and gamma and beta come last, where ``lean.fold_affines`` folds them into the next
weights.
"""

from typing import TYPE_CHECKING

import numpy as np

from mobilenets_tf.conversion.rewriting import reachable_layers, rebuild

if TYPE_CHECKING:
    import keras


def with_lean_norms(model: "keras.Model") -> "keras.Model":
    """Make a model of the same function with every such layer replaced; ``model`` itself if it has none.

    The new model shares the other layers with ``model``.
    """
    if not any(_is_normalisation(layer) for layer in reachable_layers(model)):
        return model
    return rebuild(
        model, lambda part: {layer: _lean(layer) for layer in part.layers if _is_normalisation(layer)}, share=True
    )


def _is_normalisation(layer: "keras.Layer") -> bool:
    """Tell whether a layer normalises over the last axis, or over all axes, with one gamma and one beta a channel."""
    import keras

    if isinstance(layer, keras.layers.LayerNormalization):
        return layer.axis in (-1, [-1], (-1,)) and not layer.rms_scaling
    return isinstance(layer, keras.layers.GroupNormalization) and layer.groups == 1 and layer.axis == -1


def _lean(layer: "keras.Layer") -> "keras.Layer":
    import keras
    from keras import ops

    each_position = isinstance(layer, keras.layers.LayerNormalization)
    gamma = np.asarray(layer.gamma) if layer.scale else None
    beta = np.asarray(layer.beta) if layer.center else None

    # A layer and not bare operations: Keras numbers bare operations over the whole process, and the file's bytes would
    # depend on these numbers; here the names in the graph come from the layer's name.
    class Normalise(keras.layers.Layer):
        def call(self, x):
            axes = -1 if each_position else tuple(range(1, len(x.shape)))
            centred = ops.subtract(x, ops.mean(x, axes, keepdims=True))
            variance = ops.mean(ops.square(centred), axes, keepdims=True)
            x = ops.multiply(centred, ops.rsqrt(variance + layer.epsilon))
            x = x if gamma is None else ops.multiply(x, gamma)
            return x if beta is None else ops.add(x, beta)

    return Normalise(name=layer.name)
