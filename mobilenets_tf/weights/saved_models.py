"""Load a whole Keras model from a file of unknown origin without running code from it.

The configuration is checked and the memory for the weights is known before anything is built. Models of Keras 2 are
brought into the form of Keras 3.
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
import math
import os
import re
import shutil
import zipfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from mobilenets_tf import files
from mobilenets_tf.conventions import PYTORCH, TENSORFLOW, Convention
from mobilenets_tf.errors import RequestError
from mobilenets_tf.files import TemporaryFolder
from mobilenets_tf.weights import keras2, keras_config
from mobilenets_tf.weights.checkpoints import Checkpoint
from mobilenets_tf.weights.hdf5 import Budget, array, open_hdf5, strings

if TYPE_CHECKING:
    import h5py
    import keras

SUFFIXES = (".keras", ".h5", ".hdf5")
_ZIP, _HDF5 = b"PK\x03\x04", b"\x89HDF\r\n\x1a\n"
_WEIGHTS = "model.weights.h5"
# The group of the layers' weights in files of some versions of Keras 2, those versions, and those of them that number
# the layers of a class by another rule.
_OLD_LAYERS, _OLD_NAMES, _COUNTED_TWICE = (
    "_layer_checkpoint_dependencies",
    ("2.12.", "2.13.", "2.14."),
    ("2.12.", "2.13."),
)


def load_model(path: str | os.PathLike[str]) -> keras.Model:
    """Load a ``keras.Model``, not compiled, from a ``.keras``, ``.h5`` or ``.hdf5`` file of Keras 3 or Keras 2 without
    running code from it.

    Raises:
        RequestError: the file does not exist, is damaged, has weights only, has a layer that is not a stock layer of
            Keras or can run code, such as Lambda, has a layer of Keras 2 that Keras 3 does not have, or has weights
            that are NaN or infinite.
    """
    return _load(Path(path))


def of_bytes(content: bytes) -> keras.Model:
    """Load a ``keras.Model`` from the content of a ``.keras`` file that ``to_bytes`` made.

    Raises:
        RequestError: as ``load_model``.
    """
    with TemporaryFolder("mobilenets-tf-") as folder:
        path = Path(folder, "model.keras")
        path.write_bytes(content)
        return _load(path, foreign=False)


def _load(path: Path, foreign: bool = True) -> keras.Model:
    """Load a model. foreign: whether somebody else may have made the file; its size is checked then."""
    config, held, version = _opened(path, foreign)
    import keras

    try:
        if foreign and (declared := _declared_bytes(config)) > held:
            raise RequestError(
                f"{path} is damaged: its layers have {declared} bytes of weights, of which the file holds {held}."
            )
        with readable_weights(path, config, version) as weights:
            model = keras.saving.deserialize_keras_object(config, safe_mode=True)
            if not isinstance(model, keras.Model):
                raise RequestError(f"{path} is damaged: it describes a {type(model).__name__}, not a model.")
            model.load_weights(weights)
    except RequestError:
        raise
    except Exception as error:  # Keras raises many kinds for a damaged file
        kind = keras2.NotInKeras3Error if keras2.is_of_keras2(version) else RequestError
        raise kind(f"{path} cannot be loaded: {_reason(error)}") from error
    check_finite(model, path)
    return model


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


def check_finite(model: keras.Model, label: str | Path) -> None:
    """Refuse a model with weights that are NaN or infinite.

    Raises:
        RequestError: names the first such layer, and how many there are.
    """
    broken: dict[str, int] = {}
    for variable in model.weights:
        values = np.asarray(variable)
        count = int(np.size(values) - np.count_nonzero(np.isfinite(values))) if values.dtype.kind == "f" else 0
        if count:
            broken[variable.path] = count
    if broken:
        name, count = next(iter(broken.items()))
        more = f", and {len(broken) - 1} more" if len(broken) > 1 else ""
        raise RequestError(
            f"{label}: {count} of the weights {name} are NaN or infinite{more}. The training went wrong; take the "
            "weights of an earlier epoch."
        )


@dataclass(frozen=True)
class SavedWeights:
    """Weights of a network out of a file of Keras 3, or of a ``keras.Model``.

    tensors: "{layer}.{index of the variable in the layer}" -> tensor.
    """

    tensors: dict[str, np.ndarray]
    convention: Convention

    def checkpoint(self, path: Path) -> Checkpoint:
        """Return the weights under the names that Keras 2 gave them: "{layer}.kernel" and the like."""
        layers: dict[str, list[np.ndarray]] = {}
        for name, tensor in self.tensors.items():
            layers.setdefault(name.rpartition(".")[0], []).append(tensor)
        named: dict[str, np.ndarray] = {}
        for layer, tensors in layers.items():
            normalises = len(tensors) == 4
            names = ("gamma", "beta", "moving_mean", "moving_variance") if normalises else ("kernel", "bias")
            named |= {f"{layer}.{name}": tensor for name, tensor in zip(names, tensors, strict=False)}
        return Checkpoint(path, "keras", named)


def is_saved(path: Path) -> bool:
    """Tell whether a file is of Keras 3: a ``.keras`` file, or the HDF5 of its weights, whatever the file's name."""
    start = _start(path)
    if start.startswith(_ZIP):
        try:
            with zipfile.ZipFile(path) as archive:
                return _WEIGHTS in archive.namelist()
        except Exception:  # a hostile file may make zipfile raise anything; it is no .keras file then
            return path.suffix == ".keras"
    if start == _HDF5:
        with open_hdf5(path, path) as file:
            return "layers" in file and "layer_names" not in file.attrs
    return path.suffix == ".keras" or path.name.endswith(".weights.h5")


