"""Find and read the weights that a builder is asked for, and load them into the layers of its model."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mobilenets_tf.conventions import TENSORFLOW, Convention
from mobilenets_tf.errors import RequestError
from mobilenets_tf.layer_names import is_head
from mobilenets_tf.weights import catalog, checkpoints, saved_models, spellings

if TYPE_CHECKING:
    import keras

# The tag of a weight set, the path of a weight file, or None for random weights.
Weights = str | os.PathLike[str] | None

CLASSIFIER = "classifier"
# Layers that a network without its top may lack (MobileNetV2 keeps its head_conv, MobileViT does not).
_HEAD = (CLASSIFIER, "hidden", "head_conv", "head_bn")
# Framework of the file -> our name of a variable -> the framework's.
_PARAMETERS = {
    "torch": {
        "kernel": "weight", "bias": "bias",
        "gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var",
    },
    "keras": {
        "kernel": "kernel", "bias": "bias",
        "gamma": "gamma", "beta": "beta", "moving_mean": "moving_mean", "moving_variance": "moving_variance",
    },
}  # fmt: skip


@dataclass(frozen=True)
class ResolvedWeights:
    """Weights that have been read, for a model that is still to be built.

    convention: padding and BatchNorm epsilon to build the model with.
    load_into: called with the model, and with prefixes of the names of layers whose size may differ.
    has_bias: called with our name of a layer; whether the weights have a bias for it.
    """

    convention: Convention
    load_into: Callable[..., None] = lambda model, resized=(): None
    has_bias: Callable[[str], bool] = lambda layer: False


def resolve(
    weights: Weights,
    network: str,
    *,
    alpha: float | None = None,
    convention: Convention | None = None,
    default: Convention = TENSORFLOW,
) -> ResolvedWeights:
    """Find and read weights before the model is built.

    Args:
        weights: None; a tag of the catalog; or the path of a ``.weights.h5`` or ``.keras`` file of the same network, an
            ``.h5`` of keras.applications, or a ``.safetensors``, ``.pth`` or ``.pt`` file with the names of one of the
            sources in ``spellings``.
        network: the registry name of the network that the weights are for.
        alpha: its width multiplier; None if it has none.
        convention: padding and BatchNorm epsilon to build with. None: the weight set's; of a file, the usual one of its
            source, or TensorFlow's if the file's name begins with "tf_" (timm's networks converted from TensorFlow).
        default: the convention without weights.

    Raises:
        RequestError: the tag or file does not exist; the weight set is not installed (the message says how to get it);
            the file is damaged, refused, or of an unknown source.
    """
    if weights is None:
        return ResolvedWeights(convention or default)
    path = Path(weights)
    if not path.is_file() and not path.suffix:
        record = catalog.find(network, str(weights), alpha)
        checkpoint = checkpoints.read(catalog.require(record))
        return _from_checkpoint(checkpoint, _recognise(checkpoint), convention or record.convention)
    if not path.is_file():
        raise RequestError(f"No such weight file: {path}")
    if _is_saved(path):
        return _from_saved(saved_models.read_weights(path), path, convention)
    checkpoint = checkpoints.read(path)
    spelling = _recognise(checkpoint)
    published = [record.convention for record in catalog.weight_sets(network) if record.filename == path.name]
    usual = published[0] if published else TENSORFLOW if path.name.startswith("tf_") else spelling.convention
    if convention is None and not published and spelling is spellings.SPELLINGS["timm"] and _both_in_timm(network):
        warnings.warn(
            f"{path.name} is assumed to have {usual.padding!r} padding and BatchNorm epsilon "
            f"{usual.batchnorm_epsilon}; timm's tf_* networks have 'same' and 1e-3: name the file tf_... or pass "
            "convention=.",
            stacklevel=3,
        )
    return _from_checkpoint(checkpoint, spelling, convention or usual)


def resolve_with_head(weights: Weights, convention: Convention | None = None) -> ResolvedWeights | None:
    """Read the weights of a whole detector or segmenter; None if ``weights`` are those of a classifier.

    Raises:
        RequestError: the file is damaged, or not of this package.
    """
    if weights is None or not (path := Path(weights)).is_file() or not _is_saved(path):
        return None
    saved = saved_models.read_weights(path)
    return _from_saved(saved, path, convention) if any(map(is_head, saved.tensors)) else None


def _is_saved(path: Path) -> bool:
    return path.suffix == ".keras" or path.name.endswith(".weights.h5")


def _from_saved(saved: saved_models.SavedWeights, path: Path, convention: Convention | None) -> ResolvedWeights:
    return ResolvedWeights(
        convention or saved.convention,
        lambda model, resized=(): _copy(model, saved.tensors, path, resized),
        lambda layer: f"{layer}.1" in saved.tensors,
    )


def _both_in_timm(network: str) -> bool:
    """Whether timm has a network with both conventions under the same tensor names."""
    return "lite" in network or "_v3" in network


def _from_checkpoint(
    checkpoint: checkpoints.Checkpoint, spelling: spellings.Spelling, convention: Convention
) -> ResolvedWeights:
    def has_bias(layer: str) -> bool:
        return f"{spellings.names(spelling, [layer], checkpoint.tensors).get(layer)}.bias" in checkpoint.tensors

    def load_into(model: keras.Model, resized: tuple[str, ...] = ()) -> None:
        _assign(model, checkpoint, spelling, resized)

    return ResolvedWeights(convention, load_into, has_bias)


def _recognise(checkpoint: checkpoints.Checkpoint) -> spellings.Spelling:
    table = spellings.recognise(checkpoint.tensors)
    if table is None:
        sample = ", ".join(list(checkpoint.tensors)[:3])
        raise RequestError(
            f"{checkpoint.path} is not of a known source: its tensors are called {sample}, ... "
            f"Known spellings: {', '.join(spellings.SPELLINGS)}."
        )
    return spellings.SPELLINGS[table]


def _copy(model: keras.Model, tensors: dict[str, np.ndarray], path: Path, resized: tuple[str, ...]) -> None:
    """Fill a model from a Keras file, whose tensors are named by layer and index of the variable in the layer."""

    def source_name(layer, variable):
        return f"{layer.name}.{[v is variable for v in layer.weights].index(True)}"

    _fill(model, tensors, source_name, lambda layer, value: value, _HEAD, path, resized)


def _assign(
    model: keras.Model,
    checkpoint: checkpoints.Checkpoint,
    spelling: spellings.Spelling,
    resized: tuple[str, ...] = (),
) -> None:
    """Fill a model from the tensors of another framework or source."""
    layers = [layer.name for layer in model.layers if layer.weights]
    names = spellings.names(spelling, layers, checkpoint.tensors)
    parameters = _PARAMETERS[checkpoint.framework]

    def source_name(layer, variable):
        name = names.get(layer.name, layer.name)
        parameter = parameters[variable.name]
        # Keras 2 has another name for the kernel of a depthwise convolution.
        if f"{name}.depthwise_{parameter}" in checkpoint.tensors:
            parameter = f"depthwise_{parameter}"
        return f"{name}.{parameter}"

    axes = _reorder_torch if checkpoint.framework == "torch" else lambda layer, value: value

    def reorder(layer, value):
        value = axes(layer, value)
        return value[:, :, ::-1] if spelling.bgr and layer.name == "stem_conv" else value

    heads = (*spelling.classifier, *(spelling.layers[name] for name in _HEAD if name in spelling.layers))
    _fill(model, checkpoint.tensors, source_name, reorder, heads, checkpoint.path, resized)


def _reorder_torch(layer, value: np.ndarray) -> np.ndarray:
    """Reorder PyTorch's axes: OIHW -> HWIO; depthwise (C, 1, H, W) -> (H, W, C, 1); linear (O, I) -> (I, O)."""
    if value.ndim == 4:
        depthwise = type(layer).__name__ == "DepthwiseConv2D"
        return value.transpose((2, 3, 0, 1) if depthwise else (2, 3, 1, 0))
    return value.T


def _as_pointwise(value: np.ndarray, variable) -> np.ndarray:
    """Reshape the kernel of a 1x1 convolution for a linear layer, and vice versa: (1, 1, I, O) <-> (I, O)."""
    shape = tuple(variable.shape)
    if {value.ndim, len(shape)} == {2, 4} and value.shape[-2:] == shape[-2:] and value.size == np.prod(shape):
        return value.reshape(shape)
    return value


def _fill(
    model: keras.Model,
    tensors: dict[str, np.ndarray],
    source_name: Callable[[Any, Any], str],
    reorder: Callable[[Any, np.ndarray], np.ndarray],
    heads: tuple[str, ...],
    path: Path,
    resized: tuple[str, ...],
) -> None:
    """Assign every weight of ``model`` from ``tensors``, or none of them.

    A classifier with another number of classes stays as it was initialised, with a warning: transfer learning starts
    so. The same holds for layers of another size whose names begin with one of ``resized``.

    source_name: (layer, variable) -> name of the tensor. reorder: (layer, tensor) -> tensor with Keras' axes.
    heads: layers of the source that a model without its top may lack.

    Raises:
        RequestError: tensors are missing, left over or of the wrong shape; the message lists them.
    """
    assignments: list[tuple[Any, np.ndarray]] = []
    missing: list[str] = []
    wrong: list[str] = []
    used: set[str] = set()
    classes: dict[str, tuple[int, int]] = {}  # layer -> number in the file and in the model
    fresh: dict[str, None] = {}  # layers whose weights stay random, in the order of the model
    for layer in model.layers:
        for variable in layer.weights:
            name = source_name(layer, variable)
            if name not in tensors:
                missing.append(f"{name} (for {layer.name}.{variable.name})")
                continue
            used.add(name)
            value = _as_pointwise(reorder(layer, tensors[name]), variable)
            if value.shape == tuple(variable.shape):
                assignments.append((variable, value))
            elif layer.name.endswith(CLASSIFIER):
                classes[layer.name] = value.shape[-1], variable.shape[-1]
            elif layer.name.startswith(resized):
                fresh.setdefault(layer.name)
            else:
                wrong.append(f"{name}: {value.shape}, {layer.name}.{variable.name} is {tuple(variable.shape)}")
    has_top = any(layer.name == CLASSIFIER for layer in model.layers)
    left = [
        name
        for name in tensors
        if name not in used
        and not name.endswith("num_batches_tracked")
        and (has_top or name.rpartition(".")[0] not in heads)
    ]
    problems = [
        f"{label} ({len(items)}): {', '.join(items[:6])}{', ...' if len(items) > 6 else ''}"
        for label, items in (("missing", missing), ("wrong shape", wrong), ("left over", left))
        if items
    ]
    if problems:
        raise RequestError(f"{path} does not fit {model.name}. " + ". ".join(problems) + ".")
    for variable, value in assignments:
        variable.assign(value)
    if CLASSIFIER in classes:
        in_file, in_model = classes[CLASSIFIER]
        _warn(
            f"{path.name} has {in_file} classes and {model.name} was asked for {in_model}: the backbone has the file's "
            "weights, the classifier has random weights and must be trained."
        )
    elif classes:
        _warn(
            f"{path.name} has other classes than {model.name} was asked for: {', '.join(sorted(classes))} "
            f"{'have' if len(classes) > 1 else 'has'} random weights and must be trained; all other layers have the "
            "file's weights."
        )
    if fresh:
        _warn(
            f"{model.name} is not as wide as {path.name} from {next(iter(fresh))} on: {len(fresh)} layers have random "
            "weights and must be trained; the others have the file's weights."
        )


def _warn(message: str) -> None:
    warnings.warn(message, stacklevel=5)
