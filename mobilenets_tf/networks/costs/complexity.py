"""Parameters and multiply-adds of any Keras model, counted from its graph."""

import math

# Keras 3's layer class -> the multiply-adds of one call, from the layer and the output's shape without the batch.
# Convolutions, linear layers and matrix products count; BatchNorm, biases, activations, pooling do not. This is the
# rule of the papers' "MAdds" and of torch's FlopCounter // 2.


def _prod(shape) -> int:
    return math.prod(int(side) for side in shape)


def _convolution(layer, inputs, output) -> int:
    return _prod(output[1:]) * _prod(layer.kernel_size) * inputs[0][-1] // layer.groups


def _depthwise(layer, inputs, output) -> int:
    return _prod(output[1:]) * _prod(layer.kernel_size)


def _separable(layer, inputs, output) -> int:
    channels = inputs[0][-1] * layer.depth_multiplier
    return _prod(output[1:-1]) * channels * (_prod(layer.kernel_size) + output[-1])


def _transposed(layer, inputs, output) -> int:
    return _prod(inputs[0][1:]) * _prod(layer.kernel_size) * output[-1]


def _dense(layer, inputs, output) -> int:
    return _prod(output[1:]) * inputs[0][-1]


def _matmul(layer, inputs, output) -> int:
    return _prod(output[1:]) * inputs[0][-1]


_COUNT = {
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


def multiply_adds(model) -> int:
    """Multiply-adds of one image through a functional or sequential model, nested ones included.

    Raises:
        ValueError: a side of the input is None; the count depends on it.
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


def _calls(model):
    """Every use of every operation in a functional graph: (operation, input shapes, output shape)."""
    functional = getattr(model, "_functional", None) or model  # a Sequential keeps its graph inside
    own = {id(node) for nodes in functional._nodes_by_depth.values() for node in nodes}
    for operation in functional.operations:
        for node in operation._inbound_nodes:
            if id(node) in own:
                inputs = [tensor.shape for tensor in node.input_tensors]
                yield operation, inputs, node.output_tensors[0].shape


def parameters(model) -> tuple[int, int]:
    """(trainable, total) parameters; the total has BatchNorm's running mean and variance too (Keras' count_params)."""
    trainable = sum(_prod(variable.shape) for variable in model.trainable_variables)
    return trainable, model.count_params()


def counts(model) -> dict[str, int]:
    """Trainable and total parameters, and multiply-adds of one image.

    Raises:
        ValueError: a side of the input is None.
    """
    trainable, total = parameters(model)
    return {"params_trainable": trainable, "params_total": total, "macs": multiply_adds(model)}
