"""A detector's file in each form, against its own raw outputs."""

import json

import numpy as np
import pytest

from mobilenets_tf.data.preprocessing import Preprocessing
from mobilenets_tf.errors import RequestError
from mobilenets_tf.export.delegates.backends import verdicts
from mobilenets_tf.export.delegates.inspection import inspect, predicted_plan
from mobilenets_tf.export.forms.detector import anchors_file, with_form
from mobilenets_tf.networks.heads.anchors import ssd_anchors
from mobilenets_tf.quantize import Calibration, Recipe
from mobilenets_tf.quantize.post_training import prepare
from mobilenets_tf.tasks.postprocess import Postprocess
from mobilenets_tf.tflite import flatbuffer
from mobilenets_tf.tflite.image_input import ImageInput
from mobilenets_tf.tflite.runtime import Runner
from tests.conftest import photographs
from tests.support import drawn_networks
from tests.tasks.test_postprocess import decoded

FAST = Recipe(equalize=False, ranges="min_max", rounding="nearest", correct_biases=False)
ANCHORS = ssd_anchors(((8, 8), (4, 4)))
POST = Postprocess(ANCHORS, len(drawn_networks.NAMES), score_threshold=0.4)
PIXELS = Preprocessing(64, 64, crop="stretch")
SCHEMES = ("float32", "int8", "int16x8")


@pytest.fixture(scope="module")
def raw(float_file):
    """Scheme -> the content of the small detector's file."""
    content = float_file(drawn_networks.detector())
    files = {"float32": content}
    for scheme in SCHEMES[1:]:
        files[scheme] = prepare(content, scheme, Calibration(photographs(100, 64), (-1, 1)), FAST).write()
    return files


def names(content):
    return [details["name"] for details in Runner(content).outputs]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_decoded_boxes_are_keras_own_and_scores_are_left_alone(raw, scheme):
    content = with_form(raw[scheme], "decoded", POST)
    assert names(content) == ["decoded_boxes", "scores"]
    before, after = Runner(raw[scheme]), Runner(content)
    assert after.outputs[0]["dtype"] == np.float32
    assert [after.outputs[1][key] for key in ("dtype", "quantization")] == [
        before.outputs[1][key] for key in ("dtype", "quantization")
    ]
    for picture in photographs(2, 64, seed=1):
        (boxes, scores), (corners, same) = before(picture), after(picture)
        np.testing.assert_allclose(corners[0], decoded(ANCHORS, boxes[0]), atol=1e-6)
        np.testing.assert_array_equal(same, scores)


@pytest.mark.parametrize("regular", [True, False])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_nms_finds_what_postprocess_finds(raw, scheme, regular):
    post = Postprocess(ANCHORS, POST.classes, 500, score_threshold=0.5, regular=regular)
    content = with_form(raw[scheme], "nms", post)
    assert names(content) == ["detection_boxes", "detection_classes", "detection_scores", "num_detections"]
    (signature,) = flatbuffer.read(content).signatureDefs
    assert [entry.name.decode() for entry in signature.outputs] == names(content)
    before, after = Runner(raw[scheme]), Runner(content, threads=2)
    assert [details["shape"].tolist() for details in after.outputs] == [[1, 500, 4], [1, 500], [1, 500], [1]]
    for picture in photographs(3, 64, seed=1):
        boxes, scores = before(picture)
        wanted = post(boxes[0], scores[0])
        corners, classes, best, number = after(picture)
        assert number == len(wanted) and 0 < len(wanted) < 500
        found, behind = (slice(len(wanted)), slice(len(wanted), None))
        np.testing.assert_array_equal(
            in_order(corners[0, found], classes[0, found], best[0, found]),
            in_order(wanted.boxes, wanted.classes, wanted.scores),
        )
        if regular:  # the fast kernel leaves there what was in memory
            assert not corners[0, behind].any() and not classes[0, behind].any() and not best[0, behind].any()


