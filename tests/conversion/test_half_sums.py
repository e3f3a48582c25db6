"""Sums become means where the constants after them take the number of terms, and stay where they cannot."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from mobilenets_tf.conversion.convert import float_file
from mobilenets_tf.conversion.half_sums import with_means
from mobilenets_tf.export.delegates import backends
from mobilenets_tf.quantize.calibration import Calibration
from mobilenets_tf.quantize.post_training import Recipe, prepare
from mobilenets_tf.tflite import flatbuffer
from mobilenets_tf.tflite.flatbuffer import schema
from mobilenets_tf.tflite.runtime import Runner
from mobilenets_tf.tflite.weight_types import with_weights
from tests.support.strangers_files import Draft


def names(content):
    tree = flatbuffer.read(content)
    return [flatbuffer.operator_name(tree, operator) for operator in tree.subgraphs[0].operators]


def total(draft, x, axes=(1, 2), keep=True):
    options = schema.ReducerOptionsT()
    options.keepDims = keep
    shape = [1 if i in axes else side for i, side in enumerate(draft.shape(x)) if keep or i not in axes]
    return draft.op("SUM", [x, draft.integers(axes)], shape, options)


def excited(draft, x, gate):
    return draft.conv(draft.binary("MUL", x, draft.op("LOGISTIC", [gate], draft.shape(gate))), 4, kernel=1)


MEANS = {
    "a share of the sum": (lambda draft, x: draft.binary("MUL", total(draft, x), 1 / 64), ["MEAN"]),
    "a quotient": (lambda draft, x: draft.binary("DIV", total(draft, x), 64.0), ["MEAN"]),
    "another factor": (lambda draft, x: draft.binary("MUL", total(draft, x), 0.3), ["MEAN", "MUL"]),
    "a factor for each channel": (
        lambda draft, x: draft.binary("MUL", total(draft, x), np.linspace(0.1, 1, 8)), ["MEAN", "MUL"]
    ),
    "weights": (lambda draft, x: draft.dense(total(draft, x, keep=False), 3), ["MEAN", "FULLY_CONNECTED"]),
    "weights of two readers": (
        lambda draft, x: draft.binary("ADD", *(draft.conv(y, 4, kernel=1) for y in [total(draft, x)] * 2)),
        ["MEAN", "CONV_2D", "CONV_2D", "ADD"],
    ),
    "squeeze and excite": (
        lambda draft, x: excited(draft, x, draft.conv(draft.conv(total(draft, x), 2, kernel=1), 8, kernel=1)),
        ["MEAN", "CONV_2D", "CONV_2D", "LOGISTIC", "MUL", "CONV_2D"],
    ),
    "behind a product": (
        lambda draft, x: draft.conv(draft.binary("MUL", x, total(draft, x)), 4, kernel=1), ["MEAN", "MUL", "CONV_2D"]
    ),
    "the channels": (lambda draft, x: draft.binary("MUL", total(draft, x, (3,)), 1 / 8), ["MEAN"]),
}  # fmt: skip


@pytest.mark.parametrize("case", MEANS)
def test_sums_become_means(case):
    draft = Draft((1, 8, 8, 3))
    last, expected = MEANS[case][0], ["CONV_2D", *MEANS[case][1]]
    before = draft.finished(last(draft, draft.conv(draft.x, 8, kernel=1)))
    after = with_means(before)
    assert "SUM" in names(before) and names(after) == expected and len(after) <= len(before) + 64
    for seed in range(3):
        sample = np.random.default_rng(seed).normal(0, 2, (1, 8, 8, 3)).astype(np.float32)
        (was,), (found,) = Runner(before)(sample), Runner(after)(sample)
        assert np.abs(found - was).max() <= 1e-5 * np.abs(was).max()
    # No delegate takes less of it, in more parts.
    for first, second in zip(*(backends.verdicts(flatbuffer.read(each)) for each in (before, after)), strict=True):
        assert second.total - second.taken <= first.total - first.taken and second.parts <= first.parts


SUMS = {
    "an output": total,
    "an output that weights read too": lambda draft, x: [y := total(draft, x), draft.conv(y, 4, kernel=1)],
    "a function": lambda draft, x: draft.op("LOGISTIC", [y := total(draft, x)], draft.shape(y)),
    "a quotient by the sum": lambda draft, x: draft.binary("DIV", x, total(draft, x)),
    "a square": lambda draft, x: draft.conv(draft.binary("MUL", y := total(draft, x), y), 4, kernel=1),
    "a factor beyond half precision": lambda draft, x: draft.binary("MUL", total(draft, x), 2000.0),
    "weighted by a softmax": lambda draft, x: draft.conv(
        total(draft, draft.binary("MUL", x, draft.transpose(draft.softmax(x), (0, 2, 1, 3)))), 4, kernel=1
    ),
    "weighted by quotients": lambda draft, x: draft.conv(
        total(draft, draft.binary("MUL", x, draft.binary("DIV", x, total(draft, x)))), 4, kernel=1
    ),
    "one term": lambda draft, x: draft.conv(total(draft, draft.mean(x, (1, 2), keep=True)), 4, kernel=1),
}


@pytest.mark.parametrize("case", SUMS)
def test_sums_that_stay(case):
    draft = Draft((1, 8, 8, 3))
    ends = SUMS[case](draft, draft.conv(draft.x, 8, kernel=1))
    content = draft.finished(*(ends if isinstance(ends, list) else [ends]))
    assert with_means(content) is content


@pytest.fixture(scope="module")
def excitation():
    """A squeeze-and-excite of Keras layers whose pooling is a sum and a factor."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((16, 16, 3))
    x = layers.Conv2D(8, 3, activation="relu", name="stem")(inputs)
    gate = ops.sum(x, axis=(1, 2), keepdims=True) / (14 * 14)
    gate = layers.Conv2D(8, 1, activation="sigmoid", name="gate")(gate)
    return keras.Model(inputs, layers.Conv2D(4, 1, name="last")(layers.Multiply()([x, gate])))


