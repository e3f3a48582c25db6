"""TFRecord files: every image comes back, and what is wrong with a file is said, with the byte where it is."""

import gzip
import pickle
import random
import struct
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import pytest
import tensorflow as tf

from mobilenets_tf import RequestError
from mobilenets_tf.data import tfrecords
from mobilenets_tf.data.sources import find
from mobilenets_tf.data.tfrecords import Part, crc32c, open_records


def example(image=b"a JPEG", label=1, **others):
    """A serialised Example; None leaves a feature out, a list gives it several values."""
    features = {"image/encoded": image, "image/class/label": label, **others}
    return tf.train.Example(
        features=tf.train.Features(
            feature={key: _feature(value) for key, value in features.items() if value is not None}
        )
    ).SerializeToString()


def _feature(value):
    values = value if isinstance(value, list) else [value]
    if isinstance(values[0], bytes):
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=values))
    if isinstance(values[0], float):
        return tf.train.Feature(float_list=tf.train.FloatList(value=values))
    return tf.train.Feature(int64_list=tf.train.Int64List(value=values))


def write(path, records):
    with tf.io.TFRecordWriter(str(path)) as writer:
        for record in records:
            writer.write(record)
    return path


def only(folder, record, **options):
    return find(str(write(folder / "one.tfrecord", [record])), **options)


@pytest.fixture
def shards(tmp_path):
    """A folder of three shards, and the images with their classes in order; sizes are around the checksum's blocks."""
    draw = random.Random(0)
    sizes = [1, 63, 64, 65, 1023, 1024, 1025, 16383, 16385, 70_000, 300_000, 5]
    images = [(draw.randbytes(size), draw.randrange(1000)) for size in sizes]
    for shard, part in enumerate((images[:5], images[5:6], images[6:])):
        write(tmp_path / f"train-{shard:05}-of-00003", [example(image, label + 1) for image, label in part])
    return tmp_path, images


@pytest.mark.parametrize("spec", ["", "train-*", "train-?????-of-00003"])
def test_every_image_comes_back_in_any_order_and_from_several_threads(shards, spec):
    folder, images = shards
    source = find(f"{folder}/{spec}")
    order = random.Random(1).choices(range(len(images)), k=400)
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(source.read, order)) == [images[i] for i in order]
    assert len(source) == len(images)
    assert source.class_counts() is None and source.class_names == ()


def test_a_copy_by_pickle_reads_the_same(shards):
    folder, images = shards
    source = pickle.loads(pickle.dumps(find(str(folder))))
    assert [source.read(i) for i in range(len(source))] == images


def test_a_record_is_named_by_file_number_and_byte(shards):
    folder, _ = shards
    first = len(example(b"1" * 1025, 1)) + 16  # labels below 128 and above have other lengths
    name = find(str(folder)).name(7)
    assert name.startswith(f"{folder}/train-00002-of-00003, record 1 at byte ")
    assert abs(int(name.split()[-1]) - first) <= 1


def test_numbers_are_those_of_a_sequence(shards):
    source = find(str(shards[0]))
    assert source.read(-1) == source.read(len(source) - 1)
    with pytest.raises(IndexError):
        source.read(len(source))


def test_parts_of_files(shards):
    folder, images = shards
    first, last = (f"{folder}/train-0000{shard}-of-00003" for shard in (0, 2))
    source = open_records([Part(last, 1, 2), Part(first, 4), Part(last, 0, 1)])
    assert [source.read(i) for i in range(len(source))] == [images[i] for i in (7, 8, 4, 6)]
    assert f"{last}, record 2 at byte" in source.name(1)
    with pytest.raises(RequestError, match="has 5 records; its dataset says 6"):
        open_records([Part(first, holds=6)])


def test_progress_is_reported(shards):
    seen = []
    find(str(shards[0]), progress=lambda *what: seen.append(what))
    assert seen == [("Indexing TFRecords", done, 3) for done in range(4)]


def test_shards_are_in_natural_order(tmp_path):
    for number in (10, 9, 1):
        write(tmp_path / f"part-{number}.tfrecord", [example(b"%d" % number)])
    source = find(str(tmp_path))
    assert [source.read(i)[0] for i in range(3)] == [b"1", b"9", b"10"]


# RFC 3720, B.4, and the usual check value.
@pytest.mark.parametrize(
    ("data", "checksum"),
    [
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(range(31, -1, -1)), 0x113FDB5C),
        (b"123456789", 0xE3069283),
        (b"", 0),
        (b"a", 0xC1D04330),
    ],
)
def test_the_checksum(data, checksum):
    assert crc32c(data) == checksum


# --- labels and features


def test_labels_begin_where_label_offset_says(tmp_path):
    assert only(tmp_path, example(label=1)).read(0) == (b"a JPEG", 0)
    assert only(tmp_path, example(label=0), label_offset=0).read(0) == (b"a JPEG", 0)
    assert only(tmp_path, example(label=2), classes=["ant", "bee"]).read(0)[1] == 1


