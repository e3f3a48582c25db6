"""Parameters and multiply-adds of any Keras model, counted from its graph.

Convolutions, linear layers and matrix products count; BatchNorm, biases, activations and pooling do not. This is the
rule of the papers' "MAdds", and of half of torch's FlopCounter.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import keras

_Shape = tuple[int, ...]  # with the batch


def _prod(shape: Iterable[int]) -> int:
    return math.prod(int(side) for side in shape)


def _convolution(layer: Any, inputs: list[_Shape], output: _Shape) -> int:
    return _prod(output[1:]) * _prod(layer.kernel_size) * inputs[0][-1] // layer.groups


def _depthwise(layer: Any, inputs: list[_Shape], output: _Shape) -> int:
    return _prod(output[1:]) * _prod(layer.kernel_size)


def _separable(layer: Any, inputs: list[_Shape], output: _Shape) -> int:
    channels = inputs[0][-1] * layer.depth_multiplier
    return _prod(output[1:-1]) * channels * (_prod(layer.kernel_size) + output[-1])


def _transposed(layer: Any, inputs: list[_Shape], output: _Shape) -> int:
    return _prod(inputs[0][1:]) * _prod(layer.kernel_size) * output[-1]


def _dense(layer: Any, inputs: list[_Shape], output: _Shape) -> int:
    return _prod(output[1:]) * inputs[0][-1]


def _matmul(layer: Any, inputs: list[_Shape], output: _Shape) -> int:
    return _prod(output[1:]) * inputs[0][-1]


# Class of a Keras 3 layer or operation -> multiply-adds of a call: (layer, shapes of the inputs, shape of the output).
_COUNT: dict[str, Callable[[Any, list[_Shape], _Shape], int]] = {
    "Conv1D": _convolution,
    "Conv2D": _convolution,
    "Conv3D": _convolution,
    "DepthwiseConv1D": _depthwise,
    "DepthwiseConv2D": _depthwise,
    "SeparableConv1D": _separable,
    "SeparableConv2D": _separable,
    "Conv1DTranspose": _transposed,
    "Conv2DTranspose": _transposed,
    "Dense": _dense,
    "Matmul": _matmul,
    "Dot": _matmul,
}


def multiply_adds(model: keras.Model) -> int:
    """Count the multiply-adds of one image through a functional or sequential model and the models inside it.

    Raises:
        ValueError: a side of the input is None, on which the count depends.
    """
    total = 0
    for operation, inputs, output in _calls(model):
        if rule := _COUNT.get(type(operation).__name__):
            if None in output[1:]:
                raise ValueError(f"{model.name} has no fixed input size ({model.input_shape}); build it with one.")
            total += rule(operation, inputs, output)
        elif hasattr(operation, "_functional") or hasattr(operation, "operations"):
            total += multiply_adds(operation)
    return total


def _calls(model: Any) -> Iterator[tuple[Any, list[_Shape], _Shape]]:
    """Yield (operation, input shapes, output shape) for every use of every operation in a functional graph."""
    functional = getattr(model, "_functional", None) or model  # a Sequential keeps its graph inside
    own = {id(node) for nodes in functional._nodes_by_depth.values() for node in nodes}
    for operation in functional.operations:
        for node in operation._inbound_nodes:
            if id(node) in own:
                inputs = [tensor.shape for tensor in node.input_tensors]
                yield operation, inputs, node.output_tensors[0].shape


def parameters(model: keras.Model) -> tuple[int, int]:
    """Count (trainable, total) parameters; the total includes BatchNorm's running mean and variance."""
    trainable = sum(_prod(variable.shape) for variable in model.trainable_variables)
    return trainable, model.count_params()


def counts(model: keras.Model) -> dict[str, int]:
    """Count trainable and total parameters, and multiply-adds of one image: params_trainable, params_total, macs.

    Raises:
        ValueError: a side of the input is None.
    """
    trainable, total = parameters(model)
    return {"params_trainable": trainable, "params_total": total, "macs": multiply_adds(model)}
