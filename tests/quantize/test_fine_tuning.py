"""The loop of quantisation-aware fine-tuning: what it keeps, how it stops, and how it goes on."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from mobilenets_tf import RequestError
from mobilenets_tf.quantize import fine_tune, quantize_aware
from tests.conftest import photographs

CLASSES = 4


@pytest.fixture(scope="module")
def aware():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((32, 32, 3))
    x = layers.Conv2D(8, 3, strides=2, activation="relu6")(inputs)
    x = layers.Conv2D(16, 3, strides=2, activation="relu6")(x)
    outputs = layers.Dense(CLASSES, activation="softmax")(layers.GlobalAveragePooling2D()(x))
    return quantize_aware(keras.Model(inputs, outputs), photographs(100, 32))


@pytest.fixture
def fresh(aware):
    """The aware model as it was before any test trained it."""
    before = aware.model.get_weights()
    yield aware
    aware.model.set_weights(before)


def batches(count, seed=0):
    """Pictures in bright and dark, a class each level; always in the same order."""
    labels = np.arange(count) % CLASSES
    pictures = 0.3 * photographs(count, 32, seed) + (labels / 2 - 0.75)[:, None, None, None]
    return tf.data.Dataset.from_tensor_slices((pictures.astype(np.float32), labels)).batch(8)


def test_training_learns_and_keeps_the_best_epoch(fresh):
    found = fine_tune(fresh, batches(64), batches(32, 1), epochs=6, learning_rate=1e-2)
    assert max(found.accuracies) > found.accuracies[0]
    assert found.accuracies[found.best_epoch] == max(found.accuracies)
    _, accuracy = fresh.model.evaluate(batches(32, 1), verbose=0)
    assert accuracy == max(found.accuracies)


def test_an_interrupted_training_goes_on_as_if_it_had_not_been(fresh, tmp_path):
    before = fresh.model.get_weights()
    options = {"epochs": 4, "learning_rate": 1e-3, "patience": 4}
    unbroken = fine_tune(fresh, batches(64), batches(32, 1), **options)
    wanted = fresh.model.get_weights()

    def power_cut(label, done, total):
        if done == 21:  # in the third epoch of eight steps
            raise KeyboardInterrupt

    fresh.model.set_weights(before)
    with pytest.raises(KeyboardInterrupt):
        fine_tune(fresh, batches(64), batches(32, 1), checkpoint=tmp_path / "state", report=power_cut, **options)
    fresh.model.set_weights(before)  # as in a new process
    steps = []
    resumed = fine_tune(
        fresh, batches(64), batches(32, 1), checkpoint=tmp_path / "state",
        report=lambda label, done, total: steps.append(done), **options,
    )  # fmt: skip
    assert steps[0] == 17 and len(steps) == 16  # the first two epochs are not trained again
    assert resumed == unbroken
    for found, value in zip(fresh.model.get_weights(), wanted, strict=True):
        np.testing.assert_allclose(found, value, rtol=1e-4, atol=1e-5)
    assert not any((tmp_path / "state").rglob("best*"))
    again = fine_tune(fresh, batches(64), batches(32, 1), epochs=1)  # the model can be trained on
    assert len(again.accuracies) == 2


def test_a_loss_that_is_not_finite_ends_the_training_with_a_remedy(fresh):
    broken = batches(64).map(lambda pictures, labels: (pictures * np.nan, labels))
    with pytest.raises(RequestError, match="loss became nan in epoch 1; try a tenth of the learning rate"):
        fine_tune(fresh, broken, batches(32, 1), epochs=1)


@pytest.mark.parametrize("option, value", [("epochs", 0), ("patience", 0), ("learning_rate", 0.0)])
def test_options_out_of_range_are_refused(fresh, option, value):
    with pytest.raises(RequestError, match=f"{option}={value}"):
        fine_tune(fresh, batches(8), batches(8), **{option: value})


def test_no_training_data_is_refused(fresh):
    with pytest.raises(RequestError, match="training data is empty"):
        fine_tune(fresh, batches(8).take(0), batches(8))
