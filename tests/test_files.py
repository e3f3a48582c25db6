"""Output files: whole or not at all, and never over what is not ours."""

import errno
import json
import os
import tempfile

import pytest

from mobilenets_tf import RequestError, files


def full_disk(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    files.write_together(tmp_path, {"a.txt": "old"})
    monkeypatch.setattr(files.os, "fsync", full_disk)
    with pytest.raises(RequestError, match=rf"{tmp_path.name}: No space left on device\. Free some space"):
        files.write_together(tmp_path, {"a.txt": "new"})
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "old"


def test_several_files_change_together_or_not(tmp_path, monkeypatch):
    files.write_together(tmp_path, {"a": "1", "b": b"1"})
    calls = []

    def second_fails(handle):
        calls.append(handle)
        if len(calls) == 2:
            full_disk()

    monkeypatch.setattr(files.os, "fsync", second_fails)
    with pytest.raises(RequestError, match="No space"):
        files.write_together(tmp_path, {"a": "2", "b": "2"})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b"]
    assert (tmp_path / "a").read_text() == (tmp_path / "b").read_text() == "1"


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="root can write to every folder but Linux's /proc")
def test_a_folder_that_cannot_be_written():
    with pytest.raises(RequestError, match="Cannot write"):
        files.check_folder(files.Path("/proc/self/out"))


def test_a_page_is_ours_as_long_as_nobody_has_changed_it(tmp_path):
    page = tmp_path / "report.html"
    page.write_text(files.sealed("<html>é</html>\n"), encoding="utf-8")
    files.check_replaceable(tmp_path, ["report.html"], overwrite=False)
    page.write_text(page.read_text(encoding="utf-8").replace("é", "e"), encoding="utf-8")
    with pytest.raises(RequestError, match="not an earlier result"):
        files.check_replaceable(tmp_path, ["report.html"], overwrite=False)


def test_only_our_own_unchanged_files_are_replaced(tmp_path):
    names = ["a.tflite", "a.tflite.json", "labels.txt"]
    files.check_replaceable(tmp_path, names, overwrite=False)
    for stem in "ab":  # two results that share a file
        contents = {f"{stem}.tflite": stem, "labels.txt": "cat"}
        manifest = files.to_json({"files": files.digests(contents)})
        files.write_together(tmp_path, contents | {f"{stem}.tflite.json": manifest})
    files.check_replaceable(tmp_path, names, overwrite=False)
    (tmp_path / "a.tflite").write_bytes(b"changed by hand")
    with pytest.raises(RequestError, match="not an earlier result"):
        files.check_replaceable(tmp_path, names, overwrite=False)
    files.check_replaceable(tmp_path, names, overwrite=True)
    (tmp_path / "a.tflite.json").write_text("{}")
    with pytest.raises(RequestError, match=r"a\.tflite\.json"):
        files.check_replaceable(tmp_path, ["a.tflite.json"], overwrite=False)


