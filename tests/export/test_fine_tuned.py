"""``mobilenets-tf qat`` of detectors and segmenters, from files to a folder."""

import json

import pytest

from mobilenets_tf import RequestError, files
from mobilenets_tf.answers.predictor import predictor
from mobilenets_tf.cli import main
from mobilenets_tf.data.boxes import Detections
from mobilenets_tf.data.images import decode
from mobilenets_tf.export.fine_tuned import QatRequest, check
from mobilenets_tf.modelsource import ModelSource
from mobilenets_tf.training.checkpoints import of_fine_tuning
from tests.support.drawn_networks import NAMES, detector, segmenter, write


@pytest.fixture(params=["detect", "segment"])
def asked(request, tmp_path):
    """The task, an empty ``.keras`` file with a manifest as ``train`` writes it, and a few images."""
    return request.param, *_files(tmp_path, request.param, 10)


def _files(folder, task, images):
    path = folder / "mine.keras"
    path.touch()
    names = NAMES if task == "detect" else ("background", *NAMES)
    preprocessing = {
        "size": 64, "resize": 64, "crop": "stretch", "mean": [127.5] * 3, "std": [127.5] * 3,
        "interpolation": "bilinear",
    }  # fmt: skip
    manifest = {"task": task, "labels": names, "preprocessing": preprocessing, "options": {"void": 255}}
    path.with_name("mine.keras.json").write_text(files.to_json(manifest))
    return path, write(folder / "data", images, task)


@pytest.fixture(scope="module", params=["detect", "segment"])
def trained(request, tmp_path_factory):
    """The same with a network that ``train`` has trained."""
    folder, task = tmp_path_factory.mktemp("trained"), request.param
    path, data = _files(folder, task, 60)
    (detector() if task == "detect" else segmenter()).save(path)
    words = ["--data", str(data), "--out", str(folder / "out"), "--epochs", "20", "--batch-size", "8"]
    assert main(["train", str(path), *words, "--learning-rate", "0.01", "--quiet"]) == 0
    return task, folder / "out" / "mine.keras", data


@pytest.mark.slow
@pytest.mark.parametrize("output", ["the first", "another"])
def test_the_command_writes_a_file_that_is_as_good_as_its_training_said(trained, output, tmp_path, capsys):
    task, path, data = trained
    words = ["--out", str(tmp_path), "--epochs", "2", "--learning-rate", "0.001", "--batch-size", "8"]
    if output == "another":
        words += ["--output", {"detect": "raw", "segment": "mask"}[task]]
    assert main(["qat", str(path), "--data", str(data), *words, "--quiet"]) == 0
    name = "mine_int8_qat.tflite"
    manifest = json.loads((tmp_path / f"{name}.json").read_text())
    tuning, compared = manifest["fine_tuning"], manifest["comparison"]
    assert manifest["passed"] and manifest["task"] == task and compared["images"] == 12 and compared["score"] > 0.05
    # The model in training is judged as its file is, and answers as it does.
    scores = tuning["validation_accuracies"]
    tuned, usual = (tuning[name]["score"] for name in ("fine_tuned", "post_training"))
    assert len(scores) == 3 and scores[tuning["best_epoch"]] == pytest.approx(tuned, abs=1e-9)
    assert compared["score"] == max(tuned, usual)
    assert tuned == usual or (tuning["kept"] == "fine-tuned") == (tuned > usual)
    assert (tmp_path / "labels.txt").read_text().split() == manifest["labels"]
    said = capsys.readouterr().out
    assert tuning["outcome"] in said and compared["measure"] in said and f"{compared['score']:.1%}" in said
    page = (tmp_path / f"{name}.html").read_text(encoding="utf-8")
    assert "Agreement with float32" in page and "post-training" in page
    (answer,) = predictor(tmp_path / name)([decode(data / "images" / "0.png")])
    assert isinstance(answer, Detections) if task == "detect" else answer.shape == (64, 64)


def request(path, data, tmp_path, **options):
    source = path if isinstance(path, ModelSource) else ModelSource(str(path))
    return QatRequest(source, str(data), str(tmp_path / "out"), **options)


def test_a_fifth_of_the_images_judges(asked, tmp_path):
    task, path, data = asked
    training, validation = check(request(path, data, tmp_path))
    assert (len(training), len(validation)) == (8, 2) and not {*training.paths} & {*validation.paths}
    assert hasattr(training, "boxes" if task == "detect" else "masks")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"distill": 1.5}, "distill=1.5: expected 0 to 1"),
        ({"output": "masks"}, "Unknown output 'masks'"),
        ({"batch_size": 0}, "batch_size=0: expected at least 1"),
        ({"epochs": 0}, "epochs=0: expected at least 1"),
    ],
)
def test_what_cannot_be_is_refused_before_any_work(asked, tmp_path, options, said):
    _, path, data = asked
    with pytest.raises(RequestError, match=said):
        check(request(path, data, tmp_path, **options))


def test_classes_without_names_are_refused(asked, tmp_path):
    task, _, data = asked
    network = {"detect": "ssdlite_mobilenet_v2", "segment": "lraspp_mobilenet_v2"}[task]
    with pytest.raises(RequestError, match="pass --labels FILE"):
        check(request(ModelSource(network, weights="random"), data, tmp_path))


def test_a_checkpoint_that_cannot_be_gone_on_from_is_refused_before_any_work(asked, tmp_path):
    _, path, data = asked
    place = tmp_path / "state"
    options = {"data": str(data), "out": str(tmp_path / "out"), "checkpoint": str(place)}
    check(QatRequest(str(path), **options))
    with files.only_user(place, "fine-tuning"), pytest.raises(RequestError, match="is used by another fine-tuning"):
        check(QatRequest(str(path), **options))
    of_fine_tuning(place, {"epochs": 3}).write({}, {})
    with pytest.raises(RequestError, match="is of an unfinished training with batch_size=None, not .*--checkpoint"):
        check(QatRequest(str(path), **options, batch_size=8))
    (place / "fine_tuning.checkpoint.npz").write_bytes(b"PK\x03\x04 nothing")
    with pytest.raises(RequestError, match=r"fine_tuning\.checkpoint\.npz is damaged"):
        check(QatRequest(str(path), **options))
