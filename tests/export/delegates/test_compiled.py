"""Files that were compiled for an NPU: what inspect says of them, with the report beside and without."""

import json

import numpy as np
import pytest

from mobilenets_tf.export.delegates.compiled import PART, REPORT
from mobilenets_tf.export.delegates.inspection import inspect
from mobilenets_tf.tflite import flatbuffer
from mobilenets_tf.tflite.flatbuffer import schema
from tests.export.delegates.test_backends import IMAGE, mediapipe, tensor

ENTRY = {"chip": "SM8750", "operators": 5, "taken": 4, "inside": {"CONV_2D": 3, "MEAN": 1}}


STAMP = b"Qualcomm".ljust(125, b"\0") + b"SM8750".ljust(125, b"\0")


def compiled(stamp=STAMP):
    """The content of a file of one compiled part, without the compiler's code."""
    tree = flatbuffer.read(mediapipe(PART, [tensor(IMAGE)], [tensor(IMAGE)], (0,)))
    buffer, entry = schema.BufferT(), schema.MetadataT()
    buffer.data = np.frombuffer(stamp, np.uint8)
    entry.name, entry.buffer = b"LiteRtStamp", len(tree.buffers)
    tree.buffers.append(buffer)
    tree.metadata = [*(tree.metadata or ()), entry]
    return flatbuffer.write(tree)


def said(path):
    return "\n".join(inspect(path).lines())


def test_inspect_says_for_which_chip_a_file_was_compiled(tmp_path):
    path = tmp_path / "net_SM8750.tflite"
    path.write_bytes(compiled())
    text = said(path)
    assert "compiled for     Qualcomm SM8750, 1 part; runs on this chip's NPU alone" in text
    assert "each is a part of the graph that was compiled for an NPU" in text
    assert "unresolved" not in text and "XNNPACK" not in text and "on the NPU" not in text
    assert inspect(path).compiled.inside is None
    (tmp_path / REPORT).write_text(json.dumps({"chips": [{"chip": "SM8550"}, ENTRY]}))
    assert "on the NPU       4 of 5 operators by report.json: CONV_2D (3), MEAN (1)" in said(path)
    other = tmp_path / "other.tflite"  # which the report is not about
    other.write_bytes(compiled())
    assert "on the NPU" not in said(other)


@pytest.mark.parametrize(
    "report",
    [
        "{", "[]", '{"chips": 1}', '{"chips": [1, {"chip": "SM8750"}]}', "[" * 100000, " " * (1 << 21),
        json.dumps({"chips": [ENTRY | {"inside": {"CONV_2D": "3"}}]}), json.dumps({"chips": [ENTRY | {"taken": None}]}),
    ],
)  # fmt: skip
def test_a_report_of_something_else_is_not_read(tmp_path, report):
    path = tmp_path / "net_SM8750.tflite"
    path.write_bytes(compiled())
    (tmp_path / REPORT).write_text(report)
    assert inspect(path).compiled.operators is None


def test_a_stamp_from_anywhere():
    for stamp in (b"", b"short", b"\xff" * 300, b"\0" * 250):
        found = inspect(compiled(stamp))
        assert found.compiled.parts == 1 and len(found.compiled.chip) <= 124
        assert "\x1b" not in "\n".join(found.lines())
    assert "\x1b" not in "\n".join(inspect(compiled(b"\x1b[31m".ljust(250, b"\0"))).lines())
    assert inspect(mediapipe("MyOp", [tensor(IMAGE)], [tensor(IMAGE)], (0,))).compiled is None
