"""Files that LiteRT's own kernels run and refuse."""

import numpy as np
import pytest

from mobilenets_tf.tflite import flatbuffer
from mobilenets_tf.tflite.flatbuffer import schema
from mobilenets_tf.tflite.runtime import refused_without_delegates


@pytest.mark.parametrize("scheme", ["float32", "float16", "dynamic", "int8", "int16x8"])
def test_every_scheme_runs_without_a_delegate(small_files, scheme):
    assert refused_without_delegates(small_files[scheme].content) is None


def test_a_scale_that_only_xnnpack_takes_is_told(small_files):
    tree = flatbuffer.read(small_files["int8"].content)
    graph = tree.subgraphs[0]
    convolution = next(op for op in graph.operators if flatbuffer.operator_name(tree, op) == "CONV_2D")
    convolution.builtinOptions.fusedActivationFunction = schema.ActivationFunctionType.RELU6
    graph.tensors[convolution.outputs[0]].quantization.scale = np.array([1e-12], np.float32)
    assert "overflow" in refused_without_delegates(flatbuffer.write(tree))
