"""The one reader of people's text files."""

import pytest

from mobilenets_tf import RequestError
from mobilenets_tf.data.text_files import read_json, read_lines, read_text


def test_utf_8_is_read_with_and_without_a_byte_order_mark(tmp_path):
    for encoding in ("utf-8", "utf-8-sig"):
        (tmp_path / "labels.txt").write_text("Löwe\n Tiger \r\n\n", encoding=encoding)
        assert read_lines(tmp_path / "labels.txt") == ["Löwe", "Tiger"]


def test_an_empty_line_moves_no_name(tmp_path):
    (tmp_path / "labels.txt").write_text("cat\n\ndog\n")
    with pytest.raises(RequestError, match=r"labels.txt: line 2 is empty.*Remove the line, or name the class"):
        read_lines(tmp_path / "labels.txt")


def test_what_is_too_large_for_a_list_of_names_is_not_read(tmp_path):
    with open(tmp_path / "labels.txt", "wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(RequestError, match=r"labels.txt has 1,099,511,627,776 bytes, too many"):
        read_lines(tmp_path / "labels.txt")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32", "latin-1"])
def test_other_encodings_are_named_with_the_remedy(tmp_path, encoding):
    (tmp_path / "labels.txt").write_text("Löwe\n", encoding=encoding)
    with pytest.raises(RequestError, match="labels.txt is not a text file.*[Ss]ave the file as"):
        read_text(tmp_path / "labels.txt")


@pytest.mark.parametrize("name", ["not there", "x" * 300, "null\0character", "."])
def test_what_cannot_be_read_is_named(tmp_path, name):
    with pytest.raises(RequestError, match="Cannot read"):
        read_text(tmp_path / name)


@pytest.mark.parametrize("text", ["[" * 100_000, "{", "[1, 2", ""])
def test_json_that_cannot_be_read_gets_a_clear_error(tmp_path, text):
    (tmp_path / "coco.json").write_text(text)
    with pytest.raises(RequestError, match="coco.json is (not JSON|refused: its JSON is nested)"):
        read_json(tmp_path / "coco.json")