@pytest.mark.filterwarnings("ignore:.*calibration samples")
def test_files_of_every_scheme_have_means(excitation, worker):
    _, content, stored = float_file(excitation, worker)
    sample = np.random.default_rng(0).uniform(0, 255, (1, 16, 16, 3)).astype(np.float32)
    expected = excitation.predict_on_batch(sample)
    assert names(content) == ["CONV_2D", "MEAN", "CONV_2D", "LOGISTIC", "MUL", "CONV_2D"]
    for each, tolerance in ((content, 1e-5), (stored("float16"), 1e-3), (stored("int8"), 0.05)):
        assert "SUM" not in names(each)
        assert np.abs(Runner(each)(sample)[0] - expected).max() <= tolerance * np.abs(expected).max()
    written = prepare(content, "int8", Calibration([sample], trusted=True), Recipe(rounding="nearest")).write()
    (xnnpack,) = [each for each in backends.verdicts(flatbuffer.read(written)) if each.path == "xnnpack"]
    assert "SUM" not in names(written) and (xnnpack.taken, xnnpack.parts) == (xnnpack.total, (1,))


def test_without_a_sum_nothing_is_rewritten(worker):
    inputs = keras.Input((8, 8, 3))
    _, content, stored = float_file(keras.Model(inputs, layers.GlobalAveragePooling2D()(inputs)), worker)
    assert with_means(content) is content and names(stored("float16")) == ["MEAN"]


@pytest.mark.parametrize(("side", "becomes"), [(4, "MEAN"), (64, "SUM")])
def test_weights_beside_a_sum_keep_their_digits_in_half_precision(side, becomes):
    """Of 4096 terms the other convolution's weights would be below what half precision keeps with all digits."""
    draft = Draft((1, side, side, 3))
    local = draft.conv(draft.x, 8, kernel=1, fused=schema.ActivationFunctionType.NONE)
    draft_sum = draft.binary("ADD", total(draft, draft.conv(draft.x, 8, kernel=1)), local)
    content = with_means(draft.finished(draft.conv(draft_sum, 4, kernel=1)))
    assert becomes in names(content)
    sample = np.random.default_rng(0).normal(0, 1, (1, side, side, 3)).astype(np.float32)
    expected, found = (Runner(each)(sample)[0] for each in (content, with_weights(content, "float16")))
    assert np.abs(found - expected).max() <= 2e-3 * np.abs(expected).max()
