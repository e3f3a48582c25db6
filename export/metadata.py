"""Write the metadata that MediaPipe Tasks and the TFLite Task Library read: the input's normalisation and the labels.

The metadata are a flatbuffer of their own (published schema "TFLite metadata", identifier M001, version 1.5.0), stored
as a buffer of the model under the name TFLITE_METADATA; files that belong to it, such as the labels, stand as a ZIP
archive behind the model. No maintained writer installs on every Python that this package supports (MediaPipe's own
needs a module that its wheels lack; tflite-support has no wheels after Python 3.11), so it is written here: a few
tables, whose field numbers are the schema's.
"""

import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace

import flatbuffers
import numpy as np

from mobilenets_tf.data.preprocessing import COLOURS, Preprocessing
from mobilenets_tf.tasks import outputs
from mobilenets_tf.tflite import flatbuffer
from mobilenets_tf.tflite.file_metadata import (
    AXIS_LABELS,
    IDENTIFIER,
    NAME,
    NORMALIZATION_OPTIONS,
    RECORD,
    SEGMENTER,
    VALUE_LABELS,
    Origin,
)
from mobilenets_tf.tflite.flatbuffer import schema
from mobilenets_tf.tflite.image_input import ImageInput
from mobilenets_tf.version import __version__

LABELS_FILE = "labels.txt"
# The schema's ColorSpaceType, by the number of channels; it has none for RGB with alpha.
_COLOR_SPACES = {1: 2, 3: 1, 4: 0}
_IMAGE_PROPERTIES, _BOX_PROPERTIES = 2, 3  # of the union ContentProperties
_BOUNDARIES = 1  # boxes are two corners
# A flatbuffer of its own (image_segmenter_metadata_schema.fbs), and its one field.
_SEGMENTER_IDENTIFIER, _SOFTMAX = b"V001", 2
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest date that a ZIP can hold: same inputs, same bytes


@dataclass(frozen=True)
class _Output:
    """name: by which readers know the output; empty: the name of the tensor. labels: the axis or the values to name."""

    description: str
    name: str = ""
    labels: int | None = None
    boxes: bool = False
    logits: bool = False


_TITLES = {
    "classify": "Image classifier", "detect": "Object detector", "segment": "Image segmenter",
    "regress": "Values of an image",
}  # fmt: skip
# Of a file without forms: what the labels name, by the kind of the output.
_LABELS = {
    outputs.CLASSES: AXIS_LABELS, outputs.MULTI_LABEL: AXIS_LABELS,
    outputs.BINARY: VALUE_LABELS, outputs.BINARY_LOGIT: VALUE_LABELS,
}  # fmt: skip
# By the names of the outputs in the forms (``forms.detector``, ``forms.segmenter``); "" for all other outputs.
_OUTPUTS = {
    "detect": {
        "detection_boxes": _Output("ymin, xmin, ymax, xmax of each box as shares of the image", "location", boxes=True),
        "detection_classes": _Output("the class of each box", "category", VALUE_LABELS),
        "detection_scores": _Output("the score of each box", "score"),
        "num_detections": _Output("how many boxes there are; what stands behind is none", "number of detections"),
        "decoded_boxes": _Output("ymin, xmin, ymax, xmax of each anchor's box as shares of the image"),
        "boxes": _Output("each anchor's box, encoded"),
        "scores": _Output("each anchor's score for the background and for each class"),
        "": _Output("an output of the detector"),
    },
    "segment": {
        "mask": _Output("the class of each pixel", labels=VALUE_LABELS),
        "": _Output("the logit of each class at each place", labels=AXIS_LABELS, logits=True),
    },
}


@dataclass(frozen=True)
class Metadata:
    """The metadata of a file that takes an image.

    name, description, version, author, license: texts for people.
    height, width: of the input image, in pixels. channels: 1 for grey, 3 for RGB, 4 for RGB and alpha.
    mean, std: the input is (pixel - mean) / std on 0-255; one value each, since MediaPipe takes no more. For a file
        that takes uint8 they are 0 and 1: its pixels are fed as they are.
    labels: the class names in the order of the outputs; may be empty.
    task: "classify", "detect", "segment" or "regress". kinds: of the outputs, of a file without forms.
    preprocessing: of the input; None if not known.
    origin: what the file of which this file was made says.
    """

    name: str
    description: str
    height: int
    width: int
    mean: float
    std: float
    channels: int = 3
    version: str = ""
    author: str = ""
    license: str = ""
    labels: tuple[str, ...] = field(default=(), repr=False)
    task: str = "classify"
    kinds: tuple[outputs.OutputKind, ...] = ()
    preprocessing: Preprocessing | None = None
    origin: Origin = field(default=Origin(), repr=False)


