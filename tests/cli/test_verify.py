"""verify, report and sensitivity on detectors and segmenters."""

import json
from dataclasses import asdict

import keras
import pytest

from mobilenets_tf.data.preprocessing import Preprocessing
from mobilenets_tf.export.layer_sensitivity import SensitivityRequest, check
from tests.support import drawn_networks

BACKGROUND = ("background", *drawn_networks.NAMES)


@pytest.fixture(params=[pytest.param("detect", marks=pytest.mark.slow), "segment"])
def network(request, tmp_path, float_file, monkeypatch):
    """Its task: there are net.keras, its float file net.tflite, and annotated pictures in data/."""
    task = request.param
    keras.backend.clear_session()
    model = drawn_networks.detector() if task == "detect" else drawn_networks.segmenter()
    told = {"preprocessing": asdict(Preprocessing(64, 64, crop="stretch")), "task": task}
    told["labels"] = list(drawn_networks.NAMES if task == "detect" else BACKGROUND)
    model.save(tmp_path / "net.keras")
    (tmp_path / "net.tflite").write_bytes(float_file(model))
    for name, form in (("net.keras", {}), ("net.tflite", {"form": "raw" if task == "detect" else "stride"})):
        (tmp_path / f"{name}.json").write_text(json.dumps(told | form))
    drawn_networks.write(tmp_path / "data", 3, task)
    monkeypatch.chdir(tmp_path)
    return task


def test_verify_compares_answers_and_all_outputs(network, call, in_this_process, float_file, tmp_path):
    command = ["verify", "net.tflite", "--model", "net.keras", "--images", "data", "--quiet"]
    status, out, error = call(*command, "--json")
    assert status == 0, error
    found = json.loads(out)
    assert found["images"] == 3  # masks and annotations are no images
    assert found["relative_difference"] < 1e-4 and found["agreement"] == 1
    assert found["measure"] == {"detect": "mAP at IoU 0.5", "segment": "mIoU"}[network]

    other = keras.saving.load_model("net.keras")
    last = other.get_layer({"detect": "ssd_level2_classifier", "segment": "logits"}[network])
    last.bias.assign(last.bias + keras.ops.array([0, 0, 9] * (last.filters // 3), "float32"))
    (tmp_path / "net.tflite").write_bytes(float_file(other))
    status, out, _ = call(*command)
    assert "largest difference  " in out
    if network == "segment":  # a detector that is sure of nothing has nothing to miss
        assert status == 1 and "FAILED" in out
    status, out, _ = call(*command, "--json", "--min-agreement", 0)
    assert status == 0 and json.loads(out)["relative_difference"] > 0.5


def test_verify_says_what_it_cannot_compare(network, call, in_this_process, tmp_path):
    form = {"detect": "nms", "segment": "mask"}[network]
    told = json.loads((tmp_path / "net.tflite.json").read_text())
    (tmp_path / "net.tflite.json").write_text(json.dumps(told | {"form": form}))
    status, _, error = call("verify", "net.tflite", "--model", "net.keras", "--images", "data")
    assert status == 2 and f"form {form!r}" in error and "mobilenets-tf evaluate net.tflite" in error


def test_report_compares_schemes_by_the_tasks_own_score(network, call, in_this_process, tmp_path):
    options = ["--calibration", "data", "--calibration-count", 1, "--evaluate", "data", "--min-agreement", 0]
    schemes = ["--schemes", "float16", "int8", "--calls", 2, "--quiet"]
    status, out, error = call("report", "net.keras", *options, *schemes, "--out", "out", "--json")
    assert status == 0, error
    rows = {row["scheme"]: row for row in json.loads(out)["schemes"]}
    assert list(rows) == ["float32", "float16", "int8"]
    assert rows["int8"]["measure"] == {"detect": "mAP at IoU 0.5", "segment": "mIoU"}[network]
    assert rows["float32"]["agreement"] == 1 and 0 <= rows["int8"]["score"] <= 1
    assert {path.name for path in (tmp_path / "out").glob("*.tflite")} == {f"net_{scheme}.tflite" for scheme in rows}


def test_sensitivity_takes_a_data_sets_images(network, call, in_this_process):
    assert len(check(SensitivityRequest("net.keras", "out", calibration="data"))[0]) == 3
    status, out, error = call("sensitivity", "net.keras", "--calibration", "data", "--out", "out", "--quiet")
    assert status == 0, error
    assert {"detect": "ssd_level1_boxes", "segment": "logits"}[network] in out
