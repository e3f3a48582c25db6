"""Trace a Keras model in memory that has no functional Keras 3 graph of stock layers: a subclassed model, one with
layers of the user's or of another package, a model of Keras 2 (tf_keras).

The model is traced in the process that has it, since another process need not have its classes.
"""

import inspect
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mobilenets_tf.conversion.convert import check_backend, flat_keys, output_names
from mobilenets_tf.conversion.frozen_graph import FrozenGraph, freeze_function
from mobilenets_tf.conversion.rewriting import is_functional
from mobilenets_tf.conversion.traced.sides import one_sample
from mobilenets_tf.data.preprocessing import Size
from mobilenets_tf.errors import RequestError
from mobilenets_tf.tflite import flatbuffer
from mobilenets_tf.weights import keras_config

KERAS3, KERAS2 = "Keras 3 model", "Keras 2 model"


def is_keras2(model: Any) -> bool:
    """Tell whether an object is a model of Keras 2."""
    keras2 = sys.modules.get("tf_keras")
    return keras2 is not None and isinstance(model, keras2.Model)


def is_stock(model: Any) -> bool:
    """Tell whether another process can load the model from its ``.keras`` file: it is a functional Keras 3 model, and
    its layers are stock layers of Keras that only compute."""
    import keras

    if not is_functional(model):
        return False
    try:
        config = keras.saving.serialize_keras_object(model)
        config.pop("compile_config", None)  # is not loaded
        keras_config.check(config, Path(model.name))
    except Exception:  # layers of the user's may raise anything here
        return False
    return True


class _Calling(NamedTuple):
    """How a model is called for inference.

    specs, names: of the tensors that it takes. packed: tensors -> the positional and the named arguments.
    flatten: outputs -> their tensors. outputs: returns the names of the outputs, or nothing if they have none.
    kind: of the model. autograph: whether Python's control flow in the model becomes TensorFlow's.
    """

    specs: Sequence[Any]
    names: Sequence[str]
    packed: Callable[[Sequence[Any]], tuple[Sequence[Any], dict[str, Any]]]
    flatten: Callable[[Any], list]
    outputs: Callable[[], Sequence[str]]
    kind: str
    autograph: bool = False


def frozen_keras(model: Any, resolution: Size | None = None, label: str | None = None) -> FrozenGraph:
    """Trace a Keras 3 or Keras 2 model for inference on one sample, and freeze it.

    Args:
        model: built, or called once on samples, which tells the shapes of its inputs.
        resolution: of the image, one number or (height, width), where the model leaves them open.
        label: the model's name in messages; None: its own.

    Raises:
        RequestError: the model has no input shape, an open side, or cannot be traced.
    """
    import tensorflow as tf

    label = label or model.name
    calling = _in_keras2(model) if is_keras2(model) else _in_keras3(model)
    if calling is None:
        raise RequestError(
            f"{label} is a {type(model).__name__} without an input shape. Call it once on a batch of samples, "
            "model(samples), so that it has one."
        )
    names = flatbuffer.unique([name or f"input_{place}" for place, name in enumerate(calling.names)])
    specs = dict(zip(names, calling.specs, strict=True))
    open_shapes = {name: None if spec.shape is None else list(spec.shape) for name, spec in specs.items()}
    shapes = one_sample(open_shapes, label, resolution)
    for_inference = {"training": False} if "training" in inspect.signature(model.call).parameters else {}
    found: list[str] = []

    def call(*tensors):
        arguments, options = calling.packed(tensors)
        outputs = model(*arguments, **options | for_inference)
        found[:] = _names_of_outputs(outputs, calling.flatten)
        return calling.flatten(outputs)

    return freeze_function(
        call,
        [tf.TensorSpec(shapes[name], spec.dtype or "float32", name) for name, spec in specs.items()],
        lambda: flatbuffer.unique(list(calling.outputs()) or found),
        [layer.name for layer in model._flatten_layers(include_self=False)],
        label=label,
        kind=f"{calling.kind} ({type(model).__name__})",
        autograph=calling.autograph,
    )


