"""Dropout, regularisers and constraints of the Keras model act in the training of its graph."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from keras import layers

from mobilenets_tf import RequestError
from mobilenets_tf.quantize import quantize_aware
from mobilenets_tf.quantize.qat.keras_graph import DropoutLayer
from tests.conftest import photographs
from tests.quantize.qat.test_trained_weights import QUICK


@pytest.fixture(scope="module")
def case():
    """Kernels behind which gammas and equalised channels are folded, and dropouts before and behind kernels."""
    keras.utils.set_random_seed(0)
    random = keras.initializers.RandomUniform(0.5, 2.0)
    inputs = keras.Input((16, 16, 3))
    options = {"padding": "same", "use_bias": False}
    x = layers.Conv2D(8, 3, 2, kernel_regularizer=keras.regularizers.L1L2(1e-3, 1e-2), **options, name="both")(inputs)
    x = layers.ReLU(6.0)(layers.BatchNormalization(gamma_initializer=random)(x))
    y = layers.DepthwiseConv2D(3, depthwise_constraint="max_norm", **options, name="bounded")(x)
    y = layers.BatchNormalization(gamma_initializer=random)(y)
    y = layers.Dropout(0.25, noise_shape=(None, 1, 1, 1), name="depth")(y)  # stochastic depth
    x = layers.Flatten()(layers.MaxPooling2D(4)(layers.Add()([x, y])))
    x = layers.Dropout(0.5, name="usual")(x)
    model = keras.Model(inputs, layers.Dense(4, kernel_regularizer="l2", name="head")(layers.Flatten()(x)))
    return model, quantize_aware(model, photographs(100, 16))


def test_regularisers_penalise_the_keras_layers_kernels(case):
    model, aware = case
    np.testing.assert_allclose(sum(aware.model.losses), sum(model.losses), rtol=1e-4)


def test_a_constraint_holds_for_the_weights_that_come_back(case):
    model, aware = case
    norms = np.linalg.norm(np.asarray(model.get_layer("bounded").kernel), axis=0)
    before = aware.model.get_weights()
    limit = keras.constraints.MaxNorm(2.0)
    assert type(model.get_layer("bounded").kernel.constraint) is type(limit)
    aware.model.compile(tf_keras.optimizers.SGD(10.0), "mse")  # so far off that the constraint has to act
    aware.model.fit(photographs(8, 16), np.ones((8, 4)), verbose=0)
    trained = np.linalg.norm(np.asarray(aware.to_keras().get_layer("bounded").kernel), axis=0)
    aware.model.set_weights(before)
    assert norms.max() < trained.max() <= 2.0001


def test_dropouts_drop_in_training_only_and_as_before_after_a_resumption(case):
    _, aware = case
    rates = [(layer.rate, layer.levels) for layer in aware.model.layers if isinstance(layer, DropoutLayer)]
    assert rates == [(0.25, True), (0.5, True)]
    pictures, before = photographs(8, 16, seed=1), aware.model.get_weights()
    quiet = [aware.model(pictures, training=False).numpy() for _ in range(2)]
    first, second = (aware.model(pictures, training=True).numpy() for _ in range(2))
    aware.model.set_weights(before)
    np.testing.assert_array_equal(quiet[0], quiet[1])
    np.testing.assert_array_equal(aware.model(pictures, training=True), first)
    assert np.abs(first - second).max() > 0.01 and np.abs(first - quiet[0]).max() > 0.01
    aware.model.set_weights(before)


@pytest.mark.parametrize("levels", [False, True])
def test_a_dropout_keeps_the_mean_and_drops_whole_channels_if_asked(levels):
    values = tf.fill((64, 5, 5, 8), 40.0)
    dropped = DropoutLayer(0.2, [None, 1, 1, None], seed=1, levels=levels)(values, training=True).numpy()
    assert set(np.unique(dropped)) == {0.0, 50.0}
    assert (np.ptp(dropped, axis=(1, 2)) == 0).all() and 35 < dropped.mean() < 45


def head(**options):
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, name="front", **options.pop("front", {}))(options.pop("before", lambda x: x)(inputs))
    return keras.Model(inputs, layers.GlobalAveragePooling2D()(x))


@pytest.mark.parametrize(
    "options, said",
    [
        ({"bias_regularizer": "l2"}, r"'front/bias' has a regularizer.* or freeze the variable"),
        ({"bias_constraint": "non_neg"}, r"'front/bias' has a constraint"),
        ({"activity_regularizer": "l2"}, r"'front' has an activity regulariser.*activity_regularizer = None"),
    ],
)
def test_what_cannot_be_applied_is_refused_by_name(options, said):
    with pytest.raises(RequestError, match=said):
        quantize_aware(head(front=options), photographs(20, 8), recipe=QUICK)


def test_layers_that_are_left_out_are_named():
    model = head(before=lambda x: layers.GaussianNoise(0.1, name="noise")(layers.RandomFlip(name="flip")(x)))
    with pytest.warns(match=r"leaves out: 'flip' \(RandomFlip\), 'noise' \(GaussianNoise\)"):
        quantize_aware(model, photographs(20, 8), recipe=QUICK)
