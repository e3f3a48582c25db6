"""Bottlenecks in parts whose sums are added."""

import keras
import numpy as np
import pytest
from keras import layers

from mobilenets_tf import RequestError
from mobilenets_tf.quantize.calibration import Calibration
from mobilenets_tf.quantize.post_training import Recipe, prepare
from mobilenets_tf.tflite import flatbuffer
from mobilenets_tf.tflite.arena import live_bytes
from mobilenets_tf.tflite.runtime import Runner
from mobilenets_tf.tflite.split import split_bottlenecks
from tests.conftest import photographs


@pytest.fixture(scope="module", params=["float32", "int8"])
def whole(request, small_files):
    return small_files[request.param].content


def stored(content, samples):
    """The outputs as the file stores them, by the kernels that microcontrollers have."""
    runner = Runner(content, reference=True)
    results = []
    for sample in samples:
        runner.invoke(sample)
        results.append(runner.raw(runner.outputs[0]["index"]).copy())
    return np.concatenate(results)


@pytest.mark.parametrize("parts", [2, 3, 5])
def test_the_parts_give_the_outputs_of_the_whole(whole, parts, pictures):
    split = split_bottlenecks(whole, parts)
    assert split.blocks and split.bytes_after < split.bytes_before
    assert all(block.parts == parts for block in split.blocks)
    before, after = (stored(content, pictures[:8]).astype(np.float64) for content in (whole, split.content))
    assert len(np.unique(before)) > 30  # equality of few values would say little
    if all(block.joined for block in split.blocks):
        np.testing.assert_array_equal(before, after)
    else:
        assert not flatbuffer.is_integer(flatbuffer.read(whole)) and np.abs(before - after).max() <= 1e-5


@pytest.mark.parametrize("parts", [2, 3, 5])
@pytest.mark.parametrize("last", [None, "relu6"])
def test_the_sum_of_int8_parts_is_within_a_level(float_file, parts, last):
    samples = photographs(16, 24)
    recipe = Recipe(equalize=False, ranges="min_max", rounding="nearest", correct_biases=False)
    block = activated([layers.DepthwiseConv2D(3, padding="same", activation="relu6")], last)
    with pytest.warns(UserWarning, match="calibration samples"):
        whole = prepare(float_file(block), "int8", Calibration(samples), recipe).write()
    split = split_bottlenecks(whole, parts)
    (row,) = split.blocks
    assert not row.joined and 0 < row.deviation < 1
    before, after = (stored(content, samples).astype(int) for content in (whole, split.content))
    assert before.std() > 5
    assert np.abs(before - after).max() <= 1
    # A sum that is off by a share of a level is rounded to another level at most that often.
    assert np.mean(before != after) < row.deviation


def test_the_multiply_adds_and_weights_stay(whole):
    """A split moves weights, it adds none: only biases of zeros, and the tables of more operators."""
    split = split_bottlenecks(whole, 2)

    def weights(content):
        tree = flatbuffer.read(content)
        graph = flatbuffer.Graph(tree)
        convolutions = [op for op in graph.operators if graph.name(op) in ("CONV_2D", "DEPTHWISE_CONV_2D")]
        return sum(int(np.prod(graph.shape(op.inputs[1]))) for op in convolutions)

    assert weights(split.content) == weights(whole)


def test_live_bytes_are_a_lower_bound_of_the_arena(whole):
    from mobilenets_tf.tflite.arena import arena_bytes

    peak = max(live_bytes(flatbuffer.read(whole)))
    assert peak <= arena_bytes(whole) < 2 * peak


def test_live_bytes_of_a_graph_counted_by_hand(float_file):
    inputs = keras.Input((8, 8, 2))
    left = layers.Conv2D(4, 1)(inputs)
    right = layers.Conv2D(6, 1)(left)
    joined = layers.Concatenate()([left, right])
    content = float_file(keras.Model(inputs, joined))
    assert live_bytes(flatbuffer.read(content)) == [64 * 4 * n for n in (2 + 4, 4 + 6, 4 + 6 + 10)]


def test_a_file_without_bottlenecks_stays_as_it_is(convolutions):
    split = split_bottlenecks(convolutions, 4)
    assert split.content is convolutions and not split.blocks
    assert split.bytes_before == split.bytes_after and split.peak


@pytest.mark.parametrize("parts", [1, 0, -3, 65])
def test_a_number_of_parts_that_makes_no_sense_is_refused(whole, parts):
    with pytest.raises(RequestError, match=f"split={parts}: expected 2 to 64 parts"):
        split_bottlenecks(whole, parts)


def test_the_same_file_gives_the_same_bytes(whole):
    assert split_bottlenecks(whole, 3).content == split_bottlenecks(whole, 3).content


def activated(between, last):
    """A bottleneck with ops between its convolutions, and an activation after the projection."""
    keras.utils.set_random_seed(1)
    inputs = x = keras.Input((24, 24, 3))
    x = layers.Conv2D(24, 1, activation="relu6")(x)
    for layer in between:
        x = layer(x)
    x = layers.Conv2D(4, 1, activation=last, bias_initializer="random_normal")(x)
    return keras.Model(inputs, x)


@pytest.mark.parametrize("last", [None, "relu", "relu6"])
def test_padding_and_activations_between_and_after(float_file, last, pictures):
    depthwise = layers.DepthwiseConv2D(3, strides=2, activation="hard_swish", bias_initializer="random_normal")
    content = float_file(activated([layers.ZeroPadding2D(1), depthwise], last))
    split = split_bottlenecks(content, 3)
    assert [block.channels for block in split.blocks] == [24]
    counts = flatbuffer.operator_counts(flatbuffer.read(split.content))
    assert counts["DEPTHWISE_CONV_2D"] == 3 and (counts.get("ADD") == 2) != split.blocks[0].joined
    sample = pictures[0][:24, :24]
    (before,), (after,) = Runner(content)(sample), Runner(split.content)(sample)
    np.testing.assert_allclose(after, before, atol=1e-5 * np.abs(before).max())


def test_what_mixes_the_inner_channels_is_not_split(float_file):
    """Squeeze-and-excite needs every channel's mean before it scales the first one."""
    inputs = keras.Input((24, 24, 3))
    x = layers.DepthwiseConv2D(3, padding="same")(layers.Conv2D(20, 1, activation="relu")(inputs))
    gate = layers.Conv2D(20, 1, activation="sigmoid")(layers.GlobalAveragePooling2D(keepdims=True)(x))
    content = float_file(keras.Model(inputs, layers.Conv2D(8, 1)(layers.Multiply()([x, gate]))))
    assert not split_bottlenecks(content, 2).blocks
