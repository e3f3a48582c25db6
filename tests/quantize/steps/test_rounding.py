"""Weights to integers: what learned rounding looks at is what the layer sees, and its errors cancel out."""

import keras
import numpy as np
import pytest
from keras import layers

from mobilenets_tf.quantize.integers import round_weights
from mobilenets_tf.quantize.steps import rounding
from mobilenets_tf.tflite import flatbuffer
from mobilenets_tf.tflite.runtime import Runner
from tests.conftest import correlated, with_weights


@pytest.mark.parametrize(("shape", "axis"), [((8, 3, 3, 4), 0), ((1, 3, 3, 8), 3), ((8, 16), 0), ((8, 16), None)])
def test_round_weights_is_symmetric_int8(shape, axis):
    weights = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    rounded = round_weights(weights, axis)
    assert rounded.integers.dtype == np.int8 and len(rounded.scale) == (8 if axis is not None else 1)
    channels = range(8) if axis is not None else [slice(None)]
    for channel, scale in zip(channels, rounded.scale, strict=True):
        integers, original = (np.moveaxis(a, axis or 0, 0)[channel] for a in (rounded.integers, weights))
        assert np.abs(integers.astype(int)).max() == 127
        assert np.abs(integers * scale - original).max() <= scale * 0.5001
    np.testing.assert_allclose(rounded.values(axis or 0), weights, atol=rounded.scale.max() / 2 * 1.001)
    assert (round_weights(np.zeros(shape, np.float32), axis).values(axis or 0) == 0).all()


def test_patches_are_what_the_convolutions_see(convolutions):
    graph = flatbuffer.Graph(flatbuffer.read(convolutions))
    runner, ((sample,),) = Runner(convolutions), correlated(1)
    outputs = {details["index"]: values for details, values in zip(runner.outputs, runner(sample), strict=True)}
    seen = set()
    for place, operator, name, weights in rounding._layers(graph):
        index, options = operator.outputs[0], operator.builtinOptions
        if index not in outputs or operator.inputs[0] not in graph.inputs:
            continue
        layer = rounding._Layer(place, operator, name, weights, graph, slice(None))
        taps = layer.patches(sample, np.arange(layer.patch_count))
        rows = weights.reshape(len(taps), -1) if layer.depthwise else weights.reshape(5, len(taps), -1).swapaxes(0, 1)
        results = sum(tap * row if layer.depthwise else tap @ row.T for tap, row in zip(taps, rows, strict=True))
        expected = outputs[index].reshape(-1, outputs[index].shape[-1])[: len(results)]
        assert len(results) == min(rounding._POSITIONS, np.prod(graph.shape(index)[1:3]))
        np.testing.assert_allclose(results + graph.constant(operator.inputs[2]), expected, atol=1e-5)
        seen.add((name, options.padding, options.strideH, options.dilationHFactor, weights.shape[1:3]))
    assert len(seen) == 8  # the converter left every kind as it is


def squared_errors(content, other, samples):
    """Of each output, over all samples."""
    before, after = Runner(content), Runner(other)
    return sum(
        np.array([np.square(a - b).mean() for a, b in zip(before(*sample), after(*sample), strict=True)])
        for sample in samples
    )


@pytest.mark.parametrize("per_tensor", [False, True])
def test_learned_rounding_disturbs_every_kind_of_convolution_less(convolutions, per_tensor):
    near = rounding.nearest(convolutions, per_tensor)
    learned = rounding.learned(convolutions, correlated(32), per_tensor)
    unseen = correlated(8, seed=1)
    ratio = squared_errors(convolutions, with_weights(convolutions, learned), unseen) / squared_errors(
        convolutions, with_weights(convolutions, near), unseen
    )
    assert ratio.max() < 0.7, ratio
    for place, found in learned.items():
        np.testing.assert_array_equal(found.scale, near[place].scale)
        assert found.integers.dtype == np.int8 and found.integers.shape == near[place].integers.shape
        # Errors are handed on, never more than a few steps.
        assert 0 < np.abs(found.integers.astype(int) - near[place].integers).max() < 20


def test_learned_rounding_never_leaves_the_symmetric_range(float_file):
    """Weights at the edge of their range, to which errors are still to be added."""
    inputs = keras.Input((13, 10, 6))
    model = keras.Model(inputs, layers.Conv2D(16, 3)(inputs))
    sign = np.where(np.arange(16) % 2, 1, -1)
    weights = sign * np.random.default_rng(0).uniform(0.97, 1, (3, 3, 6, 16))
    model.layers[-1].set_weights([weights, np.zeros(16)])
    (found,) = rounding.learned(float_file(model), correlated(16)).values()
    assert found.integers.max() == 127 and found.integers.min() == -127


