"""Moves of data over more than four axes: the same values with four, on targets that take no more."""

import numpy as np
import pytest

from mobilenets_tf.conversion.four_axes import _fewest, in_four_axes
from mobilenets_tf.export.proof.coverage import verdicts
from mobilenets_tf.tflite import flatbuffer
from mobilenets_tf.tflite.flatbuffer import schema
from mobilenets_tf.tflite.runtime import Runner
from tests.support.strangers_files import Draft


def names(content):
    tree = flatbuffer.read(content)
    return [flatbuffer.operator_name(tree, operator) for operator in tree.subgraphs[0].operators]


def reshape(draft, x, shape):
    return draft.op("RESHAPE", [x, draft.integers(shape)], shape, schema.ReshapeOptionsT())


def moved(shape, split, order, result):
    """A draft of one move, and its end."""
    draft = Draft(shape)
    return draft, reshape(draft, draft.transpose(reshape(draft, draft.x, split), order), result)


def in_type(content, kind):
    """The same file with tensors of another type; integers have one scale."""
    tree = flatbuffer.read(content)
    for tensor in tree.subgraphs[0].tensors:
        if tensor.type == schema.TensorType.FLOAT32:
            tensor.type = kind
            tensor.quantization = schema.QuantizationParametersT()
            tensor.quantization.scale, tensor.quantization.zeroPoint = np.array([0.5], np.float32), np.array([0])
    return flatbuffer.write(tree)


FEW = ["RESHAPE", "TRANSPOSE", "RESHAPE"]
MOVES = {
    "heads": (((1, 4, 6, 24), (1, 4, 6, 6, 4), (0, 3, 1, 2, 4), (1, 24, 6, 4)), FEW),
    "heads of a result": (((1, 8, 6, 4), (1, 2, 4, 6, 4), (0, 2, 3, 1, 4), (1, 4, 6, 8)), FEW),
    "axes of one element": (((1, 4, 4, 3), (1, 4, 1, 4, 1, 3), (0, 3, 2, 1, 4, 5), (4, 4, 3)), FEW),
    "unfolded": (
        ((1, 8, 6, 5), (1, 4, 2, 3, 2, 5), (0, 2, 4, 1, 3, 5), (1, 4, 12, 5)),
        ["SPACE_TO_DEPTH", "RESHAPE", "TRANSPOSE"],
    ),
    "folded": (
        ((1, 9, 4, 5), (1, 3, 3, 2, 2, 5), (0, 3, 1, 4, 2, 5), (1, 6, 6, 5)),
        ["TRANSPOSE", "RESHAPE", "DEPTH_TO_SPACE"],
    ),
}


@pytest.mark.parametrize("kind", ["FLOAT32", "INT8"])
@pytest.mark.parametrize("case", MOVES)
def test_moves_have_four_axes(case, kind):
    arguments, expected = MOVES[case]
    draft, end = moved(*arguments)
    before = (
        in_type(draft.finished(end), getattr(schema.TensorType, kind)) if kind != "FLOAT32" else draft.finished(end)
    )
    after = in_four_axes(before)
    assert names(before) == FEW and names(after) == expected and in_four_axes(after) is after
    assert all(len(tensor.shape) <= 4 for tensor in flatbuffer.read(after).subgraphs[0].tensors)
    sample = np.random.default_rng(0).integers(-100, 100, arguments[0]).astype(np.float32) / 2
    (was,), (found,) = Runner(before)(sample), Runner(after)(sample)
    (of_references,) = Runner(after, reference=True)(sample)  # which have fewer versions of some operators
    assert np.array_equal(was, found) and np.array_equal(was, of_references) and len(np.unique(was)) > 20
    taken = {verdict.path: (verdict.taken, verdict.total) for verdict in verdicts(after)}
    assert taken["gpu"] == taken["npu_qualcomm"] == taken["xnnpack"] == (3, 3)


STAYS = {
    "patches that are not square": ((1, 8, 6, 5), (1, 4, 2, 2, 3, 5), (0, 2, 4, 1, 3, 5), (1, 6, 8, 5)),
    "another result": ((1, 8, 6, 5), (1, 4, 2, 3, 2, 5), (0, 2, 4, 1, 3, 5), (4, 60)),
    "another order": ((1, 8, 6, 5), (1, 4, 2, 3, 2, 5), (0, 5, 4, 3, 2, 1), (1, 4, 12, 5)),
    "four axes": ((1, 8, 6, 5), (1, 4, 2, 30), (0, 2, 1, 3), (1, 2, 120)),
}


@pytest.mark.parametrize("case", STAYS)
def test_moves_that_stay(case):
    draft, end = moved(*STAYS[case])
    content = draft.finished(end)
    assert in_four_axes(content) is content


def test_moves_whose_parts_are_read_elsewhere_or_are_int16_stay():
    arguments, _ = MOVES["heads"]
    draft, end = moved(*arguments)
    content = draft.finished(end, draft.graph.operators[1].outputs[0])
    assert in_four_axes(content) is content
    draft, end = moved(*MOVES["unfolded"][0])
    content = in_type(draft.finished(end), schema.TensorType.INT16)
    assert in_four_axes(content) is content
    draft, end = moved(*arguments)
    assert in_four_axes(in_type(draft.finished(end), schema.TensorType.INT16)) is not content


def test_axes_that_stay_side_by_side_are_one():
    assert _fewest((2, 3, 4), (0, 1, 2)) == ((24,), (0,))
    assert _fewest((1, 4, 6, 12, 16), (0, 3, 1, 2, 4)) == ((24, 12, 16), (1, 0, 2))
    assert _fewest((2, 1, 3, 1, 4), (4, 3, 0, 1, 2)) == ((6, 4), (1, 0))
