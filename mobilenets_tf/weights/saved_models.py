"""Load a whole Keras model from a file of unknown origin without running code from it.

Keras' safe mode refuses Lambda layers in a ``.keras`` file, but older releases ignore it for ``.h5``, and several holes
in it have had to be mended. So the configuration is read first and only stock layers are let through.
"""

import io
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mobilenets_tf.conventions import TENSORFLOW, Convention
from mobilenets_tf.errors import RequestError
from mobilenets_tf.weights.hdf5 import open_hdf5

# Where a configuration's classes may come from. keras.utils, say, is not here: it can fetch and unpack files.
_MODULES = (
    "keras.layers", "keras.src.layers", "keras.models", "keras.src.models", "keras.initializers",
    "keras.src.initializers", "keras.regularizers", "keras.src.regularizers", "keras.constraints",
    "keras.src.constraints", "keras.activations", "keras.src.activations", "keras.ops", "keras.src.ops",
    "keras.dtype_policies", "keras.src.dtype_policies",
)  # fmt: skip
# Stock classes that run code or files which the configuration names.
_REFUSED = {"Lambda", "TorchModuleWrapper", "TFSMLayer", "JaxLayer", "FlaxLayer", "__lambda__"}
_REMEDY = "Load the model in your own Python, where you trust its code, and call mobilenets_tf.export.to_tflite(model)."


def load_model(path):
    """A ``keras.Model`` from a ``.keras`` or full-model ``.h5`` file, not compiled.

    Raises:
        RequestError: no such file, damaged, weights alone, or a layer that is not Keras' own (Lambda layers too).
    """
    path = Path(path)
    if not path.is_file():
        raise RequestError(f"No such model file: {path}")
    if path.suffix == ".keras":
        config = _keras_config(path)
    elif path.suffix == ".h5":
        config = _h5_config(path)
    else:
        raise RequestError(f"{path}: expected a .keras or full-model .h5 file, received {path.suffix!r}.")
    _check(config, path)
    import keras

    try:
        return keras.models.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # whatever Keras makes of a damaged file
        raise RequestError(f"{path} cannot be loaded: {_first_line(error)}") from error


@dataclass(frozen=True)
class SavedWeights:
    """Of one of this package's networks, out of a file of Keras': "layer.place in it" -> tensor."""

    tensors: dict[str, np.ndarray]
    convention: Convention


def read_weights(path: Path) -> SavedWeights:
    """The weights of a ``.weights.h5`` or ``.keras`` file, read without building the model in it.

    A ``.weights.h5`` does not say its convention; TensorFlow's is assumed.

    Raises:
        RequestError: damaged, or not such a file.
    """
    if path.suffix != ".keras":
        return SavedWeights(_tensors(path, path), TENSORFLOW)
    config = _keras_config(path)
    try:
        layers = config["config"]["layers"]
        padded = any(layer["class_name"] == "ZeroPadding2D" for layer in layers)
        epsilons = [layer["config"]["epsilon"] for layer in layers if layer["class_name"] == "BatchNormalization"]
    except (KeyError, TypeError) as error:
        raise RequestError(f"{path} does not hold a functional model.") from error
    convention = Convention("symmetric" if padded else "same", float(epsilons[0]) if epsilons else 1e-3)
    with zipfile.ZipFile(path) as archive:
        return SavedWeights(_tensors(io.BytesIO(archive.read("model.weights.h5")), path), convention)


def _tensors(source, path: Path) -> dict[str, np.ndarray]:
    """Keras 3 numbers the groups by class and keeps each layer's own name in an attribute."""
    tensors = {}
    with open_hdf5(source, path) as file:
        for group in file.get("layers", {}).values():
            variables = group.get("vars", {})
            name = variables.attrs.get("name") if len(variables) else None
            if name is not None:
                tensors |= {f"{name}.{place}": np.asarray(value) for place, value in variables.items()}
    if not tensors:
        raise RequestError(f"{path} has no layers with weights; expected a file of Keras 3's save_weights or save.")
    return tensors


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


def _keras_config(path: Path):
    try:
        with zipfile.ZipFile(path) as archive:
            config = json.loads(archive.read("config.json"))
            weights = archive.read("model.weights.h5")
    except (zipfile.BadZipFile, KeyError, OSError, ValueError) as error:
        raise RequestError(f"{path} is damaged or not a .keras file ({error}).") from error
    open_hdf5(io.BytesIO(weights), path).close()
    return config


def _h5_config(path: Path):
    with open_hdf5(path, path) as file:
        if "model_config" not in file.attrs:
            raise RequestError(f"{path} holds weights alone, not a model. Name the network and pass it as --weights.")
        try:
            return json.loads(file.attrs["model_config"])
        except ValueError as error:
            raise RequestError(f"{path} is damaged: its model_config is not JSON ({error}).") from error


def _check(node, path: Path):
    """Walk the configuration and refuse whatever is not a stock class of Keras."""
    if isinstance(node, list):
        for item in node:
            _check(item, path)
    if not isinstance(node, dict):
        return
    if "class_name" in node:
        name, module = node["class_name"], node.get("module")
        if name in _REFUSED:
            raise RequestError(f"{path} has a {name} layer, which runs code from the file: refused. {_REMEDY}")
        own = module is None or str(module).startswith(_MODULES) or module == "keras"
        builtin = module == "builtins" and name in ("function", "slice", "__tuple__", "__tensor__")
        if not (own or builtin):
            raise RequestError(f"{path} needs {module}.{name}, which is not one of Keras' own layers. {_REMEDY}")
        if module is None and node.get("registered_name"):
            raise RequestError(f"{path} needs the custom class {node['registered_name']!r}. {_REMEDY}")
    for key, value in node.items():
        if key not in ("compile_config", "build_config"):
            _check(value, path)
