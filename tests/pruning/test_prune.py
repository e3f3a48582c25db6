"""Pruned models: what was zero can be taken away without a change, and everything else stays as it was."""

import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers, ops

from mobilenets_tf import (
    LRASPP,
    SSD,
    RequestError,
    channel_groups,
    counts,
    create_model,
    export,
    load_model,
    prune,
    reparameterize,
)
from mobilenets_tf.export.tflite import convert_model
from mobilenets_tf.quantize import SCHEMES, Calibration, Recipe
from mobilenets_tf.tflite.runtime import Runner
from tests.conftest import photographs
from tests.support.classifiers import filled

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

from prune import OTHER, SAME, answers, compared, silence, vary


def convolution(x, filters=8, **options):
    return layers.Conv2D(filters, 3, padding="same", **options)(x)


def residual(x):
    x = layers.MaxPooling2D()(layers.BatchNormalization()(convolution(x, use_bias=False)))
    y = layers.PReLU(shared_axes=[1, 2])(convolution(x))
    z = layers.Subtract()([layers.Maximum()([x, y]), convolution(y)])
    return convolution(layers.ZeroPadding2D(1)(layers.PReLU()(layers.Add()([x, y, z]))))


def concatenated(x):
    parts = [convolution(x, 6), convolution(x, 10, activation="relu"), x]
    x = layers.BatchNormalization()(layers.Concatenate()(parts))
    y = layers.Concatenate()([layers.ReLU()(x), convolution(x, 4)])
    return layers.Add()([convolution(y, 12), layers.Concatenate()([convolution(y, 5), convolution(y, 7)])])


def depthwise(x):
    x = layers.DepthwiseConv2D(3, depth_multiplier=3, activation="tanh")(convolution(x))
    x = layers.PReLU(shared_axes=[0])(layers.LeakyReLU()(x))  # Keras takes 0 for the last axis
    return layers.SeparableConv2D(8, 3, depth_multiplier=2)(layers.PReLU(shared_axes=[-1])(x))


def grouped(x):
    x = convolution(x, 16, groups=1)
    x = convolution(x, 24, groups=4, activation="silu")
    return convolution(layers.GroupNormalization(6)(convolution(x, 24)), 8)


def gated(x):
    x = convolution(x, 16)
    gates = layers.Conv2D(4, 1, activation="relu")(layers.GlobalAveragePooling2D(keepdims=True)(x))
    x = layers.Multiply()([x, layers.Conv2D(16, 1, activation="hard_sigmoid")(gates)])
    flat = layers.Dense(16, activation="sigmoid")(layers.GlobalMaxPooling2D()(x))
    x = layers.Multiply()([x, layers.Reshape((1, 1, 16))(flat)])
    x = layers.Multiply()([x, layers.Dense(16, activation="sigmoid")(layers.GlobalAveragePooling2D()(x))])
    return layers.Multiply()([x, layers.Conv2D(1, 3, padding="same", activation="sigmoid")(x)])


def flattened(x):
    x = layers.Flatten()(layers.Permute((2, 1, 3))(convolution(x, 5)))
    x = layers.BatchNormalization()(layers.Dropout(0.5)(x))
    x = layers.Reshape((8, 8, 5))(x)
    y = layers.Flatten()(layers.Permute((3, 1, 2))(x))  # each channel in a row
    return layers.Concatenate()([layers.Dense(6, activation="gelu")(each) for each in (layers.Flatten()(x), y)])


def resized(x):
    x = layers.Resizing(6, 6)(layers.UpSampling2D()(layers.Cropping2D(1)(convolution(x))))
    x = ops.image.resize(layers.Conv2DTranspose(6, 2, 2)(x), (5, 5))
    return convolution(layers.Reshape((25, 1, 6))(layers.Reshape((5, -1, 6))(x)))


def scaled(x):
    x = layers.Rescaling([0.5, 1.0, 2.0, 3.0], offset=[0.0] * 4)(convolution(x, 4))
    x = ops.multiply(x, np.array([1.0, 2.0, 3.0, 4.0], "float32")) / 3.0
    x = layers.SpatialDropout2D(0.1)(x * ops.relu6(x + 3.0))
    return convolution(layers.Dropout(0.5, noise_shape=(None, 1, 1, 4))(x))