def test_a_temporary_folder_in_use_stays(tmp_path):
    with files.TemporaryFolder("mine-", tmp_path) as first:
        (tmp_path / "mine-link").symlink_to(tmp_path)
        (tmp_path / "mine-file").write_text("a file of the user's")
        left = tmp_path / "mine-0_left_0.temporary"  # by a process that was killed
        left.mkdir(mode=0o700)
        (left / "part").write_text("")
        (tmp_path / "mine-work").mkdir(mode=0o700)
        (tmp_path / "mine-0_open_0.temporary").mkdir(mode=0o755)
        (tmp_path / "other").mkdir()
        with files.TemporaryFolder("mine-", tmp_path) as second:
            names = {path.name for path in tmp_path.iterdir()}
            users = {"mine-link", "mine-file", "mine-work", "mine-0_open_0.temporary", "other"}
            assert names == {os.path.basename(first), os.path.basename(second), *users}
    assert {path.name for path in tmp_path.iterdir()} == users


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "full"), OSError("Can't write data (errno = 28, message = 'No space left on device')")],
)
def test_a_full_temporary_directory_is_named_with_a_remedy(error, tmp_path, monkeypatch):
    """The second error is HDF5's, which has no number."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with (
        pytest.raises(RequestError, match=f"Cannot write into {tmp_path}: .*TMPDIR"),
        files.TemporaryFolder("mine-"),
    ):
        raise error
    assert not list(tmp_path.iterdir())
    with pytest.raises(RequestError, match="Free some space and run again"), files.TemporaryFolder("mine-", tmp_path):
        raise error
    with pytest.raises(FileNotFoundError), files.TemporaryFolder("mine-"):
        raise FileNotFoundError


def test_what_a_killed_run_left_beside_its_results_goes(tmp_path):
    (tmp_path / ".unfinished-abcdefgh.temporary").mkdir(mode=0o700)
    files.write_together(tmp_path, {"a": "1"})
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_what_a_check_refuses_leaves_the_folder_as_it_was(tmp_path):
    files.write_together(tmp_path, {"a": "1"})

    def check():
        assert (tmp_path / "a").read_text() == "1"
        raise RequestError("another process was faster")

    with pytest.raises(RequestError, match="faster"):
        files.write_together(tmp_path, {"a": "2", "b": "2"}, check)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a", "1")]


def result(folder, name, content="made", labels=("cat",), **options):
    """Write the file of a request, with its labels and manifest, unless something else is in its place."""
    request = {"model": {"model": "net", "mean": (1.0,)}, "options": {"seed": 0, "output": None} | options}
    shared = files.labels_file(labels)
    files.check_replaceable(folder, [name, f"{name}.json"], False, request, labels)
    contents = {name: content, **shared}
    model = request["model"] | {"weights_sha256": "1234"}
    manifest = {"files": files.digests(contents), **request, "model": model}
    files.write_together(folder, contents | {f"{name}.json": files.to_json(manifest)})


def test_the_same_request_replaces_its_result_and_another_does_not(tmp_path):
    result(tmp_path, "a.tflite", output="nms")
    result(tmp_path, "a.tflite", "made anew")
    result(tmp_path, "b.tflite", seed=1)
    with pytest.raises(
        RequestError, match=r"a\.tflite is the result of another request \(seed=0, not 2\).*--overwrite"
    ):
        result(tmp_path, "a.tflite", seed=2)
    result(tmp_path / "other", "c.tflite", split=3)
    with pytest.raises(RequestError, match=r"another request \(split=3, not None\)"):
        result(tmp_path / "other", "c.tflite", split=None)
    with pytest.raises(RequestError, match=r"labels\.txt belongs to a\.tflite too"):
        result(tmp_path, "b.tflite", labels=("dog",), seed=1)
    assert (tmp_path / "a.tflite").read_text() == "made anew" and (tmp_path / "labels.txt").read_text() == "cat\n"
    assert files.made_of(tmp_path, "1234") == {
        "a.tflite": ["a.tflite", "a.tflite.json"],
        "b.tflite": ["b.tflite", "b.tflite.json"],
    }
    (tmp_path / "b.tflite").write_text("changed by hand")
    assert files.made_of(tmp_path, "1234")["b.tflite"] == ["b.tflite.json"]
    assert files.made_of(tmp_path, "5678") == {}


def test_a_result_alone_may_change_its_labels(tmp_path):
    result(tmp_path, "a.tflite")
    result(tmp_path, "a.tflite", labels=("dog",))
    assert (tmp_path / "labels.txt").read_text() == "dog\n"


def test_names_that_are_no_text_for_a_terminal_are_escaped():
    text = files.to_json({"name": "a\x1b[31m\x9b\n\U000e0001", "undecodable": "\udc80", "umlaut": "ü"})
    assert text.isascii() is False and "ü" in text and all(each.isprintable() or each == "\n" for each in text)
    assert json.loads(text)["name"] == "a\x1b[31m\x9b\n\U000e0001" and text.encode()


@pytest.mark.parametrize("name", ["a\nb", "a\r", "a\u2028b"])
def test_a_label_with_a_line_break_is_refused(name):
    with pytest.raises(RequestError, match="line break"):
        files.labels_file(["fine", name + "c"])


def test_a_user_without_a_home(monkeypatch):
    monkeypatch.delenv("MOBILENETS_TF_HOME", raising=False)
    monkeypatch.setattr(files.Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    assert files.cache_folder().is_relative_to(tempfile.gettempdir())


def test_a_folder_has_one_user(tmp_path):
    folder = tmp_path / "new"
    with files.only_user(folder, "training"), pytest.raises(RequestError, match="new is used by another training"):
        files.only_user(folder, "training").__enter__()
    with files.only_user(folder, "training"):
        pass


def test_a_link_to_a_folder_has_one_user_too(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "folder")
    (tmp_path / "folder").mkdir()
    with files.only_user(tmp_path / "folder", "training"), pytest.raises(RequestError, match="link is used by another"):
        files.only_user(tmp_path / "link", "training").__enter__()


def test_a_folder_that_cannot_be_locked_is_told_unless_the_file_system_has_no_locks(tmp_path, monkeypatch):
    def fail(*_, wait):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(files, "_locked", fail)
    number = errno.ENOLCK
    with files.only_user(tmp_path, "training"):
        pass
    number = errno.EMFILE
    with pytest.raises(RequestError, match="Cannot write .*: Too many open files"):
        files.only_user(tmp_path, "training").__enter__()


def test_a_full_disk_is_said_with_a_remedy(tmp_path, monkeypatch):
    for parent, remedy in ((tmp_path, "run again"), (None, "set TMPDIR")):
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        with (
            pytest.raises(RequestError, match=f"Cannot write into {tmp_path}: No space left on device. .*{remedy}"),
            files.TemporaryFolder("mine-", parent),
        ):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(OSError, match="of another kind"), files.TemporaryFolder("mine-", tmp_path):
        raise OSError(errno.EIO, "of another kind")
    assert list(tmp_path.iterdir()) == []


def test_no_temporary_directory_at_all(monkeypatch):
    """As Python's tempfile raises where every place that it knows is on a full disk."""

    def none():
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']")

    monkeypatch.setattr(tempfile, "gettempdir", none)
    with pytest.raises(RequestError, match="No usable temporary directory found in .*/tmp.*Free some space.*TMPDIR"):
        files.TemporaryFolder("mine-")


@pytest.mark.parametrize("name", ["../keep.txt", "{absolute}", "link/keep.txt", "", "a\0b", 3])
def test_a_list_does_not_lead_out_of_its_folder(name, tmp_path):
    """A manifest may be anybody's: what it lists elsewhere is no file of a result."""
    folder, keep = tmp_path / "out", tmp_path / "keep.txt"
    folder.mkdir()
    keep.write_text("mine")
    (folder / "link").symlink_to(tmp_path)
    name = str(keep) if name == "{absolute}" else name
    digests = [{"file": each, "sha256": files.sha256_of(keep)} for each in (name, "sub/own.txt")]
    (folder / "sub").mkdir()
    (folder / "sub" / "own.txt").write_text("mine")
    (folder / "net.tflite.json").write_text(json.dumps({"files": digests}))
    assert files.own_files(folder, "net.tflite.json") == ["sub/own.txt", "net.tflite.json"]
