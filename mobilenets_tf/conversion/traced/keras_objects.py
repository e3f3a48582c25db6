"""Trace a Keras model in memory that has no functional Keras 3 graph of stock layers: a subclassed model, one with
layers of the user's or of another package, a model of Keras 2 (tf_keras).

The model is traced in the process that has it, since another process need not have its classes.
"""

import inspect
import sys
from collections.abc import Callable, Sequence
from typing import Any

from mobilenets_tf.conversion.convert import check_backend, output_names
from mobilenets_tf.conversion.frozen_graph import FrozenGraph, freeze_function, unique
from mobilenets_tf.conversion.traced.sides import Resolution, fixed_shapes
from mobilenets_tf.errors import RequestError

KERAS3, KERAS2 = "Keras 3 model", "Keras 2 model"
_UNBUILT = "Call it once on a batch of samples, model(samples), so that it has an input shape."


def is_keras2(model: Any) -> bool:
    """Tell whether an object is a model of Keras 2."""
    keras2 = sys.modules.get("tf_keras")
    return keras2 is not None and isinstance(model, keras2.Model)


def frozen_keras(model: Any, resolution: Resolution = None) -> FrozenGraph:
    """Trace a Keras 3 or Keras 2 model for inference on one sample, and freeze it.

    Args:
        model: built, or called once on samples, which tells the shapes of its inputs.
        resolution: height and width of the image, where the model leaves them open.

    Raises:
        RequestError: the model has no input shape, an open side, or cannot be traced.
    """
    return _of_keras2(model, resolution) if is_keras2(model) else _of_keras3(model, resolution)


def _of_keras3(model: Any, resolution: Resolution) -> FrozenGraph:
    import keras
    from keras.src.export.export_utils import get_input_signature

    check_backend()
    try:
        signature = get_input_signature(model)
    except ValueError:
        raise RequestError(f"{model.name} is a {type(model).__name__} without an input shape. {_UNBUILT}") from None
    functional = isinstance(model, keras.src.models.Functional)
    specs = keras.tree.flatten(signature)
    names = [spec.name for spec in specs]
    if not functional:
        names = _names(signature, list(inspect.signature(model.call).parameters), keras.tree.flatten)
    is_graph = functional or isinstance(model, keras.Sequential)
    return _frozen(
        model, specs, names, lambda tensors: keras.tree.pack_sequence_as(signature, tensors), {}, keras.tree.flatten,
        resolution, given_names=lambda: output_names(model) if is_graph else (), kind=f"{KERAS3} ({_class(model)})",
    )  # fmt: skip


def _of_keras2(model: Any, resolution: Resolution) -> FrozenGraph:
    import tensorflow as tf

    told = model.save_spec(dynamic_batch=True)
    if told is None:
        raise RequestError(f"{model.name} is a {type(model).__name__} without an input shape. {_UNBUILT}")
    arguments, options = told
    specs = tf.nest.flatten((arguments, options))
    functional = hasattr(model, "_nested_outputs") and model.outputs
    if functional:
        names = list(model.input_names)
    else:
        names = _names(list(arguments), list(inspect.signature(model.call).parameters), tf.nest.flatten)
        names += list(options)
    given = () if not functional or isinstance(model._nested_outputs, dict) else model.output_names
    return _frozen(
        model, specs, names, lambda tensors: tf.nest.pack_sequence_as((arguments, options), tensors)[0], options,
        tf.nest.flatten, resolution, given_names=lambda: given, kind=f"{KERAS2} ({_class(model)})", autograph=True,
    )  # fmt: skip


def _frozen(
    model: Any,
    specs: Sequence[Any],
    names: Sequence[str],
    arguments_of: Callable[[Sequence], Sequence],
    options: dict,
    flatten: Callable[[Any], list],
    resolution: Resolution,
    *,
    given_names: Callable[[], Sequence[str]],
    kind: str,
    autograph: bool = False,
) -> FrozenGraph:
    import tensorflow as tf

    names = unique([name or f"input_{place}" for place, name in enumerate(names)])
    shapes = {name: None if spec.shape is None else list(spec.shape) for name, spec in zip(names, specs, strict=True)}
    fixed = fixed_shapes(shapes, model.name, resolution)
    for_inference = {"training": False} if "training" in inspect.signature(model.call).parameters else {}
    found: list[str] = []

    def call(*tensors):
        outputs = model(*arguments_of(tensors), **for_inference)
        found[:] = _names_of_outputs(outputs, flatten)
        return flatten(outputs)

    return freeze_function(
        call,
        [tf.TensorSpec(fixed[name], spec.dtype or "float32", name) for name, spec in zip(names, specs, strict=True)],
        lambda: unique(list(given_names()) or found),
        [layer.name for layer in model._flatten_layers(include_self=False)],
        kind=kind,
        autograph=autograph,
    )


def _class(model: Any) -> str:
    return type(model).__name__


def _names(signature: Sequence[Any], parameters: Sequence[str], flatten: Callable[[Any], list]) -> list[str]:
    """Name the tensors of a call's arguments: by the keys of a dict, else by the parameter, numbered if several."""
    names = []
    for part, parameter in zip(signature, parameters, strict=False):
        inner = flatten(part)
        if isinstance(part, dict) and len(part) == len(inner):
            names += sorted(part)
        else:
            names += [parameter] if len(inner) == 1 else [f"{parameter}_{place}" for place in range(len(inner))]
    return names


def _names_of_outputs(outputs: Any, flatten: Callable[[Any], list]) -> list[str]:
    """Name outputs: by the keys of a dict, which is flattened in their order, else "output", numbered if several."""
    flat = flatten(outputs)
    if isinstance(outputs, dict):
        return [key for key in sorted(outputs) for _ in flatten(outputs[key])]
    return ["output"] if len(flat) == 1 else [f"output_{place}" for place in range(len(flat))]
