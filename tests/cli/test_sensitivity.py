"""Sensitivity, the bound on the drop and one scale a tensor, as a user types them."""

import json

import keras
import pytest

from tests.conftest import photographs
from tests.quantize.test_mixed_precision import outlying
from tests.support.forked import command as run

INPUT = ["--mean", 127.5, "--std", 127.5]


@pytest.fixture(scope="module")
def model_file(tmp_path_factory):
    keras.backend.clear_session()
    path = tmp_path_factory.mktemp("model") / "mine.keras"
    outlying(photographs(10, size=80)[:, 2::5, 2::5]).save(path)  # nearly those of ``image_folder``
    return path


def test_sensitivity_writes_a_list_and_a_chart_and_again(model_file, image_folder, tmp_path):
    out = tmp_path / "out"
    arguments = ["sensitivity", model_file, *INPUT, "--calibration", image_folder, "--out", out]
    done = run(*arguments)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in out.iterdir()) == ["mine_int8_sensitivity.json", "mine_int8_sensitivity.svg"]
    document = json.loads((out / "mine_int8_sensitivity.json").read_text())
    assert document["layers"][0]["layer"] == "bad"
    assert document["calibration"]["samples"] == 10 and document["recipe"]["per_tensor"] is False
    assert "measuring layers" in done.stderr and "  bad " in done.stdout
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    assert run(*arguments, "--quiet").returncode == 0  # over its own files
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    (out / "mine_int8_sensitivity.svg").write_text("mine")
    done = run(*arguments)
    assert done.returncode == 2 and "--overwrite" in done.stderr


def test_deploy_keeps_a_bound_and_says_what_it_cost(model_file, image_folder, tmp_path):
    out = tmp_path / "out"
    options = [*INPUT, "--calibration", image_folder, "--scheme", "int8_float_io", "--min-agreement", 0]
    done = run("deploy", model_file, *options, "--out", out, "--max-drop", 0, "--per-tensor")
    assert done.returncode == 0, done.stderr
    manifest = json.loads((out / "mine_int8_float_io.tflite.json").read_text())
    mixed = manifest["mixed_precision"]
    assert mixed["drop"] == 0 < mixed["integer_drop"] and "bad" in {layer["layer"] for layer in mixed["left"]}
    assert manifest["comparison"]["agreement"] == 1
    assert manifest["per_channel"]["comparison"]["images"] == 10
    assert manifest["options"]["max_drop"] == 0 and manifest["options"]["per_tensor"] is True
    text = (out / "mine_int8_float_io.tflite.html").read_text()
    assert "for a loss of at most 0.00%" in text and "1 CONV_2D" in text
    assert "Per channel" in text and "Per tensor (this file)" in text
    assert "layers left in float" in done.stdout and "one scale a tensor" in done.stdout


def test_export_with_one_scale_a_tensor(model_file, image_folder, tmp_path):
    out = tmp_path / "mine.tflite"
    done = run("export", model_file, *INPUT, "--calibration", image_folder, "--per-tensor", "--out", out)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "mine.tflite.json").read_text())["recipe"]["per_tensor"] is True


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["deploy", "--max-drop", "1.5"], "max_drop=1.5: expected a share from 0 up to 1"),
        (["deploy", "--max-drop", "0.1", "--scheme", "float16"], "max_drop is for the calibrated schemes"),
        (["deploy", "--per-tensor", "--scheme", "float16"], "per_tensor is for the calibrated schemes"),
        (["export", "--per-tensor", "--scheme", "float16"], "--per-tensor (per_tensor=) is for the calibrated"),
        (["sensitivity", "--scheme", "dynamic"], "'dynamic' has no activations that are rounded"),
        (["sensitivity", "--calibration", "absent"], "No such folder or CSV"),
    ],
)
def test_wrong_requests(model_file, image_folder, tmp_path, arguments, told):
    verb, *options = arguments
    given = [verb, model_file, *INPUT, "--calibration", image_folder, *options]
    done = run(*given, "--out", "out.tflite" if verb == "export" else "out", cwd=tmp_path)
    assert done.returncode == 2 and told in done.stderr, done.stderr
    assert "Traceback" not in done.stderr and not (tmp_path / "out").exists()
