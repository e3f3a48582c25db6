"""Find and read the weights that a builder is asked for, and load them into the layers of its model."""

from __future__ import annotations

import functools
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Union

import numpy as np

from mobilenets_tf.conventions import TENSORFLOW, Convention
from mobilenets_tf.errors import RequestError
from mobilenets_tf.layer_names import is_head
from mobilenets_tf.weights import catalog, checkpoints, saved_models, spellings, state_dicts

if TYPE_CHECKING:
    import keras

# The tag of a weight set, the path of a weight file, a model with the weights, or None for random weights.
Weights = Union[str, os.PathLike[str], "keras.Model", None]

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
    outputs: called with our name of a layer; its number of outputs in the weights, None if they do not have the layer.
    """

    convention: Convention
    load_into: Callable[..., None] = lambda model, resized=(): None
    has_bias: Callable[[str], bool] = lambda layer: False
    outputs: Callable[[str], int | None] = lambda layer: None

    def classes(self, asked: int | None) -> int:
        """Return the number of a classifier's outputs: what is ``asked`` for, else that of the weights, else 1000."""
        return asked if asked is not None else self.outputs(CLASSIFIER) or 1000


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
        weights: None; a tag of the catalog; the path of a ``.weights.h5`` or ``.keras`` file of the same network, an
            ``.h5``, ``.weights.h5`` or ``.keras`` of keras.applications, or a ``.safetensors`` or file of torch.save
            with the names of one of the sources in ``spellings`` (``checkpoints.read``). Names of wrappers and
            trainers before them are left out. Or a ``keras.Model``: such a network, or one of keras.applications,
            keras-cv or KerasHub.
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
    path = path_of(weights)
    if path is None:
        return _from_saved(*_of_model(weights), network, convention)
    if not path.is_file() and not path.suffix:
        record = catalog.find(network, str(weights), alpha)
        return _from_file(catalog.require(record), network, convention or record.convention)
    return _from_file(path, network, convention)


def _of_model(model: Any) -> tuple[saved_models.SavedWeights, Path]:
    """Return the weights of a ``keras.Model``, and what messages call the model in the place of a path."""
    return saved_models.weights_of(model), Path(f"the model {model.name}")


def path_of(weights: Any) -> Path | None:
    """Return weights that are a tag or the path of a file as a path; None for a model.

    Raises:
        RequestError: they are neither.
    """
    if isinstance(weights, (str, os.PathLike)):
        return Path(weights)
    if hasattr(weights, "layers") and hasattr(weights, "predict_on_batch"):
        return None
    raise RequestError(
        f"weights is a {type(weights).__name__}; expected the tag of a weight set, a path, or a keras.Model."
    )


def classes_in(path: Path, network: str) -> int | None:
    """Return how many classes the classifier in a weight file tells apart; None if the file has no classifier.

    Raises:
        RequestError: the file is damaged, refused, or of an unknown source.
    """
    if not path.is_file():
        raise RequestError(f"No such weight file: {path}")
    about = path.stat()
    return _classes_in(path, network, about.st_mtime_ns, about.st_size)


@functools.lru_cache(maxsize=8)
def _classes_in(path: Path, network: str, *_changes_with_the_file: int) -> int | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # building the network says the same
        return _from_file(path, network, None).outputs(CLASSIFIER)


def head_classes_in(weights: Any) -> int | None:
    """Return how many classes the detector or segmenter in weights tells apart, without a detector's background; None
    if they have no such head.

    Args:
        weights: the path of a weight file or a ``keras.Model``; for a tag, None is returned.

    Raises:
        RequestError: the file is damaged.
    """
    path = path_of(weights)
    if path is not None and not (path.is_file() and saved_models.is_saved(path)):
        return None
    saved = saved_models.weights_of(weights) if path is None else saved_models.read_weights(path)
    outputs = {
        name[:-2]: value.shape[-1]
        for name, value in saved.tensors.items()
        if is_head(name) and name.endswith(".0") and value.ndim
    }
    for layer in ("aspp_classifier", "lraspp_classifier"):
        if layer in outputs:
            return outputs[layer]
    boxes = outputs.get("ssd_level1_boxes", 0) // 4  # of each pixel
    return outputs.get("ssd_level1_classifier", 0) // boxes - 1 if boxes else None


