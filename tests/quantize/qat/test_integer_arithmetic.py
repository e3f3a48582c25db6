"""Every op's integers in Keras against those that the phone's runtime computes, one output of a model each."""

from dataclasses import replace

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

from mobilenets_tf import RequestError
from mobilenets_tf.quantize import Recipe, quantize_aware
from mobilenets_tf.quantize.qat.keras_graph import SUPPORTED
from mobilenets_tf.tflite import flatbuffer
from mobilenets_tf.tflite.runtime import Runner
from tests.support.aware_models import graph_answers


def cases(a, b) -> dict:
    """a: levels of both signs; b: none below zero, another scale."""
    normalized, slopes = layers.LayerNormalization()(a), keras.initializers.RandomUniform(0.1, 0.4)
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
        "minimum": ops.minimum(a, b),
        "sum over positions": ops.sum(a, axis=(1, 2)),
        "largest of positions": layers.GlobalMaxPooling2D()(a),
        "magnitude": ops.abs(a),
        "squared difference": layers.Lambda(lambda ab: tf.math.squared_difference(*ab))([a, b]),
        "PReLU": layers.PReLU(slopes, shared_axes=(1, 2))(layers.Conv2D(4, 1)(a)),
        "matrix product": ops.matmul(layers.Reshape((16, 128))(a), layers.Reshape((128, 16))(b)),
        "nearest, not a multiple": layers.Resizing(24, 24, interpolation="nearest")(a),
        "slice": ops.slice(a, (0, 1, 2, 0), (1, 8, 8, 4)),
        "uneven split": layers.Conv2D(2, 1)(ops.split(a, [3], axis=-1)[1]),
        "tiling": ops.tile(a, (1, 2, 1, 1)),
        "one more axis": ops.add(ops.expand_dims(a, 1), ops.expand_dims(b, 1)),
        "one axis less": ops.squeeze(layers.Conv2D(5, (16, 1))(a), 1),
        "ReLU6 alone": layers.ReLU(6.0)(layers.MaxPooling2D(2)(a)),
        "stack": ops.stack([a, b], axis=2),
        "unstack": ops.add(*ops.unstack(layers.Reshape((2, 8, 16, 8))(a), axis=1)),
        "no bias": layers.Dense(5, use_bias=False)(layers.GlobalAveragePooling2D()(b)),
        # Ops without an integer kernel, which stay in float with their neighbours.
        "quotient": layers.Conv2D(4, 1)(ops.divide(a, ops.add(b, 1.0))),
        "reciprocal root": layers.Conv2D(4, 1)(ops.rsqrt(ops.add(b, 0.5))),
        "root of a square": layers.Conv2D(4, 1)(ops.sqrt(ops.add(ops.square(a), 0.1))),
        "exponential": layers.Conv2D(4, 1)(ops.exp(ops.negative(b))),
    }


# How weights are rounded and ranges chosen changes nothing in the arithmetic.
QUICK = Recipe(equalize=False, ranges="min_max", rounding="nearest", correct_biases=False)
# Ops that stay in float, where sums come in the processor's order, and LiteRT's own kernels that round in fixed point:
# values near a tie may be one level off.
TIES = {
    "between two floats", "quotient", "reciprocal root", "root of a square", "exponential", "softmax",
    "squared difference", "matrix product",
}  # fmt: skip


# Ops of which the converter or a step before training makes others, unless they are fused.
BECOME_OTHERS = {
    "EXPAND_DIMS": "RESHAPE", "SQUEEZE": "RESHAPE", "HARD_SWISH": "ADD and MUL", "RELU": "MUL", "RELU6": "MUL",
}  # fmt: skip


def made(per_tensor):
    """A model of all ops; its outputs' names; the aware model, weights and ranges moved as in training; pictures."""
    keras.utils.set_random_seed(3)
    random = np.random.default_rng(0)
    inputs = keras.Input((16, 16, 6))
    a = layers.Conv2D(8, 3, padding="same")(inputs)
    b = layers.Conv2D(8, 1, activation="relu")(inputs)
    outputs = cases(a, b)
    model = keras.Model(inputs, list(outputs.values()))
    pictures = ops.convert_to_numpy(ops.image.resize(random.normal(size=(140, 4, 4, 6)), (16, 16)))
    aware = quantize_aware(model, pictures[:100], recipe=replace(QUICK, per_tensor=per_tensor))
    for variable in aware.model.trainable_variables:
        variable.assign(variable * (1 + 0.02 * random.normal(size=variable.shape)))
    return model, list(outputs), aware, pictures[100:]


def answers(names, aware, pictures):
    """Name -> (the file's output, the aware model's, one level)."""
    runner = Runner(aware.to_tflite())
    found = zip(*[runner(picture) for picture in pictures], strict=True)
    expected = [output.numpy() for output in graph_answers(aware.model, pictures)]
    levels = [details["quantization"][0] for details in runner.outputs]
    return {
        name: (np.concatenate(outputs), wanted, level)
        for name, outputs, wanted, level in zip(names, found, expected, levels, strict=True)
    }


@pytest.mark.filterwarnings("ignore:Training keeps these weights")
@pytest.mark.slow
@pytest.mark.parametrize("per_tensor", [False, True], ids=["per channel", "per tensor"])
def test_each_op_gives_the_runtimes_integers_and_its_weights_come_back(per_tensor):
    """One test of all: with a test an op, each worker would make the model of all ops."""
    model, names, aware, pictures = made(per_tensor)
    graph = flatbuffer.Graph(flatbuffer.read(aware.trained_graph()))
    assert set(SUPPORTED) - set(map(graph.name, graph.operators)) == set(BECOME_OTHERS)
    given = answers(names, aware, pictures)
    wrong = {}
    for name, (found, expected, level) in given.items():
        assert len(np.unique(found)) > 10 and level > 0, name
        off = np.abs(np.round(found / level) - np.round(expected / level))
        allowed = off.max() <= 1 and (off > 0).mean() < 3e-3 if name in TIES else off.max() == 0
        if not allowed:
            wrong[name] = off.max()
    assert not wrong
    trained = aware.to_keras()  # which checks that they give the trained model's outputs
    pairs = zip(model.trainable_variables, trained.trainable_variables, strict=True)
    still = {before.path for before, after in pairs if np.array_equal(before, after) and np.any(before)}
    assert {path.split("/")[-1] for path in still} <= {"gamma", "beta", "alpha"}


def test_an_op_that_training_does_not_know_is_named():
    inputs = keras.Input((8, 8, 3))
    model = keras.Model(inputs, ops.sin(layers.Conv2D(4, 3, name="front")(inputs)))
    with pytest.raises(RequestError, match=r"does not know what the layer .*sin.* becomes: SIN\..*ABS, ADD"):
        quantize_aware(model, np.zeros((1, 8, 8, 3), np.float32) + np.linspace(-1, 1, 8)[:, None])
