"""Lean graphs compute what the graphs they were made from compute, with fewer ops; some things must not be folded."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from mobilenets_tf.conversion.convert import convert, freeze
from mobilenets_tf.conversion.lean_norms import with_lean_norms
from mobilenets_tf.quantize.steps.float_islands import float_islands
from mobilenets_tf.quantize.steps.integer_forms import integer_forms
from mobilenets_tf.tflite import flatbuffer
from mobilenets_tf.tflite.flatbuffer import schema
from mobilenets_tf.tflite.lean import lean
from mobilenets_tf.tflite.runtime import Runner
from tests.support.make_goldens import generated
from tests.support.strangers_files import Draft


def weighted(inputs, outputs):
    model = keras.Model(inputs, outputs)
    for number, variable in enumerate(model.weights):
        variable.assign(generated(f"{number}.{variable.name}", tuple(variable.shape)))
    return model


def float_file(model, worker):
    return convert(freeze(model), worker)


def same(before, after, tolerance=1e-5):
    """Both files give the same outputs on a few inputs, some of them far out."""
    first, second = Runner(before), Runner(after)
    for seed, reach in enumerate((0.5, 2, 8)):
        sample = np.random.default_rng(seed).normal(0, reach, first.inputs[0]["shape"]).astype(np.float32)
        for expected, actual in zip(first(sample), second(sample), strict=True):
            assert np.abs(actual - expected).max() <= tolerance * np.abs(expected).max()


def counts(content):
    return flatbuffer.operator_counts(flatbuffer.read(content))


def constant_bytes(content):
    return sum(len(buffer.data) for buffer in flatbuffer.read(content).buffers if buffer.data is not None)


def scale_and_shift(x, channels=6):
    random = np.random.default_rng(3)
    return x * random.uniform(0.5, 2, channels).astype(np.float32) + random.normal(0, 1, channels).astype(np.float32)


FOLDED = {
    "convolution": lambda x: layers.Conv2D(4, 1)(scale_and_shift(x)),
    "depthwise": lambda x: layers.DepthwiseConv2D(3, padding="valid", depth_multiplier=2)(scale_and_shift(x)),
    "dense behind a pooling": lambda x: layers.Dense(4)(layers.GlobalAveragePooling2D()(scale_and_shift(x))),
    "through transpose and reshape": lambda x: layers.Conv2D(4, 1)(
        layers.Reshape((4, 16, 6))(layers.Permute((2, 1, 3))(scale_and_shift(x)))
    ),
    "through a resize and a concatenation": lambda x: layers.Conv2D(4, 1)(
        layers.Concatenate()([x, layers.Resizing(8, 8)(scale_and_shift(x))])
    ),
    "two readers": lambda x: layers.Add()([layers.Conv2D(4, 1)(y := scale_and_shift(x)), layers.Conv2D(4, 1)(y)]),
    "a factor through a product and a mean": lambda x: layers.Conv2D(4, 1)(
        (y := ops.relu(x) * 0.25) * layers.Conv2D(6, 1)(ops.mean(y, (1, 2), keepdims=True))
    ),
    "a factor through a sum with a convolution": lambda x: layers.Conv2D(4, 1)(
        (y := ops.relu(x) * 0.25) + layers.Conv2D(6, 1)(layers.DepthwiseConv2D(3, padding="same")(y))
    ),
}


@pytest.mark.parametrize("kind", FOLDED)
def test_constants_go_into_the_weights_that_follow(kind, worker):
    inputs = keras.Input((8, 8, 6))
    before = float_file(weighted(inputs, FOLDED[kind](inputs)), worker)
    after = lean(before)
    same(before, after)
    assert constant_bytes(after) <= constant_bytes(before)  # what was replaced is gone
    constants = sum(counts(before).get(name, 0) - counts(after).get(name, 0) for name in ("MUL", "ADD"))
    assert constants == (1 if kind.startswith("a factor") else 2)


KEPT = {
    "a term before padding": lambda x: layers.Conv2D(4, 3, padding="same")(ops.relu(x) + 0.5),
    "an output": lambda x: scale_and_shift(x),
    "an activation between": lambda x: layers.Conv2D(4, 1)(ops.relu6(ops.relu(x) * 0.25)),
    "a square": lambda x: layers.Conv2D(4, 1)((y := ops.relu(x) * 0.25) * y),
    "a sum with something else": lambda x: layers.Conv2D(4, 1)(ops.relu(x) * 0.25 + ops.sigmoid(x)),
    "a mean over channels": lambda x: layers.Conv2D(4, 1)(ops.mean(scale_and_shift(x), -1, keepdims=True)),
}


@pytest.mark.parametrize("kind", KEPT)
def test_what_cannot_be_folded_is_left(kind, worker):
    inputs = keras.Input((8, 8, 6))
    before = float_file(weighted(inputs, KEPT[kind](inputs)), worker)
    after = lean(before)
    same(before, after)
    assert counts(after) == counts(before)


def test_channels_of_very_different_size_stay_apart(worker):
    """A factor may be undone on the other side of a sum only where that leaves int8 a common scale."""
    inputs = keras.Input((8, 8, 6))
    x = ops.relu(inputs) * np.array([1, 1, 1e-3, 1, 1, 1], np.float32)
    before = float_file(weighted(inputs, layers.Conv2D(4, 1)(x + layers.Conv2D(6, 1)(inputs))), worker)
    assert counts(lean(before)) == counts(before)


def test_chains_of_squares_and_of_reshapes_take_no_time():
    draft = Draft()
    x = draft.conv(draft.binary("MUL", draft.x, 2.0), 4, kernel=1)
    squares = x = draft.binary("MUL", x, 0.1)
    for _ in range(40):
        squares = draft.binary("MUL", squares, squares)
    flat = draft.binary("MUL", draft.mean(x, (1, 2)), 3.0)
    for _ in range(400):
        flat = draft.op("RESHAPE", [flat, draft.integers((1, 4))], (1, 4), schema.ReshapeOptionsT())
    before = draft.finished(draft.dense(flat, 2), draft.mean(squares, (1, 2)))
    after = lean(before)
    same(before, after)
    assert (counts(before)["MUL"], counts(after)["MUL"]) == (43, 41)


def test_a_grouped_convolution_is_not_split(worker):
    inputs = keras.Input((4, 16, 8))
    parts = ops.split(layers.Conv2D(8, 1, groups=2)(inputs), (2,), axis=-1)
    before = float_file(weighted(inputs, [ops.tanh(part) for part in parts]), worker)
    same(before, lean(before))


def test_a_split_convolution_becomes_one_for_each_part(worker):
    inputs = keras.Input((4, 16, 6))
    small, large = ops.split(layers.Conv2D(9, 1)(inputs), (2,), axis=-1)
    before = float_file(weighted(inputs, [ops.sigmoid(small), ops.tanh(large)]), worker)
    after = lean(before)
    same(before, after)
    assert (counts(before)["SPLIT_V"], counts(before)["CONV_2D"]) == (1, 1)
    assert "SPLIT_V" not in counts(after) and counts(after)["CONV_2D"] == 2


@pytest.mark.parametrize(
    "norm",
    [
        layers.LayerNormalization(epsilon=1e-5),
        layers.LayerNormalization(axis=[-1], center=False),
        layers.GroupNormalization(1, epsilon=1e-5),
        layers.GroupNormalization(1, scale=False),
    ],
    ids=["layer", "layer without beta", "group", "group without gamma"],
)
def test_normalisations_are_seven_ops(norm, worker):
    inputs = keras.Input((4, 16, 32))
    model = weighted(inputs, layers.Conv2D(8, 1)(norm(inputs)))
    before, after = float_file(model, worker), lean(float_file(with_lean_norms(model), worker))
    same(before, after, 1e-4)
    ops_left = {"MEAN": 2, "SUB": 1, "SQUARED_DIFFERENCE": 1, "ADD": 1, "RSQRT": 1, "MUL": 1, "CONV_2D": 1}
    assert counts(after) == ops_left


def test_other_normalisations_and_models_are_left_alone():
    inputs = keras.Input((4, 16, 32))
    for norm in (layers.GroupNormalization(4), layers.LayerNormalization(axis=(1, 2, 3)), layers.BatchNormalization()):
        model = keras.Model(inputs, norm(inputs))
        assert with_lean_norms(model) is model


def test_a_normalisation_inside_and_beside_other_layers(worker):
    """In a nested model; called on two ranks; inside a layer of the user's, where it is left."""

    class Block(layers.Layer):
        def __init__(self, inner):
            super().__init__(name="block")
            self.inner, self.norm = inner, layers.LayerNormalization()

        def call(self, x):
            return self.norm(self.inner(x))

    inputs = keras.Input((16, 32))
    shared = layers.LayerNormalization()
    nested = keras.Sequential([keras.Input((16, 32)), layers.LayerNormalization(), layers.Dense(32)], name="nested")
    x = Block(layers.Dense(32))(nested(shared(inputs)))
    model = weighted(inputs, [layers.Dense(3)(x), shared(layers.GlobalAveragePooling1D()(x))])
    rewritten = with_lean_norms(model)
    sample = np.random.default_rng(0).normal(0, 3, (2, 16, 32)).astype(np.float32)
    for expected, actual in zip(model(sample), rewritten(sample), strict=True):
        np.testing.assert_allclose(actual, expected, atol=1e-5 * np.abs(expected).max())
    left = [layer.name for layer in rewritten._flatten_layers() if isinstance(layer, layers.LayerNormalization)]
    assert len(left) == 1  # the block's own
    same(float_file(model, worker), lean(float_file(rewritten, worker)), 1e-4)


