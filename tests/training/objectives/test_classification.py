"""The classifier's objective for two classes that one output value tells apart."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from mobilenets_tf.training import recipes
from mobilenets_tf.training.objectives.classification import ClassificationObjective, logits

OBJECTIVE = ClassificationObjective(2, recipes.replace(recipes.FINETUNE, label_smoothing=0.0))
LOGITS = tf.constant([[-2.0], [0.2], [3.0]])
LABELS = np.array([0, 0, 1])


def test_the_loss_is_the_binary_cross_entropy():
    targets = tf.one_hot(LABELS, 2)
    expected = keras.losses.binary_crossentropy(LABELS[:, None].astype(np.float32), LOGITS, from_logits=True)
    np.testing.assert_allclose(OBJECTIVE.loss(targets, LOGITS), expected, rtol=1e-5)
    assert OBJECTIVE.right(targets, LOGITS).numpy().tolist() == [1, 0, 1]  # a logit is cut at 0
    loss, first, five, images = OBJECTIVE.sums(tf.constant(LABELS), LOGITS).numpy()
    assert (first, five, images) == (2, 3, 3) and loss == pytest.approx(np.sum(expected), rel=1e-5)
    distance = OBJECTIVE.distillation(targets, LOGITS, LOGITS, 1.0)
    share = tf.sigmoid(LOGITS)
    np.testing.assert_allclose(distance, keras.losses.binary_crossentropy(share, LOGITS, from_logits=True), rtol=1e-5)


@pytest.mark.parametrize(
    "last", [[layers.Dense(1, activation="sigmoid")], [layers.Dense(1), layers.Activation("sigmoid")]]
)
def test_a_sigmoid_is_left_out(last):
    image = keras.Input((4, 4, 3))
    x = layers.GlobalAveragePooling2D()(image)
    for layer in last:
        x = layer(x)
    model = keras.Model(image, x)
    pixels = np.random.default_rng(0).normal(size=(8, 4, 4, 3)).astype(np.float32)
    trained = OBJECTIVE.trained(model)
    np.testing.assert_allclose(tf.sigmoid(trained(pixels)), model(pixels), rtol=1e-4)
    assert logits(keras.Model(image, layers.Dense(1)(x))).outputs[0].shape == (None, 1)
