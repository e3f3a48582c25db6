"""Bring the configuration of a model of Keras 2 into the form of Keras 3.

Keras 3 names the modules of its classes elsewhere, and its layers lack some of the arguments that Keras 2 wrote down.
An argument is left out where it has the value that Keras 3 always has; with another value the model is refused.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mobilenets_tf.errors import RequestError

# Arguments that Keras 3 lacks -> the values that do what Keras 3 does; None: the argument does not change the outputs.
_GONE: dict[str, tuple | None] = {
    "groups": (1,),  # of depthwise and transposed convolutions
    "renorm": (False,), "virtual_batch_size": (None,), "adjustment": (None,), "time_major": (False,),
    "ragged": (False,), "noise_shape": (None,), "batch_size": (None,),
    "fused": None, "rng_type": None, "implementation": None, "experimental_autocast": None,
    "jit_compile": None, "inputs_spec": None, "renorm_clipping": None, "renorm_momentum": None,
    "kernel_initializer": None, "kernel_regularizer": None, "kernel_constraint": None,  # of depthwise convolutions
}  # fmt: skip
# Activations that another formula has in Keras 3.
_OTHER_FORMULAS = {"hard_sigmoid": "clip(0.2 x + 0.5, 0, 1) in Keras 2, clip(x / 6 + 0.5, 0, 1) in Keras 3"}
# Arithmetic with a constant, as preprocess_input adds it to a model -> (scale, offset) of a Rescaling layer.
_ARITHMETIC = {
    "math.truediv": lambda y: (1.0 / y, 0.0),
    "math.multiply": lambda y: (y, 0.0),
    "math.subtract": lambda y: (1.0, -y),
    "math.add": lambda y: (1.0, y),
    "__operators__.add": lambda y: (1.0, y),
}
# Classes of Keras 2 that Keras 3 lacks.
_LACKING = {
    "ThresholdedReLU", "LocallyConnected1D", "LocallyConnected2D", "SlicingOpLambda", "RandomHeight", "RandomWidth",
    "SyncBatchNormalization", "CuDNNLSTM", "CuDNNGRU", "DenseFeatures", "SequenceFeatures",
}  # fmt: skip
_MODELS = {"Functional": "keras.src.models.functional", "Model": "keras.src.models.functional", "Sequential": "keras"}


class NotInKeras3Error(RequestError):
    """A model of Keras 2 computes what no layer of Keras 3 does. Keras 2 itself can load the model (``tf_keras``)."""


def is_of_keras2(version: Any) -> bool:
    """Tell whether a file is of Keras 2, by the version that it gives; Keras gives none before 2.0."""
    return not str(version).startswith("3.")


def with_module(config: Any) -> Any:
    """Name the module of the model's class, which an ``.h5`` file of Keras 3 leaves out."""
    if isinstance(config, dict) and config.get("class_name") in _MODELS and "module" not in config:
        return {**config, "module": _MODELS[config["class_name"]], "registered_name": None}
    return config


def as_today(config: Any) -> Any:
    """Return the configuration of a model of tf.keras as the last versions of Keras 2 write it: 2.12 writes the numbers
    of a ReLU as arrays, and has functional models in another module."""
    if isinstance(config, list):
        return [as_today(item) for item in config]
    if not isinstance(config, dict):
        return config
    if config.get("class_name") == "__numpy__" and isinstance(config.get("config"), dict):
        return config["config"].get("value")
    node = {key: as_today(value) for key, value in config.items()}
    if isinstance(module := node.get("module"), str):
        node["module"] = re.sub(r"^keras\.engine\.", "keras.src.engine.", module)
    return node


