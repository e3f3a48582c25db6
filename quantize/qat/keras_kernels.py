"""The kernels of a Keras 3 model, in one shape, each with the variables that are added to what the kernel gives."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import keras
import numpy as np

_CONVOLUTIONS = (keras.layers.Conv1D, keras.layers.Conv2D)
_TRANSPOSED = (keras.layers.Conv1DTranspose, keras.layers.Conv2DTranspose)
_DEPTHWISE = (keras.layers.DepthwiseConv1D, keras.layers.DepthwiseConv2D)
_SEPARABLE = (keras.layers.SeparableConv1D, keras.layers.SeparableConv2D)
_CELLS = (keras.layers.LSTMCell, keras.layers.GRUCell, keras.layers.SimpleRNNCell)


@dataclass(frozen=True)
class Kernel:
    """A kernel of a Keras layer.

    positions, inputs, outputs: the kernel's axes of each kind. A depthwise kernel has outputs only.
    bias: the layer's own bias, added to what the kernel gives; None for none.
    norm: the BatchNormalization right behind.
    adds_elsewhere: whether the graph adds the layer's bias in other places than behind this kernel.
    """

    layer: keras.Layer
    variable: keras.Variable
    positions: tuple[int, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    bias: keras.Variable | None = None
    norm: keras.layers.BatchNormalization | None = None
    adds_elsewhere: bool = False

    @property
    def depthwise(self) -> bool:
        """Whether each output has one input only."""
        return not self.inputs

    def rows(self, values: np.ndarray) -> np.ndarray:
        """Reshape values of the kernel's shape to (positions, inputs, outputs), in double precision."""
        sides = [math.prod(values.shape[axis] for axis in axes) for axes in self._axes]
        return values.transpose(sum(self._axes, ())).reshape(sides).astype(np.float64)

    def values(self, rows: np.ndarray) -> np.ndarray:
        """Undo ``rows``."""
        order = sum(self._axes, ())
        return rows.reshape([self.variable.shape[axis] for axis in order]).transpose(np.argsort(order))

    @property
    def _axes(self) -> tuple[tuple[int, ...], ...]:
        return self.positions, self.inputs, self.outputs

    @property
    def terms(self) -> list[keras.Variable]:
        """The variables that can hold a change of what is added to the kernel's outputs, the likeliest first."""
        beta = self.norm.beta if self.norm is not None and self.norm.center else None
        return [variable for variable in (beta, self.bias) if variable is not None]


def kernels_of(model: keras.Model) -> Iterator[Kernel]:
    """Yield the kernels of all layers of a model, those of layers inside other layers too, in the layers' order."""
    for layer in model._flatten_layers(include_self=False):
        if layer.built:
            yield from _of_layer(layer)


def _of_layer(layer: keras.Layer) -> Iterator[Kernel]:
    if isinstance(layer, keras.layers.Dense):
        yield Kernel(layer, layer._kernel, (), (0,), (1,), *_behind(layer))
    elif isinstance(layer, keras.layers.EinsumDense):
        yield from _of_einsum(layer)
    elif isinstance(layer, _CELLS):
        for variable in (layer.kernel, layer.recurrent_kernel):
            yield Kernel(layer, variable, (), (0,), (1,), adds_elsewhere=True)
    elif isinstance(layer, _CONVOLUTIONS):
        *positions, inputs, outputs = range(len(layer._kernel.shape))
        yield Kernel(layer, layer._kernel, tuple(positions), (inputs,), (outputs,), *_behind(layer))
    elif isinstance(layer, _TRANSPOSED):
        *positions, outputs, inputs = range(len(layer.kernel.shape))
        yield Kernel(layer, layer.kernel, tuple(positions), (inputs,), (outputs,), *_behind(layer))
    elif isinstance(layer, _DEPTHWISE):
        *positions, channels, multiples = range(len(layer.kernel.shape))
        yield Kernel(layer, layer.kernel, tuple(positions), (), (channels, multiples), *_behind(layer))
    elif isinstance(layer, _SEPARABLE):
        *positions, channels, multiples = range(len(layer.depthwise_kernel.shape))
        yield Kernel(layer, layer.depthwise_kernel, tuple(positions), (), (channels, multiples))
        yield Kernel(layer, layer.pointwise_kernel, tuple(positions), (channels,), (multiples,), *_behind(layer))


def _of_einsum(layer: keras.layers.EinsumDense) -> Iterator[Kernel]:
    """Yield the kernel if its product is a matrix product: its axes are summed over, or are the last of the result."""
    terms, result = layer.equation.split("->")
    _, axes = terms.split(",")
    inputs = tuple(place for place, axis in enumerate(axes) if axis not in result)
    outputs = tuple(place for place, axis in enumerate(axes) if axis in result)
    if result.endswith("".join(axes[place] for place in outputs)):
        bias, norm = _behind(layer)
        sides = math.prod(layer._kernel.shape[axis] for axis in outputs)
        if bias is None or math.prod(bias.shape) == sides:
            yield Kernel(layer, layer._kernel, (), inputs, outputs, bias, norm)


def _behind(layer: keras.Layer) -> tuple[keras.Variable | None, keras.layers.BatchNormalization | None]:
    """Give the layer's bias, and the BatchNormalization right behind the layer."""
    follower = next((node.operation for node in layer._outbound_nodes), None)
    linear = layer.activation in (None, keras.activations.linear)
    return layer.bias, follower if linear and isinstance(follower, keras.layers.BatchNormalization) else None
