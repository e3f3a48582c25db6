"""Activation memory: the paper's figures, graphs counted by hand, and the arena against both."""

import itertools
import math

import keras
import numpy as np
import pytest
from keras import layers

from mobilenets_tf import RequestError, create_model
from mobilenets_tf.export.tflite import convert_model
from mobilenets_tf.networks.costs.memory import Peak, bottleneck_split, largest_tensor, peak_activation
from mobilenets_tf.quantize import SCHEMES
from mobilenets_tf.tflite import flatbuffer
from mobilenets_tf.tflite.arena import arena_bytes


@pytest.fixture(scope="module")
def v1():
    return create_model("mobilenet_v1")


@pytest.fixture(scope="module")
def v2():
    return create_model("mobilenet_v2")


def test_the_papers_table_3(v1, v2):
    """At 2 bytes an element: 1600K and 400K."""
    assert 2 * largest_tensor(v1).elements == 64 * 112 * 112 * 2 == 1605632
    assert 2 * largest_tensor(v2).elements == 16 * 112 * 112 * 2 == 401408
    assert largest_tensor(v2).layer == "stage1_block1"


def test_op_by_op(v1, v2):
    assert peak_activation(v1) == Peak((32 + 64) * 112**2, "stage1_block1_project_conv")
    assert peak_activation(v2) == Peak(96 * 112**2 + 96 * 56**2, "stage2_block1_depthwise_conv")


@pytest.mark.parametrize(("parts", "part"), [(1, 96), (2, 48), (4, 24), (5, 20)])
def test_split_bottleneck(v2, parts, part):
    """s^2 k + s'^2 k' + (s^2 + s'^2) ceil(n / t) of the block from 112x112x16 over 96 channels to 56x56x24."""
    elements = 16 * 112**2 + 24 * 56**2 + part * (112**2 + 56**2)
    assert bottleneck_split(v2, parts) == Peak(elements, "stage2_block1")


def test_split_to_single_channels(v2):
    """Then the first block is the largest: the image, 16 channels out, and one channel twice of the stem's 32."""
    assert bottleneck_split(v2) == Peak(3 * 224**2 + 16 * 112**2 + 2 * 112**2, "stage1_block1")
    assert bottleneck_split(v2, 10_000) == bottleneck_split(v2)


def test_blocks_with_an_activation_at_their_end_are_not_bottlenecks(v1):
    assert bottleneck_split(v1) == peak_activation(v1)


def bottleneck(squeeze: bool):
    """8x8x4 -> 12 channels -> 8x8x4, with a residual."""
    inputs = x = keras.Input((8, 8, 4), name="image")
    x = layers.ReLU(name="stage1_block1_expand_relu")(layers.Conv2D(12, 1, name="stage1_block1_expand_conv")(x))
    x = layers.DepthwiseConv2D(3, padding="same", name="stage1_block1_depthwise_conv")(x)
    if squeeze:
        scale = layers.Conv2D(12, 1, name="stage1_block1_squeeze_conv")(layers.GlobalAveragePooling2D(keepdims=True)(x))
        x = layers.Multiply(name="stage1_block1_scale")([x, scale])
    x = layers.Conv2D(4, 1, name="stage1_block1_project_conv")(x)
    return keras.Model(inputs, layers.Add()([inputs, x]))


def test_residual():
    """The block's input waits for the addition: it counts at the depthwise convolution, between 12 and 12 channels."""
    model = bottleneck(squeeze=False)
    assert peak_activation(model) == Peak(64 * (4 + 12 + 12), "stage1_block1_depthwise_conv")
    assert bottleneck_split(model, 3) == Peak(64 * (4 + 4 + 4 + 4), "stage1_block1")
    assert largest_tensor(model) == Peak(64 * 4, "image")


def test_squeeze_and_excite_cannot_be_split():
    model = bottleneck(squeeze=True)
    assert bottleneck_split(model) == peak_activation(model) == Peak(64 * 28, "stage1_block1_depthwise_conv")
    assert largest_tensor(model) == Peak(64 * 12, "stage1_block1_expand_conv")


