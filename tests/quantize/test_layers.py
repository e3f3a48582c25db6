"""The operators of converted models, each with the name of the Keras layer it came from."""

import keras
import pytest
from keras import layers

from mobilenets_tf.conversion.convert import convert, freeze
from mobilenets_tf.quantize.layers import of_operators
from mobilenets_tf.quantize.steps.integer_forms import integer_forms
from mobilenets_tf.tflite import flatbuffer
from mobilenets_tf.tflite.lean import lean


@pytest.fixture(scope="module")
def names(worker):
    """A function: Keras model -> (op, layer) of each operator that quantisation will see."""

    def names(model):
        graph = freeze(model)
        content = integer_forms(lean(convert(graph, worker)))
        tree = flatbuffer.read(content)
        ops = [flatbuffer.operator_name(tree, operator) for operator in tree.subgraphs[0].operators]
        return list(zip(ops, of_operators(content, graph.layers), strict=True))

    return names


def test_a_fused_operator_counts_for_the_layer_with_the_weights(names):
    x = inputs = keras.Input((8, 8, 3))
    for number in (1, 2):
        x = layers.Conv2D(4, 3, use_bias=False, name=f"conv_{number}")(x)
        x = layers.BatchNormalization(name=f"norm_{number}")(x)
        x = layers.ReLU(6, name=f"relu_{number}")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    x = layers.Dense(5, name="scores")(x)
    model = keras.Model(inputs, layers.Softmax(name="answer")(x))
    assert names(model) == [
        ("CONV_2D", "conv_1"), ("CONV_2D", "conv_2"), ("MEAN", "pool"), ("FULLY_CONNECTED", "scores"),
        ("SOFTMAX", "answer"),
    ]  # fmt: skip


def test_the_names_that_keras_gives_by_itself_are_not_mixed_up(names):
    # TensorFlow calls the first convolution's scope "..._1", which is the second convolution's name.
    keras.backend.clear_session()
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(4, 3),
            layers.Conv2D(4, 3, activation="relu"),
            layers.SeparableConv2D(4, 3, activation="relu"),
            layers.Flatten(),
            layers.Dense(4, activation="softmax"),
        ]
    )
    assert [layer.name for layer in model.layers[:2]] == ["conv2d", "conv2d_1"]
    assert [name for _, name in names(model)] == [
        "conv2d", "conv2d_1", "separable_conv2d", "separable_conv2d", "flatten", "dense", "dense",
    ]  # fmt: skip


def nested(name):
    inputs = keras.Input((8, 8, 4))
    x = layers.Conv2D(4, 3, padding="same", name="conv")(inputs)
    return keras.Model(inputs, layers.ReLU(name="relu")(layers.BatchNormalization(name="norm")(x)), name=name)


def test_nested_models_shared_layers_and_operations_that_are_no_layer(names):
    left, right, shared = nested("left"), nested("right"), layers.Conv2D(4, 1, name="shared")
    inputs = keras.Input((8, 8, 4))
    x = left(left(inputs))
    y = right(x)
    x = shared(shared(keras.ops.add(x, y)))
    model = keras.Model(inputs, [x, right(x)])
    found = names(model)
    assert [name for op, name in found if op == "CONV_2D"] == [
        "left/conv", "left/conv", "right/conv", "shared", "shared", "right/conv",
    ]  # fmt: skip
    assert [name for op, name in found if op == "ADD"] == ["Add"]


def test_layers_inside_a_layer(names):
    inputs = keras.Input((6, 8))
    x = layers.MultiHeadAttention(2, 4, name="attention")(inputs, inputs)
    found = names(keras.Model(inputs, layers.Dense(3, name="head")(x)))
    weighted = {name for op, name in found if op == "FULLY_CONNECTED"}
    assert weighted == {"head", *(f"attention/{part}" for part in ("query", "key", "value", "attention_output"))}
    assert {name for op, name in found if op in ("BATCH_MATMUL", "SOFTMAX")} == {"attention"}


def test_the_ops_of_a_hard_swish_and_the_parts_of_a_split_convolution(names):
    inputs = keras.Input((8, 8, 4))
    x = layers.Conv2D(4, 1, name="conv")(inputs)
    x = layers.Activation("hard_swish", name="swish")(x)
    parts = keras.ops.split(layers.Conv2D(8, 1, name="both")(x), [3], axis=-1)
    found = names(keras.Model(inputs, [layers.ReLU(name=f"relu_{i}")(part) for i, part in enumerate(parts)]))
    assert [name for op, name in found if op in ("ADD", "MUL")] == ["swish", "swish"]
    assert [name for op, name in found if op == "CONV_2D"] == ["conv", "both", "both"]
