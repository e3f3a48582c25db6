"""Statistics, range estimators and bias correction against what they are defined to be."""

import numpy as np
import pytest

from mobilenets_tf import RequestError
from mobilenets_tf.quantize import ranges, schemes
from mobilenets_tf.quantize.bias_correction import _output_shift, round_weights
from mobilenets_tf.quantize.statistics import BINS, Statistics
from tests.conftest import photographs


def statistics_of(values, parts=4):
    found = Statistics()
    for part in np.array_split(np.asarray(values, np.float32), parts):
        found.add(part.reshape(1, -1, 1))
    return found


def squared_error(values, low, high, levels=256):
    scale = (high - low) / (levels - 1)
    return np.mean((np.clip(np.round((values - low) / scale), 0, levels - 1) * scale + low - values) ** 2)


def test_statistics_stream():
    random = np.random.default_rng(0)
    # the magnitude grows, so the histogram has to widen on the way
    values = [random.normal(0, scale, (1, 9, 9, 6)).astype(np.float32) + np.arange(6) for scale in (0.1, 1, 5, 40)]
    found = Statistics()
    for value in values:
        found.add(value)
    every = np.concatenate(values)
    assert (found.low, found.high) == (every.min(), every.max())
    np.testing.assert_allclose(found.channel_mean, every.mean(axis=(0, 1, 2)), rtol=1e-4)
    assert found.counts.sum() == every.size and len(found.counts) == BINS
    mean_of_histogram = found.centres() @ found.counts / found.counts.sum()
    assert mean_of_histogram == pytest.approx(every.mean(), abs=2 * found.limit / BINS)


def test_min_max_contains_zero_and_never_is_empty():
    assert ranges.min_max(statistics_of([2.0, 3.0, 4.0, 5.0])) == (0.0, 5.0)
    assert ranges.min_max(statistics_of([-3.0, -1.0, -2.0, -2.0])) == (-3.0, 0.0)
    low, high = ranges.min_max(statistics_of(np.zeros(8)))
    assert low <= 0 < high


def test_symmetric():
    assert ranges.symmetric(statistics_of([-1.0, 4.0, 0.0, 0.0])) == (-4.0, 4.0)


@pytest.mark.parametrize("outlier", [0.0, 8.0, -9.0])
def test_mean_square_error_beats_min_max_where_there_are_outliers(outlier):
    values = np.append(np.random.default_rng(0).normal(0, 1, 200000), outlier).astype(np.float32)
    found = statistics_of(values, parts=40)
    chosen, everything = ranges.mean_square_error(found), ranges.min_max(found)
    assert everything[0] <= chosen[0] <= 0 <= chosen[1] <= everything[1]
    assert squared_error(values, *chosen) <= 1.02 * squared_error(values, *everything)
    if outlier:
        assert squared_error(values, *chosen) < 0.8 * squared_error(values, *everything)


def test_mean_square_error_is_near_the_best_range_there_is():
    values = np.random.default_rng(1).laplace(0, 1, 20000).astype(np.float32)
    chosen = ranges.mean_square_error(statistics_of(values))
    best = min(squared_error(values, a, b) for a in np.linspace(-12, -3, 30) for b in np.linspace(3, 12, 30))
    assert squared_error(values, *chosen) < 1.1 * best


@pytest.mark.parametrize(("shape", "axis"), [((8, 3, 3, 4), 0), ((1, 3, 3, 8), 3), ((8, 16), 0)])
def test_round_weights_is_symmetric_int8_by_channel(shape, axis):
    weights = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    rounded = round_weights(weights, axis)
    for channel, original in zip(np.moveaxis(rounded, axis, 0), np.moveaxis(weights, axis, 0), strict=True):
        steps = channel / (np.abs(original).max() / 127)
        np.testing.assert_allclose(steps, np.round(steps), atol=1e-3)
        assert np.abs(channel - original).max() <= np.abs(original).max() / 254 * 1.001
    assert (round_weights(np.zeros(shape, np.float32), axis) == 0).all()


def test_output_shift_is_the_change_of_a_layers_mean():
    """Against the layer itself, on inputs whose channels have different means."""
    import keras

    random = np.random.default_rng(0)
    mean = random.normal(size=4)
    inputs = (random.normal(0, 0.1, (1, 40, 40, 4)) + mean).astype(np.float32)
    error = random.normal(0, 0.1, (5, 3, 3, 4)).astype(np.float32)  # TFLite's OHWI
    change = np.asarray(keras.ops.conv(inputs, error.transpose(1, 2, 3, 0), padding="valid")).mean(axis=(0, 1, 2))
    np.testing.assert_allclose(_output_shift(error, 0, inputs.mean((0, 1, 2))), change, atol=5e-3)
    depthwise = random.normal(0, 0.1, (1, 3, 3, 8)).astype(np.float32)  # 1HWO, multiplier 2
    kernel = depthwise[0].reshape(3, 3, 4, 2)
    change = np.asarray(keras.ops.depthwise_conv(inputs, kernel, padding="valid")).mean(axis=(0, 1, 2))
    np.testing.assert_allclose(_output_shift(depthwise, 3, inputs.mean((0, 1, 2))), change, atol=5e-3)
    assert _output_shift(np.zeros((4, 3, 3, 2)), 0, mean) is None  # a grouped convolution is left alone


def test_schemes():
    assert [s.name for s in schemes.SCHEMES.values() if s.calibrated] == ["int8", "int8_float_io", "int16x8"]
    with pytest.raises(RequestError, match="Unknown scheme 'int'.*Did you mean 'int8'"):
        schemes.get("int")


def test_the_sampled_histogram_sees_every_channel():
    """Sizes at which a plain stride would visit a third of the channels or fewer, always the same."""
    for shape in ((1, 112, 112, 96), (1, 14, 14, 384), (1, 7, 7, 960)):
        channels = np.broadcast_to(np.arange(1.0, shape[-1] + 1, dtype=np.float32), shape)
        found = Statistics()
        found.add(channels)
        seen = np.unique(np.round(found.centres()[found.counts > 0]))
        assert len(seen) > 0.95 * shape[-1]


@pytest.mark.parametrize("size", [1e-6, 1.0, 1e3])
def test_sums_of_very_different_terms_stay_in_the_accelerated_graph(size, worker):
    import keras
    from keras import layers

    from mobilenets_tf.export.tflite import convert_model
    from mobilenets_tf.quantize import SCHEMES, Calibration
    from mobilenets_tf.runtime import Runner

    keras.utils.set_random_seed(0)
    inputs = keras.Input((16, 16, 3))
    small = layers.Conv2D(8, 3, kernel_initializer=keras.initializers.RandomNormal(stddev=0.2 * size))(inputs)
    x = layers.Conv2D(8, 1)(layers.Activation("hard_swish")(small)) + layers.Conv2D(8, 3)(inputs)
    model = keras.Model(inputs, layers.Conv2D(4, 1)(x))
    content = convert_model(model, SCHEMES["int8"], Calibration(photographs(20, 16)), worker).content
    runner = Runner(content)
    assert runner.execution_plan() == {"DELEGATE": 1}
    picture = photographs(1, 16)[0]
    expected = np.asarray(model(picture[None]))
    assert np.abs(runner(picture)[0] - expected).max() < 0.1 * np.abs(expected).max()
