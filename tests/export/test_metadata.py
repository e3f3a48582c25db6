"""Metadata as MediaPipe and the Task Library read them."""

import flatbuffers
import numpy as np
import pytest

from mobilenets_tf import flatbuffer
from mobilenets_tf.export import metadata, to_tflite
from mobilenets_tf.image_input import ImageInput
from mobilenets_tf.preprocessing import Preprocessing
from mobilenets_tf.quantize import Calibration
from mobilenets_tf.runtime import Runner
from tests.conftest import photographs

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
    assert metadata.associated_files(content)["labels.txt"].decode().splitlines() == list(LABELS)
    Runner(content)  # what stands behind the model does no harm


def test_written_again_they_replace_the_first(files):
    content, image = files("float32", "normalised", PLAIN)
    again = metadata.add(content, metadata.describe("another", image, ["x"]))
    assert metadata.associated_files(again) == {"labels.txt": b"x\n"}
    assert metadata.add(again, metadata.describe("another", image, ["x"])) == again
    name = read(again)
    assert name.String(name.Offset(4) + name.Pos) == b"another"
