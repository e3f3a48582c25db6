"""Equalisation changes no output and evens out the channels that share a scale."""

import keras
import numpy as np
import pytest
from keras import layers

from mobilenets_tf.quantize.integers import Form
from mobilenets_tf.quantize.steps.equalize import (
    Reach,
    _channel_reach,
    _linear_scale,
    _rectified_scale,
    _ScalableGraph,
    equalize,
)
from mobilenets_tf.tflite import flatbuffer
from mobilenets_tf.tflite.runtime import Runner


def test_groups_are_the_residual_chains(mobilenet_file):
    groups = _ScalableGraph(flatbuffer.read(mobilenet_file)).linear_groups()
    # MobileNetV2 has seven stages: a stage of n blocks has n projections and n - 1 sums, all of one scale.
    assert sorted(map(len, groups)) == sorted(2 * blocks - 1 for blocks in (1, 2, 3, 4, 3, 3, 1))


def reach_of(content, indices, samples):
    reaches = _channel_reach(content, indices, samples).values()
    return [np.stack([reach.below.max(axis=0), reach.above.max(axis=0)]) for reach in reaches]


def test_outputs_stay_and_channels_even_out(mobilenet_file, pictures):
    samples = [[picture[None]] for picture in pictures[:16]]
    equalized = equalize(mobilenet_file, samples)
    before, after = Runner(mobilenet_file), Runner(equalized)
    for picture in pictures[50:60]:
        np.testing.assert_allclose(after(picture)[0], before(picture)[0], atol=2e-5)
    indices = [index for group in _ScalableGraph(flatbuffer.read(mobilenet_file)).linear_groups() for index in group]

    def evenness(content):
        """How much of its tensor's range a channel uses."""
        spans = [(sides.sum(axis=0), sides.max(axis=1).sum()) for sides in reach_of(content, indices, samples)]
        return np.mean([used.mean() / whole for used, whole in spans])

    assert evenness(equalized) > evenness(mobilenet_file) + 0.1


def test_a_model_without_linear_activations_is_left_as_it_is(float_file, pictures):
    plain = keras.Sequential([keras.Input((64, 64, 3)), layers.Conv2D(2, 3, activation="relu")])
    content = float_file(plain)
    assert equalize(content, [[pictures[:1]]]) is content


SAMPLES = [[sample[None]] for sample in np.random.default_rng(0).uniform(0, 1, (16, 8, 8, 4)).astype(np.float32)]


def test_channels_whose_tail_points_the_other_way_are_turned_round(float_file):
    """Two chains are summed, so that the sign has to be one for both."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 4))
    first, second = layers.Conv2D(4, 1), layers.Conv2D(4, 1)
    model = keras.Model(inputs, layers.Conv2D(3, 1)(first(inputs) + second(inputs)))
    for layer, size in ((first, 1), (second, 2)):
        layer.set_weights([size * np.diag([1.0, -1.0, 0.5, -3.0]).reshape(1, 1, 4, 4), np.array([0, 0.1, 0, 0.1])])
    content = float_file(model)
    equalized = equalize(content, SAMPLES)
    indices = [index for group in _ScalableGraph(flatbuffer.read(content)).linear_groups() for index in group]
    assert len(indices) == 3
    for (below, above), (was_below, was_above) in zip(
        reach_of(equalized, indices, SAMPLES), reach_of(content, indices, SAMPLES), strict=True
    ):
        assert list(was_below > was_above) == [False, True, False, True]
        assert (above > 5 * below).all() or (below > 5 * above).all()
        assert (above + below).min() > 0.8 * (above + below).max()
    for sample in SAMPLES[:4]:
        np.testing.assert_allclose(Runner(equalized)(*sample)[0], Runner(content)(*sample)[0], atol=1e-5)


@pytest.mark.parametrize("bound", [None, 6.0])
def test_what_depthwise_convolutions_read_grows_and_stays_below_the_bound(bound, float_file):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 4))
    first = layers.Conv2D(4, 1)
    x = layers.ReLU(bound)(first(inputs))
    model = keras.Model(inputs, layers.DepthwiseConv2D(3, padding="same", activation="relu")(x))
    first.set_weights([np.diag([5.0, 2.5, 1.0, 0.01]).reshape(1, 1, 4, 4), np.zeros(4)])
    content = float_file(model)
    equalized = equalize(content, SAMPLES)
    (index,) = _ScalableGraph(flatbuffer.read(content)).rectified()
    ((_, before),), ((_, after),) = (reach_of(model, [index], SAMPLES) for model in (content, equalized))
    wanted = [1, 1.2, 2, 2] if bound else [1, 2, 5, 8]
    np.testing.assert_allclose(after / before, wanted, atol=0.07)
    # Even inputs twice as bright as any that were seen do not reach the bound where they did not before.
    for scale in (1, 2):
        bright = [[scale * sample] for (sample,) in SAMPLES]
        if scale == 2:
            ((_, reached),) = reach_of(equalized, [index], bright)
            assert bound is None or (reached[1:] < 5.99).all()
            bright = [[sample * [0, 1, 1, 1]] for (sample,) in bright]
        for sample in bright[:4]:
            sample = [array.astype(np.float32) for array in sample]
            np.testing.assert_allclose(Runner(equalized)(*sample)[0], Runner(content)(*sample)[0], atol=1e-5)


def distributed(shape, seed, positions=4, channels=64):
    """128 samples to fit the factors to, and 256 others; channels of different size, all of one distribution."""
    random = np.random.default_rng(seed)
    values = {"uniform": lambda size: random.uniform(-1, 1, size), "normal": lambda size: random.normal(0, 1, size)}
    drawn = values[shape]((384, positions, channels)) * np.linspace(0.3, 1, channels)
    return drawn[:128], drawn[128:]


def noise(scale, seen, unseen):
    """The power that rounding adds to samples not seen; the samples that were seen decide the range."""
    form = Form.spanning(float((seen * scale).min()), float((seen * scale).max()), "int8")
    return float(np.mean(((form.rounded(unseen * scale, "int8") - unseen * scale) / scale) ** 2))


@pytest.mark.parametrize("rectified", [False, True])
@pytest.mark.parametrize(
    ("shape", "least_gain", "full"), [("uniform", 1.6, True), ("normal", 1.0, False)], ids=["uniform", "normal"]
)
def test_channels_grow_as_far_as_samples_not_seen_allow(shape, least_gain, full, rectified):
    """With long tails, to fill the range clips more on other samples than finer levels gain; then a headroom stays."""
    gains = []
    for seed in range(4):
        seen, unseen = distributed(shape, seed)
        if rectified:
            seen, unseen = np.maximum(seen, 0), np.maximum(unseen, 0)
        reach = Reach(np.maximum(-seen.min(axis=1), 0), np.maximum(seen.max(axis=1), 0), seen.shape[1])
        scale = _rectified_scale(reach, None) if rectified else _linear_scale([reach])
        gains.append(noise(1, seen, unseen) / noise(scale, seen, unseen))
        reached = np.abs(seen * scale).max(axis=(0, 1))
        assert (reached.min() > 0.9 * reached.max()) == full
    assert np.mean(gains) > least_gain
    assert min(gains) > 0.7


def test_one_sample_tells_nothing_of_others(mobilenet_file, pictures):
    assert equalize(mobilenet_file, [[pictures[:1]]]) is mobilenet_file
