"""Masks of -1e9 and minus infinity in front of softmaxes leave the levels to the other scores."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from mobilenets_tf.quantize import Calibration
from mobilenets_tf.quantize.post_training import Recipe, prepare
from mobilenets_tf.quantize.steps.softmax_masks import limit_masks
from mobilenets_tf.tflite import flatbuffer
from mobilenets_tf.tflite.flatbuffer import schema
from mobilenets_tf.tflite.runtime import Runner
from tests.support.strangers_files import Draft

SEQUENCES = np.random.default_rng(0).normal(0, 0.3, (60, 8, 12)).cumsum(axis=1).astype(np.float32)
SEQUENCES[:, :, 0] = np.sign(SEQUENCES[:, :, 0])  # what a mask is computed of, the same in integers
CAUSAL = np.triu(np.full((8, 8), -1e9, np.float32), 1)


def cases(image) -> dict:
    """Softmaxes behind a mask, from (8, 12)."""
    mean = layers.GlobalAveragePooling1D()(image)
    rows = layers.Dense(1)(image)[:, :, 0]
    kept = ops.maximum(ops.cast(image[:, :, 0] > 0, "float32"), np.eye(8, dtype=np.float32)[:1])  # always the first
    attention = ops.matmul(layers.Dense(6)(image), ops.transpose(layers.Dense(6)(image), (0, 2, 1)))
    return {
        "classes": ops.softmax(layers.Dense(8)(mean) + np.float32([0, 0, -1e9, 0, 0, 0, -1e9, 0])),
        "minus infinity": ops.softmax(layers.Dense(8)(mean) + np.float32([0, 0, -np.inf, 0, 0, 0, -np.inf, 0])),
        "lowest float32": ops.softmax(rows + np.float32([0] * 6 + [-3.4e38] * 2)),
        "subtracted": ops.softmax(rows - np.float32([0] * 6 + [1e9] * 2)),
        "computed": ops.softmax(rows + (1 - kept) * -1e9),
        "selected": ops.softmax(ops.where(kept > 0.5, rows, -1e9)),
        "attention": layers.Dense(4)(ops.matmul(ops.softmax(attention / 2.4 + CAUSAL), layers.Dense(6)(image))),
        "pooled": ops.sum(ops.softmax(rows + np.float32([0] * 6 + [-1e9] * 2))[:, :, None] * image, 1),
    }


@pytest.fixture(scope="module")
def content(float_file):
    keras.utils.set_random_seed(0)
    sequence = keras.Input((8, 12))
    return float_file(keras.Model(sequence, list(cases(sequence).values())))


@pytest.mark.parametrize(("scheme", "least"), [("int8", 25), ("int16x8", 40)])
def test_masked_scores_leave_the_levels_to_the_others(content, scheme, least):
    names = list(cases(keras.Input((8, 12))))
    recipe = Recipe(rounding="nearest")
    before, after = Runner(content), Runner(prepare(content, scheme, Calibration(SEQUENCES), recipe).write())
    for name, *pairs in zip(names, *(zip(before(s), after(s), strict=True) for s in SEQUENCES[:30]), strict=True):
        wanted, found = (np.stack(side) for side in zip(*pairs, strict=True))
        noise = np.square(found - wanted).sum()
        assert 10 * np.log10(np.square(wanted).sum() / max(noise, 1e-30)) > least, name


def test_limited_masks_give_the_same_probabilities(content):
    samples = [[sequence[None]] for sequence in SEQUENCES]
    limited = limit_masks(content, samples)
    graph = flatbuffer.Graph(flatbuffer.read(limited))
    constants = [graph.constant(index) for operator in graph.operators for index in operator.inputs if index >= 0]
    assert min(values.min() for values in constants if values is not None and values.size) > -200
    for (sequence,) in samples[:10]:
        for wanted, found in zip(Runner(content)(sequence), Runner(limited)(sequence), strict=True):
            assert np.abs(wanted - found).max() < 1e-4
    assert limit_masks(limited, samples) is limited


def test_encodings_of_positions_are_no_masks(float_file):
    sequence = keras.Input((8, 12))
    positions = -8.0 * np.abs(np.arange(8)[:, None] - np.arange(8)).astype(np.float32)
    scores = ops.matmul(sequence, ops.transpose(sequence, (0, 2, 1))) + positions
    content = float_file(keras.Model(sequence, ops.softmax(scores)))
    assert limit_masks(content, [[sequence[None]] for sequence in SEQUENCES[:4]]) is content


@pytest.mark.parametrize("other_reader", ["output", "LOGISTIC", "is an output"])
def test_a_constant_that_something_else_reads_stays(other_reader):
    draft = Draft((1, 12))
    scores = draft.dense(draft.x, 8)
    draft.graph.operators[-1].inputs[2] = draft.floats([0, 0, -700, 0, -500, -800, 0, 0])
    halves = [
        draft.op("SLICE", [scores, draft.integers((0, at)), draft.integers((1, 4))], (1, 4), schema.SliceOptionsT())
        for at in (0, 4)
    ]
    if other_reader == "LOGISTIC":
        halves[1] = draft.op("LOGISTIC", [halves[1]], (1, 4))
    outputs = [draft.softmax(halves[0]), scores if other_reader == "is an output" else halves[1]]
    content = draft.finished(*outputs)
    assert limit_masks(content, [[row[None]] for row in SEQUENCES[:4, 0]]) is content


def test_long_and_branching_ways_to_a_softmax_take_no_time():
    draft = Draft((1, 12))
    x = draft.binary("ADD", draft.x, np.float32([0] * 11 + [-1e9]))
    for _ in range(500):
        x = draft.op("RESHAPE", [x, draft.integers((1, 12))], (1, 12), schema.ReshapeOptionsT())
    for _ in range(40):
        x = draft.binary("ADD", x, x)
    content = draft.finished(draft.softmax(x))
    assert limit_masks(content, [[row[None] * 0] for row in SEQUENCES[:2, 0]])