def parted(x):
    x = convolution(x, 12)
    first, second, third = ops.split(x, [3, 8], axis=-1)
    x = ops.concatenate([ops.gelu(third), first, second], axis=-1)
    x = layers.Concatenate(axis=1)([x, ops.multiply(x, 2.0)])
    return layers.Concatenate()([convolution(x[:, 1:, ..., :6]), convolution(x[:, 1:, :, 6:])])


def moved(x):
    x = ops.transpose(convolution(x, 6), (0, 3, 1, 2))
    x = ops.squeeze(ops.expand_dims(ops.moveaxis(ops.swapaxes(x, 2, 3), 1, -1), 1), 1)
    x = ops.matmul(np.ones((3, 8), "float32"), x)
    return layers.RepeatVector(3)(layers.Dense(5)(ops.mean(ops.max(x, axis=2, keepdims=True), (1, 2))))


def shared(x):
    layer, activation, norm = layers.Conv2D(8, 3, padding="same"), layers.ReLU(), layers.BatchNormalization()
    x = activation(convolution(x))
    return layers.Add()([convolution(layer(x)), norm(activation(layer(norm(convolution(x)))))])


def nested(x):
    inner = keras.Input((8, 8, 8), name="features")
    part = keras.Model(inner, [convolution(inner, 6, name="stem"), layers.ReLU()(inner)], name="part")
    part.get_layer("stem").trainable = False
    (y, z), (v, w) = part(convolution(x)), part(convolution(x))
    sequence = keras.Sequential([layers.Input((8, 8, 8)), layers.AveragePooling2D(2), layers.Conv2D(6, 1)], name="tail")
    return layers.Concatenate()([layers.UpSampling2D()(sequence(z)), y, layers.Multiply()([v, convolution(w, 6)])])


KINDS = [
    residual, concatenated, depthwise, grouped, gated, flattened, resized, scaled, parted, moved, shared, nested,
]  # fmt: skip


def small(body, side=8):
    image = keras.Input((side, side, 3), name="image")
    x = body(layers.Conv2D(6, 1, name="first")(image))
    x = layers.Flatten()(x) if len(x.shape) > 2 else x
    return vary(keras.Model(image, layers.Dense(3, name="last")(x), name=body.__name__))


@pytest.mark.parametrize("body", KINDS, ids=lambda body: body.__name__)
def test_zero_channels_can_be_taken_from_each_kind_of_layer(body):
    model = small(body)
    pruned, other, difference = compared(model)
    assert difference <= SAME and other > OTHER
    assert pruned.count_params() < model.count_params()
    assert [layer.name for layer in pruned.layers] == [layer.name for layer in model.layers]
    widths = [len(slices) for slices in silence(model).values()]  # of one slice is no group
    assert sorted(each.width for each in channel_groups(pruned).groups.values()) == sorted(w for w in widths if w > 1)


def test_inputs_and_outputs_of_any_structure():
    first, second = keras.Input((4,), name="first"), keras.Input((5,), name="second")
    x = layers.Add()([layers.Dense(6, name="one")(first), layers.Dense(6)(second)])
    outputs = {"narrow": layers.Dense(2)(x), "wide": layers.Dense(7)(x)}
    inner = keras.Model({"second": second, "first": first}, outputs, name="inner")
    pruned, _, difference = compared(vary(inner))
    assert difference <= SAME and pruned.get_layer("one").units == 5
    assert {name: tensor.shape[1] for name, tensor in pruned.input.items()} == {"first": 4, "second": 5}
    assert {name: tensor.shape[1] for name, tensor in pruned.output.items()} == {"narrow": 2, "wide": 7}
    image = keras.Input((6,))
    x = inner({"first": layers.Dense(4)(image), "second": layers.Dense(5)(image)})
    model = keras.Model(image, layers.Dense(2)(layers.Concatenate()([x["wide"], x["narrow"]])))
    pruned, other, difference = compared(vary(model))
    assert difference <= SAME and other > OTHER
    assert [tensor.shape[1] for tensor in pruned.get_layer("inner").inputs] == [3, 4]


