"""Rebuild a Keras model with some of its layers' calls replaced."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from mobilenets_tf.errors import RequestError

if TYPE_CHECKING:
    import keras

# Functions of an activation that compute along the last axis.
_ALONG_THE_LAST_AXIS = ("softmax", "log_softmax", "glu", "sparsemax")

# A function of a functional model: layer of the model -> the function that replaces the layer's call.
Replacements = Callable[["keras.Model"], dict["keras.Layer", Callable]]


@contextmanager
def default_layers(*, policy: bool = True) -> Iterator[None]:
    """Build layers as Keras does without settings of the user, inside a ``with`` statement: channels last, float32.

    Args:
        policy: set the type of numbers too, not only the layout of images.
    """
    import keras

    layout, before = keras.config.image_data_format(), keras.config.dtype_policy()
    try:
        keras.config.set_image_data_format("channels_last")
        if policy:
            keras.config.set_dtype_policy("float32")
        yield
    finally:
        keras.config.set_image_data_format(layout)
        keras.config.set_dtype_policy(before)


def reachable_layers(model: "keras.Model") -> Iterator["keras.Layer"]:
    """Yield the layers that ``rebuild`` can replace: the layers of the model and of functional and sequential models
    in it."""
    for layer in model.layers if is_functional(model) else ():
        yield layer
        yield from reachable_layers(layer)


def rebuild(model: "keras.Model", replacements_of: Replacements, *, share: bool = False) -> "keras.Model":
    """Copy a functional or sequential model, with models inside it, and replace the calls of some layers.

    Args:
        model: the model.
        replacements_of: a function of a functional model (``model`` and each model in it) that gives, for each layer
            whose call is to be replaced, the function that takes the place of the call. That function is called with
            the layer's symbolic tensors, and not with keywords such as training.
        share: use the same layer objects where a layer is not replaced, for a result that is soon thrown away.
            Otherwise layers are copied with their weights, and ``model`` is left as it is.

    Returns:
        A functional model of the same name, inputs and outputs. It lacks layers whose output nothing reads any more.

    Raises:
        RequestError: the model is of another kind, or a layer cannot be copied.
    """
    import keras

    if not is_functional(model):
        raise RequestError(
            f"{model.name!r} is a {type(model).__name__}; only functional and sequential models can be rebuilt."
        )
    trainable = model.trainable
    if isinstance(model, keras.Sequential):  # its graph, under its name
        model = keras.Model(model.inputs, model.outputs, name=model.name)
    replacements = {id(layer): function for layer, function in replacements_of(model).items()}
    copies = []

    def copy(layer):
        if id(layer) in replacements:
            return layer
        if is_functional(layer):
            return rebuild(layer, replacements_of, share=share)
        if share or not isinstance(layer, keras.Layer):  # a bare operation has no state
            return layer
        copies.append((layer, copied(layer)))
        return copies[-1][1]

    def call(layer, *args, **kwargs):
        if replacement := replacements.get(id(layer)):
            return replacement(*args)
        return layer(*args, **kwargs)

    rebuilt = keras.models.clone_model(model, clone_function=copy, call_function=call)
    for layer, twin in copies:  # the copies have been called, and so have been built
        copy_weights(layer, twin)
    # Not the setter, which would also change the layers inside: they have their own flags, or are the model's own.
    rebuilt._trainable = trainable
    return rebuilt


def copied(layer: "keras.Layer", changed: Callable[[dict], dict] = lambda config: config) -> "keras.Layer":
    """Return a layer of the same configuration, without its weights; see ``copy_weights``.

    Args:
        changed: a function of the configuration that returns the one to use.

    Raises:
        RequestError: the layer cannot be copied.
    """
    import keras

    try:
        # The layer is in this process already, so the code that a Lambda has is trusted.
        with keras.src.saving.serialization_lib.SafeModeScope(False):
            twin = type(layer).from_config(changed(layer.get_config()))
    except Exception as error:  # the layer's own code may raise anything
        raise RequestError(
            f"The layer {layer.name!r} ({type(layer).__name__}) cannot be copied: {str(error).splitlines()[0]}"
        ) from error
    if isinstance(layer, keras.layers.Lambda):  # the configuration loses what the function's names mean
        twin.function = layer.function
    return twin


def copy_weights(
    layer: "keras.Layer",
    twin: "keras.Layer",
    changed: Callable[["keras.Variable", np.ndarray], np.ndarray] = lambda variable, values: values,
) -> None:
    """Give a copy of a layer, once it is built, the layer's weights and its flags ``trainable``: those of its variables
    and of layers inside it too.

    Args:
        changed: a function of a variable of the layer and its values that returns the values for the copy.
    """
    weights = [changed(*each) for each in zip(layer.weights, layer.get_weights(), strict=True)]
    # NumPy has no bfloat16 of its own, and Keras no way from it.
    twin.set_weights([np.asarray(values, np.float32) if values.dtype.itemsize == 2 else values for values in weights])
    for inner in twin._flatten_layers():
        if hasattr(inner, "finalize_state"):  # Normalization computes with numbers that it makes of its weights
            inner.finalize_state()
    for one, other in zip(layer.weights, twin.weights, strict=True):
        other.trainable = one.trainable
    for one, other in zip(layer._flatten_layers(), twin._flatten_layers(), strict=True):
        other._trainable = one.trainable


def is_functional(layer: object) -> bool:
    """Tell whether a layer is a functional or sequential model that computes as its layers say: a class of the user's
    may have a ``call`` of its own."""
    import keras

    kinds = keras.Sequential, keras.src.models.Functional
    return isinstance(layer, kinds) and type(layer).call in [kind.call for kind in kinds]


def is_elementwise_function(function: object) -> bool:
    """Tell whether an activation is none, or one of Keras or TensorFlow that computes each value by itself. What a
    function of the user's computes is not known."""
    import keras

    if function is None:
        return True
    name, module = getattr(function, "__name__", ""), str(getattr(function, "__module__", ""))
    is_known = hasattr(keras.activations, name) and module.split(".")[0] in ("keras", "tensorflow")
    return is_known and name not in _ALONG_THE_LAST_AXIS