def upgraded(config: Any, path: Path) -> Any:
    """Return the configuration of a model of Keras 2 for Keras 3; ``config`` stays as it is.

    path: for error messages.

    Raises:
        NotInKeras3Error: the model has a class, an argument or an activation that Keras 3 does not have.
    """
    if isinstance(config, list):
        return [upgraded(item, path) for item in config]
    if not isinstance(config, dict):
        return config
    node = {key: upgraded(value, path) for key, value in config.items()}
    name, inner = node.get("class_name"), node.get("config")
    if not isinstance(name, str) or not isinstance(inner, dict):
        return node
    if name == "Policy":  # "float32" and the like
        return inner.get("name")
    if name == "TFOpLambda":
        node = _arithmetic(node, path)
        name, inner = node["class_name"], node["config"]
    if name in _MODELS:
        plain = "Functional" if name == "Model" else name
        _count_calls_only(inner)
        for key in ("input_layers", "output_layers"):  # Keras 3 would return a list for a list of one
            if isinstance(tensors := inner.get(key), list) and len(tensors) == 1 and isinstance(tensors[0], list):
                inner[key] = tensors[0]
        return {**node, "class_name": plain, "module": _MODELS[name], "registered_name": None}
    if name in _LACKING:
        raise NotInKeras3Error(
            f"{path} is of Keras 2: its layer {inner.get('name')!r:.60} is a {name}, which Keras 3 does not have."
        )
    import keras

    layer = getattr(keras.layers, name, None)
    if not isinstance(layer, type) or not issubclass(layer, keras.layers.Layer):
        return node
    _check_activations(inner, path)
    if name == "BatchNormalization" and isinstance(inner.get("axis"), list) and len(inner["axis"]) == 1:
        inner["axis"] = inner["axis"][0]
    known = _arguments(layer)
    for key in [key for key in inner if key in _GONE and key not in known]:
        neutral, value = _GONE[key], inner.pop(key)
        if neutral is not None and value not in neutral:
            raise NotInKeras3Error(
                f"{path} is of Keras 2: its {name} {inner.get('name')!r:.60} has {key}={value!r:.40}, which Keras 3 "
                "does not have."
            )
    return {**node, "config": inner, "module": "keras.layers", "registered_name": None}


def _count_calls_only(config: dict[str, Any]) -> None:
    """Number the calls of the models inside of a model from 0, in place.

    Keras 2 begins with 1 for a model that starts with its own input, whose definition counts as a call. Keras 3 expects
    that of the model's ends alone, and only where the model inside is functional.

    config: of the model around, with its layers upgraded.
    """
    if not isinstance(config.get("layers"), list):
        return
    layers = [layer for layer in config["layers"] if isinstance(layer, dict) and isinstance(layer.get("config"), dict)]
    functional = {layer.get("name") for layer in layers if layer.get("class_name") == "Functional"}
    sequential = {
        layer.get("name")
        for layer in layers
        if layer.get("class_name") == "Sequential" and _starts_with_input(layer["config"].get("layers"))
    }
    for layer in layers:
        layer["inbound_nodes"] = _one_call_less(layer.get("inbound_nodes", []), functional | sequential)
    for key in ("input_layers", "output_layers"):
        if key in config:
            config[key] = _one_call_less(config[key], sequential)


def _starts_with_input(layers: Any) -> bool:
    first = layers[0] if isinstance(layers, list) and layers else None
    return isinstance(first, dict) and first.get("class_name") == "InputLayer"


def _one_call_less(node: Any, models: set) -> Any:
    """Return what refers to results of layers, [name, call, number, ...], with one less where the layer is a model."""
    if isinstance(node, dict):
        return {key: _one_call_less(value, models) for key, value in node.items()}
    if not isinstance(node, list):
        return node
    if len(node) in (3, 4) and isinstance(node[0], str) and node[0] in models and isinstance(node[1], int):
        return [node[0], node[1] - 1, *(_one_call_less(each, models) for each in node[2:])]
    return [_one_call_less(each, models) for each in node]


def _arguments(layer: type) -> set[str]:
    import inspect

    starts = [vars(part)["__init__"] for part in layer.__mro__ if "__init__" in vars(part) and part is not object]
    return {name for start in starts for name in inspect.signature(start).parameters}


def _check_activations(config: dict[str, Any], path: Path) -> None:
    for key in ("activation", "recurrent_activation"):
        value = config.get(key)
        value = value.get("config", value.get("class_name")) if isinstance(value, dict) else value
        if isinstance(value, str) and value in _OTHER_FORMULAS:
            raise NotInKeras3Error(
                f"{path} is of Keras 2: the {value} of its layer {config.get('name')!r:.60} is "
                f"{_OTHER_FORMULAS[value]}. Write the model with a ReLU that says the formula, for example "
                "layers.ReLU(max_value=1)(layers.Rescaling(0.2, 0.5)(x)), and load its weights."
            )


def _arithmetic(node: dict[str, Any], path: Path) -> dict[str, Any]:
    """Return a Rescaling layer for arithmetic with a constant."""
    inner = node["config"]
    function = inner.get("function")
    try:
        ((tensor, place, index, arguments),) = node["inbound_nodes"]
        scale, offset = _ARITHMETIC[function](float(arguments["y"]))
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        raise NotInKeras3Error(
            f"{path} is of Keras 2 and calls the TensorFlow function {function!r:.60} on a tensor, which Keras 3 "
            "cannot load. Write the model with a layer instead, and load its weights."
        ) from None
    name = str(inner.get("name"))
    config = {"name": name, "trainable": False, "dtype": inner.get("dtype"), "scale": scale, "offset": offset}
    return {
        "class_name": "Rescaling",
        "config": config,
        "name": node.get("name"),
        "inbound_nodes": [[[tensor, place, index, {}]]],
    }
