"""Write files whole or not at all, and only over earlier results of this package; temporary folders; digests; the cache
folder."""

import contextlib
import errno
import hashlib
import json
import math
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from mobilenets_tf.errors import RequestError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_MOST_DEPTH = 100
_MANIFESTS = ("*.tflite.json", "*.keras.json", "*_sensitivity.json", "*.search.json")


def check_folder(folder: Path, option: str = "--out") -> None:
    """Refuse an output folder that cannot be made or written to, before any work is done.

    Args:
        option: of the command line, which names the folder.

    Raises:
        RequestError: the folder is a file, or the system does not allow writing.
    """
    with _explained(folder, option):
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            os.lstat(folder)  # refuses a name that is too long
        existing = folder
        while not os.path.lexists(existing) and existing != existing.parent:
            existing = existing.parent
        if not existing.is_dir():
            what = "a link to nothing" if existing.is_symlink() else "a file"
            raise RequestError(f"Cannot write into {folder}: {existing} is {what}.")
        # os.access says yes to root even on a read-only file system, so try.
        with tempfile.TemporaryFile(dir=existing):
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


def check_replaceable(
    folder: Path,
    names: Sequence[str],
    overwrite: bool,
    request: dict | None = None,
    class_names: Sequence[str] | None = None,
) -> None:
    """Refuse to write over anything but an earlier result of the same request.

    A result is known by a manifest in the folder that lists the file with its sha256; an HTML page by its seal.

    Args:
        names: of the files that belong to this result alone.
        overwrite: allow everything.
        request: the result's "model" and "options", as they will be in its manifest; None where it has neither.
        class_names: of the file with the classes' names, which other results in the folder share; empty where the
            names are not known, None where the result has no such file.

    Raises:
        RequestError: such a file is there and ``overwrite`` is False, or a class name has a line break in it.
    """
    labels = labels_file(class_names or ()).get(LABELS)
    if overwrite:
        return
    listed = _listed(folder)
    for path in (folder / name for name in (*names, *([] if class_names is None else [LABELS]))):
        if not path.exists() or (path.suffix == ".html" and path.is_file() and _is_sealed(path.read_bytes())):
            continue
        content = path.read_bytes() if path.is_file() else b""
        digest = hashlib.sha256(content).hexdigest()
        results = [(name, about) for name, listed_digest, about in listed.get(path.name, []) if listed_digest == digest]
        if not results:
            raise RequestError(
                f"{path} is there and is not an earlier result of this command; move it away, choose another place, or "
                f"{_REPLACE}."
            )
        if path.name == LABELS:
            others = [name for name, _ in results if name not in names]
            if others and labels is not None and content != labels.encode():
                raise RequestError(
                    f"{path} belongs to {others[0].removesuffix('.json')} too, and would have another content; choose "
                    f"another place, or {_REPLACE}."
                )
            continue
        differences = [_difference(about, request or {}) for _, about in results]
        if all(differences):
            raise RequestError(
                f"{path} is the result of another request ({differences[0]}); choose another place, or {_REPLACE}."
            )


LABELS = "labels.txt"


def labels_file(class_names: Sequence[str]) -> dict[str, str]:
    """Return the name and content of the file with the classes' names; {} where the classes have none.

    Raises:
        RequestError: a name has a line break in it, so that all names after it would move by a line.
    """
    for name in class_names:
        if len(name.splitlines()) > 1:
            raise RequestError(f"The class name {name!r} has a line break in it. Rename the class.")
    return {LABELS: "\n".join(class_names) + "\n"} if class_names else {}


_REPLACE = "pass --overwrite (overwrite=True) to replace it"
# What a manifest says of a model beyond what was asked for.
_MODEL_FACTS = ("weights_sha256", "weights_source", "weights_licence", "weights_restrictions")
# Options that follow from the model where they are left out; a manifest says what they are then.
_SETTLED = ("output", "task", "void")


