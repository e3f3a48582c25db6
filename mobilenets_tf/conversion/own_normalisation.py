"""Find out what normalisation a model does by itself, in Rescaling, in Normalization or in plain arithmetic.

A model that divides by 255 inside takes pixels as they are. Whoever normalises them once more gets wrong answers
without any error, so the layers between the image and the first weights are tried on images of one value.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mobilenets_tf.conversion.rewriting import is_functional
from mobilenets_tf.data.preprocessing import CHANNELS

if TYPE_CHECKING:
    import keras

_LEVELS = (0.0, 127.5, 255.0)  # of the images that are tried
# A standard deviation of the input: from this on, of pixel values; up to that, of values from 0 to 1.
_OF_PIXELS, _OF_SHARES = 20.0, 2.5
# In a graph, factors near 1 and terms near 0 may be those of a BatchNormalization. Those of values from 0 to 1 are
# beyond: such values have a mean well inside of the interval, and a standard deviation of half of it at most.
_SURE_OF_SHARES, _SURE_MEANS = 0.6, (0.2, 0.8)


@dataclass(frozen=True)
class OwnNormalisation:
    """What a model's first layers do to its image.

    layers: their names. mean, std: of the preprocessing, in pixel values, with which the model is right: 0 and 1 if it
    takes pixel values, 0 and 255 if it takes values from 0 to 1.
    """

    layers: tuple[str, ...]
    mean: float
    std: float

    def described(self) -> str:
        """Say in words what the model does."""
        names = " and ".join(map(repr, self.layers))
        takes = "pixel values 0 to 255" if self.std == 1 else "values from 0 to 1"
        return f"it normalises {takes} by itself, in {names}"


def image_layers(model: "keras.Model") -> Iterator[Any]:
    """Yield the layers and operations that a model's only input passes before any layer with weights; the model's own
    normalisation is among them. What Normalization has been adapted to does not count as weights."""
    for node in _chain(model):
        yield node.operation


def _chain(model: Any) -> Iterator[Any]:
    """Yield the node of each such operation, in models inside the model too."""
    if len(model.inputs) != 1:
        return
    functional = getattr(model, "_functional", None) or model
    readers: dict[int, list] = {}
    for nodes in functional._nodes_by_depth.values():
        for node in nodes:
            for tensor in node.input_tensors:
                readers.setdefault(id(tensor), []).append(node)
    (tensor,) = functional.inputs
    ends = {id(output) for output in functional.outputs}
    while id(tensor) not in ends and len(nodes := readers.get(id(tensor), [])) == 1:
        (node,) = nodes
        if is_functional(node.operation):
            yield from _chain(node.operation)
        if len(node.input_tensors) != 1 or len(node.outputs) != 1 or not _passes(node.operation):
            return
        shape, old = node.outputs[0].shape, tensor.shape
        if len(shape) != 4 or shape[-1] != old[-1]:
            return
        (tensor,) = node.outputs
        if not is_functional(node.operation):
            yield node


def _passes(operation: Any) -> bool:
    """Tell whether an operation has no weights, apart from those of Normalization."""
    layers = operation._flatten_layers() if hasattr(operation, "_flatten_layers") else ()
    return all(is_functional(layer) or type(layer).__name__ == "Normalization" or not layer.weights for layer in layers)


def own_normalisation(model: "keras.Model") -> OwnNormalisation | None:
    """Return what normalisation a functional or sequential model with one image of fixed size does by itself; None if
    it does none, or such as fits neither pixel values nor values from 0 to 1.
    """
    if not is_functional(model) or not model.built or len(model.inputs) != 1:
        return None
    shape = model.inputs[0].shape
    if len(shape) != 4 or None in shape[1:] or shape[3] not in CHANNELS:
        return None
    return noticed(_probed(model, plain_images(shape[1:])))


def plain_images(shape: Sequence[int]) -> np.ndarray:
    """Make the images that a model is tried on: float32, each of one value.

    shape: of one image, (height, width, channels).
    """
    return np.stack([np.full(shape, level, np.float32) for level in _LEVELS])


def noticed(steps: Iterable[tuple[str, np.ndarray]], may_be_weights: bool = False) -> OwnNormalisation | None:
    """Return the normalisation that a model's first steps do; None as for ``own_normalisation``.

    Args:
        steps: of each step its name, and its results for ``plain_images``, (images, height, width, channels).
        may_be_weights: factors and terms may be learned, as in a graph.
    """
    scale, shift, names = np.float64(1), np.float64(0), []
    for name, found in steps:
        middle = found[:, found.shape[1] // 2, found.shape[2] // 2].astype(np.float64)
        new_scale = (middle[2] - middle[0]) / (_LEVELS[2] - _LEVELS[0])
        if not new_scale.all() or not np.allclose(middle[1], (middle[0] + middle[2]) / 2, rtol=1e-3, atol=1e-3):
            break  # no longer a factor and a term for each channel
        if not (np.allclose(new_scale, scale, rtol=1e-5) and np.allclose(middle[0], shift, rtol=1e-5, atol=1e-6)):
            names.append(name)
        scale, shift = new_scale, middle[0]
    if not names:
        return None
    std, mean = float(np.mean(1 / np.abs(scale))), float(np.mean(-shift / scale))
    if std >= _OF_PIXELS or (std > 0.5 and mean >= 2 * _OF_PIXELS):
        return OwnNormalisation(tuple(names), 0.0, 1.0)
    if may_be_weights and not (std <= _SURE_OF_SHARES and _SURE_MEANS[0] <= mean <= _SURE_MEANS[1]):
        return None
    if std <= _OF_SHARES and -0.05 <= mean <= 1.05:
        return OwnNormalisation(tuple(names), 0.0, 255.0)
    return None


def _probed(model: "keras.Model", images: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the name of each of the model's first operations with its results for some images."""
    values: Any = images
    for node in _chain(model):
        args, kwargs = node.arguments.fill_in({id(node.input_tensors[0]): values})
        if getattr(node.operation, "_call_has_training_arg", False):  # RandomBrightness trains by default
            kwargs = kwargs | {"training": False}
        values = node.operation(*args, **kwargs)
        yield node.operation.name, np.asarray(values)
