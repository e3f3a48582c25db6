"""Finding images and what classes they are of."""

import os
import warnings

import numpy as np
import pytest
from PIL import Image

from mobilenets_tf import RequestError
from mobilenets_tf.data import images, sources, tfrecords
from mobilenets_tf.data.images import find_images, find_photographs
from mobilenets_tf.data.masks import find_masks
from mobilenets_tf.tasks import task_of


def test_a_class_without_images_is_named_before_it_shifts_the_others(image_folder):
    (image_folder / "aa").mkdir()
    with pytest.raises(RequestError, match="sub-folder 'aa' has no images"):
        find_images(image_folder)


def test_a_class_that_the_model_knows_may_be_without_images(image_folder):
    (image_folder / "aa").mkdir()
    found = find_images(image_folder, ["a", "aa", "b"])
    assert sorted(set(found.labels)) == [0, 2]


def test_a_hidden_folder_is_no_class(image_folder):
    (image_folder / ".thumbnails").mkdir()
    assert sorted(set(find_images(image_folder).labels)) == [0, 1]


def test_images_of_more_than_eight_bits(tmp_path):
    grey = np.linspace(0, 65535, 64 * 64).reshape(64, 64)
    Image.fromarray(grey.astype(np.uint16)).save(tmp_path / "sixteen.png")
    found = np.asarray(images.decode(tmp_path / "sixteen.png"))
    np.testing.assert_array_equal(found, np.repeat(grey.astype(np.uint16)[..., None] // 256, 3, -1))
    Image.fromarray(grey.astype(np.float32)).save(tmp_path / "real.tiff")
    with pytest.raises(RequestError, match="real.tiff is not a readable image .*32 bits a pixel"):
        images.decode(tmp_path / "real.tiff")


def test_what_tools_leave_behind_is_neither_an_image_nor_a_class(image_folder):
    (image_folder / "a" / "picture.JFIF").write_bytes((image_folder / "a" / "0.png").read_bytes())
    expected = find_images(image_folder)
    for name in (".ipynb_checkpoints", "@eaDir", "__MACOSX", "$RECYCLE.BIN"):
        for folder in (image_folder / name, image_folder / "a" / name):
            folder.mkdir()
            Image.new("RGB", (8, 8)).save(folder / "copy.png")
    for name in ("Thumbs.db", ".DS_Store", "desktop.ini", "._0.jpg"):
        (image_folder / name).write_bytes(b"x")
        (image_folder / "b" / name).write_bytes(b"x")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # they are not worth a word either
        found = find_images(image_folder)
        assert sources.find(str(image_folder)).class_names == ("a", "b")
    assert found == expected and len(set(found.labels)) == 2
    assert any(path.suffix == ".JFIF" for path in found.paths)
    assert find_photographs(image_folder).paths == expected.paths


def test_files_that_cannot_be_read_are_counted_and_named_in_one_line(image_folder, monkeypatch):
    monkeypatch.setattr(images, "_has_heif_decoder", lambda: False)
    monkeypatch.setattr(images, "suffixes", lambda: images._SUFFIXES)
    for name in ("a/IMG_1.HEIC", "a/IMG_2.heic", "b/raw.cr2", "b/notes.txt"):
        (image_folder / name).write_bytes(b"x")
    with pytest.warns(UserWarning) as caught:
        find_images(image_folder)
    assert [str(warning.message) for warning in caught] == [
        f"{image_folder}: 3 files are left out: 1 .cr2, 2 .heic, such as IMG_1.HEIC. HEIC is read where pillow-heif is "
        "installed:  pip install pillow-heif"
    ]
    (image_folder / "only").mkdir()
    (image_folder / "only" / "IMG_1.heic").write_bytes(b"x")
    with pytest.raises(RequestError, match="has no images in it .* 1 file is left out: 1 .heic.*pip install pillow"):
        find_images(image_folder / "only")
    with pytest.raises(RequestError, match="not a readable image .*pip install pillow-heif"):
        images.decode(image_folder / "only" / "IMG_1.heic")


def test_heic_is_read_where_its_decoder_is_installed(image_folder):
    heif = pytest.importorskip("pillow_heif", reason="pillow-heif is not installed")
    heif.register_heif_opener()
    Image.new("RGB", (64, 64), "red").save(image_folder / "a" / "IMG_1.HEIC")
    assert [path.name for path in find_images(image_folder).paths if path.suffix == ".HEIC"] == ["IMG_1.HEIC"]
    assert images.decode(image_folder / "a" / "IMG_1.HEIC").getpixel((9, 9))[0] > 240


@pytest.mark.parametrize("annotations", ["masks", "annotations", "labels"])
def test_the_photographs_of_an_annotated_folder_are_found_without_its_masks(image_folder, annotations):
    (image_folder / "a").rename(image_folder / "images")
    (image_folder / "b").rename(image_folder / annotations)
    found = find_images(image_folder)
    assert found.labels is None and {path.parent.name for path in found.paths} == {"images"}
    for task in ("classify", "detect", "segment"):
        assert task_of(task).photographs(str(image_folder)).paths == found.paths


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"file,class_index\n" + b"x" * 300 + b".png,0\n", r"line 2: no such image: .*\.\.\. \(\d+ characters\)"),
        ("file,class_index\n".encode("utf-16"), "begins as UTF-16 does.*Save the file as UTF-8"),
        (b"file,class_index\n\xff.png,0\n", "not a text file in UTF-8"),
        (b"file,class_index\na\0.png,0\n", "has a null character"),
        (b'file,class_index\n"' + b"x" * 200_000 + b'",0\n', "not a CSV .field larger than field limit"),
        (b"file,class_index\n", "has no rows"),
        (b"", "has the columns none"),
    ],
)
def test_a_damaged_csv_gets_a_clear_error(tmp_path, content, told):
    (tmp_path / "labels.csv").write_bytes(content)
    with pytest.raises(RequestError, match=told):
        find_images(tmp_path / "labels.csv")