def describe(
    name: str,
    image: ImageInput,
    labels: Sequence[str] = (),
    task: str | None = None,
    kinds: Sequence[outputs.OutputKind] = (outputs.CLASSES,),
    origin: Origin = Origin(),  # noqa: B008 (frozen)
) -> Metadata:
    """Make the metadata of a network from the description of its input image.

    Args:
        task: of a file whose outputs are those of a form. kinds: of the outputs of any other file.
        origin: what the file of which this file is made says; its texts are kept.
    """
    given = image.given
    if task is None:
        task = "classify" if any(kind.classes or kind is outputs.MULTI_LABEL for kind in kinds) else "regress"
    mean, std = (0.0, 1.0) if image.form == "uint8" else (given.mean[0], given.std[0])
    text = f"{_TITLES[task]}; made by mobilenets-tf {__version__}."
    own = (name, text, "", "", "")
    name, text, version, author, license = (old or new for old, new in zip(origin.texts or own, own, strict=True))
    return Metadata(
        name, text, given.height, given.width, mean, std, given.channels, version, author, license,
        labels=tuple(labels), task=task, kinds=tuple(kinds), preprocessing=given, origin=origin,
    )  # fmt: skip


def add(content: bytes, metadata: Metadata) -> bytes:
    """Add metadata to a TFLite file's content. Earlier metadata and files behind the model are replaced.

    The published metadata of the origin stay as they are where they still hold; of its associated files all are kept.
    """
    tree = flatbuffer.read(content)
    tree.metadata = tree.metadata or []
    holds = _still_holds(metadata)
    _put(tree, NAME, metadata.origin.published if holds else _pack(tree, metadata))
    if metadata.preprocessing:
        kinds = [kind.name for kind in metadata.kinds] if metadata.task not in _OUTPUTS else []
        record = {"task": metadata.task, "preprocessing": asdict(metadata.preprocessing), "kinds": kinds}
        _put(tree, RECORD, json.dumps(record).encode())
    model = flatbuffer.write(tree)
    files = dict(metadata.origin.files)
    if metadata.labels and not holds:
        files[LABELS_FILE] = ("\n".join(metadata.labels) + "\n").encode()
    return _with_files(model, files)


def keep(content: bytes, origin: Origin) -> bytes:
    """Put the associated files of the origin behind a file that has the origin's own metadata still. Published metadata
    that do not hold for these files, since a file that they name is not kept, are taken out.
    """
    tree = flatbuffer.read(content)
    if origin.published is None and any(entry.name == NAME for entry in tree.metadata or ()):
        tree.metadata = [entry for entry in tree.metadata if entry.name != NAME]
        content = flatbuffer.write(tree)
    return _with_files(content, origin.files)


def _still_holds(metadata: Metadata) -> bool:
    """Tell whether the published metadata of the origin say of the new file what is right."""
    origin, told = metadata.origin, metadata.origin.preprocessing
    if origin.published is None or told is None or metadata.task in _OUTPUTS or metadata.labels != origin.labels:
        return False
    return set(told.mean) == {metadata.mean} and set(told.std) == {metadata.std}


def _put(tree, name: bytes, data: bytes) -> None:
    """Put data into the model under a name, in the place of earlier data of this name."""
    entry = next((entry for entry in tree.metadata if entry.name == name), None)
    if entry is None:
        entry = schema.MetadataT()
        entry.name, entry.buffer = name, len(tree.buffers)
        tree.buffers.append(schema.BufferT())
        tree.metadata.append(entry)
    tree.buffers[entry.buffer].data = np.frombuffer(data, np.uint8)


def _with_files(model: bytes, files: Mapping[str, bytes]) -> bytes:
    if not files:
        return model
    stream = io.BytesIO(model)
    with zipfile.ZipFile(stream, "a", zipfile.ZIP_STORED) as archive:  # stored, so that Android can map it into memory
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name, _EPOCH), content)
    return stream.getvalue()


def _pack(tree, metadata: Metadata) -> bytes:
    graph, writer = tree.subgraphs[0], _Writer()
    names = [graph.tensors[index].name.decode() for index in graph.outputs]
    described = _outputs_of(metadata, names)
    subgraph = {
        2: writer.vector([_input(writer, graph.tensors[graph.inputs[0]].name.decode(), metadata)]),
        3: writer.vector(
            [_output(writer, *pair, bool(metadata.labels)) for pair in zip(described, names, strict=True)]
        ),
    }
    version = "1.0.0"
    if any(output.boxes for output in described):
        version = "1.2.0"
        members = writer.vector([writer.text(output.name) for output in described[:-1]])
        subgraph[8] = writer.vector([writer.table({0: writer.text("detection_result"), 1: members})])
    if any(output.logits for output in described):
        version = "1.5.0"
        inner = _Writer()
        options = inner.finish(inner.table({0: inner.byte(_SOFTMAX)}), _SEGMENTER_IDENTIFIER)
        custom = {0: writer.text(SEGMENTER), 1: writer.nested(options)}
        subgraph[9] = writer.vector([writer.table(custom)])
    texts = (metadata.name, metadata.description, metadata.version)
    root = {place: writer.text(text) for place, text in enumerate(texts)}
    root |= {3: writer.vector([writer.table(subgraph)])}
    root |= {4: writer.text(metadata.author), 5: writer.text(metadata.license), 7: writer.text(version)}
    return writer.finish(writer.table(root), IDENTIFIER)


