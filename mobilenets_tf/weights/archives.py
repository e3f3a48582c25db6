"""Take single files out of an archive of unknown origin.

No name in the archive becomes a path: a file that is wanted is found by the end of its name, and its bytes are written
to a path of the caller's. Links and special files are no files. How much is written is bounded.
"""

import functools
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO

from mobilenets_tf.errors import RequestError

SUFFIXES = (".zip", ".whl", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
_MOST_BYTES = 1 << 30  # the largest weight file of the catalogue has 60 MB, a checkpoint of a training a few times that
_DAMAGE = (EOFError, ValueError, NotImplementedError, RuntimeError, zlib.error, zipfile.BadZipFile, tarfile.TarError)


def extract(archive: Path, wanted: Mapping[str, Path]) -> set[str]:
    """Write files of an archive.

    Args:
        wanted: name of a file in the archive, or the end of the name from a "/" on -> where to write the file.

    Returns:
        which of the names are in the archive.

    Raises:
        RequestError: the archive is damaged, or a file is too large.
        OSError: a file cannot be written.
    """
    found: set[str] = set()
    try:
        for name, size, opened in _files(archive):
            member = next((each for each in wanted if f"/{name}".endswith(f"/{each}")), None)
            if member is None or member in found:
                continue
            if size > _MOST_BYTES:
                raise RequestError(f"{archive.name}: {member} claims {size / 1e9:.1f} GB; weight files have far less.")
            left, stream = size, opened()
            assert stream is not None  # a plain file
            with stream, open(wanted[member], "wb") as file:
                while left and (data := stream.read(min(left, 1 << 20))):
                    left -= len(data)
                    file.write(data)
            if left:
                raise RequestError(f"{archive.name} is damaged: {member} is cut short.")
            found.add(member)
            if len(found) == len(wanted):
                break
    except RequestError:
        raise
    except _DAMAGE as error:
        raise RequestError(f"{archive.name} is damaged or not an archive ({error}).") from error
    return found


def _files(archive: Path) -> Iterator[tuple[str, int, Callable[[], IO[bytes] | None]]]:
    """List the plain files of an archive: name, size in bytes, and a function that opens the file."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as zipped:
            for entry in zipped.infolist():
                yield entry.filename, entry.file_size, functools.partial(zipped.open, entry)
        return
    with tarfile.open(archive) as tarred:
        for info in tarred:
            if info.isreg():
                yield info.name, info.size, functools.partial(tarred.extractfile, info)
