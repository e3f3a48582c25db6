"""Read what a TFLite file itself says of its input and its labels, whoever made the file.

The published "TFLite metadata" (identifier M001, metadata_schema.fbs) are a flatbuffer in a buffer of the model; the
files that they name, such as the labels, are in a ZIP archive behind the model (``archive``). Coral's and MediaPipe's
files have both, and ours also a record in JSON (``RECORD``). All of it may come from a stranger: every offset is
checked, and nothing is read or unpacked beyond fixed sizes. What is damaged counts as missing, and is named.
"""

import json
import struct
import warnings
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mobilenets_tf.data.preprocessing import Preprocessing
from mobilenets_tf.errors import RequestError
from mobilenets_tf.tflite import flatbuffer
from mobilenets_tf.tflite.archive import Archive, DamagedError
from mobilenets_tf.tflite.flatbuffer import schema

NAME, IDENTIFIER = b"TFLITE_METADATA", b"M001"
# The name of our own record: the preprocessing and the task as the manifest has them.
RECORD = b"MOBILENETS_TF"
AXIS_LABELS, VALUE_LABELS = 2, 3  # a name for each place along the last axis; for each value
NORMALIZATION_OPTIONS = 1  # of the union ProcessUnitOptions
SEGMENTER = "SEGMENTER_METADATA"
_TASKS = ("classify", "detect", "segment", "regress")
_LOCATION, _DETECTION = "location", "detection_result"
_MOST_BYTES = 2**22  # of metadata
_MOST_KEPT = 2**26  # of all associated files together
_MOST_ENTRIES = 64  # of a vector that is followed
# What a reader does with damaged metadata was tried with MediaPipe 1.2's ImageClassifier.
REMEDY = (
    "MediaPipe's tasks refuse the file, or give wrong class names. Write the file again with deploy or export, or get "
    "an undamaged copy."
)


@dataclass(frozen=True)
class FileMetadata:
    """What a file says of itself; everything may be missing.

    task: its name. preprocessing: at any size. labels: the class names. kinds: names of the outputs' kinds.
    associated_files: name -> bytes of each file in the archive behind the model.
    damage: what is damaged or missing, a phrase for each; what it concerns is left out above.
    """

    task: str | None = None
    preprocessing: Preprocessing | None = None
    labels: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    associated_files: dict[str, int] = field(default_factory=dict)
    damage: tuple[str, ...] = ()


def read_metadata(file: Path) -> FileMetadata:
    """Read what a TFLite file says of itself. What is damaged counts as missing, with a warning.

    Raises:
        RequestError: the file is no TFLite file, or a damaged one.
    """
    try:
        found = metadata_of(file.read_bytes())
    except RequestError as error:
        raise RequestError(f"{file}: {error}") from error
    if found.damage:
        warnings.warn(f"{file}: {'; '.join(found.damage)}. {REMEDY}", stacklevel=2)
    return found


def metadata_of(content: bytes) -> FileMetadata:
    """Read what the content of a TFLite file says of itself.

    Raises:
        RequestError: the content is no TFLite file, or a damaged one.
    """
    model, damage = flatbuffer.read(content), []
    entries = {}
    for entry in model.metadata or []:
        data, name = model.buffers[entry.buffer].data, bytes(entry.name or b"")
        if data is not None and len(data) <= _MOST_BYTES:
            entries[name] = np.asarray(data, np.uint8).tobytes()
        elif name in (NAME, RECORD):
            damage.append(f"the metadata {name.decode()} are {'empty' if data is None else 'too large'}")
    published, ours, files = _Published(), _Record(), {}
    labels: tuple[str, ...] = ()
    try:
        published = _published(entries[NAME]) if NAME in entries else published
    except (DamagedError, struct.error, UnicodeDecodeError) as error:
        damage.append(f"the metadata {NAME.decode()} are damaged ({error})")
    try:
        ours = _record(entries[RECORD]) if RECORD in entries else ours
    except DamagedError as error:
        damage.append(f"the metadata {RECORD.decode()} are damaged ({error})")
    try:
        archive = Archive(content)
        files = archive.sizes
        archive.check()
        labels = _labels(archive, published.labels_file)
    except (DamagedError, UnicodeDecodeError) as error:
        damage.append(f"the archive of files behind the model is damaged ({error})")
    else:
        missing = [name for name in published.files if name not in files]
        damage += [f"the metadata name the file {name[:80]}, which is not behind the model" for name in missing]
    preprocessing = ours.preprocessing or published.preprocessing
    if preprocessing is None and _takes_pixels(model):
        preprocessing = Preprocessing(mean=(0.0,) * 3, std=(1.0,) * 3)
    return FileMetadata(ours.task or published.task, preprocessing, labels, ours.kinds, files, tuple(damage))


@dataclass(frozen=True)
class Origin:
    """What a file says for people, to be kept in the files that are made of it; empty for a Keras model.

    texts: name, description, version, author and license of the published metadata; may be empty.
    files: name -> content of the associated files.
    published: the published metadata as they are; None where there are none, or they name files that are not kept.
    preprocessing, labels: what they say of the input and of the classes.
    """

    texts: tuple[str, ...] = ()
    files: dict[str, bytes] = field(default_factory=dict)
    published: bytes | None = None
    preprocessing: Preprocessing | None = None
    labels: tuple[str, ...] = ()