@pytest.mark.parametrize(
    ("label", "options", "message"),
    [
        (0, {}, "image/class/label is 0; expected at least 1 (label_offset=1)."),
        (3, {"classes": ["ant", "bee"]}, "image/class/label is 3; expected 1 to 2 (label_offset=1)."),
        (2, {"classes": ["ant", "bee"], "label_offset": 0}, "is 2; expected 0 to 1 (label_offset=0)."),
        (-(2**63), {}, "image/class/label is -9223372036854775808; expected at least 1"),
        ([1, 2], {}, "image/class/label has 2 values; expected one."),
        ([], {}, "image/class/label has 0 values; expected one."),
        (1.0, {}, "image/class/label is a float_list; expected a int64_list."),
        (None, {}, "no feature 'image/class/label'. The record's first features: 'image/encoded'."),
    ],
)
def test_a_wrong_label_is_said_with_its_record(tmp_path, label, options, message):
    record = example(label=label) if label != [] else example(label=None) + _empty_label()
    source = only(tmp_path, record, **options)
    with pytest.raises(RequestError) as caught:
        source.read(0)
    assert str(caught.value).startswith(f"{tmp_path}/one.tfrecord, record 0 at byte 0: ") and message in str(
        caught.value
    )


def _empty_label():
    """Serialised messages that follow each other are merged."""
    empty = tf.train.Feature(int64_list=tf.train.Int64List())
    return tf.train.Example(features=tf.train.Features(feature={"image/class/label": empty})).SerializeToString()


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (b"garbage", "not a tf.train.Example."),
        (b"", "no feature 'image/encoded'. The record's first features: none."),
        (example(image=None), "no feature 'image/encoded'. The record's first features: 'image/class/label'."),
        (example(image=[b"a", b"b"]), "image/encoded has 2 values; expected one."),
        (example(image=7), "image/encoded is a int64_list; expected a bytes_list."),
    ],
    ids=lambda value: value if isinstance(value, str) else "",  # features are serialised in any order
)
def test_a_record_that_is_no_labelled_image(tmp_path, record, message):
    source = find(str(write(tmp_path / "x.tfrecord", [example(), record])))
    with pytest.raises(RequestError) as caught:
        source.read(1)
    assert str(caught.value) == f"{tmp_path}/x.tfrecord, record 1 at byte {len(example()) + 16}: {message}"


# --- damaged files


def test_damage_is_said_with_its_byte(tmp_path):
    size = len(example()) + 16
    path = write(tmp_path / "x.tfrecord", [example()] * 3)
    whole = path.read_bytes()

    def error(content):
        path.write_bytes(content)
        with pytest.raises(RequestError) as caught:
            source = find(str(path))
            [source.read(i) for i in range(3)]
        return str(caught.value).removeprefix(f"{path}")

    def flipped(at):
        return whole[:at] + bytes([whole[at] ^ 16]) + whole[at + 1 :]

    assert error(whole[:-1]) == (
        f" is truncated: record 2 at byte {2 * size} has {size - 16} bytes of data and would end at byte {3 * size}, "
        f"the file ends at {3 * size - 1}."
    )
    assert error(whole[: size + 5]) == f" is truncated: record 1 at byte {size} has only 5 of its first 12 bytes."
    assert error(flipped(size + 1)) == (
        f" is damaged: record 1 at byte {size} has a length that does not have its checksum."
    )
    assert error(flipped(0)) == " is not a TFRecord file, or damaged: no record begins at byte 0."
    assert (
        error(flipped(size + 20))
        == f", record 1 at byte {size}: its data are damaged, they do not have their checksum."
    )
    assert error(flipped(3 * size - 1)).endswith("its data are damaged, they do not have their checksum.")
    assert error(b"") == " is empty; remove it, or make it again."
    assert error(b"\xff\xd8\xff\xe0 a JPEG, called wrongly").startswith(" is not a TFRecord file")


def test_a_file_that_changes_after_it_was_opened(tmp_path):
    path = write(tmp_path / "x.tfrecord", [example(), example(b"another")])
    source = find(str(path))
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(
        RequestError, match="x.tfrecord, record 1 at byte .*: the file has changed since it was opened."
    ):
        source.read(1)
    write(path, [example(b"a longer JPEG than before")])
    with pytest.raises(RequestError, match="the file has changed"):
        source.read(0)
    path.unlink()
    with pytest.raises(RequestError, match="Cannot read .*x.tfrecord: No such file or directory."):
        source.read(0)


@pytest.mark.parametrize("compression", ["GZIP", "ZLIB"])
def test_compressed_files_are_refused(tmp_path, compression):
    with tf.io.TFRecordWriter(str(tmp_path / "x.tfrecord"), options=compression) as writer:
        writer.write(example())
    with pytest.raises(RequestError, match="x.tfrecord is compressed, .* Unpack it first."):
        find(str(tmp_path))


