"""Which model a file is compared with: as requested, and what the request leaves out as the manifest says."""

import hashlib
import json

import pytest

from mobilenets_tf import ModelSource, RequestError
from mobilenets_tf.data.images import ImageSet
from mobilenets_tf.export.file_verification import VerifyRequest, _calibrated, _model_of, _warn_if_changed, verify_file


def settled(folder, facts, **options):
    """The model of a request, as ``verify_file`` passes it on, for a file with these facts about its model."""
    (folder / "net.tflite").write_bytes(b"")
    (folder / "net.tflite.json").write_text(json.dumps({"model": facts}))
    return _model_of(VerifyRequest(str(folder / "net.tflite"), **options))


FACTS = {"model": "mobilenet_v2", "weights": "imagenet", "alpha": 0.35, "mean": [0.0], "std": [255.0]}


def test_what_the_request_leaves_out_is_in_the_manifest(tmp_path):
    told = ModelSource("mobilenet_v2", weights="imagenet", alpha=0.35, mean=(0,), std=(255,))
    assert settled(tmp_path, FACTS) == told
    assert settled(tmp_path, FACTS, source="mobilenet_v2") == told
    other = ModelSource("mobilenet_v2", weights="other.pth", alpha=0.5)
    found = settled(tmp_path, FACTS, source=other)
    assert (found.weights, found.alpha, found.mean) == ("other.pth", 0.5, (0,))
    unlike = ModelSource("mobilenet_v1", weights="imagenet")
    assert settled(tmp_path, FACTS, source=unlike) == unlike
    assert settled(tmp_path, FACTS, arm64=True) is None


@pytest.mark.parametrize(
    ("facts", "source"),
    [
        ({"model": "mobilenet_v2"}, None),
        ({"model": "mobilenet_v2", "weights": "random"}, "mobilenet_v2"),
    ],
)
def test_random_weights_cannot_be_built_again(tmp_path, facts, source):
    settled(tmp_path, facts)  # writes the file
    with pytest.raises(RequestError, match="new random weights each time.* Pass the --weights"):
        verify_file(VerifyRequest(str(tmp_path / "net.tflite"), source, str(tmp_path)))


def test_a_manifest_that_no_verb_has_written_is_named(tmp_path):
    with pytest.raises(RequestError, match="model is strange, which no manifest of this package has"):
        settled(tmp_path, "strange", source="mobilenet_v2")


def test_without_a_model_and_a_manifest_there_is_nothing_to_compare_with(tmp_path):
    (tmp_path / "net.tflite").write_bytes(b"")
    with pytest.raises(RequestError, match="no manifest beside the file says of which model"):
        verify_file(VerifyRequest(str(tmp_path / "net.tflite"), images=str(tmp_path)))


def test_a_model_that_has_changed_since_is_named(tmp_path, recwarn):
    model = tmp_path / "mine.keras"
    model.write_bytes(b"as it was")
    facts = {"model": str(model), "weights_sha256": hashlib.sha256(b"as it was").hexdigest()}
    source = settled(tmp_path, facts)
    _warn_if_changed(str(tmp_path / "net.tflite"), source)
    assert source == ModelSource(str(model)) and not recwarn
    model.write_bytes(b"trained further")
    with pytest.warns(UserWarning, match=r"mine.keras has changed since .*net.tflite was made of it"):
        _warn_if_changed(str(tmp_path / "net.tflite"), source)


def test_images_of_the_calibration_are_known_by_the_manifest_and_a_damaged_list_is_no_missing_list(tmp_path):
    """Without the list, images that calibration has used would verify the file."""
    picture, request = tmp_path / "one.png", VerifyRequest(str(tmp_path / "net.tflite"))
    picture.write_bytes(b"one")
    images, digest = ImageSet((picture,)), hashlib.sha256(b"one").hexdigest()
    cases = [
        ({"files": [{"file": "one.png", "sha256": digest}]}, True),
        ({"files": [{"file": "one.png", "sha256": ""}]}, False),
        ({}, False),
        (None, False),
    ]
    for calibration, used in cases:
        (tmp_path / "net.tflite.json").write_text(json.dumps({"calibration": calibration}))
        assert _calibrated(request, images) == used
    for damaged in ([{"file": "one.png"}], ["one.png"]):
        (tmp_path / "net.tflite.json").write_text(json.dumps({"calibration": {"files": damaged}}))
        with pytest.raises(
            RequestError, match="net.tflite.json: the files of the calibration are .*remove the manifest"
        ):
            _calibrated(request, images)
