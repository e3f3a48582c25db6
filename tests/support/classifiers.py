"""A small classifier, and weights that are far from trivial."""

import keras
import numpy as np
from keras import layers

from mobilenets_tf.conventions import PYTORCH
from mobilenets_tf.networks.mobilevit import V3, mobilevit_block
from tests.conftest import photographs
from tests.support.make_goldens import generated


def filled(model):
    """The model; its weights and BatchNorm statistics are those that belong to its layers' names."""
    for layer in model.layers:
        for variable in layer.weights:
            variable.assign(generated(f"{layer.name}.{variable.name}", tuple(variable.shape)))
    return model


def small():
    """What MobileNetV2 is made of, once each: 64 x 64 pixels, a block with a stride, one with a sum, ten classes."""
    inputs = keras.Input((64, 64, 3), name="image")
    x = _convolution(inputs, 16, 3, "stem", strides=2)
    x = _block(x, 16, "narrow", strides=2)
    x = layers.Add(name="sum")([x, _block(x, 16, "residual", strides=1)])
    x = _convolution(x, 64, 1, "head")
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    outputs = layers.Dense(10, activation="softmax", name="predictions")(x)
    model = filled(keras.Model(inputs, outputs, name="small"))
    # So that answers differ from picture to picture.
    last, pooled = model.layers[-1], keras.Model(inputs, x).predict(photographs(100), verbose=0)
    last.kernel.assign(last.kernel * 0.7 / np.std(pooled @ last.kernel, axis=0).mean())
    last.bias.assign(-np.mean(pooled @ last.kernel, axis=0))
    return model


def attentive():
    """A block of MobileViTv3 with two transformer layers between convolutions: 64 x 64 pixels, ten classes."""
    inputs = keras.Input((64, 64, 3), name="image")
    x = _convolution(_convolution(inputs, 16, 3, "stem", strides=2), 32, 3, "down", strides=2)
    x = mobilevit_block(x, 24, 2, V3, "block", PYTORCH, dropout=0.05)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return filled(keras.Model(inputs, layers.Dense(10, activation="softmax", name="predictions")(x), name="attentive"))


def _convolution(x, filters, kernel, name, strides=1):
    x = layers.Conv2D(filters, kernel, strides, padding="same", use_bias=False, name=name)(x)
    return layers.ReLU(6.0, name=f"{name}_relu")(layers.BatchNormalization(name=f"{name}_bn")(x))


def _block(x, filters, name, strides):
    """Expanded, filtered channel by channel, and projected without an activation."""
    x = _convolution(x, 3 * filters, 1, f"{name}_expand")
    x = layers.DepthwiseConv2D(3, strides, padding="same", use_bias=False, name=f"{name}_depthwise")(x)
    x = layers.ReLU(6.0, name=f"{name}_depthwise_relu")(layers.BatchNormalization(name=f"{name}_depthwise_bn")(x))
    x = layers.Conv2D(filters, 1, use_bias=False, name=f"{name}_project")(x)
    return layers.BatchNormalization(name=f"{name}_project_bn")(x)
