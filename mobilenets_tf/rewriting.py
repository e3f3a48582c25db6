"""Rebuild a Keras model with some of its layers' calls replaced; the model itself is left as it is."""

from collections.abc import Callable

from mobilenets_tf.errors import RequestError

Plan = Callable[[object], dict[object, Callable]]


def rebuild(model, plan: Plan):
    """A copy of a functional or sequential model, models inside it too, in which some calls are others.

    Args:
        model: the ``keras.Model``.
        plan: given a functional model, for each layer of its own whose call is to be replaced, the function that takes
            its place: called with the layer's symbolic tensors (not with keywords such as training).

    Returns:
        A functional model of the same name, inputs and outputs. Layers that are not replaced are copied with their
        weights; layers whose output nothing reads any more are gone.

    Raises:
        RequestError: not a functional or sequential model.
    """
    import keras

    if isinstance(model, keras.Sequential):
        model = _as_functional(model)
    if not isinstance(model, keras.src.models.Functional):
        raise RequestError(
            f"{model.name!r} is a {type(model).__name__}; only functional and sequential models can be rebuilt."
        )
    replacements = {id(layer): function for layer, function in plan(model).items()}

    def call(layer, *args, **kwargs):
        if replacement := replacements.get(id(layer)):
            return replacement(*args)
        return layer(*args, **kwargs)

    return keras.models.clone_model(
        model,
        clone_function=lambda layer: layer if id(layer) in replacements else _copy(layer, plan),
        call_function=call,
    )


def _as_functional(sequential):
    """The graph that a sequential model keeps inside, under the model's name."""
    import keras

    return keras.Model(sequential.inputs, sequential.outputs, name=sequential.name)


def _copy(layer, plan: Plan):
    import keras

    if isinstance(layer, (keras.Sequential, keras.src.models.Functional)):
        return rebuild(layer, plan)
    if not isinstance(layer, keras.Layer):  # an operation, which has no state
        return layer
    copy = type(layer).from_config(layer.get_config())
    if layer.weights:
        copy.build_from_config(layer.get_build_config())
        copy.set_weights(layer.get_weights())
    return copy
