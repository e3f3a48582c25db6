"""Read the ZIP archive behind a TFLite model. The files in it, such as the labels, are the model's associated files.

LiteRT does not read the archive, so a file with a damaged archive runs. Readers of metadata do read it: MediaPipe's
tasks refuse such a file, or find wrong labels. The file may come from a stranger: nothing is read or unpacked beyond
fixed sizes.
"""

import io
import struct
import zipfile
import zlib

from mobilenets_tf.tflite import flatbuffer
from mobilenets_tf.tflite.flatbuffer_check import check_structure

_END = b"PK\x05\x06"
_SIGNATURES = (b"PK\x03\x04", b"PK\x01\x02", _END)  # of a file, of an entry in the list of files, of the list's end
_LAST = struct.Struct("<4s4H2LH")  # the archive's last record
_LAST64 = b"PK\x06\x07"  # the record before it in archives beyond 4 GB
_MOST_DIRECTORY = 2**16  # bytes of the list of files: some hundred files
_MOST_BYTES = 2**22  # of one file: the names of 100,000 classes
_MOST_CHECKED = 2**26  # of all files together
_BOUNDED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # the others unpack without a bound
_ERRORS = (
    zipfile.BadZipFile, zlib.error, RuntimeError, NotImplementedError, EOFError, OSError, ValueError, struct.error,
)  # fmt: skip


class DamagedError(Exception):
    """Something in a file leads outside, does not have its checksum, or is larger than anything that is meant."""


class Archive:
    """The archive behind a model; without files where there is no archive.

    sizes: name of a file -> its bytes.

    Args:
        content: of a TFLite file.

    Raises:
        DamagedError: the list of the archive's files cannot be read, or is too long.
        RequestError: the content is no TFLite file, or a damaged file.
    """

    def __init__(self, content: bytes):
        self._content = content
        self._entries: dict[str, zipfile.ZipInfo] = {}
        start = _model_end(content)
        if any(content.find(signature, start) >= 0 for signature in _SIGNATURES):
            self._entries = {entry.filename: entry for entry in _listed(content, start)}
        self.sizes = {name: entry.file_size for name, entry in self._entries.items()}

    def read(self, name: str) -> bytes:
        """Unpack a file.

        Raises:
            DamagedError: the file is damaged, or larger than labels can be.
        """
        entry = self._entries[name]
        if entry.compress_type not in _BOUNDED:
            raise DamagedError(f"{name} is packed in another way than ZIP's usual ones")
        try:
            with zipfile.ZipFile(io.BytesIO(self._content)) as archive, archive.open(entry) as stream:
                content = stream.read(_MOST_BYTES + 1)
        except _ERRORS as error:
            raise DamagedError(str(error)) from error
        if len(content) > _MOST_BYTES:
            raise DamagedError(f"{name} is larger than {_MOST_BYTES} bytes")
        return content

    def check(self) -> None:
        """Unpack every file that is no larger than labels can be, and packed in a usual way, to compare it with its
        checksum.

        Raises:
            DamagedError: a file is damaged.
        """
        checked = 0
        for name, entry in self._entries.items():
            checked += entry.file_size
            if entry.compress_type in _BOUNDED and entry.file_size <= _MOST_BYTES and checked <= _MOST_CHECKED:
                self.read(name)


def _model_end(content: bytes) -> int:
    """Compute the position behind the last byte that belongs to the model."""
    model = flatbuffer.read(content)
    operators = [operator for graph in model.subgraphs for operator in graph.operators]
    return max(
        check_structure(content),
        *(buffer.offset + buffer.size for buffer in model.buffers),
        *(operator.largeCustomOptionsOffset + operator.largeCustomOptionsSize for operator in operators),
    )


def _listed(content: bytes, start: int) -> list[zipfile.ZipInfo]:
    end = content.rfind(_END, max(start, len(content) - _LAST.size - 2**16))
    if end < 0 or len(content) - end < _LAST.size:
        raise DamagedError("the list of its files has no end, as in a file that was cut off")
    if _LAST.unpack_from(content, end)[5] > _MOST_DIRECTORY or content[max(0, end - 20) : end].startswith(_LAST64):
        raise DamagedError("it has too many files")
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return archive.infolist()
    except _ERRORS as error:
        raise DamagedError(str(error)) from error
