"""Models in memory without a functional Keras 3 graph of stock layers are traced, with their names and values."""

from collections import OrderedDict

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from mobilenets_tf.conversion.convert import freeze
from mobilenets_tf.conversion.frozen_graph import run_frozen
from mobilenets_tf.conversion.lean_norms import with_lean_norms
from mobilenets_tf.conversion.traced.keras_objects import frozen_keras, is_stock
from mobilenets_tf.errors import RequestError


class Subclassed(keras.Model):
    """Drops out half of its values in training."""

    def __init__(self):
        super().__init__(name="mine")
        self.convolution, self.dropout = layers.Conv2D(4, 3, 2), layers.Dropout(0.5)

    def call(self, image, training=False):
        x = self.dropout(self.convolution(image), training=training)
        return {"scores": tf.nn.softmax(tf.reduce_mean(x, (1, 2))), "features": x}


class TwoInputs(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(3)

    def call(self, inputs):
        return self.dense(inputs["left"]), inputs["right"] * 2


class Doubled(layers.Layer):
    """A layer of the user's that has no configuration."""

    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def call(self, x):
        return x * self.factor


def image(*shape):
    return np.random.default_rng(0).uniform(-1, 1, shape).astype("float32")


def checked(model, *samples, **options):
    """Freeze a model, compare the graph's outputs with the model's, and return the graph."""
    graph = frozen_keras(model, **options)
    given = samples[0] if len(samples) == 1 else {"left": samples[0], "right": samples[1]}
    wanted = keras.tree.flatten(model(given, training=False) if "training" in model.call.__code__.co_varnames else
                                model(given))  # fmt: skip
    for found, expected in zip(run_frozen(graph)(samples), wanted, strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5)
    return graph


def test_a_subclassed_model_of_a_dict(worker):
    model = Subclassed()
    model(image(2, 12, 12, 3))
    graph = checked(model, image(1, 12, 12, 3))
    assert [(port.name, port.shape) for port in graph.inputs] == [("image", (1, 12, 12, 3))]
    assert [(port.name, port.shape) for port in graph.outputs] == [("features", (1, 5, 5, 4)), ("scores", (1, 4))]
    assert graph.kind == "Keras 3 model (Subclassed)" and "conv2d" in graph.layers[0]


def test_inputs_of_a_dict_have_the_names_of_its_keys():
    model = TwoInputs()
    model({"right": image(1, 5), "left": image(1, 4)})
    graph = checked(model, image(1, 4), image(1, 5))
    assert [port.name for port in graph.inputs] == ["left", "right"]
    assert [port.name for port in graph.outputs] == ["output_0", "output_1"]


def test_a_functional_model_with_layers_of_ones_own():
    inputs = keras.Input((None, None, 3), name="image")
    x = Doubled(3.0)(layers.Conv2D(4, 3)(inputs))
    model = keras.Model(inputs, {"b": layers.GlobalMaxPooling2D()(x), "a": x})
    graph = checked(model, image(1, 8, 6, 3), resolution=(8, 6))
    assert [port.name for port in graph.inputs] == ["image"] and [port.name for port in graph.outputs] == ["a", "b"]


class Hinted(keras.Model):
    def call(self, x, hint=None, factor=2.0, training=None):
        return factor * x if hint is None else factor * x + hint


class HintedWithShapes(Hinted):
    """Between its tensors stands an argument that is no tensor."""

    def build(self, x_shape, hint_shape=None):
        pass

    def call(self, x, factor=2.0, hint=None):
        return super().call(x, hint, factor)


def test_a_second_argument_that_keras_does_not_keep_is_refused():
    model = Hinted(name="mine")
    model(image(1, 4), hint=image(1, 4))
    said = "mine is a Hinted whose call takes 'hint' too; .* one dict of tensors, or .* build.self, x_shape, hint_shape"
    with pytest.raises(RequestError, match=said):
        frozen_keras(model)


def test_arguments_are_given_by_the_names_that_build_tells():
    both, alone = HintedWithShapes(), HintedWithShapes()
    both(image(1, 4), factor=3.0, hint=image(1, 4))  # what is no tensor keeps its default, as docs/models.md says
    alone(image(1, 4))
    graph = frozen_keras(both)
    assert [port.name for port in graph.inputs] == ["x", "hint"]
    np.testing.assert_allclose(run_frozen(graph)([image(1, 4), 0 * image(1, 4) + 5])[0], 2 * image(1, 4) + 5, atol=1e-6)
    graph = frozen_keras(alone)
    assert [port.name for port in graph.inputs] == ["x"]
    np.testing.assert_allclose(run_frozen(graph)([image(1, 4)])[0], 2 * image(1, 4), atol=1e-6)


class InItsOwnOrder(keras.Model):
    """Keras leaves the keys of an OrderedDict in their order, and sorts those of a dict."""

    def call(self, x):
        return OrderedDict([("z", 2 * x), ("a", x + 7)])


def test_outputs_of_an_ordered_dict_have_the_names_of_their_keys():
    inputs = keras.Input((4,))
    subclassed, functional = InItsOwnOrder(), keras.Model(inputs, InItsOwnOrder()(inputs))
    subclassed(image(1, 4))
    for graph in (checked(subclassed, image(1, 4)), freeze(functional)):
        found = dict(zip([port.name for port in graph.outputs], run_frozen(graph)([image(1, 4)]), strict=True))
        np.testing.assert_allclose(found["z"], 2 * image(1, 4), atol=1e-6)
        np.testing.assert_allclose(found["a"], image(1, 4) + 7, atol=1e-6)


class Scaled(keras.Model):
    """A functional model that does more than its layers say."""

    def call(self, inputs):
        return 2 * super().call(inputs)


def test_a_functional_model_whose_call_is_another():
    inputs = keras.Input((4,))
    model = Scaled(inputs, layers.LayerNormalization()(inputs))
    assert not is_stock(model)
    checked(model, image(1, 4))
    outer = keras.Model(inputs, model(inputs))
    np.testing.assert_allclose(with_lean_norms(outer)(image(1, 4)), outer(image(1, 4)), atol=1e-5)


@pytest.mark.parametrize(
    "shape, size, said",
    [
        (None, None, "mine is a Subclassed without an input shape. Call it once"),
        ((12, 12, 3), 16, r"--resolution 16x16 .* 'image' of mine has the fixed shape \(1, 12, 12, 3\)"),
    ],
)
def test_what_a_model_lacks_is_said(shape, size, said):
    model = Subclassed()
    if shape:
        model(image(1, *shape))
    with pytest.raises(RequestError, match=said):
        frozen_keras(model, size)


def test_code_that_cannot_be_traced_is_named():
    class Eager(keras.Model):
        def call(self, x):
            return x * len(np.asarray(x))

    model = Eager()
    model._build_shapes_dict, model.built, model._called = {"x_shape": (None, 4)}, True, True
    with pytest.raises(
        RequestError, match=r"eager.* \(Keras 3 model \(Eager\)\) cannot be traced with the input x \(1, 4\)"
    ):
        frozen_keras(model)


tf_keras = pytest.importorskip("tf_keras", reason="tf_keras, of the extra qat, is missing")


class SubclassedOfKeras2(tf_keras.Model):
    def __init__(self):
        super().__init__()
        self.convolution, self.norm = tf_keras.layers.Conv2D(4, 3, 2), tf_keras.layers.BatchNormalization()

    def call(self, pixels, training=None):
        x = self.norm(self.convolution(pixels), training=training)
        if training:
            x = x * 0
        return tf.reduce_mean(x, (1, 2))


def test_a_functional_model_of_keras2():
    inputs = tf_keras.Input((8, 8, 3), name="image")
    x = tf_keras.layers.Conv2D(4, 3, activation="hard_sigmoid")(inputs)
    pooled = tf_keras.layers.GlobalAveragePooling2D(name="pooled")(x)
    model = tf_keras.Model(inputs, [tf_keras.layers.Dropout(0.5, name="last")(pooled), pooled])
    graph = checked(model, image(1, 8, 8, 3))
    assert [port.name for port in graph.inputs] == ["image"]
    assert [port.name for port in graph.outputs] == ["last", "pooled"] and graph.kind == "Keras 2 model (Functional)"


def test_a_subclassed_model_of_keras2():
    model = SubclassedOfKeras2()
    with pytest.raises(RequestError, match="without an input shape. Call it once"):
        frozen_keras(model)
    model(image(2, 8, 8, 3))
    graph = checked(model, image(1, 8, 8, 3))
    assert [port.name for port in graph.inputs + graph.outputs] == ["pixels", "output"]
