"""Unroll recurrent layers: an operator for each step instead of a loop, which the integer graph does not have."""

from collections.abc import Callable
from typing import Any

import keras

from mobilenets_tf.conversion.rewriting import reachable_layers, rebuild
from mobilenets_tf.errors import RequestError

_MOST_STEPS = 64  # a graph of some thousand operators; each is a layer in training


def unrolled(model: keras.Model) -> keras.Model:
    """Unroll the recurrent layers of a functional or sequential model; give the model itself if it has none.

    Raises:
        RequestError: a layer has more steps than can be unrolled, or takes its first state from another layer.
    """
    if not any(map(_is_loop, reachable_layers(model))):
        return model
    return rebuild(model, lambda part: {layer: _call(layer) for layer in part.layers if _is_loop(layer)}, share=True)


def _recurrent(layer: keras.Layer) -> list[keras.layers.RNN]:
    if not isinstance(layer, (keras.layers.RNN, keras.layers.Bidirectional)):
        return []
    return [each for each in layer._flatten_layers() if isinstance(each, keras.layers.RNN)]


def _is_loop(layer: keras.Layer) -> bool:
    return any(not each.unroll for each in _recurrent(layer))


def _call(layer: keras.Layer) -> Callable[[Any], Any]:
    """Give the function that takes the place of a recurrent layer's call."""
    arguments = [node.arguments for node in layer._inbound_nodes]
    if any(len(each.args) > 1 or each.kwargs.get("initial_state") is not None for each in arguments):
        raise RequestError(
            f"The layer {layer.name!r} takes its first state from another layer, which quantisation-aware training "
            "cannot unroll. Quantise after training: to_tflite(..., scheme='int8')."
        )
    steps = layer.input.shape[1]
    if steps is None or steps > _MOST_STEPS:
        raise RequestError(
            f"The layer {layer.name!r} has {steps} steps; quantisation-aware training unrolls at most {_MOST_STEPS}. "
            "Quantise after training: to_tflite(..., scheme='int8')."
        )
    twin = type(layer).from_config(layer.get_config())
    for each in _recurrent(twin):
        each.unroll = True
    twin.build(layer.input.shape)
    twin.set_weights(layer.get_weights())
    return twin