def test_a_csv_may_begin_with_a_byte_order_mark(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "ä.png")
    (tmp_path / "labels.csv").write_text("file,class_index\nä.png,3\n", encoding="utf-8-sig")
    assert find_images(tmp_path / "labels.csv").labels == (3,)


@pytest.mark.parametrize("name", ["x" * 300, "null\0character"])
def test_a_source_with_an_impossible_name_is_not_there(name):
    with pytest.raises(RequestError, match="No such folder or CSV"):
        find_images(name)


def test_what_tools_leave_behind_is_no_mask_and_no_record(tmp_path):
    for kind, name in (("images", "a.png"), ("masks", "a.png"), ("images", "@eaDir/b.png"), ("masks", "._a.png")):
        (tmp_path / kind / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.array([[0, 1]], np.uint8)).save(tmp_path / kind / name)
    assert [path.name for path in find_masks(tmp_path, count=2).paths] == ["a.png"]
    for name in ("train-00000-of-00001", "._train-00000-of-00001", ".validation-00000-of-00001"):
        (tmp_path / name).write_bytes(b"")
    assert tfrecords.in_folder(tmp_path) == [str(tmp_path / "train-00000-of-00001")]


def test_a_class_that_the_model_does_not_have_is_refused(image_folder):
    found = find_images(image_folder)  # of the classes a and b
    images.check_classes(found, 2)
    images.check_classes(found, None)
    with pytest.raises(RequestError, match="at least 2 classes; the model has 1"):
        images.check_classes(found, 1)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes")
def test_a_pipe_is_no_image_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(RequestError, match=r"pipe.png is no file: expected an image"):
        images.decode(tmp_path / "pipe.png")
    with pytest.raises(RequestError, match=r"pipe.png is no file.*Remove or replace it"):
        images.check(images.ImageSet((tmp_path / "pipe.png",)))
