"""Folders of projects: what goes when a result is replaced, and what stays."""

import pytest

from mobilenets_tf.export import project_folder

REQUEST = {"model": {"name": "net"}, "options": {}}


def test_a_project_goes_with_its_folders(tmp_path):
    folder = tmp_path / "net.npu"
    project_folder.write(folder, {"a.tflite": b"1", "pack/main/b.tflite": b"2"}, REQUEST)
    project_folder.remove(folder)
    assert not folder.exists()
    project_folder.remove(folder)  # nothing is there


def test_what_the_user_has_changed_or_added_stays(tmp_path):
    folder = tmp_path / "net.npu"
    project_folder.write(folder, {"a.tflite": b"1", "pack/b.tflite": b"2", "c/d.tflite": b"3"}, REQUEST)
    (folder / "a.tflite").write_bytes(b"mine")
    (folder / "pack" / "notes.txt").write_text("mine")
    with pytest.warns(UserWarning, match="made of an earlier file"):
        project_folder.remove(folder)
    assert {path.name for path in folder.rglob("*") if path.is_file()} == {"a.tflite", "notes.txt"}
    assert not (folder / "c").exists()


@pytest.mark.parametrize("listed", [None, "{", "{}", '{"files": [{"file": "../keep.txt", "sha256": "0"}]}'])
def test_other_folders_are_left_alone(tmp_path, listed):
    folder, keep = tmp_path / "net.npu", tmp_path / "keep.txt"
    folder.mkdir()
    keep.write_text("mine")
    if listed is not None:
        (folder / project_folder.LIST).write_text(listed)
    project_folder.remove(folder)
    assert folder.is_dir() and keep.is_file() and (folder / project_folder.LIST).is_file() == (listed is not None)
    link = tmp_path / "link.npu"
    link.symlink_to(folder)
    project_folder.write(folder, {"a.tflite": b"1"}, REQUEST, overwrite=True)
    project_folder.remove(link)
    assert (folder / "a.tflite").is_file()


def test_folders_of_the_users_own_stay_also_empty_ones_and_linked_ones(tmp_path):
    folder, app = tmp_path / "net.npu", tmp_path / "app"
    project_folder.write(folder, {"a.tflite": b"1", "pack/b.tflite": b"2"}, REQUEST)
    (folder / "pack").rename(app)
    (folder / "pack").symlink_to(app)
    (folder / "empty" / "inner").mkdir(parents=True)
    with pytest.warns(UserWarning, match="made of an earlier file"):
        project_folder.remove(folder)
    assert (app / "b.tflite").is_file() and (folder / "empty" / "inner").is_dir() and not (folder / "a.tflite").exists()
