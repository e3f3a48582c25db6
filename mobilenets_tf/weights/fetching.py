"""Fetch published weights, on request: the one module that downloads them.

huggingface_hub fetches the files of the Hugging Face hub, into its own cache, with its mirrors, tokens and offline
switch. gdown fetches every other file: it continues what an earlier run has begun, and retries. Both come with the
extra ``fetch``, and are imported when something has to be fetched.
"""

import contextlib
import fnmatch
import importlib.util
import json
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mobilenets_tf import registry
from mobilenets_tf.errors import RequestError, unknown
from mobilenets_tf.files import cache_folder, digest_of, only_user, parse_json
from mobilenets_tf.progress import Progress, silent
from mobilenets_tf.public_api.types import check_fields
from mobilenets_tf.version import __version__
from mobilenets_tf.weights import archives, catalog
from mobilenets_tf.weights.catalog import WeightSet

_RETRIES = 3  # after a connection that broke, in one run
_SECONDS = 10, 60  # to wait for a connection, and for the next bytes
# The names of errors of gdown, requests, httpx and huggingface_hub where there is no connection any more.
_CONNECTION = {
    "ConnectionError", "Timeout", "ChunkedEncodingError", "DownloadError", "TransportError", "LocalEntryNotFoundError",
    "InvalidURL", "InvalidSchema",  # of a proxy; the addresses of weights are valid
}  # fmt: skip


class _Unavailable(RequestError):
    """One file cannot be had; others may."""


@dataclass(frozen=True)
class FetchRequest:
    """Fetch published weights.

    models: registry names, or names with wildcards ("mobileone*"); a detector or segmenter has its backbone's weights.
    tag: of the weight sets. alpha: width multiplier; None is 1.0, for networks that have one.
    """

    models: tuple[str, ...]
    tag: str = "imagenet"
    alpha: float | None = None

    def __post_init__(self):
        if isinstance(self.models, str):
            object.__setattr__(self, "models", (self.models,))
        check_fields(self)
        if not self.models:
            raise RequestError("FetchRequest: models is empty; name at least one network.")


@dataclass(frozen=True)
class Fetched:
    """A weight set that is on this machine: its record, the path of its file, and whether the file is new."""

    record: WeightSet
    path: Path
    is_new: bool


def fetch(request: FetchRequest, progress: Progress = silent) -> list[Fetched]:
    """Fetch the weight sets that are not on this machine; each file is written whole or not at all.

    If one file cannot be had, the others are fetched first.

    Raises:
        RequestError: a name or tag is unknown, the extra ``fetch`` is not installed, there is no connection or no
            space, or a file is not there or is another one than its publisher describes.
    """
    fetched, failures = [], []
    for record in _records(request):
        try:
            there = _intact(record)
            fetched.append(Fetched(record, fetch_weights(record, progress), there is None))
        except _Unavailable as error:
            failures.append(str(error))
    if failures:
        raise RequestError("\n".join(failures))
    return fetched


def fetch_tag(model: str, weights: Any, alpha: float | None, progress: Progress = silent) -> None:
    """Fetch the weights of a registered network, unless they are on this machine.

    Args:
        weights: the tag of a weight set, or the path of a weight file, for which there is nothing to fetch.

    Raises:
        RequestError: there is no tag, or as ``fetch``.
    """
    check_is_tag(weights)
    if not isinstance(weights, str) or Path(weights).suffix or Path(weights).is_file():
        return
    fetch_weights(catalog.find(model, weights, alpha), progress)


def check_is_tag(weights: Any) -> None:
    """Refuse to fetch the weights of a network that is to have none.

    Raises:
        RequestError: so it is.
    """
    if weights is None or weights == "random":
        raise RequestError(
            "Nothing to fetch: --fetch (fetch=True) is for published weights; name them: --weights imagenet."
        )


