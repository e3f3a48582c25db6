"""What a TFLite file says of itself to MediaPipe Tasks and to the TFLite Task Library: how to feed it, its labels.

The metadata are a flatbuffer of their own (published schema "TFLite metadata", identifier M001, version 1.5.0), stored
as a buffer of the model under the name TFLITE_METADATA; files that belong to it, such as the labels, stand as a ZIP
archive behind the model. No maintained writer installs on every Python that this package supports (MediaPipe's own
needs a module that its wheels lack; tflite-support has no wheels after Python 3.11), so it is written here: a few
tables, whose field numbers are the schema's.
"""

import io
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field

import flatbuffers
import numpy as np

from mobilenets_tf import __version__, flatbuffer
from mobilenets_tf.flatbuffer import schema
from mobilenets_tf.image_input import ImageInput

NAME = b"TFLITE_METADATA"
_IDENTIFIER = b"M001"
# The first version has all that is written here; a reader of any version can read it.
_MIN_PARSER_VERSION = "1.0.0"
_RGB = 1
_TENSOR_AXIS_LABELS = 2
_IMAGE_PROPERTIES = 2  # of the union ContentProperties
_NORMALIZATION_OPTIONS = 1  # of the union ProcessUnitOptions
LABELS_FILE = "labels.txt"
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest date that a ZIP can hold: same inputs, same bytes


@dataclass(frozen=True)
class Metadata:
    """An image classifier's.

    name, description, version, author, license: for people.
    height, width: of the input image, in pixels.
    mean, std: the input is (pixel - mean) / std on 0-255 RGB; one value each, since MediaPipe takes no more. For a file
        that takes uint8 they are 0 and 1: its pixels are fed as they are.
    labels: the class names in the order of the outputs; may be empty.
    """

    name: str
    description: str
    height: int
    width: int
    mean: float
    std: float
    version: str = ""
    author: str = ""
    license: str = ""
    labels: tuple[str, ...] = field(default=(), repr=False)


def describe(name: str, image: ImageInput, labels: Sequence[str] = ()) -> Metadata:
    """The metadata of a classifier that takes such an image."""
    given = image.given
    mean, std = (0.0, 1.0) if image.form == "uint8" else (given.mean[0], given.std[0])
    text = f"Image classifier; made by mobilenets-tf {__version__}."
    return Metadata(name, text, given.size, given.size, mean, std, labels=tuple(labels))


def add(content: bytes, metadata: Metadata) -> bytes:
    """The TFLite file's content with its metadata; earlier metadata and files behind the model are replaced."""
    tree = flatbuffer.read(content)
    tree.metadata = tree.metadata or []
    entry = next((entry for entry in tree.metadata if entry.name == NAME), None)
    if entry is None:
        entry = schema.MetadataT()
        entry.name, entry.buffer = NAME, len(tree.buffers)
        tree.buffers.append(schema.BufferT())
        tree.metadata.append(entry)
    tree.buffers[entry.buffer].data = np.frombuffer(_pack(tree, metadata), np.uint8)
    model = flatbuffer.write(tree)
    return _with_file(model, LABELS_FILE, "\n".join(metadata.labels) + "\n") if metadata.labels else model


def associated_files(content: bytes) -> dict[str, bytes]:
    """The files that stand behind a model; none is no error."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return {name: archive.read(name) for name in archive.namelist()}
    except zipfile.BadZipFile:
        return {}


def _with_file(model: bytes, name: str, text: str) -> bytes:
    stream = io.BytesIO(model)
    with zipfile.ZipFile(stream, "a", zipfile.ZIP_STORED) as archive:  # stored, so that Android can map it into memory
        archive.writestr(zipfile.ZipInfo(name, _EPOCH), text)
    return stream.getvalue()


def _pack(tree, metadata: Metadata) -> bytes:
    graph = tree.subgraphs[0]
    writer = _Writer()
    image = writer.table({0: writer.byte(_RGB), 1: writer.table({0: metadata.width, 1: metadata.height})})
    content = writer.table({0: writer.byte(_IMAGE_PROPERTIES), 1: image})
    normalization = writer.table({0: writer.floats([metadata.mean]), 1: writer.floats([metadata.std])})
    unit = writer.table({0: writer.byte(_NORMALIZATION_OPTIONS), 1: normalization})
    low, high = ((end - metadata.mean) / metadata.std for end in (0, 255))
    taken = writer.table(
        {
            0: writer.text(graph.tensors[graph.inputs[0]].name.decode()),
            1: writer.text(f"RGB image, {metadata.height}x{metadata.width}, values from {low:.5g} to {high:.5g}"),
            3: content,
            4: writer.tables([unit]),
            5: writer.table({0: writer.floats([high]), 1: writer.floats([low])}),
        }
    )
    given = {
        0: writer.text(graph.tensors[graph.outputs[0]].name.decode()),
        1: writer.text("the score of each class"),
    }
    if metadata.labels:
        labels = {0: writer.text(LABELS_FILE), 1: writer.text("the class names"), 2: writer.byte(_TENSOR_AXIS_LABELS)}
        given[6] = writer.tables([writer.table(labels)])
    subgraph = writer.table({2: writer.tables([taken]), 3: writer.tables([writer.table(given)])})
    texts = (metadata.name, metadata.description, metadata.version)
    root = {place: writer.text(text) for place, text in enumerate(texts)}
    root |= {3: writer.tables([subgraph]), 4: writer.text(metadata.author), 5: writer.text(metadata.license)}
    return writer.finish(writer.table(root | {7: writer.text(_MIN_PARSER_VERSION)}))


@dataclass(frozen=True)
class _Offset:
    """Where something stands that has been written."""

    value: int


@dataclass(frozen=True)
class _Byte:
    value: int


class _Writer:
    """Flatbuffers from the inside out: what is written later can refer to what was written before."""

    def __init__(self):
        self._builder = flatbuffers.Builder(1024)

    def byte(self, value: int) -> _Byte:
        """An enum's value."""
        return _Byte(value)

    def text(self, value: str) -> _Offset | None:
        """None, and so no field, for an empty one."""
        return _Offset(self._builder.CreateString(value)) if value else None

    def floats(self, values: list[float]) -> _Offset:
        return _Offset(self._builder.CreateNumpyVector(np.array(values, np.float32)))

    def tables(self, tables: list[_Offset]) -> _Offset:
        builder = self._builder
        builder.StartVector(4, len(tables), 4)
        for table in reversed(tables):
            builder.PrependUOffsetTRelative(table.value)
        return _Offset(builder.EndVector())

    def table(self, fields: dict) -> _Offset:
        """fields: number in the schema -> an offset, a byte, or a whole number (32 bits); None is left out."""
        builder = self._builder
        builder.StartObject(max(fields) + 1)
        for place, value in fields.items():
            if isinstance(value, _Offset):
                builder.PrependUOffsetTRelativeSlot(place, value.value, 0)
            elif isinstance(value, _Byte):
                builder.PrependInt8Slot(place, value.value, 0)
            elif value is not None:
                builder.PrependUint32Slot(place, value, 0)
        return _Offset(builder.EndObject())

    def finish(self, root: _Offset) -> bytes:
        self._builder.Finish(root.value, _IDENTIFIER)
        return bytes(self._builder.Output())
