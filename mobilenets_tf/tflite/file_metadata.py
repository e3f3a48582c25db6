"""Read what a TFLite file itself says of its input and its labels, whoever made the file.

The published "TFLite metadata" (identifier M001, metadata_schema.fbs) are a flatbuffer in a buffer of the model; the
files that they name, such as the labels, are in a ZIP archive behind the model. Coral's and MediaPipe's files have
both, and ours also a record in JSON (``RECORD``). All of it may come from a stranger: every offset is checked, and
nothing is read or unpacked beyond fixed sizes.
"""

import io
import json
import struct
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mobilenets_tf.data.preprocessing import Preprocessing
from mobilenets_tf.errors import RequestError
from mobilenets_tf.tflite import flatbuffer
from mobilenets_tf.tflite.flatbuffer import schema

NAME, IDENTIFIER = b"TFLITE_METADATA", b"M001"
# The name of our own record: the preprocessing and the task as the manifest has them.
RECORD = b"MOBILENETS_TF"
AXIS_LABELS, VALUE_LABELS = 2, 3  # a name for each place along the last axis; for each value
NORMALIZATION_OPTIONS = 1  # of the union ProcessUnitOptions
SEGMENTER = "SEGMENTER_METADATA"
_TASKS = ("classify", "detect", "segment", "regress")
_LOCATION, _DETECTION = "location", "detection_result"
_MOST_BYTES = 2**22  # of metadata and of labels: the names of 100,000 classes
_MOST_DIRECTORY = 2**16  # of the ZIP's list of files: some hundred files
_MOST_ENTRIES = 64  # of a vector that is followed
_END = struct.Struct("<4s4H2LH")  # the ZIP's last record
_END64 = b"PK\x06\x07"  # the record before it in archives beyond 4 GB


@dataclass(frozen=True)
class FileMetadata:
    """What a file says of itself; everything may be missing.

    task: its name. preprocessing: at any size. labels: the class names. kinds: names of the outputs' kinds.
    """

    task: str | None = None
    preprocessing: Preprocessing | None = None
    labels: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()


def read_metadata(file: Path) -> FileMetadata:
    """Read what a TFLite file says of itself. What is damaged counts as missing, with a warning.

    Raises:
        RequestError: the file is no TFLite file, or a damaged one.
    """
    content = file.read_bytes()
    try:
        model = flatbuffer.read(content)
    except RequestError as error:
        raise RequestError(f"{file}: {error}") from error
    entries = {}
    for entry in model.metadata or []:
        data = model.buffers[entry.buffer].data if entry.buffer < len(model.buffers) else None
        if data is not None and len(data) <= _MOST_BYTES:
            entries[bytes(entry.name or b"")] = np.asarray(data, np.uint8).tobytes()
    try:
        published = _published(entries[NAME]) if NAME in entries else _Published()
        labels = _labels(content, published.labels_file)
    except (_DamagedError, struct.error, UnicodeDecodeError) as error:
        warnings.warn(f"{file}: its metadata are left out, they are damaged ({error}).", stacklevel=2)
        published, labels = _Published(), ()
    ours = _record(entries.get(RECORD, b""))
    preprocessing = Preprocessing.of(ours) or published.preprocessing
    if preprocessing is None and _takes_pixels(model):
        preprocessing = Preprocessing(mean=(0.0,) * 3, std=(1.0,) * 3)
    task, kinds = ours.get("task", published.task), ours.get("kinds")
    known = task if task in _TASKS else None
    named = tuple(kind for kind in kinds if isinstance(kind, str)) if isinstance(kinds, list) else ()
    return FileMetadata(known, preprocessing, labels, named)


def _takes_pixels(model) -> bool:
    """Tell whether the file has one input, of bytes 0 to 255, which get pixels as they are."""
    graph = model.subgraphs[0]
    return len(graph.inputs) == 1 and graph.tensors[graph.inputs[0]].type == schema.TensorType.UINT8


def _record(content: bytes) -> dict:
    try:
        record = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    return record if isinstance(record, dict) else {}


@dataclass(frozen=True)
class _Published:
    """task, preprocessing: as in ``FileMetadata``. labels_file: name of the file in the ZIP; None if none is named."""

    task: str | None = None
    preprocessing: Preprocessing | None = None
    labels_file: str | None = None


class _DamagedError(Exception):
    """Something in the metadata leads outside, or is larger than anything that is meant."""