def fetch_weights(record: WeightSet, progress: Progress = silent) -> Path:
    """Fetch a weight set, unless its file is on this machine and intact; return the file's path.

    What the licence forbids is said before the file is fetched. The sha256 of a fetched file for which nobody publishes
    a digest is remembered in the lock file; that of a file which another library has fetched is not.

    Raises:
        RequestError: as ``fetch``.
    """
    if path := _intact(record):
        return path
    if record.restrictions:
        warnings.warn(f"{record.licence}, of {record.label}: {record.restrictions}", stacklevel=2)
    _check_installed()
    with _explained(record):
        folder = cache_folder()
        folder.mkdir(parents=True, exist_ok=True)
        with only_user(folder, "fetch", waiting=lambda: progress(f"Waiting for another fetch ({folder})", 0, None)):
            path = _intact(record)  # another process may have fetched the file meanwhile
            if path is None:
                path = (_from_hub if catalog.hub_file(record) else _from_elsewhere)(record, progress)
                _remember(record, path)
    return path


def _records(request: FetchRequest) -> list[WeightSet]:
    """Return the weight sets of a request, each once. Of names with wildcards, networks without such weights are left
    out."""
    records: dict[WeightSet, None] = {}
    for model in request.models:
        has_wildcards = any(sign in model for sign in "*?[")
        names = fnmatch.filter(registry.list_models(), model) if has_wildcards else [registry.get(model).name]
        found = []
        for name in names:
            try:
                found.append(catalog.find(name, request.tag, request.alpha))
            except RequestError:
                if not has_wildcards:
                    raise
        if not names:
            raise unknown("model", model, registry.list_models())
        if not found:
            raise RequestError(f"No network of {model!r} has {request.tag!r} weights of this width.")
        records |= dict.fromkeys(found)
    return list(records)


def _intact(record: WeightSet) -> Path | None:
    path = catalog.locate(record)
    return path if path is not None and catalog.is_intact(record, path) else None


def _check_installed() -> None:
    missing = [name for name in ("gdown", "huggingface_hub") if importlib.util.find_spec(name) is None]
    if missing:
        raise RequestError(f"To fetch weights, install the extra fetch:  pip install {' '.join(missing)}")


