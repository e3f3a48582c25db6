"""Labelled images by number: folders, CSVs, and what else ``find`` can be asked for."""

import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from mobilenets_tf import RequestError
from mobilenets_tf.data.sources import find


def test_a_folder(image_folder):
    source = find(str(image_folder))
    assert source.class_names == ("a", "b") and len(source) == 10
    assert source.class_counts() == [5, 5]
    for i in range(10):
        content, label = source.read(i)
        assert source.name(i) == str(image_folder / "ab"[label] / source.name(i).rpartition("/")[2])
        with open(source.name(i), "rb") as stream:
            assert content == stream.read()


def test_an_annotated_folder_stands_for_its_images(image_folder, tmp_path):
    image_folder.rename(tmp_path / "images")
    (tmp_path / "annotations").mkdir()
    source = find(str(tmp_path))
    assert source.class_names == ("a", "b") and source.class_counts() == [5, 5]


def test_a_folder_from_several_threads_and_after_pickling(image_folder):
    source = find(str(image_folder))
    alone = [source.read(i) for i in range(10)]
    copy = pickle.loads(pickle.dumps(source))
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(copy.read, list(range(10)) * 20)) == alone * 20


def test_given_classes_decide_the_order(image_folder):
    source = find(str(image_folder), ["b", "none", "a"])
    assert source.class_names == ("b", "none", "a")
    assert source.class_counts() == [5, 0, 5]
    assert {source.read(i)[1] for i in range(10) if "/a/" in source.name(i)} == {2}


def test_a_csv(image_folder):
    table = image_folder / "all.csv"
    table.write_text("file,class_index\nb/1.png,7\na/0.png,0\n")
    source = find(str(table))
    assert source.class_names == () and source.class_counts() == [1, 0, 0, 0, 0, 0, 0, 1]
    assert source.read(0) == ((image_folder / "b" / "1.png").read_bytes(), 7)
    assert find(str(table), list("abcdefgh")).class_names == tuple("abcdefgh")
    with pytest.raises(RequestError, match="all.csv, line 2: class_index 7 is not one of the model's 2 classes"):
        find(str(table), ["a", "b"])


def test_a_csv_with_something_else_than_indices(image_folder):
    table = image_folder / "all.csv"
    table.write_text("file,class_index\na/0.png,123456789012345\n")
    with pytest.raises(RequestError, match="class_index 123456789012345 is no index of a class"):
        find(str(table))


def test_images_without_classes(image_folder):
    with pytest.raises(RequestError, match="have no classes: expected one sub-folder a class"):
        find(str(image_folder / "a"))


def test_nothing_there(tmp_path):
    with pytest.raises(RequestError, match="No such folder or CSV of images"):
        find(str(tmp_path / "none"))
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(RequestError, match="notes.txt: expected a folder of images or a .csv"):
        find(str(tmp_path / "notes.txt"))


def test_an_image_that_has_gone(image_folder):
    source = find(str(image_folder))
    (image_folder / "a" / "0.png").unlink()
    with pytest.raises(RequestError, match="Cannot read .*a/0.png: No such file or directory."):
        source.read(0)


def test_an_offset_of_labels_is_for_records(image_folder):
    with pytest.raises(RequestError, match="label_offset=1 is for TFRecords"):
        find(str(image_folder), label_offset=1)
    with pytest.raises(RequestError, match="label_offset=1 is for TFRecords"):
        find("tfds:cifar10:train", label_offset=1)


def test_tensorflow_datasets_is_asked_for_by_name(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)  # as if it were not installed
    with pytest.raises(RequestError, match="pip install tensorflow-datasets"):
        find("tfds:cifar10:train")
    with pytest.raises(RequestError, match="'tfds:cifar10': expected tfds:NAME:SPLIT"):
        find("tfds:cifar10")


def test_opening_needs_no_tensorflow(image_folder, tmp_path):
    from mobilenets_tf.data.tfrecords import _HEADER, _masked, crc32c

    length = (4).to_bytes(8, "little")
    record = _HEADER.pack(4, _masked(crc32c(length))) + b"data" + _masked(crc32c(b"data")).to_bytes(4, "little")
    (tmp_path / "x.tfrecord").write_bytes(record * 3)
    code = (
        "import sys\nfrom mobilenets_tf.data.sources import find\n"
        f"assert len(find({str(image_folder)!r})) == 10 and len(find({str(tmp_path / 'x.tfrecord')!r})) == 3\n"
        "sys.exit('tensorflow' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