def _difference(manifest: dict, request: dict) -> str | None:
    """Return how the request of a manifest differs from another one; None where they are the same."""
    for part, here in request.items():
        there, here = manifest.get(part) or {}, json.loads(to_json(here))
        for key in sorted((there.keys() | here.keys()) - {*_MODEL_FACTS}):
            settled = part == "options" and key in _SETTLED and here.get(key) is None
            if not settled and there.get(key) != here.get(key):
                return f"{key}={there.get(key)!r}, not {here.get(key)!r}"
    return None


def _listed(folder: Path) -> dict[str, list[tuple[str, str, dict]]]:
    """Read the manifests in a folder: file name -> of each manifest that lists the file the manifest's name, the sha256
    that it lists, and its content. The manifests are listed too.
    """
    listed: dict[str, list[tuple[str, str, dict]]] = {}
    for manifest in (path for pattern in _MANIFESTS for path in sorted(folder.glob(pattern))):
        try:
            content = manifest.read_bytes()
            about = json.loads(content)
            entries = {entry["file"]: entry["sha256"] for entry in about["files"]}
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            continue
        for name, digest in (entries | {manifest.name: hashlib.sha256(content).hexdigest()}).items():
            if is_inside(folder, name):
                listed.setdefault(name, []).append((manifest.name, digest, about))
    return listed


def is_inside(folder: Path, name) -> bool:
    """Tell whether a name, such as one in a list that anybody may have written, is that of a file in a folder: a path
    that does not lead out of the folder, neither by itself nor through a link."""
    if not isinstance(name, str) or "\0" in name:
        return False
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts:
        return False
    return not any(parent.is_symlink() for parent in _between(folder, folder / name))


def _between(folder: Path, path: Path) -> list[Path]:
    """Return the folders between a folder and a path in it, the innermost first."""
    return list(path.parents)[: len(path.parts) - len(folder.parts) - 1]


def made_of(folder: Path, digest: str) -> dict[str, list[str]]:
    """Find the results in a folder that were made of a model file.

    Args:
        digest: sha256 of the model file.

    Returns:
        For each result the name of its file -> the names of all its files that nobody has changed since, and that no
        other result lists.
    """
    listed = _listed(folder)
    manifests = {entry[0]: entry[2] for entries in listed.values() for entry in entries}
    found: dict[str, list[str]] = {}
    for name, about in manifests.items():
        model = about.get("model")
        if not isinstance(model, dict) or model.get("weights_sha256") != digest:
            continue
        own = _own(folder, listed, name)
        page = folder / name.replace(".json", ".html")
        own += [page.name] if page.is_file() and _is_sealed(page.read_bytes()) else []
        found[name.removesuffix(".json")] = sorted(own)
    return found


def own_files(folder: Path, manifest: str) -> list[str]:
    """Return the files that the manifest of a result lists, that nobody has changed since, and that no other result
    lists."""
    return _own(folder, _listed(folder), manifest)


def _own(folder: Path, listed: dict[str, list[tuple[str, str, dict]]], manifest: str) -> list[str]:
    return [
        file
        for file, entries in listed.items()
        if [entry[0] for entry in entries] == [manifest]
        and (folder / file).is_file()
        and sha256_of(folder / file) == entries[0][1]
    ]


def write_together(folder: Path, files: dict[str, bytes | str], check: Callable[[], object] | None = None) -> None:
    """Write the files of one result: all files are on the disk before the first file gets its name.

    Args:
        files: path in the folder -> content.
        check: called before the first file gets its name. What the check raises leaves the folder as it was: another
            process may have written there since the work began.

    Raises:
        RequestError: the folder cannot be written, or the disk is full; no file has changed then. (If a folder has the
            name of a file, the files before that file have been replaced.)
    """
    with _explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFolder(".unfinished-", folder) as staging:
            for name, data in files.items():
                Path(staging, name).parent.mkdir(parents=True, exist_ok=True)
                with open(Path(staging, name), "wb") as stream:
                    stream.write(data.encode() if isinstance(data, str) else data)
                    stream.flush()
                    os.fsync(stream.fileno())
            if check:
                check()
            for name in files:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                os.replace(Path(staging, name), folder / name)


