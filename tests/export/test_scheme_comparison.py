"""Several schemes of a user's model on one page."""

import json

import keras
import pytest
from keras import layers

from mobilenets_tf.cli import main
from mobilenets_tf.errors import RequestError
from mobilenets_tf.export.scheme_comparison import ReportRequest, check
from mobilenets_tf.modelsource import ModelSource


@pytest.fixture
def source(tmp_path):
    keras.utils.set_random_seed(0)
    x = inputs = keras.Input((32, 32, 3))
    x = layers.Conv2D(8, 3, strides=2, activation="relu", name="stem")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    outputs = layers.Dense(2, activation="softmax", name="answer")(x)
    keras.Model(inputs, outputs).save(tmp_path / "mine.keras")
    return str(tmp_path / "mine.keras")


@pytest.mark.slow
def test_every_scheme_is_made_judged_and_timed(source, image_folder, tmp_path, capsys):
    (tmp_path / "names.txt").write_text("<b>\nbee\n")
    out = tmp_path / "out"
    command = ["report", source, "--mean", "127.5", "--std", "127.5", "--labels", str(tmp_path / "names.txt")]
    command += ["--schemes", "int8", "float16", "--calibration", str(image_folder), "--calibration-count", "6"]
    command += ["--evaluate", str(image_folder), "--calls", "3", "--min-agreement", "0", "--out", str(out), "--quiet"]
    assert main([*command, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["scheme"] for row in found["schemes"]] == ["float32", "int8", "float16"]
    assert all(row["median_ms"] > 0 and 0 <= row["top1"] <= 1 for row in found["schemes"])
    assert found["schemes"][0]["agreement"] == 1 and found["failures"] == []
    files = {f"mine_{scheme}.tflite{end}" for scheme in ("float32", "int8", "float16") for end in ("", ".json")}
    assert {path.name for path in out.iterdir()} == files | {"mine_schemes.html", "labels.txt"}
    page = (out / "mine_schemes.html").read_text(encoding="utf-8")
    assert found["report"] == str(out / "mine_schemes.html")
    assert page.count("<svg") == 4 and "mine_int8.tflite" in page and "<b>" not in page
    manifest = json.loads((out / "mine_int8.tflite.json").read_text())
    assert manifest["passed"] and manifest["comparison"]["images"] == 4  # ten, less the six that calibrated

    before = {name: (out / name).read_bytes() for name in files if name.endswith(".tflite")}
    assert main(command) == 0  # over its own files, though the page has other latencies
    assert {name: (out / name).read_bytes() for name in before} == before
    assert "not a phone" in capsys.readouterr().out


def request(source, tmp_path, **options):
    model = ModelSource(source, mean=(127.5,), std=(127.5,))
    return ReportRequest(model, str(tmp_path / "out"), **options)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"schemes": ("float32",)}, "nothing to compare float32 with"),
        ({"schemes": ("int9",)}, "int8"),
        ({"schemes": ("float16", "int8")}, "'int8' needs --calibration"),
        ({"calls": 0}, "calls=0: expected at least 1"),
    ],
)
def test_a_wrong_request_is_refused_before_any_work(source, tmp_path, options, said):
    with pytest.raises(RequestError, match=said):
        check(request(source, tmp_path, **options))


def test_a_strangers_page_is_not_written_over(source, tmp_path, image_folder):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine_schemes.html").write_text("mine")
    with pytest.raises(RequestError, match="mine_schemes.html is there"):
        check(request(source, tmp_path, calibration=str(image_folder)))