def test_words():
    words = keras.Input((5,), dtype="int32")
    x = layers.Conv1D(8, 3, padding="causal")(layers.Embedding(10, 6, name="embedding")(words))
    model = vary(keras.Model(words, layers.Dense(2)(layers.GlobalMaxPooling1D()(x))))
    pruned, numbers = prune(model, silence(model)), np.arange(10).reshape(2, 5)
    np.testing.assert_allclose(pruned(numbers), model(numbers), rtol=1e-5)
    assert pruned.get_layer("embedding").output_dim == 5


# Each kind of block, with few rows; benchmarks/prune.py has the published ones.
ATTENTIVE = [(2, 16, 1, 1, 0, 0), (2, 24, 1, 2, 0, 0), *((2, width, 1, 2, width, 1) for width in (24, 32, 40))]
SEVERAL = {
    "mobilenet_v1": {"alpha": 0.25},
    "mobilenet_v3_small": {"alpha": 0.35},
    "efficientnet_lite0": {"rows": [(3, 1, 8, 1, 1), *((kernel, 6, 16, 2, 2) for kernel in (3, 5, 3, 5))]},
    "mobileone_mu0": {"rows": [(16, 2, 2, 0), (24, 2, 2, 0), (32, 2, 2, 1), (48, 1, 2, 1)], "branches": 2},
    "mobilevit_v3_xxs": {"rows": ATTENTIVE},
    "mobilevit_v2_050": {"rows": ATTENTIVE},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SEVERAL)
def test_zero_channels_can_be_taken_from_each_kind_of_network(name):
    options = {"classes": 10, "classifier_activation": None, **SEVERAL[name]}
    model = vary(create_model(name, resolution=48 if "vit" in name else 32, **options))
    pruned, other, difference = compared(model)
    assert difference <= SAME and other > OTHER
    if name.startswith("mobileone"):
        folded = reparameterize(pruned)
        np.testing.assert_allclose(answers(folded), answers(pruned), atol=1e-5 * np.abs(answers(pruned)).max())
        assert not any("_branch" in layer.name for layer in folded.layers)


@pytest.mark.slow
@pytest.mark.parametrize("head", [SSD, LRASPP])
def test_zero_channels_can_be_taken_from_a_head_on_a_backbone(head):
    last = {"classifier_activation": None} if head is SSD else {}
    model = vary(head("mobilenet_v3_small", (64, 64, 3), classes=4, alpha=0.35, **last))
    pruned, other, difference = compared(model)
    assert difference <= SAME and other > OTHER
    assert [output.shape for output in pruned.outputs] == [output.shape for output in model.outputs]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ResNet50", "DenseNet121", "EfficientNetB0"])
def test_zero_channels_can_be_taken_from_models_of_keras_applications(name):
    build = getattr(keras.applications, name)
    model = build(weights=None, input_shape=(32, 32, 3), classes=10, classifier_activation=None)
    _, other, difference = compared(vary(model))
    assert difference <= SAME and other > OTHER


