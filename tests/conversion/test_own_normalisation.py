"""Models that normalise their image by themselves."""

import keras
import numpy as np
import pytest
from keras import layers

from mobilenets_tf.conversion.own_normalisation import own_normalisation
from mobilenets_tf.errors import RequestError
from mobilenets_tf.models.keras_model import KerasModel
from mobilenets_tf.modelsource import ModelSource

PIXELS, SHARES = (0.0, 1.0), (0.0, 255.0)


def sequential(*first, name=None):
    steps = [keras.Input((8, 8, 3)), *first, layers.Conv2D(2, 3), layers.GlobalAveragePooling2D()]
    return keras.Sequential(steps, name=name)


def adapted(scale):
    layer = layers.Normalization(name="normalization")
    layer.adapt(scale * np.random.default_rng(0).uniform(size=(8, 8, 8, 3)))
    return layer


@pytest.mark.parametrize(
    "first, names, expected",
    [
        (lambda: [layers.Rescaling(1 / 255, name="a")], ["a"], PIXELS),
        (lambda: [layers.Resizing(6, 6), layers.Rescaling(1 / 127.5, -1, name="a")], ["a"], PIXELS),
        (lambda: [layers.Rescaling(1 / 255, name="a"), layers.Rescaling(2, -1, name="b")], ["a", "b"], PIXELS),
        (lambda: [adapted(255)], ["normalization"], PIXELS),
        (lambda: [adapted(1)], ["normalization"], SHARES),
        (lambda: [layers.Rescaling(2.0, -1, name="a")], ["a"], SHARES),
        (lambda: [keras.Sequential([layers.RandomFlip(), layers.Rescaling(1 / 255, name="a")])], ["a"], PIXELS),
        (lambda: [layers.RandomBrightness(0.3, seed=0), layers.Rescaling(1 / 255, name="a")], ["a"], PIXELS),
        # Caffe's: the channels in another order, and only a mean.
        (lambda: [layers.Lambda(lambda x: x[..., ::-1] - np.float32([104, 117, 124]), name="a")], ["a"], PIXELS),
        (lambda: [layers.ZeroPadding2D(1), layers.MaxPooling2D(2)], None, None),
        (lambda: [layers.Conv2D(3, 1), layers.Rescaling(1 / 255)], None, None),
        (lambda: [layers.Rescaling(0.5, 0.5)], None, None),  # from [-1, 1] to [0, 1]: somebody else normalises
    ],
)
def test_what_the_first_layers_do_is_found(first, names, expected):
    found = own_normalisation(sequential(*first()))
    if expected is None:
        assert found is None
    else:
        assert (found.mean, found.std) == expected and list(found.layers) == names


def test_arithmetic_and_models_inside_are_followed():
    image = keras.Input((8, 8, 3))
    inner = sequential(layers.Rescaling(1 / 255, name="theirs"))
    assert own_normalisation(keras.Model(image, layers.Dense(2)(inner(image)))).layers == ("theirs",)
    found = own_normalisation(keras.Model(image, layers.Conv2D(2, 3)(image / 127.5 - 1.0)))
    assert (found.mean, found.std) == PIXELS and len(found.layers) == 2
    # The image is used beside its normalisation.
    both = layers.Concatenate()([image, layers.Rescaling(1 / 255)(image)])
    assert own_normalisation(keras.Model(image, layers.Conv2D(2, 3)(both))) is None


def test_pixels_are_not_normalised_twice_without_a_word():
    model = sequential(layers.Rescaling(1 / 255, name="theirs"), name="net")
    opened = KerasModel(model)
    with pytest.warns(UserWarning, match=r"net: it normalises pixel values 0 to 255 by itself, in 'theirs'"):
        told = ModelSource(model).preprocessing(opened)
    assert (told.mean, told.std, told.size) == ((0,) * 3, (1,) * 3, 8)
    with pytest.warns(UserWarning, match="NORMALISED TWICE: net.*'theirs'"):
        twice = ModelSource(model, mean=127.5, std=127.5).preprocessing(opened)
    assert twice.mean == (127.5,) * 3  # whoever trained so knows it


@pytest.mark.filterwarnings("error::UserWarning")
def test_what_agrees_with_the_model_needs_no_word():
    model = sequential(layers.Rescaling(1 / 255))
    assert ModelSource(model, mean=0, std=1).preprocessing(KerasModel(model)).std == (1,) * 3
    with pytest.raises(RequestError, match="does not say how its input is normalised"):
        ModelSource(sequential()).preprocessing(KerasModel(sequential()))


def test_train_is_told_too():
    """``train`` has the Keras model itself."""
    with pytest.warns(UserWarning, match="NORMALISED TWICE: net.*'theirs'"):
        model = sequential(layers.Rescaling(1 / 255, name="theirs"), name="net")
        ModelSource(model, mean=127.5, std=127.5).preprocessing(model)