def resolve_with_head(weights: Weights, convention: Convention | None = None) -> ResolvedWeights | None:
    """Read the weights of a whole detector or segmenter; None if ``weights`` are those of a classifier.

    Raises:
        RequestError: the file is damaged, or not of this package.
    """
    if weights is None:
        return None
    path = path_of(weights)
    if path is None:
        saved, path = _of_model(weights)
    elif path.is_file() and saved_models.is_saved(path):
        saved = saved_models.read_weights(path)
    else:
        return None
    return _own(saved, path, convention) if any(map(is_head, saved.tensors)) else None


def resolve_saved(weights: Weights, convention: Convention | None = None) -> ResolvedWeights:
    """Read the weights of a network of this package that has widths of its own.

    Raises:
        RequestError: ``weights`` are neither a ``.keras`` or ``.weights.h5`` file nor a ``keras.Model``, or the file is
            damaged.
    """
    path = path_of(weights)
    if path is None:
        return _own(*_of_model(weights), convention)
    if not path.is_file() or not saved_models.is_saved(path):
        raise RequestError(
            f"weights={weights!r}: a plan with widths of its own takes the weights that such a network was saved with, "
            "a .keras or .weights.h5 file. Build the network without channels, load, and prune it otherwise."
        )
    return _own(saved_models.read_weights(path), path, convention)


def _from_file(path: Path, network: str, convention: Convention | None) -> ResolvedWeights:
    if not path.is_file():
        raise RequestError(f"No such weight file: {path}")
    if saved_models.is_saved(path):
        return _from_saved(saved_models.read_weights(path), path, network, convention)
    return _from_source(checkpoints.read(path), path, network, convention)


def _from_saved(
    saved: saved_models.SavedWeights, path: Path, network: str, convention: Convention | None
) -> ResolvedWeights:
    checkpoint = saved.checkpoint(path)
    if not spellings.recognise(checkpoint.tensors) and any(name.startswith("stem_") for name in saved.tensors):
        return _own(saved, path, convention)
    return _from_source(checkpoint, path, network, convention)


def _from_source(
    checkpoint: checkpoints.Checkpoint, path: Path, network: str, convention: Convention | None
) -> ResolvedWeights:
    recognised = _recognise(checkpoint)
    checkpoint, spelling = recognised
    published = [record.convention for record in catalog.weight_sets(network) if record.filename == path.name]
    usual = published[0] if published else TENSORFLOW if path.name.startswith("tf_") else spelling.convention
    if convention is None and not published and spelling is spellings.SPELLINGS["timm"] and _both_in_timm(network):
        _warn(
            f"{path.name} is assumed to have {usual.padding!r} padding and BatchNorm epsilon "
            f"{usual.batchnorm_epsilon}, as most of timm's networks. timm's tf_* networks have 'same' and 1e-3: give "
            "the file of such a network a name that begins with tf_."
        )
    return _from_checkpoint(*recognised, convention or usual)


def _own(saved: saved_models.SavedWeights, path: Path, convention: Convention | None) -> ResolvedWeights:
    def outputs(layer: str) -> int | None:
        kernel = saved.tensors.get(f"{layer}.0")
        return None if kernel is None else kernel.shape[-1]

    return ResolvedWeights(
        convention or saved.convention,
        lambda model, resized=(): _copy(model, saved.tensors, path, resized),
        lambda layer: f"{layer}.1" in saved.tensors,
        outputs,
    )


def _both_in_timm(network: str) -> bool:
    """Whether timm has a network with both conventions under the same tensor names."""
    return "lite" in network or "_v3" in network


def _from_checkpoint(
    checkpoint: checkpoints.Checkpoint, spelling: spellings.Spelling, convention: Convention
) -> ResolvedWeights:
    def name(layer: str, parameter: str) -> str:
        source = spellings.names(spelling, [layer], checkpoint.tensors).get(layer)
        return f"{source}.{_PARAMETERS[checkpoint.framework][parameter]}"

    def load_into(model: keras.Model, resized: tuple[str, ...] = ()) -> None:
        _assign(model, checkpoint, spelling, resized)

    def outputs(layer: str) -> int | None:
        kernel = checkpoint.tensors.get(name(layer, "kernel"))
        if kernel is None or not kernel.ndim:
            return None
        return kernel.shape[0 if checkpoint.framework == "torch" else -1]

    return ResolvedWeights(convention, load_into, lambda layer: name(layer, "bias") in checkpoint.tensors, outputs)