@pytest.mark.slow
def test_a_pruned_network_is_saved_loaded_counted_and_exported_to_int8_in_one_piece(worker, tmp_path):
    model = filled(create_model("mobilenet_v3_small", resolution=64, classes=7, classifier_activation=None))
    half = {name: (group.width + 1) // 2 for name, group in channel_groups(model).groups.items()}
    pruned = prune(model, half)
    pruned.save(tmp_path / "pruned.keras")
    loaded = load_model(tmp_path / "pruned.keras")
    np.testing.assert_array_equal(answers(loaded), answers(pruned))
    before, after = counts(model), counts(loaded)
    assert after["params_total"] < 0.3 * before["params_total"] and after["macs"] < 0.35 * before["macs"]
    pictures = photographs(20)
    recipe = Recipe(equalize=False, ranges="min_max", rounding="nearest")
    converted = convert_model(loaded, SCHEMES["int8"], Calibration(pictures), worker, recipe=recipe)
    for content in (converted.float_content, converted.content):
        assert Runner(content).execution_plan() == {"DELEGATE": 1}
    assert export.verify(converted.float_content, loaded, pictures[:4]).relative_difference < 1e-4
    assert export.verify(converted.content, loaded, pictures[:4]).snr_db > 8


def test_the_given_model_and_what_is_not_taken_stay_as_they_are():
    image = keras.Input((8, 8, 3), name="image")
    options = {"kernel_regularizer": keras.regularizers.L2(0.1), "kernel_constraint": keras.constraints.MaxNorm(3)}
    x = layers.Conv2D(6, 3, name="first", **options)(image)
    x = layers.BatchNormalization(name="norm", trainable=False)(x)
    model = vary(keras.Model(image, layers.Conv2D(2, 1, name="last", dtype="float16")(x), name="given"))
    model.get_layer("first").bias.trainable = False
    before = model.get_weights()
    pruned = prune(model, {"first": [5, 0, 2]})
    for some, others in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(some, others)
    first, norm, last = (pruned.get_layer(name) for name in ("first", "norm", "last"))
    assert (pruned.name, first.filters, pruned.input_shape) == ("given", 3, (None, 8, 8, 3))
    np.testing.assert_array_equal(first.kernel, before[0][..., [0, 2, 5]])
    np.testing.assert_array_equal(norm.moving_variance, before[5][[0, 2, 5]])
    np.testing.assert_array_equal(last.kernel, before[6][:, :, [0, 2, 5]])
    assert first.get_config()["kernel_regularizer"] and first.get_config()["kernel_constraint"]
    assert (first.trainable, first.bias.trainable, norm.trainable, last.dtype_policy.name) == (
        True, False, False, "float16",
    )  # fmt: skip


def test_the_units_with_the_largest_kernels_stay_or_those_of_the_highest_scores():
    image = keras.Input((4, 4, 3))
    x = layers.Add()([layers.Conv2D(4, 1, name=name)(image) for name in ("first", "second")])
    model = keras.Model(image, layers.Conv2D(2, 1)(x))
    model.get_layer("first").set_weights([np.array([[[[3, 1, 0, 2]] * 3]], "float32"), np.zeros(4)])
    model.get_layer("second").set_weights([np.array([[[[0, 1, 3, -3]] * 3]], "float32"), np.arange(4)])

    def stay(**options):
        return np.asarray(prune(model, {"first": 2}, **options).get_layer("second").bias).tolist()

    assert stay() == [0, 3]  # the norms of both kernels together: 3, 1.4, 3, 3.6; of the equal ones the first
    assert stay(importance={"first": [0, 1, 2, 1]}) == [1, 2]
    assert stay(importance=lambda group: -np.arange(group.width)) == [0, 1]


def layer_of_the_users():
    class Own(layers.Layer):
        def call(self, x):
            return x

    return keras.Sequential([layers.Input((3,)), layers.Dense(4, name="first"), Own(name="own"), layers.Dense(2)])


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda model: prune(model, {"frist": 2}), "Did you mean 'first'?"),
        (lambda model: prune(model, {"second": 2}), "'second' is no group: its channels are in 'first'"),
        (lambda model: prune(model, {"last": 1}), "'last' cannot shrink: they are outputs of the model"),
        (
            lambda model: prune(model, {"first": 0}),
            "0 channels of 'first', whose width is 4: give a number from 1 to 4",
        ),
        (lambda model: prune(model, {"first": 5}), "5 channels of 'first'"),
        (lambda model: prune(model, {"first": []}), "at least one has to stay"),
        (lambda model: prune(model, {"first": [0, 4]}), "index 4 of 'first', whose width is 4: indices go from 0 to 3"),
        (lambda model: prune(model, {"first": [-1]}), "index -1"),
        (lambda model: prune(model, {"first": [1, 2, 1]}), "index 1 of 'first', whose width is 4 is given 2 times"),
        (lambda model: prune(model, {"first": True}), "True of 'first'"),
        (lambda model: prune(model, {"first": [True, False]}), "expected how many channels stay, or a list"),
        (lambda model: prune(model, {"first": 0.5}), "0.5 of 'first'"),
        (lambda model: prune(model, {"first": "all"}), "'all' of 'first'"),
        (lambda model: prune(model, ["first"]), "expected Mapping"),
        (lambda model: prune(model, {"first": 2}, importance={"frist": [1]}), "no scores of 'first'"),
        (lambda model: prune(model, {"first": 2}, importance=lambda group: [1, 2]), "the shape (2,); expected 4"),
        (lambda model: prune(model, {"first": 2}, importance={"first": [1, 2, 3, np.nan]}), "NaN"),
        (lambda model: prune(layer_of_the_users(), {"first": 2}), "Nothing in 'sequential"),
        (lambda model: prune("mobilenet_v2", {}), "expected a keras.Model"),
        (lambda model: channel_groups(keras.Sequential([layers.Dense(2)])), "is not built"),
    ],
)
def test_wrong_requests_say_what_to_do(call, said):
    image = keras.Input((3,))
    x = layers.Add()([layers.Dense(4, name="first")(image), layers.Dense(4, name="second")(image)])
    model = keras.Model(image, layers.Dense(2, name="last")(x))
    with pytest.raises(RequestError) as error:
        call(model)
    assert said in str(error.value)