def _remember(record: WeightSet, path: Path) -> None:
    """Write the digest of a file into the lock file, if nobody publishes one and the lock file has none.

    Raises:
        OSError: the lock file cannot be written.
    """
    digests = catalog.remembered()
    if record.digest or record.filename in digests:
        return
    digests[record.filename] = digest_of(path, "sha256")
    lock = catalog.lock_file()
    unfinished = lock.with_suffix(".unfinished")
    unfinished.write_text(json.dumps(digests, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    _publish(unfinished, lock)


def _publish(unfinished: Path, path: Path) -> None:
    """Give a file its name, after its content is on the disk. Others may read the file, which is public: a cache folder
    may be shared."""
    unfinished.chmod(0o644)
    with open(unfinished, "rb") as stream:
        os.fsync(stream.fileno())
    os.replace(unfinished, path)


_STARTS = {
    ".h5": (b"\x89HDF\r\n\x1a\n",),
    ".pth": (b"PK\x03\x04", b"\x80"),  # a ZIP archive or, of PyTorch before 1.6, a pickle
    ".pt": (b"PK\x03\x04", b"\x80"),
}


def _check_form(record: WeightSet, path: Path) -> None:
    """Delete and refuse a file that has just arrived and does not begin as its kind of file does, such as the page with
    which a network asks for a password. Nothing else would tell where nobody publishes a digest. (Those of the Hugging
    Face hub, for .safetensors, are published.)"""
    with open(path, "rb") as stream:
        begin = stream.read(8)
    if begin.startswith(_STARTS.get(path.suffix, (b"",))):
        return
    path.unlink()
    raise _Unavailable(
        f"What came from {record.url} is no {path.suffix} file: it begins with {begin!r}. It was thrown away. Open the "
        "address in a browser: the network may ask you to sign in first."
    )


def _check_digest(record: WeightSet, path: Path, remove: bool = False) -> None:
    """Refuse a file that has just arrived and is another one than expected.

    Args:
        remove: delete the file then.
    """
    expected = catalog.expected_digest(record, path)
    if not expected or (digest := digest_of(path, expected.partition(":")[0])) == expected:
        return
    if remove:
        path.unlink()
    if record.digest:
        remedy = "It was thrown away; run the same command again."
    else:
        remedy = (
            f"{catalog.lock_file()} remembers the file that was fetched first. If the publisher has replaced the file "
            f"and you trust the new one, delete the entry {record.filename} there, or the whole file."
        )
    raise _Unavailable(
        f"What came from {record.url} is another file than {record.label}: its digest is {digest}, expected "
        f"{expected}. {remedy}"
    )


def _from_elsewhere(record: WeightSet, progress: Progress) -> Path:
    """Fetch a file with gdown, or the archive that contains the file, into the cache folder."""
    unfinished = cache_folder() / "unfinished"
    unfinished.mkdir(exist_ok=True)
    path = unfinished / record.filename
    if record.member:
        _from_archives(record, unfinished, progress)
    else:
        _download(record.url, path, progress)
    _check_form(record, path)
    _check_digest(record, path, remove=True)
    _publish(path, cache_folder() / record.filename)
    with contextlib.suppress(OSError):  # it has what other commands have begun
        unfinished.rmdir()
    return cache_folder() / record.filename


def _from_archives(record: WeightSet, folder: Path, progress: Progress) -> None:
    """Fetch the archive that contains a weight set's file, and take out the file, with those of other weight sets that
    are in the same archive. (The archive is deleted, and has up to nine of them.)"""
    others = [other for other in catalog.CATALOG if other.url == record.url and catalog.locate(other) is None]
    wanted = {each.member: folder / each.filename for each in (*others, record)}
    for url, name in _archives(record, folder, progress):
        archive = _download(url, folder / name, progress)
        try:
            found = archives.extract(archive, wanted)
        except RequestError as error:
            for path in (archive, *wanted.values()):
                path.unlink(missing_ok=True)
            raise _Unavailable(f"{error} It was thrown away; run the same command again.") from error
        archive.unlink()
        for other in others:
            if other.member in found and other != record:
                path = cache_folder() / other.filename
                _check_form(other, wanted[other.member])
                _publish(wanted[other.member], path)
                _remember(other, path)
        if record.member in found:
            return
    raise _Unavailable(f"{record.url} has no archive with {record.member}, the file of {record.label}.")


def _archives(record: WeightSet, folder: Path, progress: Progress) -> Iterator[tuple[str, str]]:
    """Return address and name of each archive that may contain a weight set's file, the most likely one first."""
    if "/releases/tags/" not in record.url:
        yield record.url, record.url.rpartition("/")[2]
        return
    file = _download(record.url, folder / "release.json", progress)
    listing = file.read_bytes()
    file.unlink()  # else a bad answer would be taken for what has arrived
    try:
        release = parse_json(listing, record.url)
        assets = {str(asset["name"]): str(asset["browser_download_url"]) for asset in release["assets"]}
    except (RequestError, KeyError, TypeError) as error:
        raise _Unavailable(
            f"{record.url} does not list the files of a release, but answers {listing[:40]!r}. Run the same command "
            "again later, and open the address in a browser: the network may ask you to sign in first."
        ) from error
    wanted = Path(record.member).parts[0]
    for name in sorted(assets, key=lambda name: (not name.startswith(wanted), name)):
        if name.endswith(archives.SUFFIXES) and name == os.path.basename(name):
            yield assets[name], name


def _download(url: str, path: Path, progress: Progress) -> Path:
    """Fetch a file with gdown. What an earlier run has left is continued; where the server has another file by now, or
    cannot continue, the file is fetched from its start.

    Raises:
        Exception: of gdown and requests.
    """
    import gdown

    def begun() -> list[Path]:
        return [each for each in path.parent.glob(f"{path.name}*.part") if len(each.name) == len(path.name) + 13]

    def arrived(done: int, total: int | None) -> None:
        progress(f"Fetching {path.name}, kB", done // 1000, total and total // 1000)

    options: dict[str, Any] = {
        "quiet": True, "use_cookies": False, "resume": True, "retries": _RETRIES, "timeout": _SECONDS,
        "progress": arrived, "user_agent": f"mobilenets-tf/{__version__}",
    }  # fmt: skip
    old = {part: part.stat().st_size for part in begun()}
    try:
        gdown.download(url, str(path), **options)
    except gdown.exceptions.DownloadError as error:
        if not old or error.__cause__ or any(part.stat().st_size != old.get(part) for part in begun()):
            raise
        for part in old:  # the server did not continue it
            part.unlink()
        gdown.download(url, str(path), **options)
    return path


def _from_hub(record: WeightSet, progress: Progress) -> Path:
    """Fetch a file of the Hugging Face hub into the hub's own cache."""
    import huggingface_hub
    from huggingface_hub.utils import logging

    label = f"Fetching {record.filename}, kB"
    progress(label, 0, None)
    file = catalog.hub_file(record)
    assert file is not None
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # else it tells of each try to connect
    try:
        path = Path(
            huggingface_hub.hf_hub_download(
                *file,
                force_download=catalog.locate(record) is not None,  # it is damaged
                tqdm_class=_bar(label, progress),
                library_name="mobilenets-tf",
                library_version=__version__,
            )
        )
    finally:
        logging.set_verbosity(verbosity)
    _check_digest(record, path)
    (cache_folder() / record.filename).unlink(missing_ok=True)  # a damaged one, which would be found first
    return path


def _bar(label: str, progress: Progress) -> type:
    """Return a class like tqdm that reports to a ``Progress``."""
    from tqdm.auto import tqdm

    class Bar(tqdm):
        def __init__(self, *arguments: Any, **options: Any):
            super().__init__(*arguments, **options | {"disable": True})
            self.n = options.get("initial") or 0

        def update(self, n: float | None = 1) -> None:
            self.n += n or 0
            progress(label, int(self.n) // 1000, self.total and int(self.total) // 1000)

    return Bar


@contextlib.contextmanager
def _explained(record: WeightSet) -> Iterator[None]:
    """Turn whatever stops a fetch into a ``RequestError`` with a remedy."""
    try:
        yield
    except RequestError:
        raise
    except Exception as error:
        raise _explanation(record, error) from error


def _explanation(record: WeightSet, error: Exception) -> RequestError:
    on_hub = catalog.hub_file(record) is not None
    host = (os.environ.get("HF_ENDPOINT") if on_hub else None) or record.url.split("/")[2]
    again = "Run the same command again" + ("." if on_hub else ": it continues with what has arrived.")
    causes = _causes(error)
    statuses = (getattr(getattr(cause, "response", None), "status_code", None) for cause in causes)
    status = next(filter(None, statuses), None)
    kinds = {kind.__name__ for cause in causes for kind in type(cause).__mro__}
    if status == 404:
        return _Unavailable(f"{record.url} is not there any more (404), so {record.label} cannot be fetched.")
    if status in (403, 429) and host == "api.github.com":
        return _Unavailable(f"{host} refused ({status}): it answers 60 times an hour. Try again in an hour.")
    if status in (401, 403):
        token = ", or asks for a token: hf auth login" if on_hub else ""
        return _Unavailable(f"{host} refused {record.url} ({status}): the file is not public any more{token}.")
    if status is not None:
        return RequestError(f"{host} answered {status} to {record.url}. Try again later.")
    if "OfflineModeIsEnabled" in kinds:
        return RequestError(f"HF_HUB_OFFLINE is set, and {record.label} are not on this machine. Unset HF_HUB_OFFLINE.")
    if kinds & _CONNECTION:
        mirror = ", or name a mirror in HF_ENDPOINT" if on_hub else ""
        return RequestError(
            f"No connection to {host}, or it broke ({_reason(error)}). Check the network and HTTPS_PROXY{mirror}. "
            f"{again}"
        )
    if isinstance(error, OSError) and "RequestException" not in kinds:  # the errors of requests are OSErrors
        return RequestError(
            f"Cannot write {record.label}: {error.strerror or _reason(error)}. Free some space, or name another "
            f"folder (MOBILENETS_TF_HOME, now {cache_folder()}). {again}"
        )
    return RequestError(f"{host} did not give {record.label}: {_reason(error)}. {again}")


def _causes(error: BaseException) -> list[BaseException]:
    """Return an error, what caused it, and so on."""
    causes = [error]
    while (cause := causes[-1].__cause__ or causes[-1].__context__) is not None:
        causes.append(cause)
    return causes


def _reason(error: BaseException) -> str:
    """Return the first line of what the first cause of an error said."""
    first = _causes(error)[-1]
    return (str(first).strip().splitlines() or [type(first).__name__])[0][:200].rstrip(".")