def weights_of(model: keras.Model) -> SavedWeights:
    """Return the weights of a ``keras.Model``, also of the models inside of it, with the names of its layers.

    Raises:
        RequestError: two layers with weights have the same name, or there are none.
    """
    tensors: dict[str, np.ndarray] = {}
    padded, epsilons = False, []
    kinds: dict[str, int] = {}  # class of layers with parts -> how many so far

    def walk(layer: Any, name: str) -> None:
        nonlocal padded
        padded |= type(layer).__name__ == "ZeroPadding2D"
        if type(layer).__name__ == "BatchNormalization":
            epsilons.append(float(layer.epsilon))
        if hasattr(layer, "layers"):
            for inner in layer.layers:
                walk(inner, inner.name)
            return
        parts = {key: part for key, part in vars(layer).items() if hasattr(part, "weights") and part.weights}
        if parts:
            kind = _snake_case(type(layer).__name__)
            count = kinds[kind] = kinds.get(kind, -1) + 1
            for key, part in parts.items():
                walk(part, _part_name(part.name, f"{kind}_{count}" if count else kind, key))
            return
        for place, variable in enumerate(layer.weights):
            _add(tensors, f"{name}.{place}", np.asarray(variable), f"The model {model.name}")

    walk(model, model.name)
    if not tensors:
        raise RequestError(f"The model {model.name} has no layers with weights.")
    return SavedWeights(tensors, Convention("symmetric" if padded else "same", epsilons[0] if epsilons else 1e-3))


