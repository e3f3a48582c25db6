"""What a TFLite file says of itself: ours, strangers', and hostile ones."""

import contextlib
import io
import itertools
import struct
import zipfile
from dataclasses import replace

import numpy as np
import pytest

from mobilenets_tf import Preprocessing, RequestError
from mobilenets_tf.export import metadata
from mobilenets_tf.tflite import file_metadata, flatbuffer
from mobilenets_tf.tflite.archive import Archive, DamagedError
from mobilenets_tf.tflite.file_metadata import FileMetadata, metadata_of, origin_of, read_metadata
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
    expected = FileMetadata("classify", OURS, tuple(colour_files.LABELS), ("classes",), {"labels.txt": 15})
    assert read(described(classifier)) == expected


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_strangers_file_says_its_normalisation_and_labels(read, classifier, compression):
    content = described(classifier, preprocessing=None, labels=())
    packed = io.BytesIO(content)
    with zipfile.ZipFile(packed, "a", compression) as archive:
        archive.writestr("labelmap.txt", "\ufefftench\nLöwe \n\n")
        archive.writestr("readme.txt", "labels")
    expected = Preprocessing(mean=(127.0,) * 3, std=(128.0,) * 3)  # of the crop nothing is said
    sizes = {"labelmap.txt": 17, "readme.txt": 6}
    assert read(packed.getvalue()) == FileMetadata(None, expected, ("tench", "Löwe"), (), sizes)


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
        with contextlib.suppress(DamagedError, struct.error, UnicodeDecodeError):
            file_metadata._published(data)
    with pytest.warns(UserWarning, match="the metadata TFLITE_METADATA are damaged .their identifier is"):
        found = read(with_metadata(classifier, b"12345678"))
    assert replace(found, damage=()) == FileMetadata()
    (damage,) = metadata_of(with_metadata(classifier, b"")).damage
    assert "their identifier is b''" in damage


def test_names_of_files_that_overlap_are_damage(classifier, monkeypatch):
    sound = published(described(classifier))
    assert file_metadata._published(sound).files == ("labels.txt",)
    numbers = itertools.count()
    monkeypatch.setattr(file_metadata._Table, "text", lambda table, field: str(next(numbers)) * (len(sound) + 1))
    with pytest.raises(DamagedError, match="overlap"):
        file_metadata._published(sound)


@pytest.mark.parametrize(
    "record", [b"{", b"[]", b"{}", b'{"task": "fly"}', b'{"task": "classify", "preprocessing": 7}']
)
def test_a_damaged_record_of_ours_is_named(classifier, record):
    content = described(classifier)
    tree = flatbuffer.read(content)
    (entry,) = (entry for entry in tree.metadata if entry.name == file_metadata.RECORD)
    tree.buffers[entry.buffer].data = np.frombuffer(record, np.uint8)
    found = metadata_of(flatbuffer.write(tree) + behind(content))
    (damage,) = found.damage
    assert "the metadata MOBILENETS_TF are damaged" in damage
    # The published metadata still say the normalisation.
    assert found.preprocessing == Preprocessing(mean=(127.0,) * 3, std=(128.0,) * 3) and found.labels


def behind(content):
    """The archive behind a model of ours, which has one file. Its offsets are positions in the whole file."""
    return content[content.rindex(b"PK\x03\x04") :]


def test_damage_to_the_archive_is_never_taken_for_its_absence(classifier):
    """Every truncation is named; so is every changed byte that changes the labels."""
    content, labels = described(classifier), tuple(colour_files.LABELS)
    start, named = len(content) - len(behind(content)), 0
    for length in range(start, len(content), 3):
        assert metadata_of(content[:length]).damage, length
    for place in range(start, len(content), 2):
        changed = bytearray(content)
        changed[place] ^= 0x04
        found = metadata_of(bytes(changed))
        assert found.damage or found.labels == labels, place
        assert found.preprocessing == OURS  # the model's own metadata are sound
        named += bool(found.damage)
    assert named > len(behind(content)) / 6  # the others are dates, versions and the like


def test_an_archive_that_lacks_a_named_file_is_damaged(read, classifier):
    other = io.BytesIO(described(classifier, labels=()))
    with zipfile.ZipFile(other, "a") as archive:
        archive.writestr("other.txt", "x")
    assert read(other.getvalue()).damage == ()  # these metadata name no file
    content = described(classifier)
    with pytest.warns(UserWarning, match="metadata name the file labels.txt, which is not behind the model.*Write the"):
        assert read(content[: -len(behind(content))]).labels == ()


def test_one_file_that_cannot_be_kept_takes_no_other_along(classifier):
    """Metadata that name a file that is not kept are not kept either."""
    packed = io.BytesIO(described(classifier))
    with zipfile.ZipFile(packed, "a") as archive:
        archive.writestr("large.txt", b"x" * (2**22 + 1))
    with pytest.warns(UserWarning, match="'large.txt' is left out.*larger than"):
        origin = origin_of(packed.getvalue())
    assert set(origin.files) == {"labels.txt"} and origin.published and origin.labels == tuple(colour_files.LABELS)
    sound = described(classifier)
    labels = behind(sound)
    damaged = sound[: -len(labels)] + labels.replace(b"red", b"rad", 1)
    with pytest.warns(UserWarning, match="'labels.txt' is left out.*CRC"):
        origin = origin_of(damaged)
    assert origin.files == {} and origin.published is None and origin.texts
    assert metadata_of(metadata.keep(damaged, origin)).damage == ()


def test_values_that_look_like_an_archive_are_none(classifier):
    tree = flatbuffer.read(classifier)
    graph = tree.subgraphs[0]
    index = flatbuffer.add_constant(tree, "looks", np.frombuffer(b"PK\x03\x04PK\x05\x06" + b"\0" * 20, np.uint8))
    graph.outputs = [*graph.outputs, index]
    content = flatbuffer.write(tree)
    assert b"PK\x05\x06" in content and Archive(content).sizes == {} and metadata_of(content).damage == ()


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
        (b"PK\x05\x06" + struct.pack("<4H2LH", 0, 0, 9, 9, 100, 50, 0), "the archive .* is damaged"),
    ],
)
def test_a_hostile_zip_behind_the_model_costs_nothing(read, classifier, behind, told):
    with pytest.warns(UserWarning, match=told):
        assert read(classifier + behind).labels == ()


def test_what_is_no_tflite_file_is_refused(read):
    with pytest.raises(RequestError, match="net.tflite: not a TFLite file"):
        read(b"PK\x03\x04" + b"\0" * 100)
