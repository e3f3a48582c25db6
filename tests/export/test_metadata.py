"""Metadata as MediaPipe and the Task Library read them."""

import flatbuffers
import numpy as np
import pytest

from mobilenets_tf.data.preprocessing import Preprocessing
from mobilenets_tf.export import metadata, to_tflite
from mobilenets_tf.export.forms import detector as detector_forms
from mobilenets_tf.export.forms import segmenter
from mobilenets_tf.networks.heads.anchors import ssd_anchors
from mobilenets_tf.quantize import Calibration
from mobilenets_tf.tasks.postprocess import Postprocess
from mobilenets_tf.tflite import flatbuffer
from mobilenets_tf.tflite.archive import Archive
from mobilenets_tf.tflite.file_metadata import metadata_of
from mobilenets_tf.tflite.image_input import ImageInput
from mobilenets_tf.tflite.runtime import Runner
from tests.conftest import photographs
from tests.support import colour_files

LABELS = tuple(f"class {index}, é" for index in range(10))
PER_CHANNEL = Preprocessing(size=64, resize=64, mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375))
PLAIN = Preprocessing(size=64, resize=64)


@pytest.fixture(scope="module")
def files(small, tmp_path_factory):
    """(scheme, form, preprocessing's name) -> (content, how the file takes its image)."""
    folder = tmp_path_factory.mktemp("files")
    pixels = ((photographs(100, 64) + 1) * 127.5).astype(np.uint8)
    made = {}

    def make(scheme, form, wanted):
        key = scheme, form, wanted
        if key not in made:
            image = ImageInput(wanted, form)
            path = folder / f"{len(made)}.tflite"
            samples = image.given.normalise(pixels)
            calibration = Calibration(samples, image.given.value_range) if scheme.startswith("int") else None
            to_tflite(small, scheme, calibration, path, image=image, labels=LABELS)
            made[key] = path.read_bytes(), image
        return made[key]

    return make


def read(content):
    """The metadata by the schema's field numbers, with flatbuffers' own table reader."""
    tree = flatbuffer.read(content)
    (entry,) = [entry for entry in tree.metadata if entry.name == metadata.NAME]
    data = bytes(tree.buffers[entry.buffer].data)
    assert data[4:8] == b"M001"
    root = flatbuffers.encode.Get(flatbuffers.packer.uoffset, data, 0)
    return flatbuffers.table.Table(data, root)


def follow(table, *slots):
    """Down through tables: a number follows a field, a pair one element of a vector of tables."""
    for slot in slots:
        slot, place = slot if isinstance(slot, tuple) else (slot, None)
        offset = table.Offset(4 + 2 * slot)
        assert offset, slot
        at = table.Vector(offset) + 4 * place if place is not None else offset + table.Pos
        table = flatbuffers.table.Table(table.Bytes, table.Indirect(at))
    return table


def floats(table, slot):
    return table.GetVectorAsNumpy(flatbuffers.number_types.Float32Flags, table.Offset(4 + 2 * slot)).tolist()


INPUT, OUTPUT = ((3, 0), (2, 0)), ((3, 0), (3, 0))


@pytest.mark.parametrize(
    "scheme, form, wanted, mean, std",
    [
        ("float32", "normalised", PLAIN, 127.5, 127.5),
        ("float32", "normalised", PER_CHANNEL, 128.0, 128.0),
        ("int8", "uint8", PER_CHANNEL, 0.0, 1.0),
    ],
)
def test_size_normalisation_and_labels(files, scheme, form, wanted, mean, std):
    content, _ = files(scheme, form, wanted)
    root = read(content)
    size = follow(root, *INPUT, 3, 1, 1)
    whole = flatbuffers.number_types.Uint32Flags
    assert [size.Get(whole, size.Offset(slot) + size.Pos) for slot in (4, 6)] == [64, 64]
    options = follow(root, *INPUT, (4, 0), 1)
    assert (floats(options, 0), floats(options, 1)) == ([mean], [std])
    associated = follow(root, *OUTPUT, (6, 0))
    assert associated.String(associated.Offset(4) + associated.Pos) == b"labels.txt"
    assert Archive(content).read("labels.txt").decode().splitlines() == list(LABELS)
    expected = "from a photograph: resize the whole photograph to 64x64, without keeping its aspect ratio"
    assert expected in text(follow(root, *INPUT), 1)
    Runner(content)  # what stands behind the model does no harm


@pytest.mark.parametrize("channels, colour, name", [(1, 2, "grey"), (3, 1, "RGB"), (4, 0, "RGBA")])
def test_an_image_that_is_not_square_and_not_rgb(files, channels, colour, name):
    content, _ = files("float32", "normalised", PLAIN)
    image = ImageInput(Preprocessing((24, 40), mean=(0.0,) * channels, std=(255.0,) * channels))
    root = read(metadata.add(content, metadata.describe("net", image)))
    assert byte(follow(root, *INPUT, 3, 1), 0) == colour
    size = follow(root, *INPUT, 3, 1, 1)
    whole = flatbuffers.number_types.Uint32Flags
    assert [size.Get(whole, size.Offset(slot) + size.Pos) for slot in (4, 6)] == [40, 24]  # width and height
    assert text(follow(root, *INPUT), 1).startswith(f"{name} image, 24x40, values from 0 to 1")
    told = metadata_of(metadata.add(content, metadata.describe("net", image))).preprocessing
    assert told == image.given