def origin_of(content: bytes) -> Origin:
    """Read what is to be kept of a file that others are made of.

    What is damaged counts as missing; ``read_metadata`` warns of that. An associated file that cannot be kept is left
    out with a warning, and published metadata that name a file that is not kept are left out too.
    """
    model, texts, published, files = flatbuffer.read(content), tuple[str, ...](), None, dict[str, bytes]()
    told, labels = _Published(), tuple[str, ...]()
    for entry in model.metadata or []:
        data = model.buffers[entry.buffer].data
        if bytes(entry.name or b"") == NAME and data is not None and len(data) <= _MOST_BYTES:
            published = np.asarray(data, np.uint8).tobytes()
    try:
        if published is not None:
            told = _published(published)
            root = _Table.root(published)
            texts = tuple(root.text(field) for field in (0, 1, 2, 4, 5))
    except (DamagedError, struct.error, UnicodeDecodeError):
        told, texts, published = _Published(), (), None
    with suppress(DamagedError, UnicodeDecodeError):
        archive = Archive(content)
        files = _kept_files(archive)
        labels = _labels(archive, told.labels_file)
    if not files.keys() >= set(told.files):
        published = None
    return Origin(texts, files, published, told.preprocessing, labels)


def _kept_files(archive: Archive) -> dict[str, bytes]:
    """Unpack the associated files; name those that cannot be kept in a warning."""
    files, total = dict[str, bytes](), 0
    for name, size in archive.sizes.items():
        total += min(size, _MOST_BYTES)
        try:
            if total > _MOST_KEPT:
                raise DamagedError(f"all files together are larger than {_MOST_KEPT} bytes")
            files[name] = archive.read(name)
        except DamagedError as error:
            warnings.warn(f"The associated file {name[:80]!r} is left out of what is made: {error}.", stacklevel=2)
    return files


def _takes_pixels(model) -> bool:
    """Tell whether the file has one input, of bytes 0 to 255, which get pixels as they are."""
    graph = model.subgraphs[0]
    return len(graph.inputs) == 1 and graph.tensors[graph.inputs[0]].type == schema.TensorType.UINT8


@dataclass(frozen=True)
class _Record:
    """Our own record; the fields as in ``FileMetadata``."""

    task: str | None = None
    preprocessing: Preprocessing | None = None
    kinds: tuple[str, ...] = ()


def _record(content: bytes) -> _Record:
    """Read our own record.

    Raises:
        DamagedError: the record is no JSON, or has other entries than ours.
    """
    try:
        record = json.loads(content)
        task, kinds = record["task"], tuple(record.get("kinds") or ())
        preprocessing = Preprocessing.of(record)
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise DamagedError(f"{type(error).__name__}: {error}") from error
    if task not in _TASKS or not all(isinstance(kind, str) for kind in kinds):
        raise DamagedError("they have an unknown task, or kinds that are no names")
    return _Record(task, preprocessing, kinds)


@dataclass(frozen=True)
class _Published:
    """task, preprocessing: as in ``FileMetadata``. labels_file: name of the associated file with the labels; None if
    none is named. files: the names of all associated files.
    """

    task: str | None = None
    preprocessing: Preprocessing | None = None
    labels_file: str | None = None
    files: tuple[str, ...] = ()


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
            raise DamagedError(f"their identifier is {content[4:8]!r}, not {IDENTIFIER!r}")
        return _Table(content, struct.unpack_from("<I", content)[0])

    def _number(self, form: str, at: int):
        if not 0 <= at <= len(self._content) - struct.calcsize(form):
            raise DamagedError("an offset leads outside")
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
            raise DamagedError("a text leads outside")
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
        DamagedError: they are damaged.
    """
    root = _Table.root(content)
    graph = next(root.tables(3), None)
    if graph is None:
        return _Published()
    inputs, outputs = list(graph.tables(2)), list(graph.tables(3))
    files = [file for output in outputs for file in output.tables(6)]
    others = [*root.tables(6), *graph.tables(4), *(file for each in inputs for file in each.tables(6))]
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
    names: dict[str, None] = {}
    for file in [*files, *others]:
        names[file.text(0)] = None
        if sum(map(len, names)) > len(content):
            raise DamagedError("the names of files overlap")
    return _Published(task, _normalisation(inputs[0]) if len(inputs) == 1 else None, labels, tuple(names))


def _normalisation(image: _Table) -> Preprocessing | None:
    """Read how an input is normalised, in pixel values 0 to 255: one number for all channels, or one for each."""
    for unit in image.tables(4):
        options = unit.table(1)
        if unit.byte(0) == NORMALIZATION_OPTIONS and options:
            mean, std = options.floats(0), options.floats(1)
            mean, std = (values * 3 if len(values) == 1 else values for values in (mean, std))
            with suppress(RequestError):  # numbers that normalise no image
                return Preprocessing(mean=mean, std=std)
    return None


def _labels(archive: Archive, named: str | None) -> tuple[str, ...]:
    """Read the class names: of the file that the metadata name, else of the only file whose name says that it has
    labels.

    Raises:
        DamagedError, UnicodeDecodeError: the file is damaged, or larger than labels can be.
    """
    likely = [name for name in archive.sizes if name.lower().endswith(".txt") and "label" in name.lower()]
    file = named if named in archive.sizes else likely[0] if len(likely) == 1 else None
    if file is None:
        return ()
    lines = archive.read(file).decode("utf-8-sig").splitlines()
    while lines and not lines[-1].strip():
        lines.pop()
    return tuple(line.strip() for line in lines)