def _snake_case(name: str) -> str:
    """Return the name that Keras gives to the layers of a class: SqueezeAndExcite2D -> squeeze_and_excite2d."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


def _part_name(name: str, layer: str, attribute: str) -> str:
    """Return the name of a layer inside of another layer: its own, or its place in the other layer if Keras made the
    name up, since that name depends on the models that were built before."""
    made_up = re.fullmatch(r"(conv2d|depthwise_conv2d|dense|batch_normalization)(_\d+)?", name)
    return f"{layer}/{attribute}" if made_up else name


def _add(tensors: dict[str, np.ndarray], name: str, tensor: np.ndarray, label: str) -> None:
    if name in tensors:
        raise RequestError(f"{label} has two layers called {name.rpartition('.')[0][:60]!r}: give one network.")
    tensors[name] = tensor


def read_weights(path: Path) -> SavedWeights:
    """Read the weights of a ``.weights.h5`` or ``.keras`` file without building its model.

    In a ``.weights.h5`` the layers tell the padding; the BatchNorm epsilon, which it lacks, follows from the padding.

    Raises:
        RequestError: the file is damaged, or not of this kind.
    """
    if not zipfile.is_zipfile(path):
        with open_hdf5(path, path) as file:
            padded = "zero_padding2d" in file.get("layers", {})
        return SavedWeights(_tensors(path, path), PYTORCH if padded else TENSORFLOW)
    config, weights, _ = _keras_parts(path)
    try:
        layers = config["config"].get("layers", ())  # a model of another package may have a configuration of its own
        padded = any(layer["class_name"] == "ZeroPadding2D" for layer in layers)
        epsilons = [layer["config"]["epsilon"] for layer in layers if layer["class_name"] == "BatchNormalization"]
        convention = Convention("symmetric" if padded else "same", float(epsilons[0]) if epsilons else 1e-3)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise RequestError(f"{path} is damaged: the configuration of its layers cannot be read.") from error
    return SavedWeights(_tensors(io.BytesIO(weights), path), convention)


def _tensors(source: Path | BinaryIO, path: Path) -> dict[str, np.ndarray]:
    """Read the tensors of an HDF5 of Keras 3, which numbers the groups and has the layers' names in attributes. Models
    and layers may be inside of others."""
    import h5py

    tensors: dict[str, np.ndarray] = {}
    budget = Budget(source, path)
    with open_hdf5(source, path) as file:
        waiting, seen = [("", "", file.get("layers"))], set()  # key of the group around, key, group
        while waiting:
            outer, key, group = waiting.pop(0)
            if not isinstance(group, h5py.Group) or (address := h5py.h5o.get_info(group.id).addr) in seen:
                continue
            seen.add(address)
            name = group.attrs.get("name") if key == "vars" and len(group) else None
            if isinstance(name, str):
                around, _, own = outer.rpartition("/")
                name = _part_name(name, around, own) if around not in ("", "layers") else name
                for place in group:
                    _add(tensors, f"{name}.{place}", array(group, place, budget), str(path))
            elif key != "vars":
                inside = f"{outer.rpartition('/')[2]}/{key}".lstrip("/")
                waiting += [(inside, each, group.get(each)) for each in group]
    if not tensors:
        raise RequestError(f"{path} has no layers with weights; expected a file of Keras 3's save_weights or save.")
    return tensors


def _opened(path: Path, foreign: bool) -> tuple[Any, int, str]:
    """Return the checked configuration of a model file, for Keras 3, how many bytes of weights a foreign file has, and
    the version of its Keras.

    Raises:
        RequestError: the file is not there, damaged or refused, or no model.
    """
    config, held, version = _parts(path, foreign)
    if isinstance(config, dict):
        config.pop("compile_config", None)  # is not loaded, and may name the user's own losses
    config = keras2.upgraded(config, path) if keras2.is_of_keras2(version) else keras2.with_module(config)
    keras_config.check(config, path)
    return config, held, version


def keras2_parts(path: Path) -> tuple[Any, int, str]:
    """Return the configuration of a model file of Keras 2, unchecked, how many bytes of weights it has, and the version
    of its Keras.

    Raises:
        RequestError: the file is not there, damaged, or no model.
    """
    config, held, version = _parts(path, foreign=True)
    if isinstance(config, dict):
        config.pop("compile_config", None)
    return config, held, version


def _parts(path: Path, foreign: bool) -> tuple[Any, int, str]:
    """Return the configuration of a model file, how many bytes of weights a foreign file has, and the version of its
    Keras."""
    check_kind(path)
    start = _start(path)
    if start.startswith(_ZIP) and path.suffix == ".keras":
        config, weights, version = _keras_parts(path)
        held = 0
        if foreign:
            with open_hdf5(io.BytesIO(weights), path) as file:
                held = _held_bytes(file)
    elif start == _HDF5:
        config, held, version = _h5_parts(path)
    else:
        raise RequestError(not_a_model(path))
    return keras2.as_today(config) if keras2.is_of_keras2(version) else config, held, version


@contextlib.contextmanager
def readable_weights(path: Path, config: Any, version: str) -> Iterator[Path]:
    """Give the path of a file from which today's Keras, 3 or 2, reads the weights of a model file.

    Keras chooses the reader by the suffix, and tf.keras up to 2.12 wrote HDF5 to ``.keras`` too. The ZIP format of 2.12
    to 2.14 has other names of the layers' groups.

    config, version: of the model file, and of its Keras.
    """
    is_zip = _start(path) != _HDF5
    if path.suffix != ".keras" or (is_zip and not version.startswith(_OLD_NAMES)):
        yield path
        return
    with TemporaryFolder("mobilenets-tf-") as folder:
        if is_zip:
            yield _with_new_names(path, config, version.startswith(_COUNTED_TWICE), Path(folder, _WEIGHTS))
        else:
            yield Path(shutil.copyfile(path, Path(folder, "model.h5")))


def _with_new_names(path: Path, config: Any, twice: bool, target: Path) -> Path:
    """Write the weights of a model file of tf.keras 2.12 to 2.14 with the names that Keras gives to groups today.

    Args:
        config: of the model. twice: whether a layer with weights counts twice where layers of a class are numbered.
    """
    import h5py

    weights = io.BytesIO(_keras_parts(path)[1])
    budget = Budget(weights, path)

    def copied(source: h5py.Group, made: h5py.Group) -> None:
        def copy(name: str, node: h5py.Group | h5py.Dataset) -> None:
            if isinstance(node, h5py.Dataset):
                around, _, own = name.rpartition("/")
                made[name] = array(source[around] if around else source, own, budget)

        source.visititems(copy)

    def renamed(source: h5py.Group, made: h5py.Group, config: Any) -> None:
        before, after = Counter[str](), Counter[str]()  # how many groups of a class have a name so far
        for layer in config["config"]["layers"]:
            kind = _snake_case(layer["class_name"])
            group = source.get(_numbered_name(kind, before[kind]))
            weighted = isinstance(group, h5py.Group) and _held_bytes(group) > 0
            if weighted and _OLD_LAYERS in group:
                renamed(group[_OLD_LAYERS], made.create_group(f"layers/{_numbered_name(kind, after[kind])}"), layer)
            elif weighted:
                copied(group, made.create_group(f"layers/{_numbered_name(kind, after[kind])}"))
            before[kind] += 2 if weighted and twice else 1
            after[kind] += 1

    try:
        with open_hdf5(weights, path) as file, h5py.File(target, "w") as made:
            copied(file["vars"], made.create_group("vars"))  # the model's own, of which there are none
            renamed(file[_OLD_LAYERS], made, config)
    except (KeyError, TypeError, AttributeError) as error:
        raise RequestError(f"{path} is damaged: its weights are not those of its layers.") from error
    return target


def _numbered_name(name: str, number: int) -> str:
    return f"{name}_{number}" if number else name


def _start(path: Path) -> bytes:
    with open(path, "rb") as stream:
        return stream.read(8)


def check_kind(path: Path) -> None:
    """Refuse a path at which there is no model file, without reading the file.

    Raises:
        RequestError: nothing is there, or something else; the message says what.
    """
    if not path.exists():
        raise RequestError(f"No such model file: {path}")
    if not path.is_file() or path.suffix not in SUFFIXES:
        raise RequestError(not_a_model(path))


def not_a_model(path: Path) -> str:
    """Say what a path is that is not a model file, and what to do."""
    expected = "expected a .keras, .h5 or .hdf5 file with a whole model"
    others = "(The verbs that make or judge files take .tflite files and SavedModel folders too, and qat trains them.)"
    if (path / "saved_model.pb").is_file():
        return (
            f"{path} is a SavedModel folder, a graph without layers; {expected}. Save the model as a .keras file with "
            f"the Keras that made it. {others}"
        )
    if path.is_dir():
        return f"{path} is a folder; {expected}."
    if path.suffix in SUFFIXES:
        return f"{path} is damaged or not a {path.suffix} file; {expected}."
    if path.suffix == ".tflite":
        return f"{path} is a converted file; {expected}. {others}"
    if path.suffix in (".pth", ".pt", ".ckpt", ".safetensors", ".bin"):
        return f"{path} may have weights, but no model; name the network and pass the file as --weights (weights=)."
    return f"{path}: {expected}, received {path.suffix!r}. {others}"


def _keras_parts(path: Path) -> tuple[Any, bytes, str]:
    """Return the configuration and the content of the weights of a ``.keras`` file, and the version of its Keras.

    Raises:
        RequestError: the file is damaged, or its entries are larger than the file can hold.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            budget = Budget(path, path)
            for info in archive.infolist():  # Keras reads others by itself
                budget.spend(info.file_size)
            config = files.parse_json(archive.read("config.json"), f"the config.json of {path}")
            about = files.parse_json(archive.read("metadata.json"), f"the metadata.json of {path}")
            return config, archive.read(_WEIGHTS), str(about["keras_version"])
    except RequestError:
        raise
    except Exception as error:  # a hostile file may make zipfile raise anything
        raise RequestError(f"{path} is damaged or not a .keras file ({error}).") from error


