"""``mobilenets-tf deploy`` of detectors and segmenters."""

import json
from dataclasses import replace

import keras
import numpy as np
import pytest

from mobilenets_tf import RequestError, files
from mobilenets_tf.cli import main
from mobilenets_tf.data.images import decode
from mobilenets_tf.data.preprocessing import Preprocessing
from mobilenets_tf.export import (
    DeployRequest,
    ReportRequest,
    SensitivityRequest,
    deploy,
    deployment,
    project_folder,
    report,
    write_sensitivity,
)
from mobilenets_tf.export.deployment import check
from mobilenets_tf.modelsource import ModelSource
from mobilenets_tf.tflite.runtime import Runner
from tests.support.drawn_networks import NAMES, detector, segmenter, write


def prepared(folder, task):
    """A network as ``train`` leaves it, its manifest beside it, and pictures."""
    path = folder / "mine.keras"
    (detector() if task == "detect" else segmenter()).save(path)
    preprocessing = {
        "size": 64, "resize": 64, "crop": "stretch", "mean": [127.5] * 3, "std": [127.5] * 3,
        "interpolation": "bilinear",
    }  # fmt: skip
    names = NAMES if task == "detect" else ("background", *NAMES)
    manifest = {"task": task, "labels": names, "preprocessing": preprocessing, "options": {"void": 255}}
    path.with_name("mine.keras.json").write_text(files.to_json(manifest))
    return path, write(folder / "data", 8, task)


@pytest.mark.slow
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
        ("segment", {"max_drop": 1.5}, "max_drop=1.5: expected a share"),
        ("segment", {"per_tensor": True, "scheme": "float16"}, "per_tensor is for the calibrated schemes"),
    ],
)
def test_what_cannot_be_is_refused_before_any_work(task, options, said, tmp_path):
    path = tmp_path / "mine.keras"
    path.touch()
    path.with_name("mine.keras.json").write_text(files.to_json({"task": task, "labels": list(NAMES)}))
    data = write(tmp_path / "data", 2, task)
    with pytest.raises(RequestError, match=said):
        check(DeployRequest(ModelSource(str(path)), str(tmp_path / "out"), calibration=str(data), **options))


@pytest.mark.slow
def test_no_compiled_file_of_an_earlier_file_stays_where_compiling_fails(tmp_path, small, image_folder, monkeypatch):
    small.save(tmp_path / "small.keras")
    source = ModelSource(str(tmp_path / "small.keras"), mean=127.5, std=127.5)
    request = DeployRequest(
        source, str(tmp_path / "out"), scheme="float16", calibration=str(image_folder), npu=("SM8750",)
    )
    earlier = tmp_path / "out" / "small_float16.tflite.npu"
    asked = request.described() | {"npu": ["SM8750"]}
    project_folder.write(earlier, {"small_float16_SM8750.tflite": b"of an earlier file"}, asked)

    def fails(*_):
        raise RequestError("The compiler failed.")

    monkeypatch.setattr(deployment.npu_compiler, "check", lambda chips: None)
    monkeypatch.setattr(deployment.npu_result, "write", fails)
    with pytest.raises(RequestError, match="The compiler failed"):
        deploy(request)
    assert (tmp_path / "out" / "small_float16.tflite").exists() and not earlier.exists()


@pytest.fixture(scope="module", params=[pytest.param("detect", marks=pytest.mark.slow), "segment"])
def bounded(request, tmp_path_factory):
    """What ``deploy`` gives with a bound and one scale for all of a layer's weights."""
    folder = tmp_path_factory.mktemp(request.param)
    path, data = prepared(folder, request.param)
    options = {"calibration": str(data), "calibration_count": 4, "evaluate": str(data), "min_agreement": 0}
    asked = DeployRequest(path, str(folder / "out"), max_drop=0.0, per_tensor=True, scheme="int8_float_io", **options)
    return request.param, deploy(asked)


def test_a_bound_holds_by_the_tasks_own_score(bounded):
    task, deployed = bounded
    mixed = deployed.manifest["mixed_precision"]
    assert deployed.comparison.measure == {"detect": "mAP at IoU 0.5", "segment": "mIoU"}[task]
    assert deployed.comparison.drop <= 1e-9 and deployed.passed
    assert mixed["drop"] <= 0 and mixed["drop"] == pytest.approx(deployed.comparison.drop)
    assert mixed["integer_drop"] == mixed["drop"] or mixed["left"]


def test_what_one_scale_for_a_layers_weights_costs_is_measured(bounded):
    _, deployed = bounded
    usual = deployed.manifest["per_channel"]["comparison"]
    assert usual["images"] == deployed.comparison.images and usual["snr_db"] > deployed.comparison.snr_db - 60
    assert deployed.manifest["recipe"]["per_tensor"] is True
    assert deployed.per_channel.measure == deployed.comparison.measure
    page = deployed.report.read_text()
    assert "Per tensor (this file)" in page and deployed.comparison.measure in page


def test_a_bound_needs_something_that_can_be_lost(tmp_path):
    """The detector is sure of no object, so without annotations nothing can be measured."""
    path, data = prepared(tmp_path, "detect")
    model = detector()
    for layer in model.layers:
        if layer.name.endswith("classifier"):
            layer.bias.assign(layer.bias - 9)
    model.save(path)
    asked = DeployRequest(path, str(tmp_path / "out"), calibration=str(data), max_drop=0.0, min_agreement=0)
    with pytest.raises(RequestError, match="sure of no object.*--evaluate"):
        deploy(asked)