def test_a_gzipped_file_is_known_by_its_name_too(tmp_path):
    (tmp_path / "train-0-of-1.gz").write_bytes(gzip.compress(write(tmp_path / "raw", [example()]).read_bytes()))
    with pytest.raises(RequestError, match="gunzip -c .*train-0-of-1.gz > OTHER_FILE"):
        find(str(tmp_path))


@pytest.mark.parametrize(
    ("length", "size", "message"),
    [
        (2**60, 100, f"has {2**60} bytes of data and would end at byte {2**60 + 16}, the file ends at 100."),
        (2**64 - 1, 100, "would end at byte"),
        (2**33, 2**33 + 16, "images of up to 1073741824 can be read"),
    ],
)
def test_an_enormous_length_allocates_nothing(tmp_path, length, size, message):
    header = struct.pack("<Q", length)
    with open(tmp_path / "x.tfrecord", "wb") as stream:
        stream.write(header + struct.pack("<I", tfrecords._masked(crc32c(header))))
        stream.truncate(size)  # what is not written takes no space
    tracemalloc.start()
    try:
        with pytest.raises(RequestError, match=message):
            find(str(tmp_path))
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_any_flipped_byte_is_found_and_any_truncation(tmp_path):
    draw = random.Random(0)
    path = write(tmp_path / "x.tfrecord", [example(draw.randbytes(size), 1) for size in (10, 200, 70)])
    whole = path.read_bytes()
    ends = find(str(path)).offsets.tolist()

    def read_all():
        source = find(str(path))
        return [source.read(i) for i in range(len(source))]

    for _ in range(300):
        content = bytearray(whole)
        if draw.random() < 0.7:
            content[draw.randrange(len(content))] ^= draw.randrange(1, 256)
        else:
            del content[draw.choice([at for at in range(len(content)) if at not in ends[1:]]) :]
        path.write_bytes(content)
        with pytest.raises(RequestError, match="x.tfrecord"):
            read_all()


def test_noise_in_sound_frames_is_refused(tmp_path):
    """Checksums keep no one out who computes them."""
    draw, whole = random.Random(0), example(b"x" * 30, 1, other=[1.0, 2.0])
    for _ in range(200):
        record = bytearray(whole)
        for _ in range(draw.randrange(1, 4)):
            record[draw.randrange(len(record))] = draw.randrange(256)
        source = only(tmp_path, bytes(record[: draw.randrange(len(record) + 1)]))
        try:
            image, label = source.read(0)
            assert isinstance(image, bytes) and label >= 0
        except RequestError as error:
            assert "record 0 at byte 0" in str(error)


# --- which files


def test_missing_shards(tmp_path):
    for number in (0, 1, 3):
        write(tmp_path / f"train-{number:05}-of-01024", [example()])
    for spec in (tmp_path, f"{tmp_path}/train-*"):
        with pytest.raises(RequestError) as caught:
            find(str(spec))
        assert str(caught.value) == (
            f"{tmp_path}: 1021 of 1024 files of train-*-of-01024 are missing, the first is train-00002-of-01024."
        )


def test_an_absurd_number_of_shards_costs_nothing(tmp_path):
    write(tmp_path / "train-0-of-99999999999999", [example()])
    with pytest.raises(
        RequestError, match="99999999999998 of 99999999999999 files .* first is train-00000000000001-of-"
    ):
        find(str(tmp_path))


def test_some_shards_may_be_left_out_on_purpose(shards):
    folder, images = shards
    assert len(find(f"{folder}/train-0000[02]-of-00003")) == len(images) - 1
    assert len(find(f"{folder}/train-00001-of-00003")) == 1


def test_several_sets_in_a_folder(shards):
    folder, images = shards
    write(folder / "validation-0-of-1", [example()])
    with pytest.raises(RequestError) as caught:
        find(str(folder))
    assert str(caught.value) == (
        f"{folder} has several sets of TFRecords: train*, validation*. Name one of them, for example '{folder}/train*'."
    )
    assert len(find(f"{folder}/train*")) == len(images)


def test_sets_without_shards(tmp_path):
    for name in ("train.tfrecord", "val.tfrecord"):
        write(tmp_path / name, [example()])
    with pytest.raises(RequestError, match="several sets of TFRecords: train.*, val.*"):
        find(str(tmp_path))


def test_records_below_and_none_at_all(tmp_path):
    with pytest.raises(RequestError, match="has neither images nor TFRecord files in it.$"):
        find(str(tmp_path))
    (tmp_path / "train").mkdir()
    write(tmp_path / "train" / "x.tfrecord", [example()])
    with pytest.raises(RequestError, match="TFRecord files are in .*/train: name one of these."):
        find(str(tmp_path))
    with pytest.raises(RequestError, match="No file matches .*/test-.*"):
        find(f"{tmp_path}/test-*")


def test_records_beside_images(image_folder):
    write(image_folder / "x.tfrecord", [example()])
    with pytest.raises(RequestError, match="both TFRecord files \\(x.tfrecord\\) and images \\([ab]/"):
        find(str(image_folder))
