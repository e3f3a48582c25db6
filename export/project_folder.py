"""A folder with a project that a user will change: known by its own list of files, so that no change is lost."""

import contextlib
import warnings
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from mobilenets_tf.data.text_files import read_json
from mobilenets_tf.errors import RequestError
from mobilenets_tf.files import check_folder, digests, is_inside, parse_json, sha256_of, to_json, write_together

# Has the request, and the project's files with their sha256.
LIST = "mobilenets-tf.json"
_REMEDY = "choose another folder, or pass --overwrite (overwrite=True) to write over its files"


def check(folder: Path, option: str, overwrite: bool, request: Mapping) -> None:
    """Refuse, before any work, a folder for a project that has anything else in it.

    Args:
        option: of the command line, "--android-app" for example. overwrite: allow everything.
        request: the "model" and "options" of which the project is made.

    Raises:
        RequestError: the folder cannot be written; or has files that are no project, a project of another request, or
            a file of the project that was changed since.
    """
    check_folder(folder, option)
    if overwrite or not folder.is_dir() or not any(folder.iterdir()):
        return
    asked = f"{option} {folder} ({option.strip('-').replace('-', '_')}=)"
    if not (folder / LIST).is_file():
        raise RequestError(f"{asked}: the folder is not empty; {_REMEDY}.")
    known = read_json(folder / LIST)
    asked_for = parse_json(to_json(request), LIST)
    if not isinstance(known, dict) or any(known.get(key) != value for key, value in asked_for.items()):
        raise RequestError(f"{asked}: the project there is of another request; {_REMEDY}.")
    for file, digest in _listed(folder, known).items():
        if _exists(folder / file) and not _is(folder / file, digest):
            raise RequestError(f"{asked}: {file} was changed; {_REMEDY}.")


def check_apart(folders: Mapping[str, Path]) -> None:
    """Refuse one folder for two results, of which the second would replace the first.

    Args:
        folders: option -> the folder that it names.

    Raises:
        RequestError: two options name the same folder.
    """
    places: dict[Path, str] = {}
    for option, folder in folders.items():
        place = folder.resolve()
        if place in places:
            raise RequestError(f"{places[place]} and {option} both name {folder}; give each a folder of its own.")
        places[place] = option


def write(folder: Path, contents: Mapping[str, str | bytes], request: Mapping, overwrite: bool = False) -> None:
    """Write a project, whole or not at all. Files of an earlier project that are not part of this one go, unless they
    were changed.

    Args:
        contents: path in the folder -> content. request, overwrite: as in ``check``.

    Raises:
        RequestError: the folder cannot be written, the disk is full, or a file of the user's own is in a file's place.
    """
    contents, before = dict(contents), _before(folder)
    for file in contents:
        if _exists(folder / file) and file not in before and not overwrite:
            raise RequestError(f"{folder / file} is there and is no file of an earlier project; {_REMEDY}.")
    write_together(folder, {**contents, LIST: to_json({**request, "files": digests(contents)})})
    for file, digest in before.items():
        if file not in contents and _is(folder / file, digest):
            (folder / file).unlink()


def remove(folder: Path) -> None:
    """Remove the files of an earlier project, and their folders where these are then empty. What the user has changed
    or added stays, with a warning. A folder without a project, or that is a link, is left alone.
    """
    before = {} if folder.is_symlink() else _before(folder)
    if not before:
        return
    for file, digest in before.items():
        if _is(folder / file, digest):
            (folder / file).unlink()
    (folder / LIST).unlink()
    parents = {parent for file in before for parent in PurePosixPath(file).parents} - {PurePosixPath(".")}
    for parent in sorted(parents, reverse=True):  # the inner folders first
        with contextlib.suppress(OSError):  # not empty
            (folder / parent).rmdir()
    try:
        folder.rmdir()
    except OSError:
        warnings.warn(
            f"{folder} was made of an earlier file. Its files are removed, but for those that were changed or added "
            "since.",
            stacklevel=3,
        )


def _before(folder: Path) -> dict[str, str]:
    """Return the files of the project in a folder with their sha256; {} where there is none."""
    if (folder / LIST).is_file():
        with contextlib.suppress(RequestError):
            known = read_json(folder / LIST)
            return _listed(folder, known) if isinstance(known, dict) else {}
    return {}


def _listed(folder: Path, known: Mapping) -> dict[str, str]:
    """Return the files of a list inside of the folder, with their sha256; {} where something else stands in its
    place."""
    entries = known.get("files")
    entries = entries if isinstance(entries, list) else []
    listed = {each.get("file"): each.get("sha256") for each in entries if isinstance(each, dict)}
    return {file: digest for file, digest in listed.items() if isinstance(digest, str) and is_inside(folder, file)}


def _exists(path: Path) -> bool:
    try:
        return path.exists() or path.is_symlink()
    except OSError:  # such as a name that is too long
        return False


def _is(path: Path, digest: str) -> bool:
    """Tell whether a path is a file, no link, with a sha256."""
    try:
        return path.is_file() and not path.is_symlink() and sha256_of(path) == digest
    except OSError:
        return False