def _outputs_of(metadata: Metadata, names: Sequence[str]) -> list[_Output]:
    """Describe each output. Of several outputs, the first that names classes has the labels."""
    if known := _OUTPUTS.get(metadata.task):
        return [known.get(name) or known[""] for name in names]
    described = [_Output(kind.meaning, labels=_LABELS.get(kind)) for kind in metadata.kinds]
    first = next((place for place, output in enumerate(described) if output.labels), None)
    return [each if place == first else replace(each, labels=None) for place, each in enumerate(described)]


def _input(writer: "_Writer", name: str, metadata: Metadata) -> "_Offset":
    image = writer.table(
        {0: writer.byte(_COLOR_SPACES[metadata.channels]), 1: writer.table({0: metadata.width, 1: metadata.height})}
    )
    content = writer.table({0: writer.byte(_IMAGE_PROPERTIES), 1: image})
    normalization = writer.table({0: writer.floats([metadata.mean]), 1: writer.floats([metadata.std])})
    unit = writer.table({0: writer.byte(NORMALIZATION_OPTIONS), 1: normalization})
    low, high = ((end - metadata.mean) / metadata.std for end in (0, 255))
    colours = COLOURS[metadata.channels]
    text = f"{colours} image, {metadata.height}x{metadata.width}, values from {low:.5g} to {high:.5g}"
    if metadata.preprocessing:
        text += f"; from a photograph: {metadata.preprocessing.described()}"
    return writer.table(
        {
            0: writer.text(name),
            1: writer.text(text),
            3: content,
            4: writer.vector([unit]),
            5: writer.table({0: writer.floats([high]), 1: writer.floats([low])}),
        }
    )


def _output(writer: "_Writer", output: _Output, name: str, labels: bool) -> "_Offset":
    table = {0: writer.text(output.name or name), 1: writer.text(output.description)}
    if output.boxes:
        # The places of left, top, right and bottom in each box.
        order = writer.table({0: writer.wholes([1, 0, 3, 2]), 1: writer.byte(_BOUNDARIES)})
        last_axis = writer.table({0: 2, 1: 2})
        table[3] = writer.table({0: writer.byte(_BOX_PROPERTIES), 1: order, 2: last_axis})
    if output.labels and labels:
        file = {0: writer.text(LABELS_FILE), 1: writer.text("the class names"), 2: writer.byte(output.labels)}
        table[6] = writer.vector([writer.table(file)])
    return writer.table(table)


@dataclass(frozen=True)
class _Offset:
    """The position of a string, vector or table that has been written."""

    value: int


@dataclass(frozen=True)
class _Byte:
    value: int


class _Writer:
    """Writes a flatbuffer from the inside out: an object can refer only to objects that were written before."""

    def __init__(self):
        self._builder = flatbuffers.Builder(1024)

    def byte(self, value: int) -> _Byte:
        """Return the value of an enum as a byte."""
        return _Byte(value)

    def text(self, value: str) -> _Offset | None:
        """Write a string; return None, which leaves the field out, for an empty string."""
        return _Offset(self._builder.CreateString(value)) if value else None

    def floats(self, values: list[float]) -> _Offset:
        return _Offset(self._builder.CreateNumpyVector(np.array(values, np.float32)))

    def wholes(self, values: list[int]) -> _Offset:
        """Write a vector of unsigned 32-bit integers."""
        return _Offset(self._builder.CreateNumpyVector(np.array(values, np.uint32)))

    def nested(self, content: bytes) -> _Offset:
        """Write a flatbuffer as a byte vector inside this one; the inner one has to begin at a multiple of 16 bytes."""
        builder = self._builder
        builder.StartVector(1, len(content), 16)
        for value in reversed(content):
            builder.PrependByte(value)
        return _Offset(builder.EndVector())

    def vector(self, entries: list[_Offset]) -> _Offset:
        """Write a vector of tables or of strings."""
        builder = self._builder
        builder.StartVector(4, len(entries), 4)
        for entry in reversed(entries):
            builder.PrependUOffsetTRelative(entry.value)
        return _Offset(builder.EndVector())

    def table(self, fields: dict) -> _Offset:
        """Write a table.

        fields: number in the schema -> an offset, a byte, or an unsigned 32-bit integer; None is left out.
        """
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

    def finish(self, root: _Offset, identifier: bytes) -> bytes:
        self._builder.Finish(root.value, identifier)
        return bytes(self._builder.Output())
