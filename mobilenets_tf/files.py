"""Write files whole or not at all, and only over earlier results of this package; digests; the cache folder."""

import errno
import hashlib
import json
import math
import os
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mobilenets_tf.errors import RequestError

_MOST_DEPTH = 100
_MANIFESTS = ("*.tflite.json", "*.keras.json", "*_sensitivity.json")


def check_folder(folder: Path) -> None:
    """Refuse an output folder that cannot be made or written to, before any work is done.

    Raises:
        RequestError: the folder is a file, or the system does not allow writing.
    """
    existing = folder
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    if not existing.is_dir():
        raise RequestError(f"Cannot write into {folder}: {existing} is a file.")
    # os.access says yes to root even on a read-only file system, so try.
    with _explained(folder), tempfile.TemporaryFile(dir=existing):
        pass


_SEAL = "<!-- sha256 of what stands above: {} -->\n"


def sealed(page: str) -> str:
    """Append to an HTML page its own sha256, which marks the page as a result of this package. No manifest can list the
    page, since it holds measured times, which differ from run to run."""
    return page + _SEAL.format(hashlib.sha256(page.encode()).hexdigest())


def _is_sealed(content: bytes) -> bool:
    page, _, seal = content.rpartition(_SEAL.split("{")[0].encode())
    return seal.decode(errors="replace") == _SEAL.partition(": ")[2].format(hashlib.sha256(page).hexdigest())


def digests(contents: dict[str, bytes | str]) -> list[dict]:
    """Return the entries of a manifest's list of files: name, size in bytes, sha256."""
    encoded = {name: data.encode() if isinstance(data, str) else data for name, data in contents.items()}
    return [
        {"file": name, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in encoded.items()
    ]


def check_replaceable(folder: Path, names: list[str], overwrite: bool) -> None:
    """Refuse to write over files whose sha256 no manifest in the folder lists; sealed pages may be replaced.

    Raises:
        RequestError: such a file is there and ``overwrite`` is False.
    """
    ours = {} if overwrite else _listed(folder)
    for path in (folder / name for name in names):
        if overwrite or not path.exists():
            continue
        if path.suffix == ".html" and path.is_file() and _is_sealed(path.read_bytes()):
            continue
        if path.name not in ours or hashlib.sha256(path.read_bytes()).hexdigest() not in ours[path.name]:
            raise RequestError(
                f"{path} is there and is not an earlier result of this command; move it away, choose another place, or "
                "pass --overwrite (overwrite=True)."
            )


def _listed(folder: Path) -> dict[str, set[str]]:
    """Read the manifests in a folder: file name -> the sha256 that they list. The manifests are listed too."""
    listed: dict[str, set[str]] = {}
    for manifest in (path for pattern in _MANIFESTS for path in folder.glob(pattern)):
        try:
            content = manifest.read_bytes()
            entries = {entry["file"]: entry["sha256"] for entry in json.loads(content)["files"]}
        except (OSError, ValueError, KeyError, TypeError):
            continue
        for name, digest in (entries | {manifest.name: hashlib.sha256(content).hexdigest()}).items():
            listed.setdefault(name, set()).add(digest)
    return listed


def write_together(folder: Path, files: dict[str, bytes | str]) -> None:
    """Write the files of one result: all files are on the disk before the first file gets its name.

    Raises:
        RequestError: the folder cannot be written, or the disk is full; no file has changed then. (If a folder has the
            name of a file, the files before that file have been replaced.)
    """
    with _explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".unfinished-") as staging:
            for name, data in files.items():
                with open(Path(staging, name), "wb") as stream:
                    stream.write(data.encode() if isinstance(data, str) else data)
                    stream.flush()
                    os.fsync(stream.fileno())
            for name in files:
                os.replace(Path(staging, name), folder / name)


@contextmanager
def _explained(path: Path):
    """Turn an error of the system into a ``RequestError`` with a remedy."""
    try:
        yield
    except OSError as error:
        remedy = {
            errno.ENOSPC: "Free some space and run again.",
            errno.EDQUOT: "Free some space and run again.",
            errno.EROFS: "The file system is read-only; choose another --out.",
            errno.EACCES: "Choose an --out that you may write to.",
            errno.EPERM: "Choose an --out that you may write to.",
        }.get(error.errno or 0, "Choose another --out.")
        raise RequestError(f"Cannot write {path}: {error.strerror or error}. {remedy}") from error


def to_json(document) -> str:
    """Write a document as indented JSON with a final newline. Infinity and NaN, which JSON lacks, become null."""
    return json.dumps(finite(document), indent=2, ensure_ascii=False, allow_nan=False, default=str) + "\n"


def parse_json(text: str | bytes, label: str | Path) -> Any:
    """Parse a JSON document of unknown origin. label: what to call the document in an error message.

    Raises:
        RequestError: the text is not JSON, or is nested so deeply that no reader of it could work.
    """
    deep = f"{label} is refused: its JSON is nested more than {_MOST_DEPTH} levels deep."
    try:
        document = json.loads(text)
    except RecursionError:
        raise RequestError(deep) from None
    except (ValueError, TypeError) as error:
        raise RequestError(f"{label} is not JSON ({error}).") from error
    level = [document] if isinstance(document, (dict, list)) else []
    for _ in range(_MOST_DEPTH):
        level = [each for node in level for each in (node.values() if isinstance(node, dict) else node)]
        level = [each for each in level if isinstance(each, (dict, list))]
    if level:
        raise RequestError(deep)
    return document


def finite(value):
    """Return plain data with None for every infinity and NaN."""
    if isinstance(value, dict):
        return {key: finite(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def sha256_of(path: Path) -> str:
    """Compute the sha256 of a file, as hexadecimal digits."""
    digest = hashlib.sha256()  # hashlib.file_digest needs Python 3.11
    with open(path, "rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def cache_folder() -> Path:
    """Return the folder of downloaded files: $MOBILENETS_TF_HOME, else ~/.cache/mobilenets_tf."""
    return Path(os.environ.get("MOBILENETS_TF_HOME") or Path.home() / ".cache" / "mobilenets_tf")