def _recognise(checkpoint: checkpoints.Checkpoint) -> tuple[checkpoints.Checkpoint, spellings.Spelling]:
    """Return the tensors of the network in a file, and their spelling.

    Raises:
        RequestError: the source is unknown, or the file has several networks.
    """
    found = spellings.recognise(checkpoint.tensors, nested=checkpoint.framework == "torch")
    if not found:
        sample = ", ".join(name[:60] for name in list(checkpoint.tensors)[:3])
        raise RequestError(
            f"{checkpoint.path} is not of a known source: its tensors are called {sample}, ... "
            f"Known spellings: {', '.join(spellings.SPELLINGS)}."
        )
    if "" in found:
        return checkpoint, spellings.SPELLINGS[found[""]]
    try:
        tensors = state_dicts.of_network(checkpoint.tensors, found)
    except RequestError as error:
        raise RequestError(f"{checkpoint.path}: {error}") from error
    (table,) = spellings.recognise(tensors).values()
    return replace(checkpoint, tensors=tensors), spellings.SPELLINGS[table]


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

    axes = _reorder_torch if checkpoint.framework == "torch" else _reorder_grouped

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


def _reorder_grouped(layer, value: np.ndarray) -> np.ndarray:
    """Reorder the kernel of a depthwise convolution that Keras has as one with groups: (H, W, 1, C) -> (H, W, C, 1)."""
    grouped = type(layer).__name__ == "DepthwiseConv2D" and value.ndim == 4 and value.shape[2] == 1
    return value.transpose(0, 1, 3, 2) if grouped else value


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

    A classifier with another number of classes, or that the file does not have, stays as it was initialised, with a
    warning: transfer learning starts so. The same holds for layers of another size whose names begin with one of
    ``resized``.

    source_name: (layer, variable) -> name of the tensor. reorder: (layer, tensor) -> tensor with Keras' axes.
    heads: layers of the source that a model without its top may lack.

    Raises:
        RequestError: tensors are missing, left over or of the wrong shape, or have values that are NaN or infinite; the
            message lists them.
    """
    assignments: list[tuple[Any, np.ndarray]] = []
    missing: list[tuple[str, str]] = []  # our layer, and what is missing
    beyond: list[str] = []
    wrong: list[str] = []
    whole: list[str] = []
    used: set[str] = set()
    classes: dict[str, tuple[int, int]] = {}  # layer -> number in the file and in the model
    fresh: dict[str, None] = {}  # layers whose weights stay random, in the order of the model
    for layer in model.layers:
        for variable in layer.weights:
            name = source_name(layer, variable)
            if name not in tensors:
                missing.append((layer.name, f"{name} (for {layer.name}.{variable.name})"))
                continue
            used.add(name)
            value = _as_pointwise(reorder(layer, tensors[name]), variable)
            if value.dtype.kind in "iub":
                whole.append(f"{name}: {value.dtype}")
            elif value.shape == tuple(variable.shape):
                with np.errstate(over="ignore"):  # the check of the result says which layer
                    value = value.astype(np.float32)  # of half or double precision
                assignments.append((variable, value))
                if not np.isfinite(value).all():
                    beyond.append(f"{name} (for {layer.name}.{variable.name})")
            elif layer.name.endswith(CLASSIFIER):
                classes[layer.name] = value.shape[-1], variable.shape[-1]
            elif layer.name.startswith(resized):
                fresh.setdefault(layer.name)
            else:
                wrong.append(f"{name}: {value.shape}, {layer.name}.{variable.name} is {tuple(variable.shape)}")
    has_top = any(layer.name == CLASSIFIER for layer in model.layers)
    headless = has_top and sum(layer == CLASSIFIER for layer, _ in missing) == len(model.get_layer(CLASSIFIER).weights)
    if headless:  # the layers between the features and the classifier may have gone with it
        missing = [(layer, text) for layer, text in missing if layer not in _HEAD]
    left = [
        name
        for name, tensor in tensors.items()
        if name not in used
        and tensor.ndim  # a single number counts batches or averages
        and not name.endswith("num_batches_tracked")
        and (has_top or name.rpartition(".")[0] not in heads)
    ]
    problems = [
        f"{label} ({len(items)}): {', '.join(items[:6])}{', ...' if len(items) > 6 else ''}"
        for label, items in (
            ("missing", [text for _, text in missing]),
            ("wrong shape", wrong),
            ("no floating-point numbers", whole),
            ("left over", left),
            ("NaN or infinite", beyond),
        )
        if items
    ]
    if problems:
        raise RequestError(f"{path} does not fit {model.name}. " + ". ".join(problems) + ".")
    for variable, value in assignments:
        variable.assign(value)
    if headless:
        _warn(
            f"{path.name} has no classifier: that of {model.name} has random weights and must be trained; the backbone "
            "has the file's weights."
        )
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