def _in_keras3(model: Any) -> _Calling | None:
    """Return how a Keras 3 model is called; None if it has no input shape.

    Raises:
        RequestError: Keras keeps the shape of the first argument only, and the model may take more tensors.
    """
    import keras
    from keras.src.export.export_utils import get_input_signature

    check_backend()
    try:
        signature = get_input_signature(model)
    except ValueError:
        return None
    tree = keras.tree
    functional = isinstance(model, keras.src.models.Functional)
    of_layers = functional or isinstance(model, keras.Sequential)
    specs = tree.flatten(signature)
    parameters = list(inspect.signature(model.call).parameters)
    by_name = [] if of_layers else _tensor_arguments(model)

    def packed(tensors):
        arguments = tree.pack_sequence_as(signature, tensors)
        return ((), dict(zip(by_name, arguments, strict=True))) if by_name else (arguments, {})

    return _Calling(
        specs,
        [spec.name for spec in specs] if functional else _names(signature, by_name or parameters, tree.flatten),
        packed,
        tree.flatten,
        lambda: output_names(model) if of_layers else (),
        KERAS3,
    )


def _tensor_arguments(model: Any) -> list[str]:
    """Return the names of the arguments that a subclassed Keras 3 model was called with, as the model's own ``build``
    tells them (``x_shape`` is the shape of ``x``); nothing if that is the first argument only.

    Raises:
        RequestError: ``build`` takes one shape, and ``call`` has another argument that may be a tensor.
    """
    parameters = inspect.signature(model.call).parameters
    catch_all = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    shapes = [each for each in inspect.signature(model.build).parameters.values() if each.kind not in catch_all]
    given = [key.removesuffix("_shape") for key in model._build_shapes_dict]
    if len(shapes) > 1 and set(given) <= set(parameters):
        return given
    for name, parameter in list(parameters.items())[1:]:
        catches_all = parameter.kind in catch_all
        if name not in ("training", "mask") and not catches_all and parameter.default in (None, parameter.empty):
            raise RequestError(
                f"{model.name} is a {type(model).__name__} whose call takes {name!r} too; Keras keeps the shape of the "
                f"first argument only. Write the class so that its call takes one dict of tensors, or give it a method "
                f"build(self, {next(iter(parameters))}_shape, {name}_shape=None), which tells what the model is called "
                "with."
            )
    return []


def _in_keras2(model: Any) -> _Calling | None:
    """Return how a model of Keras 2 is called; None if it has no input shape."""
    import tensorflow as tf

    told = model.save_spec(dynamic_batch=True)
    if told is None:
        return None
    nest, (arguments, options) = tf.nest, told
    functional = bool(model.outputs) and hasattr(model, "_nested_outputs")
    names = _names(arguments, list(inspect.signature(model.call).parameters), nest.flatten) + sorted(options)
    has_names = functional and not isinstance(model._nested_outputs, dict)
    return _Calling(
        nest.flatten(told),
        list(model.input_names) if functional else names,
        lambda tensors: nest.pack_sequence_as(told, tensors),
        nest.flatten,
        lambda: model.output_names if has_names else (),
        KERAS2,
        autograph=True,  # as Keras 2 itself saves models
    )


def _names(signature: Sequence[Any], parameters: Sequence[str], flatten: Callable[[Any], list]) -> list[str]:
    """Name the tensors of a call's arguments: by the keys of a dict, else by the parameter, numbered if several."""
    names = []
    for part, parameter in zip(signature, parameters, strict=False):
        inner = flatten(part)
        if isinstance(part, dict) and len(part) == len(inner):
            names += flat_keys(part, flatten)
        else:
            names += [parameter] if len(inner) == 1 else [f"{parameter}_{place}" for place in range(len(inner))]
    return names


def _names_of_outputs(outputs: Any, flatten: Callable[[Any], list]) -> list[str]:
    """Name outputs: by the keys of a dict, else "output", numbered if several."""
    flat = flatten(outputs)
    if isinstance(outputs, dict):
        return [key for key in flat_keys(outputs, flatten) for _ in flatten(outputs[key])]
    return ["output"] if len(flat) == 1 else [f"output_{place}" for place in range(len(flat))]