_SUFFIX = ".temporary"
_FULL = (errno.ENOSPC, errno.EDQUOT)
_NO_SPACE = os.strerror(errno.ENOSPC)
_FREE_SPACE = "Free some space and run again."
_ANOTHER_DISK = "Free some space, or set TMPDIR to a folder on another disk, and run again."


class TemporaryFolder:
    """A folder that is removed when it is closed; a context manager that gives the folder's path.

    The folder of a process that was killed is removed by the next process that makes a folder with the same prefix in
    the same place. A lock, which ends with its process, tells the folders of killed processes from those in use, and
    the form of the name and the rights from folders of the user's.

    Args:
        prefix: begins the folder's name. parent: where the folder is made; None for the system's temporary directory.

    Raises:
        OSError: the folder cannot be made.
        RequestError: the disk is full; also raised where the context ends with such an error.

    lock: the descriptor that holds the lock; a child process that uses the folder too should inherit this descriptor.
        None where the file system has no locks.
    """

    def __init__(self, prefix: str, parent: str | os.PathLike[str] | None = None):
        self._remedy = _ANOTHER_DISK if parent is None else _FREE_SPACE
        self._parent = parent = _temporary_directory() if parent is None else Path(parent)
        _remove_leftovers(parent, prefix)
        self.lock: int | None = None
        while True:
            try:
                self._folder = tempfile.TemporaryDirectory(_SUFFIX, prefix, parent)
            except OSError as error:
                if error.errno in _FULL:
                    raise self._without_room(error) from error
                raise
            try:
                self.lock = _locked(self._folder.name, wait=True)
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE):  # without a lock it would be taken for a leftover
                    self.close()
                    raise
            if os.path.isdir(self._folder.name):
                break
            self.close()  # another process took the folder for a leftover before it was locked

    @property
    def name(self) -> str:
        """The path of the folder."""
        return self._folder.name

    def __enter__(self) -> str:
        return self.name

    def __exit__(self, _, error: BaseException | None, *__) -> None:
        self.close()
        if isinstance(error, OSError) and _is_of_full_disk(error):
            raise self._without_room(error) from error

    def _without_room(self, error: OSError) -> RequestError:
        return RequestError(f"Cannot write into {self._parent}: {error.strerror or _NO_SPACE}. {self._remedy}")

    def close(self) -> None:
        """Remove the folder."""
        with contextlib.suppress(OSError):  # such as files of another process that has not ended yet
            self._folder.cleanup()
        if self.lock is not None:
            os.close(self.lock)
            self.lock = None


def _is_of_full_disk(error: OSError) -> bool:
    """Tell whether a disk is full. HDF5's errors have the number in their text alone."""
    return error.errno in _FULL or _NO_SPACE in str(error)


def _temporary_directory() -> Path:
    """Return the system's temporary directory.

    Raises:
        RequestError: none can be written to, as where the disk is full.
    """
    try:
        return Path(tempfile.gettempdir())
    except FileNotFoundError as error:
        raise RequestError(f"{error.strerror}. {_ANOTHER_DISK}") from error


def _remove_leftovers(parent: Path, prefix: str) -> None:
    """Remove this user's temporary folders with a prefix that no process uses any more."""
    made_here = re.compile(re.escape(prefix) + "[a-z0-9_]{8}" + re.escape(_SUFFIX))  # as ``tempfile`` names folders
    for folder in _entries(parent):
        if not made_here.fullmatch(folder.name) or not folder.is_dir(follow_symlinks=False):
            continue
        with contextlib.suppress(OSError):
            about = folder.stat(follow_symlinks=False)
            ours = not hasattr(os, "getuid") or (about.st_uid == os.getuid() and about.st_mode & 0o777 == 0o700)
            lock = _locked(folder.path, wait=False) if ours else None
            if lock is not None:
                shutil.rmtree(folder.path, ignore_errors=True)
                os.close(lock)


def _entries(folder: Path) -> list[os.DirEntry]:
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        return list(entries)
    return []


# What a file system without locks answers; NFS says EBADF of a folder, which cannot be opened for writing.
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF)


