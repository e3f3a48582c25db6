"""Load a whole Keras model from a file of unknown origin without running code from it.

Keras' safe mode refuses Lambda layers in a ``.keras`` file, but older releases ignore it for ``.h5``, and it has had
several security holes. So the configuration is read first, and a class that is not a stock layer is refused.
"""

from __future__ import annotations

import io
import json
import os
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from mobilenets_tf.conventions import PYTORCH, TENSORFLOW, Convention
from mobilenets_tf.errors import RequestError
from mobilenets_tf.files import TemporaryFolder
from mobilenets_tf.weights.hdf5 import open_hdf5

if TYPE_CHECKING:
    import keras

# The packages of Keras whose classes a configuration may name. Not keras.utils, which can download and unpack files.
_PACKAGES = (
    "layers", "models", "initializers", "regularizers", "constraints", "activations", "ops", "dtype_policies",
)  # fmt: skip
# Stock classes that run code or functions, or read files, that the configuration names.
_REFUSED = {
    "Lambda", "__lambda__", "TorchModuleWrapper", "TFSMLayer", "JaxLayer", "FlaxLayer",
    "StringLookup", "IntegerLookup", "TextVectorization", "HashedCrossing", "FeatureSpace",
    "Switch", "Cond", "Map", "Scan", "AssociativeScan", "WhileLoop", "ForiLoop", "VectorizedMap", "CustomGradient",
}  # fmt: skip
_REMEDY = "Load the model in your own Python, where you trust its code, and call mobilenets_tf.export.to_tflite(model)."


def load_model(path: str | os.PathLike[str]) -> keras.Model:
    """Load a ``keras.Model``, not compiled, from a ``.keras`` or full-model ``.h5`` file without running code from it.

    Raises:
        RequestError: the file does not exist, is damaged, has weights only, or has a layer that is not a stock layer of
            Keras or can run code, such as Lambda.
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
    except Exception as error:  # Keras raises many kinds for a damaged file
        raise RequestError(f"{path} cannot be loaded: {_first_line(error)}") from error


def of_bytes(content: bytes) -> keras.Model:
    """Load a ``keras.Model`` from the content of a ``.keras`` file, as ``load_model`` does.

    Raises:
        RequestError: as ``load_model``.
    """
    with TemporaryFolder("mobilenets-tf-") as folder:
        path = Path(folder, "model.keras")
        path.write_bytes(content)
        return load_model(path)


def to_bytes(model: keras.Model) -> bytes:
    """Serialise a model as a ``.keras`` file: same model, same bytes, in every process.

    Keras writes two things that change from run to run, and both are replaced: the time, and addresses in memory that
    tell shared objects apart (``shared_object_id``).
    """
    import keras

    with TemporaryFolder("mobilenets-tf-") as folder:
        path = Path(folder, "model.keras")
        keras.saving.save_model(model, path)
        result = io.BytesIO()
        with zipfile.ZipFile(path) as saved, zipfile.ZipFile(result, "w") as plain:
            for name in sorted(saved.namelist()):
                content = saved.read(name)
                if name == "metadata.json":
                    content = json.dumps({**json.loads(content), "date_saved": "1980-01-01@00:00:00"}).encode()
                elif name == "config.json":
                    content = json.dumps(_numbered(json.loads(content), {})).encode()
                plain.writestr(zipfile.ZipInfo(name), content)  # its time is 1980, the zip format's first
    return result.getvalue()


def _numbered(node: Any, numbers: dict[int, int]) -> Any:
    """Return a configuration whose shared objects have the numbers 0, 1, ... in the order in which they occur.

    Args:
        numbers: identifier -> number, of the objects so far; new objects are added.
    """
    if isinstance(node, list):
        return [_numbered(item, numbers) for item in node]
    if not isinstance(node, dict):
        return node
    return {
        key: numbers.setdefault(value, len(numbers)) if key == "shared_object_id" else _numbered(value, numbers)
        for key, value in node.items()
    }


@dataclass(frozen=True)
class SavedWeights:
    """Weights of a network of this package out of a Keras file.

    tensors: "{layer}.{index of the variable in the layer}" -> tensor.
    """

    tensors: dict[str, np.ndarray]
    convention: Convention


def read_weights(path: Path) -> SavedWeights:
    """Read the weights of a ``.weights.h5`` or ``.keras`` file without building its model.

    In a ``.weights.h5`` the layers tell the padding; the BatchNorm epsilon, which it lacks, follows from the padding.

    Raises:
        RequestError: the file is damaged, or not of this kind.
    """
    if path.suffix != ".keras":
        with open_hdf5(path, path) as file:
            padded = "zero_padding2d" in file.get("layers", {})
        return SavedWeights(_tensors(path, path), PYTORCH if padded else TENSORFLOW)
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


def _tensors(source: Path | BinaryIO, path: Path) -> dict[str, np.ndarray]:
    """Read the tensors of an HDF5 of Keras 3, which numbers the groups and has the layers' names in attributes."""
    tensors: dict[str, np.ndarray] = {}
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


