"""``mobilenets-tf deploy`` of detectors and segmenters."""

import json

import numpy as np
import pytest

from mobilenets_tf import RequestError, files
from mobilenets_tf.cli import main
from mobilenets_tf.data.images import decode
from mobilenets_tf.data.preprocessing import Preprocessing
from mobilenets_tf.export import DeployRequest
from mobilenets_tf.export.deployment import check
from mobilenets_tf.modelsource import ModelSource
from mobilenets_tf.tflite.runtime import Runner
from tests.support.dense_networks import NAMES, detector, segmenter, write


def prepared(folder, task):
    """A network as ``train`` leaves it, its manifest beside it, and pictures."""
    path = folder / "mine.keras"
    (detector() if task == "detect" else segmenter()).save(path)
    preprocessing = {
        "size": 64, "resize": 64, "crop": "stretch", "mean": [127.5] * 3, "std": [127.5] * 3, "resampling": "bilinear",
    }  # fmt: skip
    names = NAMES if task == "detect" else ("background", *NAMES)
    manifest = {"task": task, "labels": names, "preprocessing": preprocessing, "options": {"void": 255}}
    path.with_name("mine.keras.json").write_text(files.to_json(manifest))
    return path, write(folder / "data", 8, task)


def test_a_detectors_file_gives_nothing_under_its_score_threshold(tmp_path):
    path, data = prepared(tmp_path, "detect")
    words = ["--scheme", "float32", "--evaluate", str(data), "--quiet"]
    scores = {}
    for least in ("0.01", "0.57"):
        out = tmp_path / least
        assert main(["deploy", str(path), *words, "--score-threshold", least, "--out", str(out)]) == 0
        manifest = json.loads((out / "mine_float32.tflite.json").read_text())
        assert manifest["passed"] and manifest["options"]["score_threshold"] == float(least)
        preprocessing, runner = Preprocessing.of(manifest), Runner(out / "mine_float32.tflite")
        pixels = preprocessing.geometry(decode(data / "images" / "0.png"))
        _, _, found, (number,) = runner(preprocessing.for_input(pixels, runner.inputs[0]["dtype"]))
        scores[least] = found[0, : int(number)]
    every, few = scores.values()  # of random weights: 0.53 to 0.6
    assert 0 < len(few) < len(every)
    np.testing.assert_array_equal(few, every[every >= 0.57])


@pytest.mark.parametrize(
    ("task", "options", "said"),
    [
        ("detect", {"output": "masks"}, "Unknown output 'masks'"),
        ("detect", {"score_threshold": 1.5}, "score_threshold=1.5 must be above 0 and at most 1"),
        ("detect", {"score_threshold": 0.0}, "score_threshold=0.0 must be above 0"),
        ("detect", {"output": "raw", "score_threshold": 0.3}, "is of a detector's file with output='nms'"),
        ("segment", {"score_threshold": 0.3}, "is no detector"),
        ("segment", {"max_drop": 0.01}, "max_drop is for classifiers"),
        ("segment", {"per_tensor": True}, "per_tensor is for classifiers"),
    ],
)
def test_what_cannot_be_is_refused_before_any_work(task, options, said, tmp_path):
    path = tmp_path / "mine.keras"
    path.touch()
    path.with_name("mine.keras.json").write_text(files.to_json({"task": task, "labels": list(NAMES)}))
    data = write(tmp_path / "data", 2, task)
    with pytest.raises(RequestError, match=said):
        check(DeployRequest(ModelSource(str(path)), str(tmp_path / "out"), calibration=str(data), **options))
