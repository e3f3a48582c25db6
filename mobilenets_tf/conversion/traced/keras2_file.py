"""Trace a model file of Keras 2 that Keras 3 cannot load: with tf_keras, in which the file is checked first.

tf_keras would look up, import and call what a configuration names. So the configuration is read first: it may name
stock layers that only compute, and functions of TensorFlow that compute numbers from numbers. The memory for the
weights is known before it is taken.
"""

import inspect
import json
import math
from pathlib import Path
from typing import Any

from mobilenets_tf.conversion.frozen_graph import FrozenGraph
from mobilenets_tf.conversion.traced.keras_objects import frozen_keras
from mobilenets_tf.data.preprocessing import Size
from mobilenets_tf.errors import RequestError, first_line
from mobilenets_tf.weights import saved_models
from mobilenets_tf.weights.keras_config import REMEDY, nodes

# Layers that run code or operators, or read files, that the configuration names.
_REFUSED = {
    "Lambda", "TFSMLayer", "TensorFlowOpLayer", "StringLookup", "IntegerLookup", "TextVectorization", "Hashing",
    "HashedCrossing", "DenseFeatures", "SequenceFeatures",
}  # fmt: skip
# What else a configuration may name: models, types of numbers, and the values of arguments.
_PLAIN = {"Functional", "Model", "Sequential", "InputLayer", "Policy", "__tuple__", "__ellipsis__", "__tensor__"}
_PACKAGES = ("initializers", "regularizers", "constraints")
# Layers that call a function of TensorFlow by its name, and those functions: whole modules, and single names.
_CALLING = ("TFOpLambda", "SlicingOpLambda")
_MODULES = ("math.", "nn.", "image.", "linalg.", "signal.", "bitwise.", "__operators__.")
_FUNCTIONS = {
    "boolean_mask", "broadcast_to", "cast", "clip_by_value", "concat", "cumsum", "einsum", "ensure_shape",
    "expand_dims", "gather", "gather_nd", "identity", "identity_n", "meshgrid", "norm", "one_hot", "ones_like", "pad",
    "rank", "repeat", "reshape", "reverse", "roll", "shape", "size", "slice", "space_to_batch", "split", "squeeze",
    "stack", "stop_gradient", "strided_slice", "tensordot", "tile", "transpose", "unstack", "where", "zeros_like",
}  # fmt: skip
_CONSTANT = "_CONSTANT_VALUE"  # stands in a configuration before an argument that no layer computes
_SLACK = 2**16  # bytes of variables beyond the weights, such as the states of random generators


def frozen_keras2_file(path: Path, reason: str, resolution: Size | None = None) -> FrozenGraph:
    """Load a ``.keras``, ``.h5`` or ``.hdf5`` file of Keras 2 with tf_keras, without running code from the file, and
    freeze its graph.

    Args:
        reason: why Keras 3 cannot load the model.
        resolution: of the image, one number or (height, width), where the model leaves them open.

    Raises:
        RequestError: tf_keras is not installed; or the file is damaged, names something that may do more than compute,
            or cannot be traced.
    """
    try:
        import tf_keras
    except ImportError:
        raise RequestError(f"{reason} Or install Keras 2, which may load the file: pip install tf_keras") from None
    import tensorflow as tf

    config, held, version = saved_models.keras2_parts(path)
    _check(config, path)
    declared = 0

    def counted(creator, **options):
        nonlocal declared
        shape = options.get("shape")
        if shape is None:
            shape = getattr(options.get("initial_value"), "shape", None)
        declared += 4 * math.prod(tf.TensorShape(shape).as_list() if shape is not None else ())
        if declared > held + _SLACK:
            raise RequestError(f"{path} is damaged: its layers have more weights than the {held} bytes in the file.")
        return creator(**options)

    try:
        with saved_models.readable_weights(path, config, version) as weights:
            with tf.variable_creator_scope(counted):
                if "module" in config:  # of the ZIP format
                    model = tf_keras.saving.deserialize_keras_object(config, safe_mode=True)
                else:
                    model = tf_keras.models.model_from_json(json.dumps(config))
            model.load_weights(weights)
    except RequestError:
        raise
    except Exception as error:  # tf_keras raises many kinds for a damaged file
        raise RequestError(f"{path} cannot be loaded by Keras 2 either: {first_line(error):.300}. {reason}") from error
    return frozen_keras(model, resolution, str(path))


def _check(config: Any, path: Path) -> None:
    """Walk the configuration and refuse every class and function that may do more than compute.

    Raises:
        RequestError: names the class or the function.
    """
    for node in nodes(config):
        if "class_name" in node:
            _check_class(node, path)
        calls = node.get("inbound_nodes")
        for call in calls if isinstance(calls, list) else ():
            if _CONSTANT in json.dumps(call) and not _has_tensor(call):
                raise RequestError(
                    f"{path} calls the layer {node.get('name')!r:.60} with constants only, which Keras would compute "
                    f"while the file is loaded, whatever memory that takes: refused. {REMEDY}"
                )


def _has_tensor(call: Any) -> bool:
    """Tell whether a call of a layer has the result of a layer, [layer, node, output, ...], among its arguments. A
    constant is [_CONSTANT, -1, value, arguments by name]."""
    if isinstance(call, dict):
        return any(map(_has_tensor, call.values()))
    if not isinstance(call, list):
        return False
    if call[:1] == [_CONSTANT]:
        return any(map(_has_tensor, call[3:]))
    kinds = [type(part) for part in call[:3]]
    return (len(call) in (3, 4) and kinds == [str, int, int]) or any(map(_has_tensor, call))


def _check_class(node: dict[str, Any], path: Path) -> None:
    import tf_keras

    name, module, registered = node["class_name"], node.get("module"), node.get("registered_name")
    inner = node.get("config")
    of_keras = module in (None, "builtins") or str(module).split(".")[0] in ("keras", "tf_keras")
    if not isinstance(name, str) or not of_keras or registered not in (None, name):
        raise RequestError(f"{path} needs {module}.{name!r:.60}, which is not one of Keras' own. {REMEDY}")
    if name in _REFUSED:
        raise RequestError(
            f"{path} has a {name} layer, which can run code or read files that the file names: refused. {REMEDY}"
        )
    if name in _CALLING:
        function = inner.get("function") if isinstance(inner, dict) else None
        plain = str(function).removeprefix("compat.v1.")
        if not isinstance(function, str) or not (plain.startswith(_MODULES) or plain in _FUNCTIONS):
            raise RequestError(
                f"{path} calls the TensorFlow function {function!r:.60}, which may do more than compute: refused. "
                f"{REMEDY}"
            )
        return
    if name == "function":
        if not isinstance(inner, str) or not callable(getattr(tf_keras.activations, inner, None)):
            raise RequestError(f"{path} names the function {inner!r:.60}, not an activation of Keras: refused.")
        return
    layer = getattr(tf_keras.layers, name, None)
    is_layer = inspect.isclass(layer) and issubclass(layer, tf_keras.layers.Layer)
    is_part = any(inspect.isclass(getattr(getattr(tf_keras, package), name, None)) for package in _PACKAGES)
    if not (name in _PLAIN or is_layer or is_part):
        raise RequestError(f"{path} needs {module}.{name!r:.60}, which is not one of Keras' own layers. {REMEDY}")
