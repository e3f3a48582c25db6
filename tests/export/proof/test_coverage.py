"""Which operators the targets of a report run, and what the others cost."""

import pytest

from mobilenets_tf.export.proof.coverage import verdicts
from tests.export.delegates.test_backends import IMAGE, int32, one_operator, tensor
from tests.support.strangers_files import Draft


def by_path(content):
    return {verdict.path: verdict for verdict in verdicts(content)}


def test_the_share_of_the_work_that_stays_outside():
    draft = Draft((1, 8, 8, 3))
    x = draft.conv(draft.x, 4, kernel=1)
    x = draft.conv(draft.op("L2_NORMALIZATION", [x], draft.shape(x)), 8, kernel=3)
    found = by_path(draft.finished(x))
    small, large = 8 * 8 * 4 * 3, 8 * 8 * 8 * 9 * 4
    assert found["gpu"].taken == 1 and found["gpu"].outside == pytest.approx(large / (small + large))
    assert (found["xnnpack"].taken, found["xnnpack"].outside) == (2, 0)
    assert "micro" not in found  # which computes floats too slowly for anyone to want it


def test_microcontrollers_take_whole_int8_files_or_none():
    ends = [tensor(IMAGE, "int8")], [tensor(IMAGE, "int8")]
    found = by_path(one_operator("RELU", *ends))["micro"]
    assert (found.taken, found.outside, found.fallbacks) == (1, 0, ())
    ends = [tensor(IMAGE, "int8"), int32((1, 1, 1, 2))], [tensor((1, 8, 8, 8), "int8")]
    found = by_path(one_operator("TILE", *ends, options="TileOptions"))["micro"]
    assert found.taken == 0 and "TILE" in found.fallbacks[0].reason
    axes = (1, 2, 2, 2, 2, 2)
    ends = [tensor(axes, "int8"), int32((0, 2, 1, 3, 4, 5))], [tensor(axes, "int8")]
    (left,) = by_path(one_operator("TRANSPOSE", *ends, options="TransposeOptions"))["micro"].fallbacks
    assert left.reason == "it has 6 axes; up to 5 are taken"