def _h5_parts(path: Path) -> tuple[Any, int, str]:
    """Return the configuration of an HDF5 file, how many bytes of weights it holds, and the version of its Keras."""
    with open_hdf5(path, path) as file:
        if "model_config" not in file.attrs:
            raise RequestError(
                f"{path} holds weights alone, not a model. Name the network and pass it as --weights (weights=)."
            )
        config = files.parse_json(file.attrs["model_config"], f"the model_config of {path}")
        _check_layers(file.get("model_weights", file), Budget(path, path))
        return config, _held_bytes(file), str(file.attrs.get("keras_version"))


def _check_layers(root: h5py.Group, budget: Budget) -> None:
    """Refuse a file whose layers name the same arrays so often that reading them would take too much memory."""
    for layer in strings(root, "layer_names"):
        for weight in strings(root[layer], "weight_names"):
            dataset = root[layer][weight]
            budget.spend(math.prod(dataset.shape) * dataset.dtype.itemsize)


def _held_bytes(file: h5py.File) -> int:
    """Return how many bytes of weights can be in a file: those of all its arrays, as float32."""
    import h5py

    held = 0

    def count(_, node):
        nonlocal held
        if isinstance(node, h5py.Dataset) and node.dtype.kind in "fiub":
            held += math.prod(node.shape) * max(4, node.dtype.itemsize)

    file.visititems(count)
    return held


def _declared_bytes(config: Any) -> int:
    """Return how many bytes of weights the layers of a configuration have, without allocating them."""
    import keras

    with keras_config.shapes_alone():
        model = keras.saving.deserialize_keras_object(copy.deepcopy(config), safe_mode=True)  # which empties it
    return sum(4 * math.prod(variable.shape) for variable in model.weights)


def _reason(error: Exception) -> str:
    """Return the sentence of Keras' message that tells the cause: the last one, where it quotes a whole layer."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = [line.removeprefix("Exception encountered: ") for line in lines if line.startswith("Exception encountered:")]
    return (told or lines or [type(error).__name__])[0][:300]