def test_hard_swish_for_integers(worker):
    """Two ops each: the 1/6 is in the weights that follow, past squeeze-and-excite and a residual sum."""
    inputs = x = keras.Input((16, 16, 3))
    x = y = layers.Activation("hard_swish")(layers.Conv2D(8, 3, padding="same")(x))
    y = layers.Activation("hard_swish")(layers.DepthwiseConv2D(3, padding="same")(y))
    gate = layers.Conv2D(8, 1)(layers.GlobalAveragePooling2D(keepdims=True)(y))
    y = layers.Multiply()([y, layers.Activation("sigmoid")(gate)])
    x = layers.Add()([x, layers.Conv2D(8, 1)(y)])
    model = weighted(inputs, layers.Conv2D(4, 1)(x))
    before = float_file(model, worker)
    after = integer_forms(before)
    same(before, after)
    assert counts(before)["HARD_SWISH"] == 2 and "HARD_SWISH" not in counts(after)
    added = {name: counts(after)[name] - counts(before).get(name, 0) for name in ("ADD", "MUL")}
    assert added == {"ADD": 2, "MUL": 2}
    # Where nothing can take the 1/6 it stays, and the function is the same.
    end = float_file(weighted(inputs, layers.Activation("hard_swish")(layers.Conv2D(8, 3)(inputs))), worker)
    same(end, integer_forms(end))


