"""evaluate on files whose answers can be told by looking."""

import json

import numpy as np
import pytest
from PIL import Image

from tests.cli.conftest import RAW, TOLD
from tests.support import colour_files
from tests.support.colour_files import COLOURS, LABELS, quarters, write


@pytest.fixture
def boxed(folder):
    """Photographs with VOC's annotations: a red and a blue quarter; and a green one, not where it is said to be."""
    for name in ("images", "annotations"):
        (folder / "voc" / name).mkdir(parents=True)
    for name, colours, objects in (
        ("first", ("red", "black", "black", "blue"), {"red": (0, 0, 60, 40), "blue": (60, 40, 120, 80)}),
        ("second", ("green", "black", "black", "black"), {"green": (60, 0, 120, 40)}),
    ):
        quarters(*colours, size=(120, 80)).save(folder / "voc/images" / f"{name}.png")
        boxes = "".join(
            f"<object><name>{label}</name><bndbox><xmin>{a}</xmin><ymin>{b}</ymin><xmax>{c}</xmax><ymax>{d}</ymax>"
            "</bndbox></object>"
            for label, (a, b, c, d) in objects.items()
        )
        (folder / "voc/annotations" / f"{name}.xml").write_text(f"<annotation>{boxes}</annotation>")
    return folder / "voc"


@pytest.fixture
def masked(folder):
    """A photograph with its mask, in which the lower left quarter is called blue and the lower right one void (7)."""
    for name in ("images", "masks"):
        (folder / "camvid" / name).mkdir(parents=True)
    quarters("red", "green", "green", "blue", size=(120, 80)).save(folder / "camvid/images/one.png")
    mask = np.array([[0, 1], [2, 7]], np.uint8).repeat(40, 0).repeat(60, 1)
    Image.fromarray(mask).save(folder / "camvid/masks/one.png")
    return folder / "camvid"


@pytest.mark.parametrize("file", ["boxes.tflite", "nms.tflite"])
def test_evaluate_a_detector(boxed, call, file):
    status, out, error = call("evaluate", file, "--data", boxed, "--json")
    assert status == 0, error
    result = json.loads(out)
    assert result["per_class"] == pytest.approx({"red": 1, "green": 0, "blue": 1})
    assert result["images"] == 2 and [result["map50"], result["map"]] == pytest.approx([2 / 3] * 2)
    status, out, _ = call("evaluate", file, "--data", boxed)
    assert status == 0 and "mAP 66.7% at IoU 0.5, 66.7% over 0.5 to 0.95 of 2 images" in out and "0.0%  green" in out


def test_evaluate_a_segmenter(masked, folder, call):
    status, out, error = call("evaluate", "mask.tflite", "--data", masked, "--void", 7, "--json")
    assert status == 0, error
    result = json.loads(out)
    assert result["per_class"] == pytest.approx({"red": 1, "green": 0.5, "blue": 0}, abs=0.03)
    assert result["miou"] == pytest.approx(0.5, abs=0.03) and result["pixel_accuracy"] == pytest.approx(2 / 3, abs=0.03)
    status, _, error = call("evaluate", "mask.tflite", "--data", masked)
    assert status == 2 and "--void 7" in error
    write(folder / "trained.tflite", colour_files.segmenter(), task="segment", options={"void": 7}, **TOLD)
    assert call("evaluate", "trained.tflite", "--data", masked)[0] == 0


def test_evaluate_a_classifier(folder, call):
    for name in LABELS:
        (folder / "photos" / name).mkdir(parents=True)
        Image.new("RGB", (20, 20), COLOURS[name]).save(folder / "photos" / name / "one.png")
    Image.new("RGB", (20, 20), COLOURS["red"]).save(folder / "photos/blue/two.png")
    status, out, error = call("evaluate", "class.tflite", "--data", "photos", "--json")
    assert status == 0, error
    # No top-5: of three classes it says nothing.
    scores = {"model": "class.tflite", "images": 4, "top1": 0.75}
    assert json.loads(out) == scores | {"preprocessing": colour_files.PREPROCESSING}


def test_evaluate_keras_files_of_both_kinds(boxed, masked, folder, call, in_this_process):
    write(folder / "boxes.keras", colour_files.keras_detector(), task="detect", **TOLD)
    status, out, error = call("evaluate", "boxes.keras", "--data", boxed, "--json")
    assert status == 0, error
    assert json.loads(out)["map"] == pytest.approx(2 / 3)
    write(folder / "mask.keras", colour_files.keras_segmenter())
    options = ["--task", "segment", "--mean", 0, "--std", 255, "--labels", "names.txt", "--void", 7]
    status, out, error = call("evaluate", "mask.keras", "--data", masked, "--json", *options)
    assert status == 0, error
    assert json.loads(out)["per_class"] == pytest.approx({"rot": 1, "grün": 0.5, "blau": 0}, abs=0.03)


RANDOM = ["--weights", "random"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["bare.tflite", "--data", "voc", "--mean", "0", "--std", "1"], "say so with --task"),
        (["boxes.tflite", "--data", "camvid"], "annotations"),
        (["boxes.tflite", "--data", "voc", "--resolution", "64"], "--resolution (resolution=) changes nothing"),
        (["boxes.tflite", "--data", "voc", "--signature", "a"], "--signature (signature=) changes nothing"),
        (["boxes.tflite", "--data", "absent"], "No such folder or COCO .json"),
        (["boxes.tflite", "--data", "voc", "--labels", "names.txt"], "Unknown class 'red'"),
        (
            ["ssdlite_mobilenet_v2", *RANDOM, "--data", "voc", "--flip"],
            "are for segmenters in Keras",
        ),
        (
            ["lraspp_mobilenet_v2", *RANDOM, "--data", "masked", "--scales", "9"],
            "scales=(9.0,): expected shares from 0.1 to 4",
        ),
        (
            ["ssdlite_mobilenet_v2", *RANDOM, "--data", "voc", "--task", "segment"],
            "is for the task 'detect'",
        ),
    ],
)
def test_wrong_evaluations(boxed, masked, folder, call, arguments, told):
    status, out, error = call("evaluate", *arguments)
    assert status == 2 and told in error and not out


def test_annotations_of_other_classes_are_no_truth(masked, folder, call):
    manifest = {key: value for key, value in RAW.items() if key != "labels"} | {"task": "segment"}
    write(folder / "nameless.tflite", colour_files.segmenter(), **manifest)
    mask = np.array([[0, 1], [1, 7]], np.uint8).repeat(40, 0).repeat(60, 1)
    Image.fromarray(mask).save(masked / "masks/one.png")
    status, _, error = call("evaluate", "nameless.tflite", "--data", masked, "--void", 7)
    assert status == 2 and "tells 3 classes apart, the annotations 2" in error
