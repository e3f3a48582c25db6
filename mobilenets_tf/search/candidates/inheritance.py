"""Give a candidate the weights of the trained parent: blocks by position, channels by importance, kernels by centre."""

from collections.abc import Mapping
from dataclasses import dataclass

import keras
import numpy as np

from mobilenets_tf.conversion.rewriting import copy_weights
from mobilenets_tf.errors import RequestError
from mobilenets_tf.factory import create_model
from mobilenets_tf.pruning.channels import ChannelGroup, channel_groups
from mobilenets_tf.pruning.prune import Importance, prune
from mobilenets_tf.search.candidates.space import Point, Space
from mobilenets_tf.weights.load import resolve_saved

_EXCITE, _SQUEEZE, _PROJECT = "_excite_conv", "_squeeze_conv", "_project_conv"
_GATE = 0.5  # of an input of 0: both of the gates' activations, sigmoid and hard sigmoid
_NODES = 32  # of the Gauss-Hermite quadrature


@dataclass(frozen=True, eq=False)
class Inherited:
    """A candidate with the weights of its parent.

    model: not compiled.
    changed: layer whose weights are not, or not all, the parent's -> how they came about, a clause. Channels that were
        taken away are not listed.
    """

    model: keras.Model
    changed: Mapping[str, str]


def inherit(parent: keras.Model, space: Space, point: Point, *, importance: Importance | None = None) -> Inherited:
    """Build the network of a point with the weights of the trained parent.

    * Blocks have the weights of the parent's block at the same position.
    * Of a group's channels those with the highest importance stay.
    * Of a depthwise kernel the centre stays; a larger one has zeros around it. Both paddings keep the centres on the
      same pixels, so a kernel whose outer ring is zero gives the same outputs as the smaller one.
    * A squeeze-and-excite that is new changes no output at first: its second convolution is zero, so its gates are 0.5,
      and the projection behind it is doubled. Gates of 1 would be the identity too, but a hard sigmoid is flat there,
      and could not learn.
    * Where one is gone, the projection is multiplied with the gates that the parent has for the mean input: the mean
      follows from the BatchNormalization before it, whose outputs are taken as normal.

    Args:
        parent: the trained network from which the space was made. It is not changed.
        space: of the parent or its plan.
        point: of the space.
        importance: as in ``prune``; of the parent's groups.

    Raises:
        RequestError: the point is none of the space, or the model is not the network of the space's plan.
    """
    space.check(point)
    _check_parent(parent, space)
    model, changed = parent, {}
    if space.plan is not None and space.structure_of(point) != space.structure_of(space.parent):
        model = create_model(space.structure_of(point), convention=resolve_saved(parent).convention)
        changed = _take_over(parent, model)
    if importance is not None:
        importance = _of_all(importance, parent)
    there, widths = channel_groups(model).groups, space.widths(point)
    keep = {group: width for group, width in widths.items() if width != there[group].width}
    return Inherited(prune(model, keep, importance=importance) if keep or model is parent else model, changed)


def _check_parent(parent: keras.Model, space: Space) -> None:
    """Refuse a model that is not the parent.

    Raises:
        RequestError: its groups of channels are others.
    """
    expected = space.widths(space.parent)
    there = {name: group.width for name, group in channel_groups(parent).groups.items()}
    for name in {**expected, **there}:
        if expected.get(name) != there.get(name):
            raise RequestError(
                f"{parent.name!r} is not the network that the space was made of: of the group {name!r} it has "
                f"{there.get(name, 'no')} channels, the space {expected.get(name, 'none')}."
            )


def _take_over(parent: keras.Model, model: keras.Model) -> dict[str, str]:
    """Give a network the parent's weights, layer by layer of the same name.

    Returns:
        The layers with other weights, and how they came about.

    Raises:
        RequestError: weights do not fit.
    """
    theirs = {layer.name: layer for layer in parent.layers}
    changed: dict[str, str] = {}
    for layer in model.layers:
        if not layer.weights:
            continue
        if layer.name not in theirs:
            changed[layer.name] = "the parent does not have it; it is new"
            continue
        source = theirs[layer.name]
        shapes = [[tuple(weight.shape) for weight in each.weights] for each in (source, layer)]
        if shapes[0] == shapes[1]:
            copy_weights(source, layer)
        elif isinstance(layer, keras.layers.DepthwiseConv2D) and _same_but_for_the_kernel(*shapes):
            sides = layer.kernel_size
            copy_weights(source, layer, lambda variable, values, sides=sides: _centred(values, sides))
            (old, _), (new, _) = source.kernel_size, sides
            changed[layer.name] = f"the {old}x{old} kernel is {'cut' if new < old else 'padded'} to {new}x{new}"
        else:
            raise RequestError(
                f"{parent.name!r} is not the network of the space's plan: {layer.name!r} has weights of "
                f"{shapes[0]}, expected {shapes[1]}. A plan says the number of classes too (options: classes)."
            )
    changed |= _new_gates(theirs, model)
    changed |= _lost_gates(theirs, model)
    return changed


