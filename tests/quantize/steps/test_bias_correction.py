"""With rounded weights and corrected biases, every channel's mean is what it was."""

import keras
import numpy as np
import pytest
from keras import layers

from mobilenets_tf.quantize.steps import rounding
from mobilenets_tf.quantize.steps.bias_correction import correct_biases
from mobilenets_tf.quantize.steps.statistics import observe
from mobilenets_tf.tflite import flatbuffer
from mobilenets_tf.tflite.runtime import Runner
from tests.conftest import with_weights


def flat_samples(shape, count=4):
    """Every position the same, so that zero padding is all that tells the borders from the middle."""
    random = np.random.default_rng(0)
    return [[np.broadcast_to(random.normal(1, 1, shape[-1]), (1, *shape)).astype(np.float32)] for _ in range(count)]


def channel_means(content, samples):
    runner = Runner(content)
    outputs = [[values.reshape(-1, values.shape[-1]).mean(axis=0) for values in runner(*sample)] for sample in samples]
    return [np.mean(means, axis=0) for means in zip(*outputs, strict=True)]


def check(content, shape, shift=1e-3):
    samples = flat_samples(shape)
    # One scale for all: coarse, so that there is something to correct.
    rounded = rounding.nearest(content, per_tensor=True)
    corrected = correct_biases(content, rounded, observe(content, samples))
    wanted = channel_means(content, samples)
    before = channel_means(with_weights(content, rounded), samples)
    after = channel_means(with_weights(corrected, rounded), samples)
    for mean, shifted, mended in zip(wanted, before, after, strict=True):
        assert np.abs(shifted - mean).max() > shift
        np.testing.assert_allclose(mended, mean, atol=2e-5)


def test_means_stay_with_every_stride_dilation_and_padding(float_file):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((9, 6, 4))
    kinds = [
        layers.Conv2D(5, 3, padding="valid"),
        layers.Conv2D(5, (5, 3), padding="same"),
        layers.Conv2D(5, 3, strides=2, padding="same"),
        layers.Conv2D(5, 3, dilation_rate=3, padding="same"),
        layers.DepthwiseConv2D(5, padding="same"),
        layers.DepthwiseConv2D(3, strides=2, padding="same"),
        layers.DepthwiseConv2D(3, padding="same", depth_multiplier=2),
    ]
    check(float_file(keras.Model(inputs, [layer(inputs) for layer in kinds])), (9, 6, 4))


def test_means_stay_in_a_dense_layer(float_file):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((40,))
    check(float_file(keras.Model(inputs, layers.Dense(7, bias_initializer="ones")(inputs))), (40,))


def test_what_cannot_be_corrected_is_left(float_file):
    """A grouped convolution, whose channels see different inputs; and biases alone are ever changed."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((9, 6, 4))
    content = float_file(keras.Model(inputs, layers.Conv2D(4, 3, groups=2)(inputs)))
    samples = flat_samples((9, 6, 4))
    corrected = correct_biases(content, rounding.nearest(content), observe(content, samples))
    for before, after in zip(Runner(content)(*samples[0]), Runner(corrected)(*samples[0]), strict=True):
        np.testing.assert_array_equal(after, before)


@pytest.mark.parametrize("padding", ["same", "valid"])
def test_only_biases_change(padding, float_file):
    inputs = keras.Input((9, 6, 4))
    content = float_file(keras.Model(inputs, layers.Conv2D(4, 3, padding=padding)(inputs)))
    corrected = correct_biases(content, rounding.nearest(content, True), observe(content, flat_samples((9, 6, 4))))
    (before,), (after,) = (flatbuffer.read(model).subgraphs[0].operators for model in (content, corrected))
    weights, biases = (
        [flatbuffer.constant(flatbuffer.read(m), op.inputs[i]) for m, op in ((content, before), (corrected, after))]
        for i in (1, 2)
    )
    np.testing.assert_array_equal(*weights)
    assert (biases[0] != biases[1]).all()
