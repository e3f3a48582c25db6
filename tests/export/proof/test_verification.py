"""The measures of agreement, against outputs whose measures are known; and files that cannot be run."""

import json

import keras
import numpy as np
import pytest

from mobilenets_tf import RequestError, export
from mobilenets_tf.export.forms import detector as detector_forms
from mobilenets_tf.export.forms import segmenter as segmenter_forms
from mobilenets_tf.files import to_json
from mobilenets_tf.networks.heads.anchors import ssd_anchors
from mobilenets_tf.tasks.postprocess import Postprocess
from mobilenets_tf.tflite.runtime import Runner
from tests.conftest import photographs
from tests.support import drawn_networks


def test_compare_counts():
    reference = np.eye(4, 8)[[0, 1, 2, 3]] + np.linspace(0, 0.07, 8)
    candidate = reference.copy()
    candidate[0, 5] = 2  # another answer, the right one still second
    candidate[1, [1, 3]] = 1  # a tie, won by the lower index
    found = export.compare(reference, candidate, labels=[0, 1, 2, 7])
    assert (found.images, found.top1_agreement, found.top5_agreement, found.ties) == (4, 0.75, 1.0, 0.25)
    assert (found.reference_top1, found.top1) == (0.75, 0.5)
    assert found.reference_top5 == 1.0
    difference = candidate - reference
    assert found.largest_difference == pytest.approx(np.abs(difference).max())
    assert found.snr_db == pytest.approx(10 * np.log10((reference**2).sum() / (difference**2).sum()))
    assert "-25.0 points" in found.lines()[-1]


def test_equal_outputs():
    outputs = np.random.default_rng(0).normal(size=(3, 10))
    found = export.compare(outputs, outputs)
    assert found.largest_difference == 0 and found.snr_db == np.inf and '"snr_db": null' in to_json(found.as_dict())
    assert found.top1 is None and len(found.lines()) == 3


def test_what_cannot_be_compared():
    with pytest.raises(RequestError, match="no images"):
        export.compare(np.zeros((0, 3)), np.zeros((0, 3)))
    with pytest.raises(RequestError, match=r"\(3,\).*\(4,\)"):
        export.compare(np.zeros((2, 3)), np.zeros((2, 4)))


@pytest.mark.parametrize("content", [b"", b"not a model at all", b"\x1c\x00\x00\x00TFL3" + b"\xff" * 64])
def test_files_that_are_no_models(tmp_path, content):
    (tmp_path / "x.tflite").write_bytes(content)
    with pytest.raises(RequestError, match=r"x\.tflite cannot be run"):
        Runner(tmp_path / "x.tflite")
    with pytest.raises(RequestError, match="No such TFLite file"):
        Runner(tmp_path / "y.tflite")


def test_no_module_takes_the_place_of_a_public_name():
    import importlib
    import pkgutil

    for module in pkgutil.iter_modules(export.__path__):
        importlib.import_module(f"{export.__name__}.{module.name}")
    assert all(not isinstance(getattr(export, name), type(importlib)) for name in export.__all__)


def test_one_output_value_is_two_classes():
    reference = np.array([[0.9], [0.8], [0.2], [0.1]])
    assert export.compare(reference, 1 - reference).top1_agreement == 0
    found = export.compare(reference, reference * 0.6, labels=[1, 1, 0, 0])
    assert (found.top1_agreement, found.reference_top1, found.top1) == (0.75, 1.0, 0.75)


def test_outputs_that_are_not_finite_never_agree():
    good, bad = np.ones((3, 4)), np.full((3, 4), np.nan)
    for reference, candidate, whose in ((good, bad, "file"), (bad, good, "model")):
        with pytest.raises(RequestError, match=f"{whose} gives NaN or infinite values on 3 of 3"):
            export.compare(reference, candidate)


def test_verify_takes_what_calibration_takes(small, worker):
    from mobilenets_tf.conversion.convert import convert, freeze
    from mobilenets_tf.quantize import Calibration

    content, pictures = convert(freeze(small), worker), photographs(6)
    forms = [pictures, Calibration(pictures), [pictures[:4], pictures[4:]], [(picture, 1) for picture in pictures]]
    assert [export.verify(content, small, form).images for form in forms] == [6] * 4


def test_a_model_with_two_inputs_is_verified(worker):
    """Inputs of one shape, so that a mix-up would show in the numbers only."""
    import keras

    from mobilenets_tf.conversion.convert import convert, freeze

    z, a = keras.Input((4,), name="z"), keras.Input((4,), name="a")
    model = keras.Model([z, a], keras.layers.Dense(3)(keras.layers.Subtract()([z, a])))
    content = convert(freeze(model), worker)
    first, second = np.random.default_rng(0).normal(size=(2, 5, 4)).astype(np.float32)
    for form in ((first, second), {"a": second, "z": first}, [(pair, 0) for pair in zip(first, second, strict=True)]):
        found = export.verify(content, model, form)
        assert found.relative_difference < 1e-5


def test_all_outputs_of_a_detector_are_compared(float_file):
    model, pictures = drawn_networks.detector(), photographs(5)
    content = float_file(model)
    same = export.verify(content, model, pictures)
    assert (same.images, same.relative_difference < 1e-5) == (5, True)
    assert [(output.name, output.shape) for output in same.outputs] == [("boxes", (288, 4)), ("scores", (288, 3))]

    last = model.get_layer("ssd_level2_boxes")  # 96 of the boxes
    last.bias.assign(last.bias + 0.5)
    found = export.verify(content, model, pictures)
    boxes, scores = found.outputs
    power = np.square(model.predict(pictures, verbose=0)[0], dtype=np.float64).sum()
    assert boxes.largest_difference == pytest.approx(0.5, abs=1e-4) and scores.relative_difference < 1e-5
    assert found.snr_db == boxes.snr_db == pytest.approx(10 * np.log10(power / (5 * 96 * 4 * 0.25)), abs=1e-2)
    assert found.relative_difference == boxes.relative_difference
    assert [line.split()[0] for line in found.lines() if line[0] != " "] == ["boxes", "scores", "agreement"]
    assert json.loads(to_json(found.as_dict()))["images"] == 5


def test_outputs_in_another_form_than_the_networks_are_refused(float_file, tmp_path):
    keras.backend.clear_session()
    detector, segmenter = drawn_networks.detector(), drawn_networks.segmenter()
    raw, stride = float_file(detector), float_file(segmenter)
    for form in ("full", "mask"):
        with pytest.raises(RequestError, match=r"\(16, 16, 3\), the file's are \(64, 64.*mobilenets-tf evaluate"):
            export.verify(segmenter_forms.with_form(stride, form, 64), segmenter, photographs(1))
    post = Postprocess(ssd_anchors(((8, 8), (4, 4))), 2)
    for form in ("decoded", "nms"):
        with pytest.raises(RequestError, match="mobilenets-tf evaluate"):
            export.verify(detector_forms.with_form(raw, form, post), detector, photographs(1))
    (tmp_path / "net.tflite").write_bytes(raw)
    (tmp_path / "net.tflite.json").write_text('{"form": "decoded"}')
    with pytest.raises(RequestError, match=r"form 'decoded'.*--output raw"):
        export.verify(tmp_path / "net.tflite", detector, photographs(1))
