"""predict on files whose answers can be told by looking."""

import json

import pytest
from PIL import Image

from mobilenets_tf.cli.options import image_line
from tests.cli.conftest import TOLD
from tests.support import colour_files
from tests.support.colour_files import quarters, write


def test_a_classifier_names_the_first_classes(folder, call):
    status, out, _ = call("predict", "class.tflite", "photo.png", "other.jpg", "--top", 2)
    assert status == 0
    assert [line.split() for line in out.splitlines()] == [
        ["photo.png", "120x80"], ["25.0%", "red"], ["25.0%", "blue"],
        ["other.jpg", "60x80"], ["50.0%", "green"], ["49.8%", "red"],
        image_line("resize the whole photograph to 8x8, without keeping its aspect ratio (bilinear)").split(),
    ]  # fmt: skip
    status, out, _ = call(
        "predict", "bare_class.tflite", "other.jpg", "--mean", 0, "--std", 255, "--labels", "names.txt", "--top", 9
    )
    assert status == 0 and {line.split()[1] for line in out.splitlines()[1:-1]} == {"grün", "rot", "blau"}


def test_a_detectors_boxes_are_in_the_photographs_pixels(folder, call):
    status, out, _ = call("predict", "boxes.tflite", "photo.png", "--beside", "nms.tflite", "--json", "--quiet")
    assert status == 0
    (image,) = json.loads(out)["images"]
    assert (image["width"], image["height"]) == (120, 80)
    raw, nms = image["answers"]
    assert raw["found"] == nms["found"] and nms["file"] == "nms.tflite"
    assert sorted((each["name"], each["box"]["xmin"], each["box"]["ymax"]) for each in raw["found"]) == [
        ("blue", 60, 80), ("red", 0, 40),
    ]  # fmt: skip
    status, out, _ = call("predict", "boxes.tflite", "photo.png", "--threshold", 0.95)
    assert status == 0 and "nothing" in out


def test_pictures_are_written_of_each_photograph(folder, call):
    status, out, _ = call("predict", "mask.tflite", "photo.png", "other.jpg", "--out", "new/pictures")
    assert status == 0
    assert "Picture: new/pictures/photo.png" in out and "50.0%  green" in out
    with Image.open("new/pictures/other.png") as picture:
        assert picture.width == 480 and picture.height > 640
    assert sorted(path.name for path in (folder / "new/pictures").iterdir()) == ["other.png", "photo.png"]
    first = (folder / "new/pictures/photo.png").read_bytes()
    assert call("predict", "mask.tflite", "photo.png", "--out", "new/pictures/photo.png")[0] == 0  # its own result
    assert (folder / "new/pictures/photo.png").read_bytes() == first
    for model, options in (("mask.tflite", ["--top", 2]), ("boxes.tflite", [])):  # another result
        status, _, error = call("predict", model, "photo.png", *options, "--out", "new/pictures")
        assert status == 2 and "photo.png is there" in error and "--overwrite" in error
    assert call("predict", "mask.tflite", "photo.png", "--top", 2, "--out", "new/pictures", "--overwrite")[0] == 0
    for _ in range(2):
        assert call("predict", "boxes.tflite", "photo.png", "--beside", "nms.tflite", "--out", "two.JPG")[0] == 0
    with Image.open("two.JPG") as picture:
        assert picture.format == "JPEG" and picture.width > 2 * 720
        picture.save("two.JPG", comment=picture.info["comment"], quality=50)  # changed by somebody
    status, _, error = call("predict", "boxes.tflite", "photo.png", "--beside", "nms.tflite", "--out", "two.JPG")
    assert status == 2 and "--overwrite" in error


def test_a_folder_stands_for_its_photographs(folder, call):
    for name in ("album/a/one.png", "album/b/one.png", "album/.trash/one.png"):
        (folder / name).parent.mkdir(parents=True)
        quarters("red", "red", "red", "red").save(folder / name)
    (folder / "album/table.csv").write_text("file,class_index\na/one.png,0\n")
    status, out, _ = call("predict", "mask.tflite", "album", "photo.png", "--out", "drawn")
    assert status == 0 and sorted(path.name for path in (folder / "drawn").iterdir()) == [
        "a_one.png", "b_one.png", "photo.png",
    ]  # fmt: skip
    status, out, _ = call("predict", "mask.tflite", "album/table.csv")
    assert status == 0 and out.splitlines()[0].split()[0] == "album/a/one.png"
    (folder / "empty").mkdir()
    status, _, error = call("predict", "mask.tflite", "empty")
    assert status == 2 and "empty has no images in it" in error


def test_a_keras_file_beside_the_tflite_file(folder, call, in_this_process):
    write(folder / "net.keras", colour_files.keras_detector(), task="detect", **TOLD)
    status, out, error = call("predict", "net.keras", "photo.png", "--beside", "boxes.tflite", "--json")
    assert status == 0, error
    first, second = (
        {each["name"]: each for each in answer["found"]} for answer in json.loads(out)["images"][0]["answers"]
    )
    assert set(first) == set(second) == {"red", "blue"}
    for name in first:
        assert first[name]["box"] == second[name]["box"]
        assert first[name]["score"] == pytest.approx(second[name]["score"], abs=1e-6)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["absent.tflite", "photo.png"], "No such model file: absent.tflite"),
        (["photo.png", "class.tflite"], "photo.png: expected a .keras, .h5 or .hdf5 file"),
        (["class.tflite", "absent.png"], "No such image: absent.png"),
        (["class.tflite", "names.txt"], "names.txt is not a readable image"),
        (["class.tflite", "photo.png", "cut.png", "--out", "out"], "cut.png is not a readable image"),
        (["bare.tflite", "photo.png"], "Pass --mean and --std"),
        (["bare.tflite", "photo.png", "--mean", "0", "--std", "1"], "Pass --task classify, detect or segment"),
        (["bare.tflite", "photo.png", "--mean", "0", "--std", "1", "--task", "detect"], "bare.tflite.json"),
        (["class.tflite", "photo.png", "--mean", "0"], "Give --mean and --std together"),
        (["class.tflite", "photo.png", "--labels", "absent.txt"], "No such labels file"),
        (["class.tflite", "photo.png", "--threshold", "50"], "expected a score from 0 to 1"),
        (["class.tflite", "photo.png", "--top", "0"], "expected at least 1"),
        (["class.tflite", "photo.png", "--beside", "mask.tflite", "--out", "out"], "side by side they need the same"),
        (["class.tflite", "photo.png", "--out", "taken.png"], "taken.png is there"),
        (["class.tflite", "photo.png", "--out", "names.txt"], "expected a .png, a .jpg, or a folder"),
        (["class.tflite", "photo.png", "--out", "taken.png/"], "taken.png is a file"),
        (["class.tflite", "photo.png", "other.jpg", "--out", "one.png"], "give a folder"),
        (["class.tflite", "photo.png", "./photo.png", "--out", "out"], "would both be"),
        (["class.tflite", "photo.png", "--out", ".", "--overwrite"], "is a photograph itself"),
    ],
)
def test_wrong_requests_leave_everything_as_it_is(folder, call, arguments, told):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    status, out, error = call("predict", *arguments)
    assert status == 2 and told in error and not out
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