def test_other_models_and_layers_that_cannot_be_built_are_refused():
    class Own(keras.Model):
        def call(self, x):
            return x

    with pytest.raises(RequestError, match="functional and sequential models only"):
        channel_groups(Own())
    exact = layers.Dense(4, kernel_initializer=keras.initializers.Constant(np.ones((3, 4))), name="exact")
    model = keras.Sequential([layers.Input((3,)), exact, layers.Dense(2)])
    with pytest.raises(RequestError, match=r"'exact' \(Dense\) cannot be built with fewer channels"):
        prune(model, {"exact": 2})


def test_factors_along_another_axis_stay_whole():
    """Of rows, and of rows and channels; as many rows as channels."""
    random = np.random.default_rng(0)
    for shape in ((8, 1, 1), (8, 1, 8), (1, 8)):
        x = made = convolution(image := keras.Input((8, 8, 3)), 8, name="made")
        x = layers.Rescaling(random.uniform(1, 2, shape).tolist())(x)
        model = keras.Model(image, layers.Conv2D(2, 1, use_bias=False, name="read")(x))
        kernel = random.normal(size=(1, 1, 8, 2))
        kernel[:, :, 5:] = 0
        model.get_layer("read").kernel.assign(kernel)
        pixels = random.normal(size=(2, 8, 8, 3)).astype(np.float32)
        smaller = prune(model, {"made": range(5)})
        expected = np.asarray(model(pixels))
        np.testing.assert_allclose(smaller(pixels), expected, atol=1e-5 * np.abs(expected).max())
        assert made.shape[-1] == 8 and smaller.get_layer("made").filters == 5


@pytest.mark.parametrize(
    "read",
    [
        lambda x: ops.clip(x, -1.0, np.arange(8, dtype="float32")),
        lambda x: ops.concatenate([x, np.ones((1, 8, 8, 4), "float32")], -1),
    ],
)
def test_constants_inside_of_operations_fix_the_channels(read):
    image = keras.Input((8, 8, 3), batch_size=1)
    model = keras.Model(image, layers.Conv2D(8, 1)(read(convolution(image, 8, name="made"))))
    assert "made" in channel_groups(model).fixed


def test_a_normalisation_without_weights_joins_its_calls():
    image = keras.Input((8, 8, 3))
    norm = layers.GroupNormalization(4, center=False, scale=False)
    model = keras.Model(image, [layers.Conv2D(2, 1)(norm(convolution(image, 8))) for _ in range(2)])
    (group,) = channel_groups(model).groups.values()
    assert group.width == 4 and len(group.producers) == 2