def test_written_again_they_replace_the_first(files):
    content, image = files("float32", "normalised", PLAIN)
    again = metadata.add(content, metadata.describe("another", image, ["x"]))
    assert Archive(again).sizes == {"labels.txt": 2}
    assert metadata.add(again, metadata.describe("another", image, ["x"])) == again
    name = read(again)
    assert name.String(name.Offset(4) + name.Pos) == b"another"


def text(table, slot):
    return table.String(table.Offset(4 + 2 * slot) + table.Pos).decode()


def byte(table, slot):
    offset = table.Offset(4 + 2 * slot)
    return table.Get(flatbuffers.number_types.Uint8Flags, offset + table.Pos) if offset else 0


def length(table, slot):
    offset = table.Offset(4 + 2 * slot)
    return table.VectorLen(offset) if offset else 0


def described(content, task, labels=tuple(colour_files.LABELS)):
    image = ImageInput(Preprocessing(8, 8, crop="stretch"))
    return metadata.add(content, metadata.describe("net", image, labels, task))


def detector(form):
    return detector_forms.with_form(colour_files.detector(), form, Postprocess(ssd_anchors(colour_files.GRIDS), 3))


def test_a_detector_is_described_as_mediapipe_and_the_task_library_look_for_it():
    """By the names of DetectionPostprocessingGraph in MediaPipe, and by the order in the Task Library."""
    content = described(detector("nms"), "detect")
    root = read(content)
    outputs = [follow(root, (3, 0), (3, place)) for place in range(4)]
    assert [text(output, 0) for output in outputs] == ["location", "category", "score", "number of detections"]
    boxes = follow(outputs[0], 3, 1)
    order = boxes.GetVectorAsNumpy(flatbuffers.number_types.Uint32Flags, boxes.Offset(4))
    # Where left, top, right and bottom stand in ymin, xmin, ymax, xmax; two corners, as shares of the image (0, which
    # is not written).
    assert order.tolist() == [1, 0, 3, 2] and byte(boxes, 1) == 1 and not boxes.Offset(8)
    assert byte(follow(outputs[0], 3), 0) == 3  # BoundingBoxProperties
    names = follow(outputs[1], (6, 0))
    assert (text(names, 0), byte(names, 2)) == ("labels.txt", 3)  # TENSOR_VALUE_LABELS
    assert [length(output, 6) for output in outputs] == [0, 1, 0, 0]
    group = follow(root, (3, 0), (8, 0))
    start = group.Vector(group.Offset(6))
    assert [group.String(start + 4 * place).decode() for place in range(length(group, 1))] == [
        "location", "category", "score",
    ]  # fmt: skip
    assert text(root, 7) == "1.2.0"
    assert Archive(content).read("labels.txt") == b"red\ngreen\nblue\n"
    assert length(follow(read(described(detector("nms"), "detect", ())), (3, 0), (3, 1)), 6) == 0


@pytest.mark.parametrize("form, names", [("raw", ["boxes", "scores"]), ("decoded", ["decoded_boxes", "scores"])])
def test_what_a_detector_gives_without_suppression_goes_by_its_own_names(form, names):
    root = read(described(detector(form), "detect"))
    assert [text(follow(root, (3, 0), (3, place)), 0) for place in (0, 1)] == names
    assert length(follow(root, (3, 0)), 8) == 0 and text(root, 7) == "1.0.0"


def test_a_segmenter_says_that_its_logits_want_a_softmax():
    root = read(described(segmenter.with_form(colour_files.segmenter(), "full", 8), "segment"))
    names = follow(root, *OUTPUT, (6, 0))
    assert (text(names, 0), byte(names, 2)) == ("labels.txt", 2)  # TENSOR_AXIS_LABELS
    custom = follow(root, (3, 0), (9, 0))
    assert (text(custom, 0), text(root, 7)) == ("SEGMENTER_METADATA", "1.5.0")
    data = custom.GetVectorAsNumpy(flatbuffers.number_types.Uint8Flags, custom.Offset(6)).tobytes()
    assert data[4:8] == b"V001" and custom.Vector(custom.Offset(6)) % 16 == 0
    inner = flatbuffers.table.Table(data, flatbuffers.encode.Get(flatbuffers.packer.uoffset, data, 0))
    assert byte(inner, 0) == 2


def test_a_mask_holds_classes():
    root = read(described(segmenter.with_form(colour_files.segmenter(), "mask", 8), "segment"))
    assert byte(follow(root, *OUTPUT, (6, 0)), 2) == 3 and length(follow(root, (3, 0)), 9) == 0