def test_concatenation():
    """What the later branch does not read waits for the concatenation."""
    inputs = keras.Input((8, 8, 1))
    narrow = layers.Conv2D(2, 1)(inputs)
    wide = layers.Conv2D(8, 1)(layers.Conv2D(6, 1)(narrow))
    outputs = layers.Concatenate(name="both")([narrow, layers.Dropout(0.5)(wide)])
    assert peak_activation(keras.Model(inputs, outputs)) == Peak(64 * (2 + 8 + 10), "both")


def test_elementwise_writes_over_what_nobody_reads_again():
    inputs = keras.Input((8, 8, 1))
    x = layers.Conv2D(4, 1, name="conv")(inputs)
    normalised = layers.ReLU()(layers.BatchNormalization(name="bn")(x))
    assert peak_activation(keras.Model(inputs, normalised)) == Peak(64 * (1 + 4), "conv")
    assert peak_activation(keras.Model(inputs, layers.Add()([x, normalised]))) == Peak(64 * (4 + 4), "bn")
    assert peak_activation(keras.Model(inputs, [x, normalised])) == Peak(64 * (4 + 4), "bn")


def test_an_input_is_not_written_over():
    inputs = keras.Input((8, 8, 1))
    assert peak_activation(keras.Model(inputs, layers.Rescaling(2)(inputs))).elements == 64 * 2


def test_padding_belongs_to_the_convolution():
    inputs = keras.Input((8, 8, 4))
    padded = layers.ZeroPadding2D(1)(inputs)
    convolved = layers.Conv2D(2, 3)(padded)
    assert peak_activation(keras.Model(inputs, convolved)).elements == 64 * (4 + 2)
    assert peak_activation(keras.Model(inputs, [convolved, padded])).elements == 64 * 4 + 100 * 4
    assert peak_activation(keras.Model(inputs, padded)).elements == 64 * 4 + 100 * 4


def test_nested_models_and_operations():
    inner = keras.Sequential([keras.Input((8, 8, 2)), layers.Conv2D(6, 1, name="inner_conv"), layers.ReLU()])
    left, right = keras.Input((8, 8, 2), name="left"), keras.Input((8, 8, 2), name="right")
    model = keras.Model([left, right], keras.ops.relu(inner(left) + inner(right)))
    # both inputs and one result; then one input and both results
    assert peak_activation(model) == Peak(64 * (2 + 6 + 6), "inner_conv")
    assert largest_tensor(model).elements == 64 * 6


def test_refused():
    model = keras.Model(inputs := keras.Input((None, 8, 3)), layers.Conv2D(1, 1)(inputs))
    with pytest.raises(RequestError, match="fixed input size"):
        peak_activation(model)
    with pytest.raises(RequestError, match="parts=0"):
        bottleneck_split(model, 0)
    with pytest.raises(RequestError, match="not a TFLite file"):
        arena_bytes(b"no such thing")


def test_arena(small_files, small):
    """TFLite's planner finds the least there is; it keeps the input besides. int8 takes a quarter of it."""
    arena = arena_bytes(small_files["float32"].content)
    assert arena == 4 * (peak_activation(small).elements + math.prod(small.input_shape[1:]))
    assert arena_bytes(small_files["int8"].content) == arena / 4

    graph = flatbuffer.read(small_files["float32"].content).subgraphs[0]
    sizes = [4 * np.prod(graph.tensors[op.outputs[0]].shape) for op in graph.operators]
    assert max(a + b for a, b in itertools.pairwise(sizes)) <= arena < sum(sizes)


def test_arena_counts_what_litert_does_not_fold(worker):
    """The PAD of torch's convention is an op of its own to LiteRT's kernels, between two large tensors."""
    inputs = keras.Input((16, 16, 4))
    x = layers.ZeroPadding2D(1)(layers.Conv2D(8, 1)(inputs))
    model = keras.Model(inputs, layers.DepthwiseConv2D(3, strides=2)(x))
    content = convert_model(model, SCHEMES["float32"], None, worker).content
    assert peak_activation(model).elements == 16 * 16 * (4 + 8)
    assert arena_bytes(content) == 4 * (16 * 16 * 4 + 16 * 16 * 8 + 18 * 18 * 8)
