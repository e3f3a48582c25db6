"""Weights go through the TFLite graph and come back: all that were trained, and only those."""

import keras
import numpy as np
import pytest
from keras import layers

from mobilenets_tf.quantize import Recipe, quantize_aware
from mobilenets_tf.tflite.runtime import Runner
from tests.conftest import photographs

# Which ranges training begins with does not matter here.
QUICK = Recipe(equalize=False, ranges="min_max", rounding="nearest", correct_biases=False)


def moved(model, **options):
    """The aware model of a Keras model, every weight that is trained moved as training would."""
    sides = model.input_shape[1:]
    aware = quantize_aware(model, photographs(20, sides[0]), recipe=QUICK, **options)
    random = np.random.default_rng(0)
    for variable in aware.model.trainable_variables:
        size = np.abs(variable).mean() or 0.1
        variable.assign(variable + 0.1 * size * random.normal(size=variable.shape).astype(np.float32))
    return aware


def partly_frozen():
    """A layer, a nested model, a norm, single variables are frozen; other layers are used twice or have no bias."""
    keras.utils.set_random_seed(0)
    random = keras.initializers.RandomNormal(stddev=0.1)
    base = keras.Sequential(
        [
            keras.Input((8, 8, 8)),
            layers.Conv2D(8, 3, padding="same", use_bias=False, name="inner"),
            layers.BatchNormalization(beta_initializer=random, name="inner_norm"),
            layers.ReLU(6.0),
        ],
        name="base",
    )
    inputs = keras.Input((16, 16, 3))
    x = layers.Conv2D(8, 3, 2, padding="same", activation="relu6", bias_initializer=random, name="frozen")(inputs)
    x = base(x)
    x = layers.Conv2D(8, 1, bias_initializer=random, name="before_frozen_norm")(x)
    x = layers.ReLU(6.0)(layers.BatchNormalization(name="frozen_norm")(x))
    x = layers.SeparableConv2D(8, 3, padding="same", use_bias=False, name="separable")(x)
    x = layers.ReLU(6.0)(layers.BatchNormalization(name="norm")(x))
    x = layers.Conv2D(8, 1, activation="relu6", bias_initializer=random, name="frozen_bias")(x)
    x = layers.Conv2DTranspose(6, 2, 2, name="transposed")(x)
    twice = layers.Dense(8, activation="relu", name="twice")
    x = layers.Add()([twice(layers.GlobalAveragePooling2D()(x)), twice(layers.GlobalMaxPooling2D()(x))])
    one = layers.Dense(1, name="one")(x)
    other = layers.Dense(1, use_bias=False, name="other")(x)
    model = keras.Model(inputs, [layers.Dense(4, activation="softmax", name="zero_bias")(x), one, other])
    for name in ("frozen", "base", "frozen_norm"):
        model.get_layer(name).trainable = False
    model.get_layer("frozen_bias").bias.trainable = False
    return model


@pytest.fixture(scope="module")
def case():
    model = partly_frozen()
    aware = moved(model)
    return model, aware, aware.to_keras()


def weights(model):
    return {variable.path.split("/", 1)[-1]: np.asarray(variable) for variable in model.variables}


def test_what_is_frozen_stays_to_the_bit_and_everything_else_moves(case):
    model, _, trained = case
    free = {id(variable) for variable in model.trainable_variables}
    assert 0 < len(free) < len(model.variables)
    absorbed = {"gamma", "moving_mean", "moving_variance", "seed_generator_state"}  # their changes are in the kernels
    for before, after in zip(model.variables, trained.variables, strict=True):
        if id(before) not in free:
            np.testing.assert_array_equal(after, before, err_msg=before.path)
        elif before.name not in absorbed and "before_frozen_norm/bias" not in before.path:
            assert np.abs(np.asarray(after) - before).max() > 0, before.path


def test_the_flags_come_back(case):
    model, _, trained = case
    flags = [
        {layer.name: layer.trainable for layer in each._flatten_layers(include_self=False) if layer.weights}
        | {place: variable.trainable for place, variable in enumerate(each.variables)}
        for each in (model, trained)
    ]
    assert flags[0] == flags[1] and flags[0]["base"] is False


def test_the_file_has_the_integers_of_the_model(case):
    _, aware, _ = case
    pictures = photographs(8, 16, seed=1)
    runner = Runner(aware.to_tflite())
    found = zip(*map(runner, pictures), strict=True)
    for wanted, given in zip(aware.model.predict(pictures, verbose=0), found, strict=True):
        np.testing.assert_array_equal(np.concatenate(given), wanted)
