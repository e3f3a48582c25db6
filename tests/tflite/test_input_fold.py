"""A normalisation in front of the first convolution goes into it, border and all."""

import keras
import numpy as np
import pytest
from keras import layers

from mobilenets_tf.data.preprocessing import Preprocessing
from mobilenets_tf.tflite import flatbuffer
from mobilenets_tf.tflite.image_input import renormalised
from mobilenets_tf.tflite.input_fold import fold_input
from mobilenets_tf.tflite.runtime import Runner

GIVEN = Preprocessing(size=12, resize=12, mean=(114.0,) * 3, std=(57.0,) * 3)
WANTED = {
    "a mean and a deviation for each channel": Preprocessing(
        size=12, resize=12, mean=(123.7, 116.3, 103.5), std=(58.4, 57.1, 57.4)
    ),
    "the same for all": Preprocessing(size=12, resize=12, mean=(114.5,) * 3, std=(57.0,) * 3),
}
FIRST = {
    "same": lambda x: layers.Conv2D(4, 3, strides=2, padding="same")(x),
    "same, stride 1, dilated": lambda x: layers.Conv2D(4, 3, dilation_rate=2, padding="same")(x),
    "valid": lambda x: layers.Conv2D(4, 3, strides=2)(x),
    "padded": lambda x: layers.Conv2D(4, 3, strides=2)(layers.ZeroPadding2D(1)(x)),
    "padded on one side": lambda x: layers.Conv2D(4, 4, strides=4)(layers.ZeroPadding2D(((0, 0), (2, 2)))(x)),
    "depthwise": lambda x: layers.DepthwiseConv2D(3, depth_multiplier=2, padding="same")(x),
}


@pytest.fixture(scope="module")
def files(float_file):
    """How the first layer is made -> a float file that begins with it."""
    keras.utils.set_random_seed(0)
    found = {}
    for name, first in FIRST.items():
        inputs = keras.Input((12, 12, 3))
        x = first(inputs)
        found[name] = float_file(keras.Model(inputs, layers.Activation("relu")(x)))
    return found


def operators(content):
    return flatbuffer.operator_counts(flatbuffer.read(content))


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 256, (12, 12, 3), np.uint8)


@pytest.mark.parametrize("first", FIRST)
@pytest.mark.parametrize("wanted", WANTED)
def test_the_outputs_stay_and_the_normalisation_goes(files, pixels, first, wanted):
    content, wanted = files[first], WANTED[wanted]
    expected = Runner(content)(wanted.normalise(pixels))[0]
    normalising = renormalised(content, wanted, GIVEN)
    sample = GIVEN.normalise(pixels)
    np.testing.assert_allclose(Runner(normalising)(sample)[0], expected, atol=1e-5)
    folded = fold_input(normalising, half_level=0.0)
    np.testing.assert_allclose(Runner(folded)(sample)[0], expected, atol=1e-5)
    assert not {"MUL", "ADD", "PAD"} & set(operators(folded))


@pytest.mark.parametrize("first", ["same", "padded"])
def test_half_a_level_at_the_border_is_let_pass(files, pixels, first):
    content, wanted = files[first], WANTED["the same for all"]
    normalising = renormalised(content, wanted, GIVEN)
    folded = fold_input(normalising, half_level=0.5 / 57)
    assert operators(folded) == operators(content)
    expected, found = (Runner(file)(GIVEN.normalise(pixels))[0] for file in (normalising, folded))
    np.testing.assert_allclose(found[:, 1:-1, 1:-1], expected[:, 1:-1, 1:-1], atol=1e-5)
    assert 1e-4 < np.abs(found - expected).max() < 0.05


def test_a_convolution_in_the_file_that_cannot_take_it_leaves_it(float_file, pixels):
    inputs = keras.Input((12, 12, 3))
    x = layers.Rescaling(1 / 127.5, -1)(inputs)
    model = keras.Model(inputs, layers.Concatenate()([x, layers.Conv2D(4, 3, padding="same")(x)]))  # two readers
    content = float_file(model)
    assert fold_input(content, 0.0) == content