def in_order(corners, classes, scores):
    """Rows by score; several threads may bring equal ones in another order."""
    rows = np.c_[corners, classes, scores]
    return rows[np.lexsort(rows.T)]


@pytest.mark.parametrize("form", ["decoded", "nms"])
@pytest.mark.parametrize("scheme", ["float32", "int8"])
def test_files_that_take_bytes(raw, scheme, form):
    """In whichever order the two are done, and without a detour over uint8."""
    image = ImageInput(PIXELS, "uint8")
    first = with_form(image.finish(raw[scheme]), form, POST)
    last = image.finish(with_form(raw[scheme], form, POST))
    assert flatbuffer.operator_counts(flatbuffer.read(first)) == flatbuffer.operator_counts(flatbuffer.read(last))
    picture = ((photographs(1, 64, seed=1)[0] + 1) * 127.5).astype(np.uint8)
    # One thread: several bring equal scores in any order.
    for one, other in zip(Runner(first, threads=1)(picture), Runner(last, threads=1)(picture), strict=True):
        np.testing.assert_array_equal(one, other)
    types = [details["dtype"] for details in Runner(first).outputs]
    assert types == [np.float32, np.uint8 if (form, scheme) == ("decoded", "int8") else np.float32, *types[2:]]


@pytest.mark.parametrize("scheme", ["float32", "int8"])
def test_delegates_take_the_decoding_and_leave_the_suppression(raw, scheme):
    for form, left in (("decoded", []), ("nms", ["TFLite_Detection_PostProcess"])):
        content = with_form(raw[scheme], form, POST)
        found = {verdict.path: verdict for verdict in verdicts(flatbuffer.read(content))}
        assert [fallback.operator for fallback in found["xnnpack"].fallbacks] == left
        assert predicted_plan(found["xnnpack"]) == Runner(content).execution_plan()
        assert "SPLIT" not in [fallback.operator for fallback in found["gpu"].fallbacks]


def test_inspect_knows_whose_kernel_it_is(raw):
    found = inspect(with_form(raw["int8"], "nms", POST))
    assert found.custom_operators == {"TFLite_Detection_PostProcess": 1} and found.trial.error is None
    text = "\n".join(found.lines())
    assert "custom operators TFLite_Detection_PostProcess (1); LiteRT has the kernels" in text
    assert "bring their kernels" not in text


def test_what_does_not_fit_is_refused(raw):
    assert with_form(raw["int8"], "raw", POST) == raw["int8"]
    with pytest.raises(RequestError, match="Did you mean 'decoded'"):
        with_form(raw["int8"], "decode", POST)
    with pytest.raises(
        RequestError, match=r"a detector with 288 anchors and 3 classes are \[\(1, 288, 4\), \(1, 288, 4\)"
    ):
        with_form(raw["int8"], "nms", Postprocess(ANCHORS, 3))
    with pytest.raises(RequestError, match="a detector with 192 anchors"):
        with_form(raw["int8"], "raw", Postprocess(ANCHORS[:192], 2))


def test_the_anchors_file_has_every_bit_and_says_how_to_decode():
    told = json.loads(anchors_file(ANCHORS))
    np.testing.assert_array_equal(np.float32(told["rows"]), ANCHORS)
    boxes = np.random.default_rng(0).normal(size=ANCHORS.shape).astype(np.float32)
    (y, x, h, w), (ty, tx, th, tw) = np.array(told["rows"]).T, boxes.T
    names = {"y": y, "x": x, "h": h, "w": w, "ty": ty, "tx": tx, "th": th, "tw": tw, "exp": np.exp}
    said = dict(part.split(" = ") for line in told["decoding"] if " = " in line for part in line[:-1].split(", "))
    middle_y, middle_x, height, width = (
        eval(said[name], names) for name in ("y centre", "x centre", "height", "width")
    )
    corners = np.stack([middle_y - height / 2, middle_x - width / 2, middle_y + height / 2, middle_x + width / 2], 1)
    np.testing.assert_allclose(corners, decoded(ANCHORS, boxes), atol=1e-5)