def test_other_layers_are_rounded_to_the_nearest(float_file):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((13, 10, 6))
    grouped, multiplied = layers.Conv2D(4, 3, groups=2)(inputs), layers.DepthwiseConv2D(3, depth_multiplier=2)(inputs)
    dense = layers.Dense(3)(layers.GlobalAveragePooling2D()(inputs))
    content = float_file(keras.Model(inputs, [grouped, multiplied, dense]))
    near, learned = rounding.nearest(content), rounding.learned(content, correlated(8))
    assert len(near) == len(learned) == 3
    for place, found in learned.items():
        np.testing.assert_array_equal(found.integers, near[place].integers)


def test_inputs_that_are_always_zero_or_equal_do_no_harm(convolutions):
    """Their second moments are singular."""
    for value in (0.0, 1.0):
        learned = rounding.learned(convolutions, [[np.full((1, 13, 10, 6), value, np.float32)]] * 4)
        sample = [[np.full((1, 13, 10, 6), value, np.float32)]]
        near = squared_errors(convolutions, with_weights(convolutions, rounding.nearest(convolutions)), sample)
        assert (squared_errors(convolutions, with_weights(convolutions, learned), sample) <= near + 1e-9).all()


def test_weights_are_rounded_as_the_papers_round_them():
    """Written out as in the papers, with the inverse of the moments: the same integers."""
    random = np.random.default_rng(0)
    inputs = random.normal(size=(200, 40)) @ random.normal(size=(40, 40))
    weights, scale, moments = random.normal(size=(6, 40)), random.uniform(0.02, 0.05, 6), inputs.T @ inputs / 200
    found = rounding._round_in_turn(weights[None], moments[None], scale[None])[0]
    order = np.argsort(-np.diagonal(moments), kind="stable")
    damped = moments + np.eye(40) * rounding._DAMPING * np.diagonal(moments).mean()
    upper = np.linalg.cholesky(np.linalg.inv(damped[order][:, order])).T
    left, expected = weights[:, order], np.zeros((6, 40))
    for i in range(40):
        expected[:, order[i]] = np.clip(np.round(left[:, i] / scale), -127, 127)
        error = (left[:, i] - expected[:, order[i]] * scale) / upper[i, i]
        left[:, i:] -= error[:, None] * upper[i, i:]
    np.testing.assert_array_equal(found, expected)
    assert np.abs(found - np.round(weights / scale[:, None])).max() > 0


@pytest.mark.parametrize("samples", [3, 8])
def test_second_moments_are_those_of_all_patches(convolutions, samples, monkeypatch):
    """However many samples are multiplied together."""
    monkeypatch.setattr(rounding, "_POSITIONS", 10**6)  # every position, so none is chosen
    monkeypatch.setattr(rounding, "_HELD", 2 * 13 * 10 * 54 * 4)
    graph, inputs = flatbuffer.Graph(flatbuffer.read(convolutions)), correlated(samples)
    layers = [
        rounding._Layer(*layer, graph, slice(None))
        for layer in rounding._layers(graph)
        if layer[1].inputs[0] in graph.inputs
    ]
    for layer, moments in rounding._second_moments(convolutions, layers, inputs, lambda *_: None):
        taps = [layer.patches(*sample, np.arange(layer.patch_count)) for sample in inputs]
        if layer.depthwise:
            rows = np.concatenate([np.stack(each, axis=-1) for each in taps]).astype(np.float64)  # (n, channels, taps)
            expected = np.einsum("nci,ncj->cij", rows, rows) / len(rows)
        else:
            rows = np.concatenate([np.concatenate(each, axis=-1) for each in taps]).astype(np.float64)
            expected = rows.T @ rows / len(rows)
        np.testing.assert_allclose(moments, expected, rtol=1e-4, atol=1e-5)


def test_a_layer_of_many_inputs_is_rounded_in_parts(convolutions, monkeypatch):
    """The errors cancel within each part: not as well as in the whole layer, better than not at all."""
    samples, unseen = correlated(32), correlated(8, seed=1)
    near = rounding.nearest(convolutions)
    whole = rounding.learned(convolutions, samples)
    monkeypatch.setattr(rounding, "_MOST_INPUTS", 20)  # of 6 channels and 9 taps: three parts
    assert rounding._parts("CONV_2D", np.zeros((5, 3, 3, 6))) == [slice(0, 2), slice(2, 4), slice(4, 6)]
    parted = rounding.learned(convolutions, samples)
    errors = [
        squared_errors(convolutions, with_weights(convolutions, weights), unseen) for weights in (near, parted, whole)
    ]
    assert (errors[1] < 0.8 * errors[0]).all(), errors
    differ = [place for place in whole if not np.array_equal(whole[place].integers, parted[place].integers)]
    assert differ and all(whole[place].integers.size > 5 * 20 for place in differ)


def test_errors_are_passed_on_past_the_end_of_a_block(convolutions, monkeypatch):
    """How many inputs are dealt with together is a matter of speed."""
    whole = rounding.learned(convolutions, correlated(16))
    monkeypatch.setattr(rounding, "_BLOCK", 4)
    for place, found in rounding.learned(convolutions, correlated(16)).items():
        assert np.mean(found.integers != whole[place].integers) < 0.01  # but for a tie
