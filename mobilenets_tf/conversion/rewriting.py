"""Rebuild a Keras model with some of its layers' calls replaced."""

from collections.abc import Callable, Iterator

from mobilenets_tf.errors import RequestError

Plan = Callable[[object], dict[object, Callable]]


def reachable_layers(model) -> Iterator:
    """The layers that ``rebuild`` can replace: the model's own, and those of functional or sequential models inside."""
    for layer in model.layers if _is_graph(model) else ():
        yield layer
        yield from reachable_layers(layer)


def rebuild(model, plan: Plan, *, share: bool = False):
    """A functional or sequential model, models inside it too, in which some calls are others.

    Args:
        model: the ``keras.Model``.
        plan: given a functional model, for each layer of its own whose call is to be replaced, the function that takes
            its place: called with the layer's symbolic tensors (not with keywords such as training).
        share: use the very layers that are not replaced, for a result that is soon thrown away. Otherwise they are
            copied with their weights, and the model is left as it is.

    Returns:
        A functional model of the same name, inputs and outputs. Layers whose output nothing reads any more are gone.

    Raises:
        RequestError: not a functional or sequential model, or a layer that cannot be copied.
    """
    import keras

    if not _is_graph(model):
        raise RequestError(
            f"{model.name!r} is a {type(model).__name__}; only functional and sequential models can be rebuilt."
        )
    if isinstance(model, keras.Sequential):  # its graph, under its name
        model = keras.Model(model.inputs, model.outputs, name=model.name)
    replacements = {id(layer): function for layer, function in plan(model).items()}
    copied = []

    def copy(layer):
        if id(layer) in replacements:
            return layer
        if _is_graph(layer):
            return rebuild(layer, plan, share=share)
        if share or not isinstance(layer, keras.Layer):  # a bare operation has no state
            return layer
        try:
            copied.append((layer, type(layer).from_config(layer.get_config())))
        except Exception as error:  # whatever the layer's own code makes of it
            raise RequestError(
                f"The layer {layer.name!r} ({type(layer).__name__}) cannot be copied: {str(error).splitlines()[0]}"
            ) from error
        return copied[-1][1]

    def call(layer, *args, **kwargs):
        if replacement := replacements.get(id(layer)):
            return replacement(*args)
        return layer(*args, **kwargs)

    rebuilt = keras.models.clone_model(model, clone_function=copy, call_function=call)
    for layer, twin in copied:  # calling them has built them
        twin.set_weights(layer.get_weights())
    return rebuilt


def _is_graph(layer) -> bool:
    import keras

    return isinstance(layer, (keras.Sequential, keras.src.models.Functional))