def _keras_config(path: Path) -> Any:
    try:
        with zipfile.ZipFile(path) as archive:
            config = json.loads(archive.read("config.json"))
            weights = archive.read("model.weights.h5")
    except (zipfile.BadZipFile, KeyError, OSError, ValueError) as error:
        raise RequestError(f"{path} is damaged or not a .keras file ({error}).") from error
    open_hdf5(io.BytesIO(weights), path).close()
    return config


def _h5_config(path: Path) -> Any:
    with open_hdf5(path, path) as file:
        if "model_config" not in file.attrs:
            raise RequestError(
                f"{path} holds weights alone, not a model. Name the network and pass it as --weights (weights=)."
            )
        try:
            return json.loads(file.attrs["model_config"])
        except ValueError as error:
            raise RequestError(f"{path} is damaged: its model_config is not JSON ({error}).") from error


def _check(node: Any, path: Path, root: bool = True) -> None:
    """Walk the configuration and refuse every class that is not a stock class of Keras or can do more than compute.

    Raises:
        RequestError: names the class.
    """
    if isinstance(node, list):
        for item in node:
            _check(item, path, root=False)
    if not isinstance(node, dict):
        return
    if "class_name" in node:
        _check_class(node, path)
    for key, value in node.items():
        # compile_config is not loaded (compile=False), and may name the user's own losses.
        if not (root and key == "compile_config"):
            _check(value, path, root=False)


def _check_class(node: dict[str, Any], path: Path) -> None:
    name, module = node["class_name"], node.get("module")
    if not isinstance(name, str) or not isinstance(module, (str, type(None))):
        raise RequestError(f"{path} is damaged: a class is called {name!r:.40} of {module!r:.40}.")
    if name in _REFUSED:
        raise RequestError(
            f"{path} has a {name} layer, which can run code or read files that the file names: refused. {_REMEDY}"
        )
    if name == "function":
        import keras

        # Keras looks this name up and calls the function, so nothing but an activation of Keras is allowed.
        function = node.get("config")
        known = isinstance(function, str) and callable(getattr(keras.activations, function, None))
        if not known or not (module in (None, "builtins") or _is_keras(module, ("activations",))):
            raise RequestError(
                f"{path} names the function {module}.{function!r:.60}, not an activation of Keras': refused."
            )
        return
    plain = module == "builtins" and name in ("slice", "__tuple__", "__tensor__")
    top = module == "keras" and name in (
        "Sequential",
        "Functional",
        "Model",
        "InputLayer",
        "DTypePolicy",
        "DTypePolicyMap",
    )
    if not name.isidentifier() or not (module is None or plain or top or _is_keras(module, _PACKAGES)):
        raise RequestError(f"{path} needs {module}.{name}, which is not one of Keras' own layers. {_REMEDY}")
    if module is None and node.get("registered_name") not in (None, name):
        raise RequestError(f"{path} needs the custom class {node['registered_name']!r}. {_REMEDY}")


def _is_keras(module: str, packages: tuple[str, ...]) -> bool:
    """Whether a module is inside one of ``packages`` of Keras, under its public or its internal name."""
    names = [name for name in module.split(".") if name != "src"]
    return names[0] == "keras" and len(names) > 1 and names[1] in packages