class _Table:
    """A table of a flatbuffer, each of whose reads is checked. Fields go by their number in the schema."""

    def __init__(self, content: bytes, at: int):
        self._content, self._at = content, at
        layout = at - self._number("<i", at)
        length = self._number("<H", layout)
        self._offsets = [self._number("<H", layout + place) for place in range(4, min(length, 64), 2)]

    @staticmethod
    def root(content: bytes) -> "_Table":
        if content[4:8] != IDENTIFIER:
            raise _DamagedError(f"their identifier is {content[4:8]!r}, not {IDENTIFIER!r}")
        return _Table(content, struct.unpack_from("<I", content)[0])

    def _number(self, form: str, at: int):
        if not 0 <= at <= len(self._content) - struct.calcsize(form):
            raise _DamagedError("an offset leads outside")
        return struct.unpack_from(form, self._content, at)[0]

    def _place(self, field: int) -> int | None:
        offset = self._offsets[field] if field < len(self._offsets) else 0
        return self._at + offset if offset else None

    def _target(self, at: int) -> int:
        return at + self._number("<I", at)

    def byte(self, field: int) -> int:
        place = self._place(field)
        return 0 if place is None else self._number("<B", place)

    def text(self, field: int) -> str:
        place = self._place(field)
        if place is None:
            return ""
        start = self._target(place)
        length = self._number("<I", start)
        if length > len(self._content) - start - 4:
            raise _DamagedError("a text leads outside")
        return self._content[start + 4 : start + 4 + length].decode()

    def table(self, field: int) -> "_Table | None":
        place = self._place(field)
        return None if place is None else _Table(self._content, self._target(place))

    def _vector(self, field: int) -> tuple[int, int]:
        """Return the position of the first entry, and how many entries there are, at most ``_MOST_ENTRIES``."""
        place = self._place(field)
        if place is None:
            return 0, 0
        start = self._target(place)
        return start + 4, min(self._number("<I", start), _MOST_ENTRIES)

    def tables(self, field: int) -> Iterator["_Table"]:
        start, count = self._vector(field)
        for place in range(start, start + 4 * count, 4):
            yield _Table(self._content, self._target(place))

    def floats(self, field: int) -> tuple[float, ...]:
        start, count = self._vector(field)
        return tuple(self._number("<f", place) for place in range(start, start + 4 * count, 4))


def _published(content: bytes) -> _Published:
    """Read the published metadata.

    Raises:
        _DamagedError: they are damaged.
    """
    graph = next(_Table.root(content).tables(3), None)
    if graph is None:
        return _Published()
    inputs, outputs = list(graph.tables(2)), list(graph.tables(3))
    files = [file for output in outputs for file in output.tables(6)]
    labels = next((file.text(0) for file in files if file.byte(2) in (AXIS_LABELS, VALUE_LABELS)), None)
    task = None
    if any(custom.text(0) == SEGMENTER for custom in graph.tables(9)):
        task = "segment"
    elif any(output.text(0) == _LOCATION for output in outputs) or any(
        group.text(0) == _DETECTION for group in graph.tables(8)
    ):
        task = "detect"
    elif labels and len(outputs) == 1:
        task = "classify"
    return _Published(task, _normalisation(inputs[0]) if len(inputs) == 1 else None, labels)


def _normalisation(image: _Table) -> Preprocessing | None:
    """Read how an input is normalised, in pixel values 0 to 255: one number for all channels or three."""
    for unit in image.tables(4):
        options = unit.table(1)
        if unit.byte(0) == NORMALIZATION_OPTIONS and options:
            mean, std = options.floats(0), options.floats(1)
            mean, std = (values * 3 if len(values) == 1 else values for values in (mean, std))
            if len(mean) == len(std) == 3 and np.isfinite([*mean, *std]).all() and min(std) > 0:
                return Preprocessing(mean=mean, std=std)
    return None


def _labels(content: bytes, named: str | None) -> tuple[str, ...]:
    """Read the class names in the ZIP behind a model: of the file that the metadata name, else of the only file whose
    name says that it has labels.

    Raises:
        _DamagedError: the ZIP is damaged, or larger than labels can be.
    """
    end = content.rfind(b"PK\x05\x06", -_END.size - 2**16)
    if end < 0:
        return ()
    directory = _END.unpack(content[end : end + _END.size].ljust(_END.size, b"\0"))[5]
    if directory > _MOST_DIRECTORY or content[max(0, end - 20) : end].startswith(_END64):
        raise _DamagedError("the ZIP behind the model has too many files")
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            entries = archive.infolist()
            names = [(entry, entry.filename.lower()) for entry in entries]
            likely = [entry for entry, name in names if name.endswith(".txt") and "label" in name]
            entry = next((entry for entry in entries if entry.filename == named), None)
            entry = entry or (likely[0] if len(likely) == 1 else None)
            if entry is None:
                return ()
            if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # others unpack without a bound
                raise _DamagedError(f"{entry.filename} is packed in another way than ZIP's usual ones")
            with archive.open(entry) as stream:
                text = stream.read(_MOST_BYTES + 1)
            if len(text) > _MOST_BYTES:
                raise _DamagedError(f"{entry.filename} is larger than {_MOST_BYTES} bytes")
    except (zipfile.BadZipFile, zlib.error, RuntimeError, NotImplementedError, EOFError, OSError, ValueError) as error:
        raise _DamagedError(f"the ZIP behind the model: {error}") from error
    lines = text.decode("utf-8-sig").splitlines()
    while lines and not lines[-1].strip():
        lines.pop()
    return tuple(line.strip() for line in lines)
