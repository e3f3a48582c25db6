"""The verbs take a float TFLite file of anyone's; what the file says for people is kept."""

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from mobilenets_tf import export
from mobilenets_tf.cli import main
from mobilenets_tf.data.preprocessing import Preprocessing
from mobilenets_tf.errors import RequestError
from mobilenets_tf.export import metadata
from mobilenets_tf.modelsource import ModelSource
from mobilenets_tf.tflite.archive import Archive
from mobilenets_tf.tflite.file_metadata import Origin, metadata_of, origin_of
from mobilenets_tf.tflite.image_input import ImageInput
from tests.support.strangers_files import classifier, from_torch

LABELS = ("red", "green", "blue", "grey")
TOLD = Preprocessing(16, mean=(127.5,) * 3, std=(127.5,) * 3)
pytestmark = pytest.mark.filterwarnings("ignore:Only .* calibration samples", "ignore:.*takes its image channels first")


def described(content):
    """The file with metadata as another tool writes them: no record of ours, texts, labels and a file of its own."""
    told = metadata.describe("A fine model", ImageInput(TOLD), LABELS)
    told = replace(told, author="Ada", license="CC0", description="Tells colours apart", version="v3")
    told = replace(told, preprocessing=None, origin=Origin(files={"more.json": b'{"a": 1}'}))
    return metadata.add(content, told)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("theirs")
    (folder / "told.tflite").write_bytes(described(classifier()))
    (folder / "torch.tflite").write_bytes(from_torch())
    random = np.random.default_rng(0)
    for place, name in enumerate(LABELS):
        for number, kind in enumerate(("photos", "photos", "photos", "judge")):
            (folder / kind / name).mkdir(parents=True, exist_ok=True)
            rows, columns = np.mgrid[:20, :20]
            shade = 90 + 60 * np.sin(rows / (2 + number) + random.uniform(0, 6)) + 2 * columns
            pixels = np.stack([shade * (1 if channel == place else 0.4) for channel in range(3)], -1)
            Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(folder / kind / name / f"{number}.png")
    return folder


@pytest.mark.parametrize("form, published_stay", [("normalised", True), ("uint8", False)])
def test_labels_metadata_and_associated_files_are_kept(folder, tmp_path, form, published_stay):
    made = export.deploy(
        export.DeployRequest(
            str(folder / "told.tflite"), out=str(tmp_path / "out"), calibration=str(folder / "photos"), input=form
        )
    )
    assert made.labels == list(LABELS) and made.badge.colour == "amber" and made.parity.relative_difference < 1e-5
    content, given = made.path.read_bytes(), (folder / "told.tflite").read_bytes()
    before, after = origin_of(given), origin_of(content)
    assert before.texts == ("A fine model", "Tells colours apart", "v3", "Ada", "CC0")
    assert after.texts == before.texts and after.labels == LABELS
    assert (after.published == before.published) == published_stay
    assert Archive(content).read("more.json") == b'{"a": 1}' and set(after.files) == {"labels.txt", "more.json"}
    told = metadata_of(content)
    assert told.preprocessing.size == 16 and told.kinds == ("classes",) and not told.damage
    assert made.manifest["model"]["model"].endswith("told.tflite")


def test_export_keeps_what_the_file_says_where_it_is_told_of_no_image(folder, tmp_path):
    export.to_tflite(str(folder / "told.tflite"), "float16", path=tmp_path / "half.tflite")
    kept = origin_of((tmp_path / "half.tflite").read_bytes())
    assert kept == origin_of((folder / "told.tflite").read_bytes())


@pytest.mark.parametrize("scheme", ["dynamic", "int16x8"])
def test_deploy_from_the_command_line(folder, tmp_path, scheme, capsys):
    status = main(
        ["deploy", str(folder / "torch.tflite"), "--scheme", scheme, "--calibration", str(folder / "photos"),
         "--mean", "127.5", "--std", "127.5", "--out", str(tmp_path), "--quiet"]
    )  # fmt: skip
    out = capsys.readouterr().out
    assert status == 0 and "float32 against the model" in out
    manifest = json.loads((tmp_path / f"torch_{scheme}.tflite.json").read_text())
    assert manifest["parity"]["relative_difference"] < 1e-5
    assert manifest["inputs"][0]["shape"] == [1, 16, 16, 3] and "TRANSPOSE" not in manifest["operators"]
    layers = manifest["comparison"]["snr_db"]
    assert layers is None or layers > 30


def test_sensitivity_names_each_operator(folder, tmp_path):
    source = ModelSource(str(folder / "torch.tflite"), mean=127.5, std=127.5)
    request = export.SensitivityRequest(source, str(tmp_path), calibration=str(folder / "photos"))
    names = [row["layer"] for row in export.write_sensitivity(request).layers]
    assert len(names) == len(set(names)) > 5 and any("conv_2d" in name for name in names)


@pytest.mark.slow
def test_report_and_verify_take_a_file(folder, tmp_path):
    source, photos = ModelSource(str(folder / "torch.tflite"), mean=127.5, std=127.5), str(folder / "photos")
    request = export.ReportRequest(source, str(tmp_path), schemes=("int8",), calibration=photos, calls=2)
    rows = export.report(request).rows
    assert [row.scheme for row in rows] == ["float32", "int8"] and rows[1].agreement > 0.7
    verified = export.verify_file(export.VerifyRequest(str(tmp_path / "torch_int8.tflite"), images=photos))
    assert verified.passed and verified.model.endswith("torch.tflite") and verified.comparison.images == 12


@pytest.mark.slow
def test_qat_trains_a_file(folder, tmp_path):
    pytest.importorskip("tensorflow_model_optimization")
    source = ModelSource(str(folder / "torch.tflite"), mean=127.5, std=127.5)
    tuned = export.qat(
        export.QatRequest(
            source, str(folder / "photos"), str(tmp_path), evaluate=str(folder / "judge"), epochs=3, patience=3,
            learning_rate=1e-2, batch_size=4,
        )
    )  # fmt: skip
    assert tuned.fine_tuned.score > tuned.post_training.score and tuned.manifest["fine_tuning"]["kept"] == "fine-tuned"


def test_what_cannot_be_taken_is_refused_before_any_work(folder, tmp_path, capsys):
    quantised = export.to_tflite(
        str(folder / "told.tflite"), "int8", path=tmp_path / "q.tflite",
        calibration=[np.outer(np.linspace(-1, 1, 16), np.linspace(-1, 1, 16))[..., None] * (1.0, 0.5, turn / 8)
                     for turn in range(8)],
    ).path  # fmt: skip
    with pytest.raises(RequestError, match="q.tflite is quantised already: .*--scheme float32"):
        export.deploy(export.DeployRequest(str(quantised), str(tmp_path / "out"), calibration="demo"))
    given = str(folder / "told.tflite")
    with pytest.raises(RequestError, match="is the file that is exported"):
        export.export_file(export.ExportRequest(given, given, scheme="float16", overwrite=True))
    (tmp_path / "cut.tflite").write_bytes((folder / "told.tflite").read_bytes()[:900])
    for verb in ("deploy", "export", "report", "sensitivity"):
        out = tmp_path / ("x.tflite" if verb == "export" else "x")
        assert main([verb, str(tmp_path / "cut.tflite"), "--calibration", "demo", "--out", str(out)]) == 2
        assert "damaged TFLite file" in capsys.readouterr().err