@pytest.mark.parametrize("rectifier", [ops.relu, ops.relu6])
def test_other_ops_take_rectifiers_along(rectifier, worker):
    """XNNPACK has no integer kernel for a ReLU on its own."""
    inputs = keras.Input((8, 8, 6))
    small, large = ops.split(layers.Conv2D(9, 1)(inputs), (2,), axis=-1)
    x = layers.Conv2D(7, 1)(layers.Concatenate()([inputs, small]))
    y = ops.tanh(rectifier(large)) + rectifier(x) * x  # the first split off its convolution, x read twice
    before = lean(float_file(weighted(inputs, [rectifier(inputs), y]), worker))
    after = integer_forms(before)
    same(before, after)
    assert {"RELU", "RELU6"} & set(counts(before)) and not {"RELU", "RELU6"} & set(counts(after))
    assert counts(after)["MUL"] - counts(before)["MUL"] == 2  # for the input's and for x's


def test_float_islands_are_attention_and_normalisation(worker):
    inputs = keras.Input((4, 16, 32))
    x = layers.Add()([inputs, layers.Conv2D(32, 1)(inputs)])
    y = layers.Conv2D(32, 1)(layers.LayerNormalization()(x))
    scores = layers.Softmax()(ops.matmul(y, ops.transpose(y, (0, 1, 3, 2))))
    z = layers.Add()([x, layers.Conv2D(32, 1)(ops.matmul(scores, y))])
    z = layers.Conv2D(10, 1)(layers.LayerNormalization()(z))
    model = weighted(inputs, layers.Softmax()(layers.GlobalAveragePooling2D()(z)))
    tree = flatbuffer.read(lean(float_file(with_lean_norms(model), worker)))
    operators = tree.subgraphs[0].operators
    names = [flatbuffer.operator_name(tree, operators[place]) for place in float_islands(tree)]
    # Both residual sums, two normalisations and one attention; not the convolutions, the pooling or the last softmax.
    assert sorted(names) == sorted(
        ["ADD"] * 2
        + ["MEAN", "SUB", "SQUARED_DIFFERENCE", "MEAN", "ADD", "RSQRT", "MUL"] * 2
        + ["BATCH_MATMUL", "SOFTMAX", "BATCH_MATMUL"]
    )


def test_masked_attention_is_one_float_island(worker):
    inputs = keras.Input((8, 12))
    query = layers.Dense(12)(inputs)
    scores = ops.matmul(query, ops.transpose(query, (0, 2, 1))) * 0.3
    scores = ops.where(np.tril(np.ones((8, 8), bool)), scores, -1e9)
    model = weighted(inputs, layers.Dense(4)(ops.matmul(ops.softmax(scores), query)))
    tree = flatbuffer.read(lean(float_file(model, worker)))
    names = [flatbuffer.operator_name(tree, tree.subgraphs[0].operators[place]) for place in float_islands(tree)]
    assert names == ["BATCH_MATMUL", "MUL", "SELECT_V2", "SOFTMAX", "BATCH_MATMUL"]