def _same_but_for_the_kernel(some: list[tuple], others: list[tuple]) -> bool:
    return [shape[-2:] for shape in some] == [shape[-2:] for shape in others]


def _centred(values: np.ndarray, sides: tuple[int, int]) -> np.ndarray:
    """Cut a kernel, (height, width, channels, multiplier), to its centre, or pad it with zeros. A bias stays."""
    if values.ndim != 4:
        return values
    for axis, side in enumerate(sides):
        margin = (side - values.shape[axis]) // 2
        if margin < 0:
            values = np.take(values, range(-margin, values.shape[axis] + margin), axis)
        else:
            values = np.pad(values, [(margin, margin) if each == axis else (0, 0) for each in range(values.ndim)])
    return values


def _new_gates(theirs: Mapping[str, keras.Layer], model: keras.Model) -> dict[str, str]:
    """Make each new squeeze-and-excite the identity. Returns the projections that were scaled."""
    changed = {}
    for layer in model.layers:
        if layer.name.endswith(_EXCITE) and layer.name not in theirs:
            layer.set_weights([np.zeros_like(values) for values in layer.get_weights()])
            project = model.get_layer(layer.name.removesuffix(_EXCITE) + _PROJECT)
            project.set_weights([project.get_weights()[0] / _GATE, *project.get_weights()[1:]])
            changed[project.name] = f"times {1 / _GATE:g}, for the gates of the new squeeze-and-excite"
    return changed


def _lost_gates(theirs: Mapping[str, keras.Layer], model: keras.Model) -> dict[str, str]:
    """Multiply the expected gates of each squeeze-and-excite that is gone into the projection behind it."""
    ours = {layer.name: layer for layer in model.layers}
    changed = {}
    for name in theirs:
        block = name.removesuffix(_EXCITE)
        project = ours.get(block + _PROJECT)
        if block != name and project is not None and name not in ours:
            kernel, *others = project.get_weights()
            project.set_weights([kernel * _expected_gates(theirs, block)[:, None], *others])
            changed[project.name] = "times the expected gates of the squeeze-and-excite that is gone"
    return changed


def _expected_gates(theirs: Mapping[str, keras.Layer], block: str) -> np.ndarray:
    """Return the gates of a block for the mean of its depthwise convolution's output, (channels,)."""
    bn = theirs[f"{block}_depthwise_bn"]
    points, weights = np.polynomial.hermite_e.hermegauss(_NODES)
    values = np.asarray(bn.beta) + np.asarray(bn.gamma) * points[:, None]  # (nodes, channels)
    x = keras.ops.convert_to_tensor(values[:, None, None, :], "float32")
    mean = np.tensordot(weights / weights.sum(), np.asarray(_activation(theirs, f"{block}_depthwise")(x)), 1)[None]
    squeezed = _activation(theirs, f"{block}_squeeze")(theirs[f"{block}{_SQUEEZE}"](mean))
    return np.asarray(_activation(theirs, f"{block}_excite")(theirs[f"{block}{_EXCITE}"](squeezed))).reshape(-1)


def _activation(theirs: Mapping[str, keras.Layer], name: str) -> keras.Layer:
    """Return the activation whose layer is named ``{name}_{activation}``."""
    kinds = keras.layers.ReLU, keras.layers.Activation
    return next(layer for other, layer in theirs.items() if other.startswith(f"{name}_") and isinstance(layer, kinds))


def _of_all(importance: Importance, parent: keras.Model) -> Importance:
    """Return scores that also know groups that the parent does not have: their channels are equal."""
    known = channel_groups(parent).groups

    def scores(group: ChannelGroup):
        if group.name not in known:
            return np.zeros(group.width)
        if callable(importance):
            return importance(group)
        if group.name not in importance:
            raise RequestError(f"importance has no scores of {group.name!r}, whose channels may go.")
        return importance[group.name]

    return scores
