"""Which channels shrink together, under which name, and why others cannot."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from mobilenets_tf import RequestError, channel_groups, prune
from mobilenets_tf.conventions import PYTORCH
from mobilenets_tf.networks.mobilevit import V3, mobilevit_block


def found(*body, side=4):
    """The groups of a model: an image, the layers in a row or one function, and a Dense layer "last"."""
    x = image = keras.Input((side, side, 3), name="image")
    for layer in body:
        x = layer(x)
    x = layers.Flatten()(x) if len(x.shape) > 2 else x
    return channel_groups(keras.Model(image, layers.Dense(2, name="last")(x)))


def test_a_group_maps_its_channels():
    def body(x):
        x = layers.Conv2D(4, 1, name="first")(x)
        y = layers.BatchNormalization(name="norm")(layers.Conv2D(4, 1, name="second")(x))
        x = layers.Concatenate()([layers.Conv2D(2, 1, name="before")(x), layers.Add()([x, y])])
        return layers.DepthwiseConv2D(1, depth_multiplier=2, name="depthwise")(x)

    groups = found(body, side=2)
    assert list(groups.groups) == ["first", "before"]
    first = groups.groups["first"]
    assert (first.name, first.width) == ("first", 4)
    assert {name: slices.tolist() for name, slices in first.producers.items()} == {
        "first": [0, 1, 2, 3], "second": [0, 1, 2, 3],
    }  # fmt: skip
    assert {name: slices.tolist() for name, slices in first.followers.items()} == {
        "norm": [0, 1, 2, 3], "depthwise": [-1, -1, 0, 1, 2, 3],
    }  # fmt: skip
    assert set(first.consumers) == {"second", "before", "last"}
    pixel = [-1, -1, -1, -1, 0, 0, 1, 1, 2, 2, 3, 3]
    assert first.consumers["last"].tolist() == 4 * pixel
    assert groups.fixed == {"image": "they are those of the input 'image'", "last": "they are outputs of the model"}


def test_a_layer_of_several_groups():
    def body(x):
        x = layers.Conv2D(6, 1, name="first")(x)
        parts = layers.Conv2D(2, 1, name="left")(x), layers.Conv2D(4, 1, name="right")(x)
        return layers.Add()([layers.Concatenate()(parts), layers.Conv2D(6, 1, name="whole")(x)])

    groups = found(body).groups
    assert [(group.name, group.width) for group in groups.values()] == [("first", 6), ("left", 2), ("right", 4)]
    assert groups["right"].producers["whole"].tolist() == [-1, -1, 0, 1, 2, 3]

    def split(x):
        first, second = ops.split(layers.Conv2D(6, 1, name="first")(x), 2, axis=-1)
        return layers.Concatenate()([layers.Conv2D(2, 1)(first), second])

    assert {"first[0:3]", "first[3:6]"} < set(found(split).groups)

    def picked(x):
        x = layers.Conv2D(6, 1, name="first")(x)
        y = layers.Concatenate()([x[..., 0:2], x[..., 4:6]])
        return layers.Concatenate()([x, layers.Add()([y, layers.Conv2D(4, 1)(y)])])

    assert set(found(picked).groups) == {"first[0:2]", "first[2:4]", "first[4:6]"}

    def between(x):
        x = layers.Conv2D(8, 1, name="first")(x)
        y = layers.Add()([x[..., 2:4], layers.Conv2D(2, 1)(x)])
        return layers.Concatenate()([x, y])

    assert {"first[0:2,4:8]", "first[2:4]"} == set(found(between).groups)


def test_a_layer_with_the_name_of_another_layers_part_is_a_group_of_its_own():
    def body(x):
        x = layers.Conv2D(8, 1, name="first")(x)
        named = layers.Conv2D(4, 1, name="first[0:4]")(x)
        start = layers.Add()([x[..., :4], layers.Conv2D(4, 1, name="start")(x)])
        return layers.Concatenate()([start, x[..., 4:], layers.Conv2D(4, 1, name="end")(named)])

    groups = found(body).groups
    assert list(groups) == ["first[0:4]", "first[4:8]", "first[0:4][0:4]", "end"]
    assert "first[0:4]" in groups["first[0:4][0:4]"].producers and "first" in groups["first[0:4]"].producers


def test_groups_of_a_grouped_convolution_go_whole():
    groups = found(layers.Conv2D(8, 1, name="first"), layers.Conv2D(12, 1, groups=4, name="grouped")).groups
    assert list(groups) == ["first"] and groups["first"].width == 4
    assert groups["first"].producers["first"].tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert groups["first"].producers["grouped"].tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]


def test_models_inside_a_model_are_named_before_their_layers():
    inner = keras.Sequential([layers.Input((4, 4, 3)), layers.Conv2D(5, 1, name="stem"), layers.ReLU()], name="body")
    assert list(found(inner).groups) == ["body/stem"]


class Own(layers.Layer):
    def call(self, x):
        return x


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (layers.LayerNormalization(name="it"), "'it' (LayerNormalization) computes each of them from all"),
        (layers.GroupNormalization(1, name="it"), "'it' (GroupNormalization) computes each of them from all"),
        (layers.Softmax(name="it"), "'it' (Softmax) computes each of them from all"),
        (layers.Activation("softmax", name="it"), "'it' (Activation) has the activation softmax"),
        (layers.Activation(lambda x: x, name="it"), "'it' (Activation) has the activation <lambda>"),
        (layers.Lambda(lambda x: x, name="it"), "'it' (Lambda) may mix them: how they pass such a layer is not known"),
        (Own(name="it"), "'it' (Own) may mix them"),
        (layers.TimeDistributed(layers.Dense(4), name="it"), "'it' (TimeDistributed) may mix them"),
        (lambda x: layers.MultiHeadAttention(2, 2, name="it")(x, x), "'it' (MultiHeadAttention) may mix them"),
        (layers.Reshape((4, 4, 2, 2), name="it"), "'it' (Reshape) spreads them over several axes"),
        (layers.Permute((1, 3, 2), name="it"), "takes another axis for the channels"),
        (lambda x: x[..., 1], "takes one of them alone"),
        (lambda x: x[..., ::2], "picks some of them"),
        (lambda x: ops.mean(x, axis=-1), "computes one value from all of them"),
        (lambda x: ops.matmul(x, np.ones((4, 4), "float32")), "sums over them"),
        (lambda x: ops.cumsum(x, axis=-1), "(Cumsum) may mix them"),
        (lambda x: layers.Add()([x, ops.transpose(x, (0, 3, 1, 2))]), "joins them with channels along another axis"),
    ],
)
def test_what_cannot_shrink_is_named(layer, reason):
    groups = found(layers.Conv2D(4, 1, name="first"), layer, layers.Conv2D(2, 1, name="next") if "another axis for" in
                   reason else layers.Identity())  # fmt: skip
    assert "first" not in groups.groups and reason in groups.fixed["first"]


def test_channels_that_meet_what_stays_stay():
    def body(x):
        y = layers.Conv2D(3, 1, name="first")(x)
        return layers.Add()([x, layers.Conv2D(3, 1, name="second")(y)])

    groups = found(body)
    assert list(groups.groups) == ["first"]
    assert groups.fixed["second"] == "they are those of the input 'image'"
    assert found(layers.Conv2D(1, 1, name="one")).fixed["one"] == "there is only one"
    alone = found(layers.Conv2D(4, 1, name="first"), layers.Conv2D(4, 1, name="all"), layers.GroupNormalization(2))
    assert alone.groups["all"].width == 2


def test_weights_changed_by_keras_are_left_alone():
    x = layers.Dense(4, name="lora")
    groups = found(layers.GlobalAveragePooling2D(), x).groups
    assert "lora" in groups
    x.enable_lora(2)
    inputs = keras.Input((3,))
    model = keras.Model(inputs, layers.Dense(2)(x(inputs)))
    assert not channel_groups(model).groups


def test_open_sides():
    image = keras.Input((None, None, 3))
    x = layers.Conv2D(4, 1, name="first")(image)
    x = layers.Conv2D(4, 1, name="second")(layers.Reshape((-1, 1, 4))(x))
    x = ops.transpose(x, (0, 2, 1, 3))
    groups = channel_groups(keras.Model(image, layers.Conv2D(2, 1)(layers.Conv2D(4, 1, name="third")(x))))
    assert list(groups.groups) == ["first", "second", "third"]


def test_channels_first():
    first = {"data_format": "channels_first"}
    image = keras.Input((3, 6, 6))
    x = layers.Conv2D(4, 3, name="first", **first)(image)
    x = layers.PReLU()(layers.GroupNormalization(2, axis=1)(layers.BatchNormalization(axis=1)(x)))
    parts = layers.Flatten(**first)(x), layers.GlobalAveragePooling2D(**first)(x)
    model = keras.Model(image, layers.Dense(2, name="last")(layers.Concatenate()(parts)))
    group = channel_groups(model).groups["first"]
    assert group.consumers["last"].tolist() == 17 * [0, 0, 1, 1]
    pruned = prune(model, {"first": 1})
    assert [tuple(weight.shape) for weight in pruned.weights[-3:]] == [(2, 4, 4), (34, 2), (2,)]


def test_a_layer_that_is_called_on_several_shapes():
    image, reshape = keras.Input((4, 4, 3)), layers.Reshape((64,), name="reshape")
    x = layers.Conv2D(4, 1, name="first")(image)
    x = layers.Concatenate()([reshape(x), reshape(layers.Conv2D(16, 2, 2, name="second")(image))])
    groups = channel_groups(keras.Model(image, layers.Dense(2)(x)))
    assert not groups.groups and groups.fixed["first"] == "'reshape' is called on several shapes"


def test_the_inside_of_attention_stays():
    image = keras.Input((4, 4, 6))
    x = mobilevit_block(image, 8, 1, V3, "block", PYTORCH)
    groups = channel_groups(keras.Model(image, layers.Conv2D(2, 1)(x)))
    assert list(groups.groups) == ["block_layer1_mlp_expand", "block_global_conv"]
    assert "spreads them over several axes" in groups.fixed["block_layer1_qkv"]
    assert "LayerNormalization" in groups.fixed["block_embed_conv"]


def test_models_that_are_called_with_other_structures_than_their_own():
    first, second = keras.Input((4,), name="first"), keras.Input((4,), name="second")
    inner = keras.Model([first, second], layers.Dense(4, name="inside")(layers.Add()([first, second])), name="inner")
    image = keras.Input((3,))
    named = {name: layers.Dense(4, name=f"{name}_dense")(image) for name in ("first", "second")}

    def model(*calls):
        return keras.Model(image, layers.Dense(2)(layers.Add()([inner(call) for call in calls])))

    assert "inner/inside" in channel_groups(model([named["second"], named["first"]])).groups
    groups = channel_groups(model(named))
    assert not groups.groups and "'inner' (Functional) may mix them" in groups.fixed["first_dense"]
    with pytest.raises(RequestError, match="several structures"):
        channel_groups(model(named, [named["first"], named["second"]]))
