"""Fold MobileOne's training-time branches into single convolutions: the same function, far fewer operations.

A sum of convolutions, each followed by a BatchNorm at inference, is one convolution with a bias: the kernels, scaled by
gamma / sqrt(variance + epsilon), add up; a 1x1 kernel joins at the tap that looks at the same pixel, and the identity
is a 1x1 kernel of ones (Ding et al. 2021, arXiv 2101.03697, section 3.3; Vasu et al. 2022, arXiv 2206.04040, 3.2).
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from mobilenets_tf.conversion.rewriting import reachable_layers, rebuild
from mobilenets_tf.errors import RequestError

if TYPE_CHECKING:
    import keras

_FIRST = re.compile(r"(?P<unit>.+)_branch1_conv")  # the layer that every unit has; users may have their own "skip_bn"
_MEMBER = re.compile(r"(?P<unit>.+)_(?P<branch>branch\d+|scale|skip)_(?P<kind>conv|bn)")


def reparameterize(model: "keras.Model") -> "keras.Model":
    """Fold all MobileOne units of a model into their inference form.

    Args:
        model: a functional or sequential model: a MobileOne, or a model that contains one, as a nested model or layer
            by layer. It is not changed.

    Returns:
        A new model with the same outputs at inference (to 1e-5 of the largest in float32; the folding is computed in
        float64), the other layers copied with their weights. ``model`` itself if it has no unit.

    Raises:
        RequestError: a unit is inside a subclassed model or a wrapper layer, a unit is not whole, or a layer cannot be
            copied.
    """
    return fold(model, share=False)


def fold(model: "keras.Model", *, share: bool) -> "keras.Model":
    """Fold as ``reparameterize`` does; with ``share``, other layers are shared (see ``rewriting.rebuild``)."""
    units = {match["unit"] for layer in model._flatten_layers() if (match := _FIRST.fullmatch(layer.name))}
    if not units:
        return model
    reachable = {match["unit"] for layer in reachable_layers(model) if (match := _FIRST.fullmatch(layer.name))}
    if hidden := sorted(units - reachable):
        raise RequestError(
            f"{model.name!r} has MobileOne units where they cannot be reached ({hidden[0]!r}, ...): in a subclassed "
            "model or a wrapper layer. Fold the backbone before you put it there: reparameterize(backbone)."
        )
    return rebuild(model, _fused_calls, share=share)


def _fused_calls(model: "keras.Model") -> dict["keras.Layer", Callable]:
    """Replace the calls of all units of a model: the layers of a unit pass their input on, and the last one applies the
    fused convolution.
    """
    replacements = {}
    for unit in _units(model):
        replacements |= dict.fromkeys(unit.layers, _first)
        replacements[unit.last] = unit.fuse(model)
    return replacements


def _first(tensors: object) -> object:
    """Give the first input of a layer. The first term of a sum is the first branch, which reads the padded input."""
    return tensors[0] if isinstance(tensors, (list, tuple)) else tensors


@dataclass
class _Unit:
    """The layers of one unit in the training form.

    convolutions, norms: branch -> its convolution, its BatchNorm. total: the sum of the branches; None for one branch.
    """

    name: str
    convolutions: dict[str, "keras.Layer"] = field(default_factory=dict)
    norms: dict[str, "keras.Layer"] = field(default_factory=dict)
    total: "keras.Layer | None" = None

    @property
    def layers(self) -> "list[keras.Layer]":
        """All layers of the unit."""
        return [layer for layer in (*self.convolutions.values(), *self.norms.values(), self.total) if layer]

    @property
    def last(self) -> "keras.Layer":
        """The layer whose output is the output of the unit."""
        return self.total or self.norms["branch1"]

    def fuse(self, model: "keras.Model") -> Callable:
        """Make the convolution with a bias that computes the unit at inference; give the function that calls it."""
        main = self.convolutions["branch1"]
        kernel, bias = 0.0, 0.0
        for branch, norm in self.norms.items():
            scale, shift = _affine(norm)
            one = _identity(main) if branch == "skip" else np.asarray(self.convolutions[branch].kernel, np.float64)
            depthwise = type(main).__name__ == "DepthwiseConv2D"
            kernel = kernel + self._embed(one, model) * (scale[:, None] if depthwise else scale)
            bias = bias + shift
        config = main.get_config() | {"name": f"{self.name}_conv", "use_bias": True}
        fused = type(main).from_config(config)
        fused.build_from_config(main.get_build_config())
        fused.set_weights([kernel.astype(np.float32), bias.astype(np.float32)])
        fused.trainable = any(layer.trainable_weights for layer in self.layers)
        return lambda tensors: fused(_first(tensors))

    def _embed(self, kernel: np.ndarray, model: "keras.Model") -> np.ndarray:
        """Enlarge a 1x1 kernel to the unit's size, zero except at the tap over the same pixel."""
        main = self.convolutions["branch1"]
        if kernel.shape[:2] == tuple(main.kernel_size):
            return kernel
        embedded = np.zeros((*main.kernel_size, *kernel.shape[2:]))
        embedded[_aligned_tap(main, 0, model, self.name), _aligned_tap(main, 1, model, self.name)] = kernel[0, 0]
        return embedded


