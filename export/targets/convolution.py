"""A file with one int8 convolution, on which a new runtime of a target is tried."""

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from mobilenets_tf.tflite import flatbuffer

_CHANNELS = 32


def convolution_input() -> np.ndarray:
    """Return an input of the convolution, as real numbers."""
    return np.random.default_rng(0).normal(0, 1, (1, 16, 16, _CHANNELS))


def convolution() -> bytes:
    """Return the content of a file with one int8 3x3 convolution."""
    random = np.random.default_rng(0)
    model, graph = schema.ModelT(), schema.SubGraphT()
    model.version, model.subgraphs, model.operatorCodes, model.buffers = 3, [graph], [], [schema.BufferT()]
    graph.tensors, graph.inputs, graph.outputs = [], [0], [3]
    shape = (1, 16, 16, _CHANNELS)
    flatbuffer.add_tensor(model, "input", shape)
    kernel = random.integers(-127, 128, (_CHANNELS, 3, 3, _CHANNELS)).astype(np.int8)
    flatbuffer.add_constant(model, "kernel", kernel)
    flatbuffer.add_constant(model, "bias", random.integers(-5000, 5000, _CHANNELS).astype(np.int32))
    flatbuffer.add_tensor(model, "output", shape)
    scales = ([0.03], random.uniform(0.002, 0.004, _CHANNELS), None, [0.1])
    for tensor, scale in zip(graph.tensors, scales, strict=True):
        scale = 0.03 * scales[1] if scale is None else scale
        tensor.quantization = schema.QuantizationParametersT()
        tensor.quantization.scale, tensor.quantization.zeroPoint = list(map(float, scale)), [0] * len(scale)
    for index in (0, 3):
        graph.tensors[index].type = schema.TensorType.INT8
    options = schema.Conv2DOptionsT()
    options.padding, options.strideH, options.strideW = schema.Padding.SAME, 1, 1
    options.dilationHFactor = options.dilationWFactor = 1
    graph.operators = [flatbuffer.make_operator(model, "CONV_2D", [0, 1, 2], [3], options)]
    model.operatorCodes[0].version = 3  # the first version with int8
    return flatbuffer.write(model)
