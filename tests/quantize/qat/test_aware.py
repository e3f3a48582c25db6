"""Quantisation-aware models: in Keras and in the file the same, and back in Keras 3 again."""

import os

import keras
import numpy as np
import pytest
from keras import layers

from mobilenets_tf import ImageInput, Preprocessing, RequestError, create_model
from mobilenets_tf.quantize import Calibration, quantize_aware
from mobilenets_tf.tflite.runtime import Runner
from tests.conftest import photographs
from tests.support.aware_models import graph_answers
from tests.support.classifiers import attentive

# Of attention: its normalisations, and its dropout.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Training keeps these weights"),
    pytest.mark.filterwarnings("ignore:Layers that are active in training only"),
]


# Convolutions, and attention. A backbone with gates: test_annotated_fine_tuning.py.
@pytest.fixture(scope="module", params=["small", pytest.param("attentive", marks=pytest.mark.slow)])
def trained(request, made_once):
    """A network's name; answers of the network, and of its float and aware models, its file, its trained float graph
    and the Keras model of that, after weights were moved as training would.
    """

    def make():
        model = request.getfixturevalue("small") if request.param == "small" else attentive()
        aware = quantize_aware(model, photographs(20, 64))
        pictures = photographs(30, 64, seed=2)
        before = np.asarray(aware.float_model(pictures))
        random = np.random.default_rng(0)
        for variable in aware.model.trainable_variables:
            variable.assign(variable * (1 + 0.02 * random.normal(size=variable.shape)))
        return {
            "network": model.predict(pictures, verbose=0),
            "float": before,
            "aware": graph_answers(aware.model, pictures)[0].numpy(),
            "file": _answers(aware.to_tflite(), pictures),
            "graph": _answers(aware.trained_graph(), pictures),
            "keras": aware.to_keras().predict(pictures, verbose=0),
            "network afterwards": model.predict(pictures, verbose=0),
        }

    return request.param, made_once(f"aware_{request.param}", make)


def _answers(content, pictures):
    runner = Runner(content)
    return np.stack([runner(picture)[0][0] for picture in pictures])


def test_the_float_model_is_the_keras_model(trained):
    _, answers = trained
    np.testing.assert_allclose(answers["float"], answers["network"], atol=1e-5)


def test_the_file_answers_as_the_aware_model(trained):
    name, answers = trained
    if name == "attentive":  # attention is in float, and floats are summed in another order
        np.testing.assert_allclose(answers["file"], answers["aware"], atol=2 / 256)
    else:
        np.testing.assert_array_equal(answers["file"], answers["aware"])


def test_trained_weights_go_back_into_keras(trained):
    _, answers = trained
    np.testing.assert_allclose(answers["keras"], answers["graph"], atol=1e-5)
    assert np.abs(answers["network"] - answers["graph"]).max() > 1e-4
    np.testing.assert_array_equal(answers["network afterwards"], answers["network"])  # the model itself stays


@pytest.mark.parametrize("form", ["normalised", "uint8"])
def test_a_file_that_takes_its_image_otherwise_answers_as_the_aware_model(form):
    """The normalisation is in the first convolution, and its border, which differs by channel, around the picture."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((32, 32, 3))
    x = layers.Conv2D(8, 3, strides=2, padding="same", activation="relu6")(inputs)
    model = keras.Model(inputs, layers.Dense(4)(layers.GlobalAveragePooling2D()(x)))
    wanted = Preprocessing(size=32, resize=32, mean=(123.7, 116.3, 103.5), std=(58.4, 57.1, 57.4))
    image = ImageInput(wanted, form)
    pixels = ((photographs(120, 32) + 1) * 127.5).astype(np.uint8)
    given = image.given.normalise(pixels)
    aware = quantize_aware(model, Calibration(given[:100], image.given.value_range), image=image)
    found = aware.float_model(given[100:])
    np.testing.assert_allclose(found, model.predict(wanted.normalise(pixels[100:]), verbose=0), atol=1e-5)
    runner = Runner(image.finish(aware.to_tflite()))
    taken = image.given.for_input(pixels[100:], runner.inputs[0]["dtype"])
    expected = graph_answers(aware.model, given[100:])[0]
    np.testing.assert_array_equal(np.stack([runner(picture)[0][0] for picture in taken]), expected)
    with pytest.raises(RequestError, match="without image= to bring weights back"):
        aware.to_keras()


def test_the_process_keeps_its_keras():
    assert "TF_USE_LEGACY_KERAS" not in os.environ


def test_a_scheme_that_is_not_int8_is_refused(small, pictures):
    with pytest.raises(RequestError, match="int8 and int8_float_io; received 'int16x8'"):
        quantize_aware(small, pictures, "int16x8")


@pytest.mark.slow
def test_pictures_of_a_batch_stay_apart_where_the_graph_leaves_the_batch_out():
    """At 32 pixels the last sum of MobileNetV2 is of one position, which the converter flattens to a vector."""
    rows = [(1, 8, 1, 1), (6, 8, 1, 2), (6, 16, 1, 2), (6, 16, 1, 2), (6, 24, 2, 2)]
    model = create_model("mobilenet_v2", rows=rows, resolution=32, classes=10, classifier_activation=None)
    pictures = photographs(20, 32)
    for layer in model.layers:  # with the pictures' statistics, so that answers differ from picture to picture
        if isinstance(layer, layers.BatchNormalization):
            layer.momentum = 0.0
    model(pictures, training=True)
    found = quantize_aware(model, pictures).float_model.predict(pictures[:5], verbose=0)
    wanted = model.predict(pictures[:5], verbose=0)
    assert np.ptp(wanted, axis=0).max() > 0.1
    np.testing.assert_allclose(found, wanted, atol=1e-4)
