"""Every op's integers in Keras against those that the phone's runtime computes, one output of a model each."""

from dataclasses import replace

import keras
import numpy as np
import pytest
from keras import layers, ops

from mobilenets_tf import RequestError
from mobilenets_tf.quantize import Recipe, quantize_aware
from mobilenets_tf.tflite.runtime import Runner


def cases(a, b) -> dict:
    """a: levels of both signs; b: none below zero, another scale."""
    normalized = layers.LayerNormalization()(a)
    return {
        "sum": layers.Add()([a, b]),
        "sum with ReLU6": layers.ReLU(6.0)(layers.Add()([a, b])),
        "sum of very different scales": layers.Add()([a, ops.multiply(b, 7.3)]),
        "difference": layers.Subtract()([a, b]),
        "product": layers.Multiply()([a, b]),
        "affine": layers.Rescaling(2.0, 1.0)(a),
        "batch normalisation alone": layers.BatchNormalization()(layers.Add()([a, b])),
        "global mean": layers.GlobalAveragePooling2D(keepdims=True)(a),
        "average pooling": layers.AveragePooling2D(3, 2, padding="same")(a),
        "max pooling": layers.MaxPooling2D(3, 2, padding="same")(a),
        "bilinear": layers.UpSampling2D(2, interpolation="bilinear")(a),
        "nearest": layers.UpSampling2D(2)(a),
        "concatenation": layers.Concatenate()([a, b]),
        "maximum": ops.maximum(a, b),
        "padding": layers.ZeroPadding2D(1)(a),
        "cropping": layers.Cropping2D(((1, 0), (2, 3)))(a),
        "split": layers.Conv2D(2, 1)(ops.split(a, 2, axis=-1)[1]),
        "permutation": layers.Permute((3, 1, 2))(a),
        "sigmoid": ops.sigmoid(a),
        "tanh": ops.tanh(a),
        "ELU": ops.elu(a),
        "GELU": ops.gelu(a),
        "leaky ReLU": layers.LeakyReLU(0.1)(a),
        "ReLU": layers.ReLU()(a),
        "hard sigmoid": ops.hard_sigmoid(a),
        "hard-swish": layers.Conv2D(4, 1)(ops.hard_swish(a)),
        "swish": layers.Conv2D(4, 1)(ops.silu(a)),
        "softmax": layers.Softmax()(layers.Conv2D(9, 1)(a)),
        "dense": layers.Dense(7, activation="relu")(layers.Flatten()(layers.MaxPooling2D(4)(a))),
        "depthwise, two outputs a channel": layers.DepthwiseConv2D(3, depth_multiplier=2, padding="same")(a),
        "grouped": layers.Conv2D(8, 3, groups=2, strides=2, padding="same")(a),
        "dilated": layers.Conv2D(5, 3, dilation_rate=2, padding="same")(a),
        "transposed": layers.Conv2DTranspose(5, 3, strides=2, padding="same")(a),
        "between two floats": layers.Conv2D(4, 1)(normalized),
        "maximum with a constant beyond the input's range": ops.maximum(a, ops.linspace(-2.0, 9.0, 8)),
        "concatenation with a constant beyond": ops.concatenate([a, ops.zeros_like(b) + 9.0], -1),
        "clamp of a wide range": ops.clip(a, -0.3, 0.3),
    }


# How weights are rounded and ranges chosen changes nothing in the arithmetic.
QUICK = Recipe(equalize=False, ranges="min_max", rounding="nearest", correct_biases=False)
NAMES = list(cases(keras.Input((8, 8, 8)), keras.Input((8, 8, 8))))


@pytest.fixture(
    scope="module", params=[False, pytest.param(True, marks=pytest.mark.slow)], ids=["per channel", "per tensor"]
)
def answers(request):
    """Name -> (the file's output, the aware model's, one level), after weights and ranges were moved as in training."""
    keras.utils.set_random_seed(3)
    random = np.random.default_rng(0)
    inputs = keras.Input((16, 16, 6))
    a = layers.Conv2D(8, 3, padding="same")(inputs)
    b = layers.Conv2D(8, 1, activation="relu")(inputs)
    model = keras.Model(inputs, list(cases(a, b).values()))
    pictures = ops.convert_to_numpy(ops.image.resize(random.normal(size=(140, 4, 4, 6)), (16, 16)))
    aware = quantize_aware(model, pictures[:100], recipe=replace(QUICK, per_tensor=request.param))
    for variable in aware.model.trainable_variables:
        variable.assign(variable * (1 + 0.02 * random.normal(size=variable.shape)))
    runner = Runner(aware.to_tflite())
    found = zip(*[runner(picture) for picture in pictures[100:]], strict=True)
    expected = aware.model.predict(pictures[100:], verbose=0)
    levels = [details["quantization"][0] for details in runner.outputs]
    return {
        name: (np.concatenate(outputs), wanted, level)
        for name, outputs, wanted, level in zip(NAMES, found, expected, levels, strict=True)
    }


def test_each_op_gives_the_runtimes_integers(answers):
    """One test of all: with a test an op, each worker would make the model of all ops."""
    assert list(answers) == NAMES
    wrong = {}
    for name, (found, expected, level) in answers.items():
        assert len(np.unique(found)) > 10 and level > 0, name
        off = np.abs(np.round(found / level) - np.round(expected / level))
        # Between floats, sums come in the processor's order: ties may fall either way.
        allowed = off.max() <= 1 and (off > 0).mean() < 1e-3 if name == "between two floats" else off.max() == 0
        if not allowed:
            wrong[name] = off.max()
    assert not wrong


def test_an_op_that_training_does_not_know_is_named():
    inputs = keras.Input((8, 8, 3))
    model = keras.Model(inputs, ops.sin(layers.Conv2D(4, 3, name="front")(inputs)))
    with pytest.raises(RequestError, match=r"does not know what the layer .*sin.* becomes: SIN\..*ABS, ADD"):
        quantize_aware(model, np.zeros((1, 8, 8, 3), np.float32) + np.linspace(-1, 1, 8)[:, None])
