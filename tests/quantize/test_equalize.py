"""Equalisation changes no output and evens out the channels that share a scale."""

import numpy as np
import pytest

from mobilenets_tf import flatbuffer
from mobilenets_tf.export.convert import convert, freeze
from mobilenets_tf.quantize import SCHEMES
from mobilenets_tf.quantize.equalize import _channel_reach, _Graph, equalize
from mobilenets_tf.runtime import Runner


@pytest.fixture(scope="module")
def model(small, worker):
    return convert(freeze(small), SCHEMES["float32"], worker)


def test_groups_are_the_residual_chains(model):
    groups = _Graph(flatbuffer.read(model)).linear_groups()
    # MobileNetV2 has seven stages: a stage of n blocks has n projections and n - 1 sums, all of one scale.
    assert sorted(map(len, groups)) == sorted(2 * blocks - 1 for blocks in (1, 2, 3, 4, 3, 3, 1))


def test_outputs_stay_and_channels_even_out(model, pictures):
    batches = [[picture[None]] for picture in pictures[:16]]
    equalized = equalize(model, batches)
    before, after = Runner(model), Runner(equalized)
    for picture in pictures[50:60]:
        np.testing.assert_allclose(after(picture)[0], before(picture)[0], atol=2e-5)
    indices = [index for group in _Graph(flatbuffer.read(model)).linear_groups() for index in group]

    def evenness(content):
        return np.mean([r.mean() / r.max() for r in _channel_reach(content, indices, batches).values()])

    assert evenness(equalized) > evenness(model) + 0.1


def test_a_model_without_linear_activations_is_left_as_it_is(worker, pictures):
    import keras

    plain = keras.Sequential([keras.Input((64, 64, 3)), keras.layers.Conv2D(2, 3, activation="relu")])
    content = convert(freeze(plain), SCHEMES["float32"], worker)
    assert equalize(content, [[pictures[:1]]]) is content
