"""What a TFLite file says of itself: ours, strangers', and hostile ones."""

import contextlib
import io
import struct
import zipfile
from dataclasses import replace

import numpy as np
import pytest

from mobilenets_tf import Preprocessing, RequestError
from mobilenets_tf.export import metadata
from mobilenets_tf.tflite import file_metadata, flatbuffer
from mobilenets_tf.tflite.file_metadata import FileMetadata, read_metadata
from mobilenets_tf.tflite.image_input import ImageInput
from tests.support import colour_files

OURS = Preprocessing(64, 72, "bicubic", (127.0,) * 3, (128.0,) * 3, "crop_then_resize")


def described(content, **changes):
    told = metadata.describe("net", ImageInput(OURS), colour_files.LABELS, "classify")
    return metadata.add(content, replace(told, **changes))


@pytest.fixture(scope="module")
def classifier():
    return colour_files.classifier()


@pytest.fixture
def read(tmp_path):
    """A function: the content of a file -> what the file says."""

    def write_and_read(content):
        (tmp_path / "net.tflite").write_bytes(content)
        return read_metadata(tmp_path / "net.tflite")

    return write_and_read


def test_our_files_say_all_that_their_manifest_says(read, classifier):
    assert read(described(classifier)) == FileMetadata("classify", OURS, tuple(colour_files.LABELS), ("classes",))


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_strangers_file_says_its_normalisation_and_labels(read, classifier, compression):
    content = described(classifier, preprocessing=None, labels=())
    packed = io.BytesIO(content)
    with zipfile.ZipFile(packed, "a", compression) as archive:
        archive.writestr("labelmap.txt", "\ufefftench\nLöwe \n\n")
        archive.writestr("readme.txt", "labels")
    expected = Preprocessing(mean=(127.0,) * 3, std=(128.0,) * 3)  # of the crop nothing is said
    assert read(packed.getvalue()) == FileMetadata(None, expected, ("tench", "Löwe"))


def test_a_file_without_metadata_says_nothing_but_that_bytes_are_pixels(read, classifier):
    assert read(classifier) == FileMetadata()
    tree = flatbuffer.read(classifier)
    tree.subgraphs[0].tensors[tree.subgraphs[0].inputs[0]].type = flatbuffer.schema.TensorType.UINT8
    told = read(flatbuffer.write(tree))
    assert told.preprocessing == Preprocessing(mean=(0.0,) * 3, std=(1.0,) * 3)


def test_detectors_and_segmenters_are_known_by_what_they_say(read):
    for task, content in (("detect", colour_files.detector()), ("segment", colour_files.segmenter())):
        told = metadata.describe("net", ImageInput(OURS), colour_files.LABELS, task)
        found = read(metadata.add(content, replace(told, preprocessing=None)))
        assert found.task in (task, None) and found.labels in (tuple(colour_files.LABELS), ())
    assert found.task == "segment"


def with_metadata(content, data):
    tree = flatbuffer.read(content)
    entry = flatbuffer.schema.MetadataT()
    entry.name, entry.buffer = file_metadata.NAME, len(tree.buffers)
    tree.buffers.append(flatbuffer.schema.BufferT())
    tree.buffers[-1].data = np.frombuffer(data, np.uint8)
    tree.metadata = [entry]
    return flatbuffer.write(tree)


def published(content):
    tree = flatbuffer.read(content)
    (entry,) = (entry for entry in tree.metadata if entry.name == file_metadata.NAME)
    return bytes(tree.buffers[entry.buffer].data)


def test_damaged_metadata_count_as_missing(read, classifier):
    sound = published(described(classifier))
    random = np.random.default_rng(0)
    changed = [sound[:length] for length in range(0, len(sound), 7)]
    for _ in range(1000):
        data = bytearray(sound)
        for place in random.integers(0, len(data), 3):
            data[place] = random.integers(256)
        changed.append(bytes(data))
    for data in changed:
        with contextlib.suppress(file_metadata._DamagedError, struct.error, UnicodeDecodeError):
            file_metadata._published(data)
    with pytest.warns(UserWarning, match="its metadata are left out, they are damaged .their identifier is"):
        assert read(with_metadata(classifier, b"12345678")) == FileMetadata()


def bomb(compression):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        archive.writestr("labels.txt", b"x" * 50_000_000)
    return stream.getvalue()


def many_files():
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for number in range(2000):
            archive.writestr(f"{number}.txt", b"")
    return stream.getvalue()


def damaged():
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("labels.txt", b"tench\n" * 100)
    return stream.getvalue().replace(b"tench\ntench", b"tench\nquack")


@pytest.mark.parametrize(
    ("behind", "told"),
    [
        (bomb(zipfile.ZIP_DEFLATED), "is larger than 4194304 bytes"),
        (bomb(zipfile.ZIP_BZIP2), "packed in another way"),
        (many_files(), "has too many files"),
        (damaged(), "Bad CRC-32"),
        (b"PK\x05\x06" + b"\xff" * 18, "has too many files"),
        (b"PK\x06\x07" + b"\0" * 16 + b"PK\x05\x06" + b"\0" * 18, "has too many files"),
        (b"PK\x05\x06" + struct.pack("<4H2LH", 0, 0, 9, 9, 100, 50, 0), "the ZIP behind the model"),
    ],
)
def test_a_hostile_zip_behind_the_model_costs_nothing(read, classifier, behind, told):
    with pytest.warns(UserWarning, match=told):
        assert read(classifier + behind).labels == ()


def test_what_is_no_tflite_file_is_refused(read):
    with pytest.raises(RequestError, match="net.tflite: not a TFLite file"):
        read(b"PK\x03\x04" + b"\0" * 100)