@pytest.mark.parametrize("task", [pytest.param("detect", marks=pytest.mark.slow), "segment"])
def test_sensitivity_by_the_tasks_own_score(task, tmp_path):
    path, data = prepared(tmp_path, task)
    options = {"calibration": str(data), "calibration_count": 4}
    listed = write_sensitivity(SensitivityRequest(path, str(tmp_path / "out"), evaluate=str(data), **options))
    drops = [row["drop"] for row in listed.layers]
    assert drops == sorted(drops, reverse=True) and len(drops) > 3
    assert json.loads(listed.path.read_text())["layers"][0]["drop"] == drops[0]


def test_a_keras_model_may_be_given_for_its_file(tmp_path):
    _, data = prepared(tmp_path, "segment")
    with pytest.raises(RequestError, match="Received int for a model"):
        ModelSource.of(3)
    layers = keras.layers
    classifier = keras.Sequential([keras.Input((64, 64, 3)), layers.GlobalAveragePooling2D(), layers.Dense(3)])
    source = ModelSource.of(classifier)
    assert ModelSource.of(source) is source and source.name == classifier.name
    source = replace(source, mean=(127.5,), std=(127.5,))
    photographs = str(data / "images")
    options = {"calibration": photographs, "min_agreement": 0, "android_app": str(tmp_path / "app")}
    deployed = deploy(DeployRequest(source, str(tmp_path / "out"), **options))
    assert deployed.path.name == f"{classifier.name}_int8.tflite" and deployed.path.is_file()
    assert len(deployed.manifest["model"]["weights_sha256"]) == 64 and "content" not in deployed.manifest["model"]
    assets = tmp_path / "app" / "app" / "src" / "main" / "assets"
    assert (assets / deployed.path.name).read_bytes() == deployed.path.read_bytes()
    assert deployed.android_app == tmp_path / "app" and "android_app" not in deployed.manifest["options"]
    # What an earlier result had beside it goes with it, unless it was changed.
    written = json.loads((tmp_path / "out" / f"{deployed.path.name}.json").read_text())
    for name in ("old.cc", "edited.cc"):
        (tmp_path / "out" / name).write_text("int x;")
        written["files"].append({"file": name, "sha256": files.sha256_of(tmp_path / "out" / name)})
    (tmp_path / "out" / "edited.cc").write_text("int y;")
    (tmp_path / "out" / f"{deployed.path.name}.json").write_text(files.to_json(written))
    deploy(DeployRequest(source, str(tmp_path / "out"), overwrite=True, **options))
    assert not (tmp_path / "out" / "old.cc").exists() and (tmp_path / "out" / "edited.cc").exists()
    (assets / deployed.path.name).write_bytes(b"mine")
    with pytest.raises(RequestError, match=f"app/src/main/assets/{deployed.path.name} was changed"):
        check(DeployRequest(source, str(tmp_path / "out"), **options))


def test_labels_of_an_earlier_result_are_not_taken(image_folder, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "labels.txt").write_text("of\nfour\nother\nclasses\n")
    layers = keras.layers
    model = keras.Sequential([keras.Input((64, 64, 3)), layers.GlobalAveragePooling2D(), layers.Dense(3)])
    model.save(tmp_path / "net.keras")
    photo = next(image_folder.rglob("*.png"))
    words = ["--mean", "0", "--std", "255", "--scheme", "float32", "--calibration", str(image_folder), "--quiet"]
    words += ["--classify", str(photo), "--out", str(tmp_path / "out"), "--overwrite"]
    assert main(["deploy", str(tmp_path / "net.keras"), *words]) == 0
    told = capsys.readouterr().out.rpartition(f"{photo.name}:")[2]
    assert "four" not in told and "dense" in told


def test_what_was_written_meanwhile_is_not_replaced(image_folder, small, tmp_path, monkeypatch):
    small.save(tmp_path / "small.keras")
    source = ModelSource(str(tmp_path / "small.keras"), mean=127.5, std=127.5)
    request = DeployRequest(source, str(tmp_path / "out"), "float16", calibration=str(image_folder), min_agreement=0)
    writing = files.write_together

    def written_to(folder, contents, check=None):
        """Another process is faster."""
        monkeypatch.setattr(files, "write_together", writing)
        deploy(replace(request, seed=1))
        writing(folder, contents, check)

    monkeypatch.setattr(files, "write_together", written_to)
    with pytest.raises(RequestError, match=r"another request \(seed=1, not 0\)"):
        deploy(request)
    (manifest,) = tmp_path.glob("out/*.tflite.json")
    assert files.parse_json(manifest.read_text(), manifest)["options"]["seed"] == 1


def test_a_report_replaces_no_anchors_of_the_users(tmp_path):
    path, data = prepared(tmp_path, "detect")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine_float32.tflite.anchors.json").write_text("mine")
    asked = ReportRequest(path, str(tmp_path / "out"), schemes="float16", output="raw", calibration=str(data))
    with pytest.raises(RequestError, match="anchors.json is there and is not an earlier result"):
        report(asked)