@contextmanager
def only_user(folder: Path, what: str, waiting: Callable[[], None] | None = None):
    """Make a folder, and keep other processes from using it too, until this process ends or leaves the context.

    Args:
        what: for the message, what the process does with the folder.
        waiting: called where another process uses the folder; the wait for the end of that process follows. None to
            refuse such a folder.

    Raises:
        RequestError: another process uses the folder, or the folder cannot be made.
    """
    lock = None
    with _explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
        place = os.fspath(folder.resolve())  # the folder may be a link to one
        try:
            try:
                lock = _locked(place, wait=False)
            except BlockingIOError:
                if waiting is None:
                    raise RequestError(
                        f"{folder} is used by another {what}. Wait until it ends, or choose another place."
                    ) from None
                waiting()
                lock = _locked(place, wait=True)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
    try:
        yield
    finally:
        if lock is not None:
            os.close(lock)


def _locked(folder: str, wait: bool) -> int | None:
    """Lock a folder. Return a descriptor that holds the lock; None on Windows.

    Args:
        wait: until another process gives up the lock.

    Raises:
        BlockingIOError: another process has the lock.
        OSError: the folder is not there or is a link, or the file system has no locks.
    """
    if fcntl is None:
        return None
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


@contextmanager
def _explained(path: Path, option: str = "--out"):
    """Turn an error of the system into a ``RequestError`` with a remedy. option: names the path."""
    named = f"{option} ({option.strip('-').replace('-', '_')}=)"
    try:
        yield
    except OSError as error:
        remedy = {
            **dict.fromkeys(_FULL, _FREE_SPACE),
            errno.EROFS: f"The file system is read-only; choose another {named}.",
            errno.EACCES: f"Choose an {named} that you may write to.",
            errno.EPERM: f"Choose an {named} that you may write to.",
        }.get(error.errno or 0, f"Choose another {named}.")
        raise RequestError(f"Cannot write {path}: {error.strerror or error}. {remedy}") from error


def to_json(document) -> str:
    """Write a document as indented JSON with a final newline. Infinity and NaN, which JSON lacks, become null. Control
    characters are escaped, those beyond ASCII too.
    """
    text = json.dumps(finite(document), indent=2, ensure_ascii=False, allow_nan=False, default=str) + "\n"
    return "".join(each if each.isprintable() or each == "\n" else json.dumps(each)[1:-1] for each in text)


def parse_json(text: str | bytes, label: str | os.PathLike[str]) -> Any:
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
    return digest_of(path, "sha256").partition(":")[2]


def digest_of_files(paths: Sequence[Path]) -> str:
    """Compute one sha256 of several files, of their names and contents, as hexadecimal digits."""
    lines = [f"{sha256_of(path)}  {path.name}\n" for path in paths]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def digest_of(path: Path, algorithm: str) -> str:
    """Compute a digest of a file: "sha256:" or "md5:", and the hexadecimal digits."""
    digest = hashlib.new(algorithm, usedforsecurity=algorithm != "md5")  # hashlib.file_digest needs Python 3.11
    with open(path, "rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return f"{algorithm}:{digest.hexdigest()}"


def cache_folder() -> Path:
    """Return the folder of downloaded files: $MOBILENETS_TF_HOME, else ~/.cache/mobilenets_tf."""
    return Path(os.environ.get("MOBILENETS_TF_HOME") or home_folder() / ".cache" / "mobilenets_tf")


KERAS_FOLDER = "MOBILENETS_TF_KERAS_HOME"


def keras_folder() -> Path:
    """Return the folder of Keras' own files: $KERAS_HOME, else ~/.keras. In a child process, which has a KERAS_HOME of
    its own, the folder of the parent process."""
    return Path(os.environ.get(KERAS_FOLDER) or os.environ.get("KERAS_HOME") or home_folder() / ".keras")


def home_folder() -> Path:
    """Return the user's home; the temporary directory for a user who has none, as in some containers."""
    try:
        return Path.home()
    except RuntimeError:
        return Path(tempfile.gettempdir())
