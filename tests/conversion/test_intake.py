"""Keras models of anyone's: open sides, half precision, channels first."""

import keras
import numpy as np
import pytest
from keras import layers

from mobilenets_tf.conversion.convert import check_exportable
from mobilenets_tf.conversion.intake import taken_in
from mobilenets_tf.errors import RequestError

HEIGHT, WIDTH = 12, 16


def images(channels=3):
    return np.random.default_rng(0).uniform(0, 255, (2, HEIGHT, WIDTH, channels)).astype(np.float32)


def network(layout):
    """The layers that know of the layout, those that do not and are the same, and those that are not."""
    axis, own = (1, {"data_format": layout}) if layout == "channels_first" else (-1, {"data_format": layout})
    spatial = [2, 3] if axis == 1 else [1, 2]
    keras.utils.set_random_seed(1)
    inputs = keras.Input((3, HEIGHT, WIDTH) if axis == 1 else (HEIGHT, WIDTH, 3))
    x = layers.Rescaling(1 / 127.5, -1)(inputs)
    x = layers.Normalization(axis=axis, mean=(0.1, 0.2, 0.3), variance=(1.0, 2.0, 3.0))(x)
    x = layers.Conv2D(8, 3, strides=2, padding="same", **own)(layers.ZeroPadding2D(1, **own)(x))
    x = layers.ReLU(6)(layers.BatchNormalization(axis=axis, moving_mean_initializer="random_normal")(x))
    y = layers.DepthwiseConv2D(3, padding="same", **own)(x)
    y = layers.PReLU(shared_axes=spatial, alpha_initializer="random_normal")(y)
    gate = layers.GlobalAveragePooling2D(**own)(y)
    gate = layers.Reshape((8, 1, 1) if axis == 1 else (1, 1, 8))(gate)
    y = layers.Multiply()([y, layers.Conv2D(8, 1, activation="sigmoid", **own)(gate)])
    x = layers.Concatenate(axis=axis)([x, y])
    x = layers.Conv2DTranspose(6, 3, strides=2, padding="same", **own)(layers.MaxPooling2D(2, **own)(x))
    x = keras.ops.relu(layers.LayerNormalization(axis=axis)(x))
    x = layers.Softmax(axis=axis)(x)
    inner = [keras.Input(x.shape[1:]), layers.Conv2D(5, 3, **own), layers.AveragePooling2D(2, **own)]
    x = keras.Sequential(inner)(x)
    kept = layers.UpSampling2D(2, name="kept", **own)(x)
    return keras.Model(inputs, [layers.Dense(10)(layers.Flatten(**own)(x)), kept])


def test_channels_first_becomes_channels_last():
    last, first = network("channels_last"), network("channels_first")
    for one, other in zip(last.weights, first.weights, strict=True):
        values = np.asarray(one) + 0.1 * np.random.default_rng(2).normal(size=one.shape)
        values = np.abs(values) if "variance" in one.name else values
        one.assign(values)
        other.assign(values if other.shape == one.shape else values.transpose(2, 0, 1))
    with pytest.warns(UserWarning, match=r"channels first, \(3, 12, 16\).*channels last, \(12, 16, 3\)"):
        turned = taken_in(first)
    assert turned.input_shape == last.input_shape and turned.name == first.name
    for found, expected in zip(turned(images()), last(images()), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    assert first.input_shape == (None, 3, HEIGHT, WIDTH)


def of_the_channels(x):
    return keras.ops.softmax(x, axis=1)


def of_channels_first(rest):
    """A model of an image of 4 channels, channels first, which the input itself does not show; ``rest`` reads that
    image."""
    image = keras.Input((HEIGHT, WIDTH, 4))
    first = layers.Identity()(layers.Permute((3, 1, 2))(image))
    # Keeps the values, and brings the layout in.
    first = layers.UpSampling2D(1, data_format="channels_first")(first)
    return keras.Model(image, layers.Permute((2, 3, 1))(rest(first)))


@pytest.mark.parametrize(
    "rest, expected",
    [
        (lambda x: keras.ops.softmax(x, axis=1), lambda x: keras.ops.softmax(x, axis=-1)),
        (lambda x: keras.ops.concatenate([x, x], axis=1), lambda x: keras.ops.concatenate([x, x], axis=-1)),
        (
            layers.Activation(of_the_channels),
            lambda x: keras.ops.softmax(x, axis=-1),
        ),
        (
            lambda x: keras.ops.expand_dims(keras.ops.average(x, axis=1), 1),
            lambda x: keras.ops.mean(x, axis=-1, keepdims=True),
        ),
    ],
    ids=["softmax", "concatenate", "function", "average"],
)
def test_the_axis_of_an_operation_or_function_stays_that_of_the_channels(rest, expected):
    pixels = images(4) / 255
    np.testing.assert_allclose(taken_in(of_channels_first(rest))(pixels), expected(pixels), rtol=1e-5)


def test_a_layout_is_only_restored_where_a_layer_needs_it():
    """Keras' Reshape gives what follows the order of its input, so the image is turned back before it."""
    image = keras.Input((HEIGHT, WIDTH, 3))
    convolution = layers.Conv2D(4, 3, data_format="channels_first")
    x = convolution(layers.Permute((3, 1, 2))(image))
    turned = taken_in(keras.Model(image, layers.Reshape((4, -1))(x)))
    kinds = [type(layer).__name__ for layer in turned.layers]
    assert kinds == ["InputLayer", "Identity", "Conv2D", "Permute", "Reshape"]
    expected = np.asarray(turned.layers[2](images())).transpose(0, 3, 1, 2).reshape(2, 4, -1)
    np.testing.assert_array_equal(turned(images()), expected)


@pytest.mark.parametrize(
    "layer",
    [
        layers.Conv2D(4, 3, activation="softmax", data_format="channels_first", name="theirs"),
        layers.Conv2D(4, 3, activation=of_the_channels, data_format="channels_first", name="theirs"),
        layers.TimeDistributed(layers.Conv1D(4, 3, data_format="channels_first"), name="theirs"),
    ],
)
def test_a_layer_that_cannot_be_turned_is_named(layer):
    model = keras.Sequential([keras.Input((3, 32, 32)), layer])
    with pytest.raises(RequestError, match=r"The layer 'theirs' .*cannot be turned.*set_image_data_format"):
        taken_in(model)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "float16", "bfloat16"])
