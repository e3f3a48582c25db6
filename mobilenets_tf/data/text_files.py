"""Read the text files that people write: lists of class names, CSVs, XML and JSON annotations. All are UTF-8, with or
without a byte order mark."""

import contextlib
import csv
import os
from pathlib import Path
from typing import Any

from mobilenets_tf.errors import RequestError
from mobilenets_tf.files import parse_json

_OTHER_MARKS = (b"\xff\xfe", b"\xfe\xff")  # of UTF-16 and UTF-32


def read_text(file: str | os.PathLike[str]) -> str:
    """Read a text file.

    Raises:
        RequestError: the file cannot be read, or is not UTF-8.
    """
    try:
        content = Path(file).read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        raise RequestError(f"Cannot read {shown(file)}: {getattr(error, 'strerror', None) or error}.") from error
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        found = "begins as UTF-16 does" if content.startswith(_OTHER_MARKS) else str(error)
        raise RequestError(f"{file} is not a text file in UTF-8 ({found}). Save the file as UTF-8.") from error
    if "\0" in text:
        raise RequestError(f"{file} is not a text file: it has a null character. Save the file as text in UTF-8.")
    return text


_MOST_BYTES = 16 << 20  # of a list of names: ImageNet's 21,841 take half a megabyte


def read_lines(file: str | os.PathLike[str]) -> list[str]:
    """Read a list of names: the lines of a text file, without the blanks around them. Empty lines at the end are left
    out.

    Raises:
        RequestError: the file cannot be read, is not UTF-8, is too large for a list of names, or has an empty line
            before a name, so that it is not known which place the name has.
    """
    size = 0
    with contextlib.suppress(OSError, ValueError):  # which ``read_text`` describes
        size = os.path.getsize(file)
    if size > _MOST_BYTES:
        raise RequestError(f"{shown(file)} has {size:,} bytes, too many for a list of names, a name a line.")
    lines = [line.strip() for line in read_text(file).splitlines()]
    while lines and not lines[-1]:
        lines.pop()
    if "" in lines:
        raise RequestError(
            f"{shown(file)}: line {lines.index('') + 1} is empty, and names follow. Remove the line, or name the class."
        )
    return lines


def read_rows(file: str | os.PathLike[str]) -> tuple[list[str], list[dict[str, str | None]]]:
    """Read a CSV: the names of its columns, and a dict for each row.

    Raises:
        RequestError: the file cannot be read, is not UTF-8, or is not a CSV.
    """
    reader = csv.DictReader(read_text(file).splitlines(keepends=True))
    try:
        return list(reader.fieldnames or []), list(reader)
    except csv.Error as error:
        raise RequestError(f"{file} is not a CSV ({error}).") from error


def read_json(file: str | os.PathLike[str]) -> Any:
    """Read a JSON document.

    Raises:
        RequestError: the file cannot be read, is not UTF-8, or is not JSON, or is nested too deep to be read.
    """
    return parse_json(read_text(file), file)


def shown(name: str | os.PathLike[str]) -> str:
    """Return a name for a message: a long name is cut."""
    text = os.fspath(name)
    return text if len(text) <= 200 else f"{text[:200]}... ({len(text)} characters)"