def _units(model: "keras.Model") -> list[_Unit]:
    """Find the units at the top level of a functional model.

    Raises:
        RequestError: a unit is not whole, or another layer reads a result inside a unit.
    """
    names = [match["unit"] for layer in model.layers if (match := _FIRST.fullmatch(layer.name))]
    units = {name: _Unit(name) for name in names}
    for layer in model.layers:
        if (match := _MEMBER.fullmatch(layer.name)) and (unit := units.get(match["unit"])):
            (unit.convolutions if match["kind"] == "conv" else unit.norms)[match["branch"]] = layer
    sums = {layer.name: layer for layer in model.layers if layer.name.endswith("_sum")}
    for unit in units.values():
        unit.total = sums.get(f"{unit.name}_sum")
        whole = set(unit.norms) - {"skip"} == set(unit.convolutions)
        if not whole or (len(unit.norms) > 1) != (unit.total is not None) or _read_inside(model, unit):
            raise RequestError(
                f"The unit {unit.name!r} of {model.name!r} is not whole, or something reads its insides: it cannot be "
                "folded. Fold the backbone before you take it apart: reparameterize(backbone)."
            )
    return list(units.values())


def _read_inside(model: "keras.Model", unit: _Unit) -> bool:
    """Tell whether a layer outside of the unit reads the result of a layer in the unit other than the last."""
    members = {id(layer) for layer in unit.layers}
    inner = members - {id(unit.last)}
    nodes = [node for nodes in model._nodes_by_depth.values() for node in nodes]
    outside = [tensor for node in nodes if id(node.operation) not in members for tensor in node.input_tensors]
    return any(id(tensor._keras_history.operation) in inner for tensor in [*outside, *model.outputs])


def _affine(norm: "keras.layers.BatchNormalization") -> tuple[np.ndarray, np.ndarray]:
    """Write a BatchNorm at inference as scale and shift of each channel, in float64."""
    mean, variance = (np.asarray(value, np.float64) for value in (norm.moving_mean, norm.moving_variance))
    scale = 1 / np.sqrt(variance + norm.epsilon)
    if norm.scale:
        scale = scale * np.asarray(norm.gamma, np.float64)
    shift = -mean * scale
    return scale, shift + np.asarray(norm.beta, np.float64) if norm.center else shift


def _identity(convolution: "keras.Layer") -> np.ndarray:
    """Make the 1x1 kernel of the identity, in the layout of a convolution's kernel."""
    channels = convolution.kernel.shape[2]
    if type(convolution).__name__ == "DepthwiseConv2D":
        return np.ones((1, 1, channels, 1))
    return np.eye(channels)[None, None]


def _aligned_tap(convolution: "keras.Layer", axis: int, model: "keras.Model", name: str) -> int:
    """Find the tap of a convolution that is over the pixel which a 1x1 convolution of the same stride reads.

    Raises:
        RequestError: there is no such tap, as in an even kernel, or "same" padding with a stride has an unknown input
            size.
    """
    kernel, stride, dilation = (
        getattr(convolution, attribute)[axis] for attribute in ("kernel_size", "strides", "dilation_rate")
    )
    reach = dilation * (kernel - 1)
    if stride == 1 or convolution.padding == "valid":
        # "valid" behind a ZeroPadding2D of half the reach on every side, which is how ``unit`` pads.
        before = reach // 2
    else:
        side = convolution.input.shape[1 + axis]
        if side is None:
            raise RequestError(
                f"{name!r} of {model.name!r} pads a stride of {stride} as TensorFlow does, which depends on the input "
                "size: build the model with a full input_shape."
            )
        before = max((-(-side // stride) - 1) * stride + reach + 1 - side, 0) // 2
    if before % dilation:
        raise RequestError(f"{name!r} of {model.name!r}: no tap of its kernel lines up with its 1x1 branch.")
    return before // dilation
