"""Find the weights that a builder was asked for, and put them into its layers."""

import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mobilenets_tf.conventions import TENSORFLOW, Convention
from mobilenets_tf.errors import RequestError
from mobilenets_tf.layer_names import is_head
from mobilenets_tf.weights import catalog, checkpoints, saved_models, spellings

Weights = str | os.PathLike[str] | None  # what a builder takes: a tag, the path of a file, or random weights

CLASSIFIER = "classifier"
# What a network without its top may not have (MobileNetV2 keeps its head_conv, MobileViT does not).
_HEAD = (CLASSIFIER, "hidden", "head_conv", "head_bn")
# Our variable name -> the source's, by the framework the file comes from.
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
    """Weights that were found and read: the convention to build with, and what fills a built model.

    load_into: called with the model, and the beginnings of the names of layers that may be of another size.
    has_bias: whether there is a bias for a layer, by our name of it.
    """

    convention: Convention
    load_into: Callable = lambda model, resized=(): None
    has_bias: Callable[[str], bool] = lambda layer: False


def resolve(
    weights,
    network: str,
    *,
    alpha: float | None = None,
    convention: Convention | None = None,
    default: Convention = TENSORFLOW,
) -> ResolvedWeights:
    """Find and read weights before anything is built.

    Args:
        weights: None; a tag of the catalog; or a path: ``.weights.h5`` or ``.keras`` of this package's network,
            ``.h5`` of keras.applications, ``.safetensors``, ``.pth`` or ``.pt`` with the names of one of the sources in
            ``spellings``.
        network, alpha: which network the weights are for.
        convention: what to build with; None takes the weight set's. For a file it is its source's usual one, and
            TensorFlow's if the file's name begins with "tf_" (timm's networks converted from TensorFlow).
        default: the convention without weights.

    Raises:
        RequestError: no such tag or file, not installed (the one command is given), damaged, or refused.
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
            f"{path.name} is taken to keep {usual.padding!r} padding and BatchNorm epsilon {usual.batchnorm_epsilon}; "
            "timm's tf_* networks keep 'same' and 1e-3: name the file tf_... or pass convention=.",
            stacklevel=3,
        )
    return _from_checkpoint(checkpoint, spelling, convention or usual)


def resolve_with_head(weights, convention: Convention | None = None) -> ResolvedWeights | None:
    """The weights of a whole detector or segmenter; None where ``weights`` are a classifier's, for its backbone.

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
    """Whether timm has a network in both conventions, with the same tensor names."""
    return "lite" in network or "_v3" in network


def _from_checkpoint(checkpoint, spelling: spellings.Spelling, convention: Convention) -> ResolvedWeights:
    def has_bias(layer):
        return f"{spellings.names(spelling, [layer], checkpoint.tensors).get(layer)}.bias" in checkpoint.tensors

    def load_into(model, resized=()):
        _assign(model, checkpoint, spelling, resized)

    return ResolvedWeights(convention, load_into, has_bias)


def _recognise(checkpoint) -> spellings.Spelling:
    table = spellings.recognise(checkpoint.tensors)
    if table is None:
        sample = ", ".join(list(checkpoint.tensors)[:3])
        raise RequestError(
            f"{checkpoint.path} is not of a source that is known here: its tensors are called {sample}, ... "
            f"Known spellings: {', '.join(spellings.SPELLINGS)}."
        )
    return spellings.SPELLINGS[table]


def _copy(model, tensors: dict, path: Path, resized: tuple[str, ...]):
    """From a file of Keras', whose tensors are known by their layer's name and their place in it."""

    def source_name(layer, variable):
        return f"{layer.name}.{[v is variable for v in layer.weights].index(True)}"

    _fill(model, tensors, source_name, lambda layer, value: value, _HEAD, path, resized)


def _assign(model, checkpoint, spelling: spellings.Spelling, resized: tuple[str, ...] = ()):
    """From another framework's or source's tensors."""
    layers = [layer.name for layer in model.layers if layer.weights]
    names = spellings.names(spelling, layers, checkpoint.tensors)
    parameters = _PARAMETERS[checkpoint.framework]

    def source_name(layer, variable):
        name = names.get(layer.name, layer.name)
        parameter = parameters[variable.name]
        # Keras 2 called this one variable otherwise.
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
    """PyTorch's axes to Keras': OIHW -> HWIO; depthwise (C, 1, H, W) -> (H, W, C, 1); linear (O, I) -> (I, O)."""
    if value.ndim == 4:
        depthwise = type(layer).__name__ == "DepthwiseConv2D"
        return value.transpose((2, 3, 0, 1) if depthwise else (2, 3, 1, 0))
    return value.T


def _as_pointwise(value: np.ndarray, variable) -> np.ndarray:
    """A 1x1 convolution's kernel for a linear layer and the other way round: (1, 1, I, O) <-> (I, O)."""
    shape = tuple(variable.shape)
    if {value.ndim, len(shape)} == {2, 4} and value.shape[-2:] == shape[-2:] and value.size == np.prod(shape):
        return value.reshape(shape)
    return value


def _fill(
    model,
    tensors: dict,
    source_name: Callable,
    reorder: Callable,
    heads: tuple[str, ...],
    path: Path,
    resized: tuple[str, ...],
):
    """Assign every weight of ``model`` from ``tensors``, all or none; tell what does not fit.

    A classifier of another size is left as it was initialised, with a warning: that is how transfer learning starts.
    So are layers whose names begin with one of ``resized``.

    Raises:
        RequestError: tensors missing, left over or of the wrong shape; each is listed.
    """
    assignments, missing, wrong, used, classes, fresh = [], [], [], set(), {}, {}
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
                fresh[layer.name] = True
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
        found, wanted = classes[CLASSIFIER]
        _warn(
            f"{path.name} has {found} classes and {model.name} was asked for {wanted}: the backbone has its weights, "
            "the classifier is fresh and has to be trained."
        )
    elif classes:
        _warn(
            f"{path.name} has other classes than {model.name} was asked for: {', '.join(sorted(classes))} "
            f"{'are' if len(classes) > 1 else 'is'} fresh and to be trained; all else has its weights."
        )
    if fresh:
        _warn(
            f"{model.name} is not as wide as {path.name} from {next(iter(fresh))} on: {len(fresh)} layers are fresh "
            "and have to be trained; the others have its weights."
        )


def _warn(message: str):
    warnings.warn(message, stacklevel=5)
