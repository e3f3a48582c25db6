"""Take single files out of an archive of unknown origin.

No name in the archive becomes a path: a file that is wanted is found by the end of its name, and its bytes are written
to a path of the caller's. Links and special files are no files. How much is read and written is bounded. An archive is
read to its end, where a compressed stream has its checksum.
"""

import functools
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO

from mobilenets_tf.errors import RequestError

SUFFIXES = (".zip", ".whl", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
_MOST_BYTES = 1 << 30  # the largest weight file of the catalogue has 60 MB, a checkpoint of a training a few times that
_MOST_BYTES_IN_ALL = 1 << 34  # a compressed stream of a few MB may claim any length
_DAMAGE = (
    EOFError, ValueError, NotImplementedError, RuntimeError, zlib.error, lzma.LZMAError, zipfile.BadZipFile,
    tarfile.TarError,
)  # fmt: skip


def extract(archive: Path, wanted: Mapping[str, Path]) -> set[str]:
    """Write files of an archive.

    Args:
        wanted: name of a file in the archive, or the end of the name from a "/" on -> where to write the file.

    Returns:
        which of the names are in the archive.

    Raises:
        RequestError: the archive is damaged, or a file or the whole is too large. What has been written is not to be
            trusted then.
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
    except RequestError:
        raise
    except (*_DAMAGE, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # of the system, not of gzip or bz2
            raise
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(":")
        raise RequestError(f"{archive.name} is damaged or not an archive ({reason}).") from error
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
            _check_length(archive, info.offset_data + info.size)
            if info.isreg():
                yield info.name, info.size, functools.partial(tarred.extractfile, info)
        assert tarred.fileobj is not None
        while tarred.fileobj.read(1 << 20):
            _check_length(archive, tarred.fileobj.tell())


def _check_length(archive: Path, length: int) -> None:
    if length > _MOST_BYTES_IN_ALL:
        raise RequestError(f"{archive.name} unpacks to more than {_MOST_BYTES_IN_ALL / 1e9:.0f} GB; refused.")