def test_half_precision_becomes_float32_with_the_same_weights(policy):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        inputs = keras.Input((HEIGHT, WIDTH, 3))
        x = layers.BatchNormalization()(layers.Conv2D(8, 3)(inputs))
        x = keras.Sequential([keras.Input(x.shape[1:]), layers.TimeDistributed(layers.Dense(4))])(x)
        x = layers.GlobalAveragePooling2D()(keras.ops.cast(x, "float16"))
        model = keras.Model(inputs, layers.Dense(3, activation="softmax", dtype="float32")(x))
    finally:
        keras.config.set_dtype_policy(before)
    with pytest.warns(UserWarning, match=f"computes in {policy}; .*computes in float32"):
        single = taken_in(model)
    check_exportable(single)
    assert {tensor.dtype for tensor in (*single.inputs, *single.outputs)} == {"float32"}
    for one, other in zip(model.weights, single.weights, strict=True):
        assert other.dtype == "float32" and np.array_equal(np.asarray(one, np.float32), other)
    answers = np.asarray(single(images() / 255))
    assert answers.dtype == np.float32 and np.abs(answers - np.asarray(model(images() / 255))).max() < 0.02


def test_whole_numbers_that_were_cast_to_half_precision_become_float32():
    """As whole numbers, uint8 would wrap below zero."""
    image = keras.Input((HEIGHT, WIDTH, 3), dtype="uint8")
    x = keras.ops.subtract(keras.ops.cast(image, "float16"), 128)
    model = keras.Model(image, layers.Rescaling(1 / 128, dtype="mixed_float16")(x))
    pixels = images().astype(np.uint8)
    with pytest.warns(UserWarning, match="float32"):
        np.testing.assert_allclose(taken_in(model)(pixels), pixels / 128.0 - 1, atol=1e-6)


def test_normalization_that_was_adapted_is_copied_with_its_statistics():
    norm = layers.Normalization(dtype="mixed_float16")
    norm.adapt(images())
    model = keras.Sequential([keras.Input((HEIGHT, WIDTH, 3)), norm])
    with pytest.warns(UserWarning, match="float32"):
        np.testing.assert_allclose(taken_in(model)(images()), model(images()), atol=1e-2)


def open_model(**first):
    first = layers.Resizing(**first, name="theirs") if first else layers.Identity()
    return keras.Sequential(
        [keras.Input((None, None, 3)), first, layers.Conv2D(4, 3), layers.GlobalAveragePooling2D()], name="open"
    )


def test_open_sides_become_the_resolution():
    model = open_model()
    for resolution, shape in (((12, 16), (None, 12, 16, 3)), (8, (None, 8, 8, 3))):
        fixed = taken_in(model, resolution)
        assert fixed.input_shape == shape and fixed.weights[0] is model.weights[0]
    np.testing.assert_array_equal(taken_in(model, (12, 16))(images()), model(images()))
    assert model.input_shape == (None, None, None, 3)


def test_open_sides_are_refused_unless_the_model_resizes():
    with pytest.raises(RequestError, match=r"has the shape \(1, None, None, 3\).*Pass --resolution"):
        taken_in(open_model())
    with pytest.warns(UserWarning, match="layer 'theirs' resizes every image to 12x16"):
        assert taken_in(open_model(height=12, width=16)).input_shape == (None, 12, 16, 3)
    with pytest.raises(RequestError, match=r"--resolution 9x8 .*has the fixed shape \(1, 12, 16, 3\)"):
        taken_in(keras.Sequential([keras.Input((12, 16, 3)), layers.Conv2D(2, 3)]), (9, 8))
    with pytest.raises(RequestError, match="takes no image"):
        taken_in(keras.Sequential([keras.Input((12,)), layers.Dense(2)]), 8)
    with pytest.raises(RequestError, match="--resolution 0x8 .*at least 1"):
        taken_in(open_model(), (0, 8))
    with pytest.raises(RequestError, match="--resolution 100000x100000 .*more than 2147483647 bytes"):
        taken_in(open_model(), 100_000)


def test_the_resolution_is_that_of_the_images_whose_sides_are_open():
    open_image, fixed_image = keras.Input((None, None, 3), name="open"), keras.Input((8, 8, 3), name="fixed")
    means = [layers.GlobalAveragePooling2D()(image) for image in (open_image, fixed_image)]
    fixed = taken_in(keras.Model([open_image, fixed_image], layers.Add()(means)), (12, 16))
    assert [tensor.shape for tensor in fixed.inputs] == [(None, 12, 16, 3), (None, 8, 8, 3)]


def test_a_model_that_is_as_phones_need_it_is_taken_as_it_is():
    model = keras.Sequential([keras.Input((12, 16, 3)), layers.Conv2D(2, 3)])
    assert taken_in(model) is model and taken_in(model, (12, 16)) is model
