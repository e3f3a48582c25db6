"""A folder with a project that a user will change: known by its own list of files, so that no change is lost."""

from collections.abc import Mapping
from pathlib import Path

from mobilenets_tf.data.text_files import read_json
from mobilenets_tf.errors import RequestError
from mobilenets_tf.files import check_folder, digests, parse_json, sha256_of, to_json, write_together

# Has the request, and the project's files with their sha256.
LIST = "mobilenets-tf.json"


def check(folder: Path, option: str, overwrite: bool, request: Mapping) -> None:
    """Refuse, before any work, a folder for a project that has anything else in it.

    Args:
        option: of the command line, "--android-app" for example. overwrite: allow everything.
        request: the "model" and "options" of which the project is made.

    Raises:
        RequestError: the folder cannot be written; or has files that are no project, a project of another request, or
            a file of the project that was changed since.
    """
    check_folder(folder)
    if overwrite or not folder.is_dir() or not any(folder.iterdir()):
        return
    asked = f"{option} {folder} ({option.strip('-').replace('-', '_')}=)"
    remedy = "choose another folder, or pass --overwrite (overwrite=True) to write over its files"
    if not (folder / LIST).is_file():
        raise RequestError(f"{asked}: the folder is not empty; {remedy}.")
    known = read_json(folder / LIST)
    asked_for = parse_json(to_json(request), LIST)
    if not isinstance(known, dict) or any(known.get(key) != value for key, value in asked_for.items()):
        raise RequestError(f"{asked}: the project there is of another request; {remedy}.")
    for file, digest in _listed(known):
        if (folder / file).is_file() and sha256_of(folder / file) != digest:
            raise RequestError(f"{asked}: {file} was changed; {remedy}.")


def write(folder: Path, contents: Mapping[str, str | bytes], request: Mapping) -> None:
    """Write a project, whole or not at all.

    Args:
        contents: path in the folder -> content. request: as in ``check``.

    Raises:
        RequestError: the folder cannot be written, or the disk is full.
    """
    contents = dict(contents)
    write_together(folder, {**contents, LIST: to_json({**request, "files": digests(contents)})})


def _listed(known: Mapping) -> list[tuple[str, str]]:
    """Return the entries of a list of files; () where something else stands in its place."""
    entries = known.get("files")
    entries = entries if isinstance(entries, list) else []
    listed = [(each.get("file"), each.get("sha256")) for each in entries if isinstance(each, dict)]
    return [(file, digest) for file, digest in listed if isinstance(file, str) and isinstance(digest, str)]
