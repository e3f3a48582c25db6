"""TFRecord files as numbered images, which any thread may read in any order.

A TFRecord file has, for one record after the other: its length (8 bytes, little-endian), the length's checksum (4
bytes), the data, and the data's checksum (4 bytes); checksums are masked CRC-32C (TensorFlow's record_writer.h). So the
records of a file are indexed by reading twelve bytes of each. A file is opened for each record and closed again, which
takes a few microseconds; so there may be any number of files, and nothing is shared between threads or processes.
"""

import errno
import glob
import itertools
import os
import re
import struct
from array import array
from bisect import bisect_right
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from mobilenets_tf.data.listing import entries_of, is_a_tools
from mobilenets_tf.errors import RequestError
from mobilenets_tf.progress import Progress, silent, track

# Names of TFRecord files: x.tfrecord and the like, and shards, train-00000-of-01024 or x.tfrecord-00000-of-00010.
_SHARD = re.compile(r"(?P<stem>.*)-(?P<number>\d+)-of-(?P<total>\d+)(?P<suffix>(\.tfrec(ords?)?)?(\.gz)?)$")
_SINGLE = re.compile(r"(?P<stem>.*?)[-_]?\d*(?P<suffix>\.tfrec(ords?)?(\.gz)?)$")

_HEADER = struct.Struct("<QI")
_FRAME = _HEADER.size + 4
# No image is larger; this also bounds the memory that a damaged length can ask for.
_LARGEST = 2**30


@dataclass(frozen=True)
class Layout:
    """The names of two features of a ``tf.train.Example``, the encoded image and its label, and the label of the first
    class.
    """

    image: str
    label: str
    label_offset: int


# tensorflow/models, research/inception (build_imagenet_data.py): 1 to 1000, 0 being the background.
IMAGENET = Layout("image/encoded", "image/class/label", 1)


@dataclass(frozen=True)
class Part:
    """Some records of a file: ``take`` records (None: all) after the first ``skip``.

    holds: how many records the file must have in all; None where that is not known.
    """

    file: str
    skip: int = 0
    take: int | None = None
    holds: int | None = None


@dataclass(frozen=True, eq=False)
class Records:
    """A ``sources.Source`` of records; made by ``open_records``.

    files, skips: the file of each part, and how many of the file's records come before the part.
    firsts: the number of each part's first image.
    offsets, lengths: int64 (images,): the byte where an image's record begins, and the bytes of data in the record.
    """

    files: tuple[str, ...]
    skips: tuple[int, ...]
    firsts: tuple[int, ...]
    offsets: np.ndarray
    lengths: np.ndarray
    class_names: tuple[str, ...]
    layout: Layout

    def __len__(self) -> int:
        return len(self.offsets)

    def class_counts(self) -> None:
        """None: the labels are in the records, and these are not read yet."""

    def name(self, i: int) -> str:
        i = range(len(self))[i]
        part = bisect_right(self.firsts, i) - 1
        number = i - self.firsts[part] + self.skips[part]
        return f"{self.files[part]}, record {number} at byte {self.offsets[i]}"

    def read(self, i: int) -> tuple[bytes, int]:
        """Read an encoded image and its class index.

        Raises:
            RequestError: the record has changed or is damaged, is no ``tf.train.Example`` of this layout, or its label
                is none of the classes.
        """
        return self._image_and_class(i, self._data(i))

    def _data(self, i: int) -> bytes:
        i = range(len(self))[i]
        file = self.files[bisect_right(self.firsts, i) - 1]
        length = int(self.lengths[i])
        with _explained(file), open(file, "rb") as stream:
            stream.seek(int(self.offsets[i]))
            record = stream.read(length + _FRAME)
        if len(record) < length + _FRAME or _HEADER.unpack_from(record)[0] != length:
            raise RequestError(f"{self.name(i)}: the file has changed since it was opened.")
        data = record[_HEADER.size : -4]
        if _masked(crc32c(data)) != int.from_bytes(record[-4:], "little"):
            raise RequestError(f"{self.name(i)}: its data are damaged, they do not have their checksum.")
        return data

    def _image_and_class(self, i: int, data: bytes) -> tuple[bytes, int]:
        import tensorflow as tf
        from google.protobuf.message import DecodeError

        try:
            features = tf.train.Example.FromString(data).features.feature
        except DecodeError as error:
            raise RequestError(f"{self.name(i)}: not a tf.train.Example.") from error
        image = self._value(i, features, self.layout.image, "bytes_list")
        stored = self._value(i, features, self.layout.label, "int64_list")
        first, classes = self.layout.label_offset, len(self.class_names)
        if stored < first or (classes and stored >= first + classes):
            expected = f"{first} to {first + classes - 1}" if classes else f"at least {first}"
            raise RequestError(
                f"{self.name(i)}: {self.layout.label} is {stored}; expected {expected} (label_offset={first})."
            )
        return image, stored - first

    def _value(self, i: int, features, key: str, kind: str):
        if key not in features:
            names = ", ".join(repr(name[:60]) for name in sorted(features)[:5]) or "none"
            raise RequestError(f"{self.name(i)}: no feature {key!r}. The record's first features: {names}.")
        feature = features[key]
        if feature.WhichOneof("kind") != kind:
            raise RequestError(f"{self.name(i)}: {key} is a {feature.WhichOneof('kind')}; expected a {kind}.")
        values = getattr(feature, kind).value
        if len(values) != 1:
            raise RequestError(f"{self.name(i)}: {key} has {len(values)} values; expected one.")
        return values[0]


def open_records(
    parts: Sequence[Part],
    class_names: Sequence[str] = (),
    layout: Layout = IMAGENET,
    progress: Progress = silent,
) -> Records:
    """Index files by reading the twelve bytes before each record's data; several files at a time.

    Raises:
        RequestError: a file cannot be read, is no TFRecord file, or is compressed, truncated, damaged or empty. The
            message names the byte of the first error.
    """
    files = sorted({part.file for part in parts})
    with ThreadPoolExecutor(min(32, len(files))) as pool:
        walks = [pool.submit(_walk, file) for file in files]
        try:
            results = [walk.result() for walk in track(walks, "Indexing TFRecords", progress)]
        finally:
            pool.shutdown(wait=False, cancel_futures=True)  # after an error, the files behind it do not matter
    index = dict(zip(files, results, strict=True))
    for part in parts:
        count = len(index[part.file][0])
        if part.holds is not None and count != part.holds:
            raise RequestError(f"{part.file} has {count} records; its dataset says {part.holds}. Prepare it again.")
    spans = [slice(part.skip, None if part.take is None else part.skip + part.take) for part in parts]
    offsets, lengths = (
        [index[part.file][which][span] for part, span in zip(parts, spans, strict=True)] for which in (0, 1)
    )
    return Records(
        files=tuple(part.file for part in parts),
        skips=tuple(part.skip for part in parts),
        firsts=tuple(itertools.accumulate((len(of_part) for of_part in offsets[:-1]), initial=0)),
        offsets=np.concatenate(offsets),
        lengths=np.concatenate(lengths),
        class_names=tuple(class_names),
        layout=layout,
    )


def _walk(file: str) -> tuple[np.ndarray, np.ndarray]:
    """The byte where each record begins, and how many bytes of data each has."""
    offsets, lengths = array("q"), array("q")
    with _explained(file), open(file, "rb", buffering=0) as stream:
        descriptor = stream.fileno()
        size = os.fstat(descriptor).st_size
        at = 0
        while at < size:
            header = os.pread(descriptor, _HEADER.size, at)
            where = f"record {len(offsets)} at byte {at}"
            if len(header) < _HEADER.size:
                raise RequestError(f"{file} is truncated: {where} has only {len(header)} of its first 12 bytes.")
            length, checksum = _HEADER.unpack(header)
            if _masked(_crc32c_of_few(header[:8])) != checksum:
                raise _no_record(file, where, at, header)
            if at + length + _FRAME > size:
                raise RequestError(
                    f"{file} is truncated: {where} has {length} bytes of data and would end at byte "
                    f"{at + length + _FRAME}, the file ends at {size}."
                )
            if length > _LARGEST:
                raise RequestError(f"{file}: {where} has {length} bytes; images of up to {_LARGEST} can be read.")
            offsets.append(at)
            lengths.append(length)
            at += length + _FRAME
    if not offsets:
        raise RequestError(f"{file} is empty; remove it, or make it again.")
    return np.array(offsets, np.int64), np.array(lengths, np.int64)


def _no_record(file: str, where: str, at: int, header: bytes) -> RequestError:
    if at:
        return RequestError(f"{file} is damaged: {where} has a length that does not have its checksum.")
    if header[:2] == b"\x1f\x8b" or header[:2] in (b"\x78\x01", b"\x78\x9c", b"\x78\xda"):
        unpack = f"  gunzip -c {file} > OTHER_FILE" if header[0] == 0x1F else ""
        return RequestError(f"{file} is compressed, and can only be read from its beginning. Unpack it first.{unpack}")
    return RequestError(f"{file} is not a TFRecord file, or damaged: no record begins at byte 0.")


@contextmanager
def _explained(file: str):
    try:
        yield
    except OSError as error:
        remedy = " Raise the limit of open files (ulimit -n)." if error.errno == errno.EMFILE else ""
        raise RequestError(f"Cannot read {file}: {error.strerror or error}.{remedy}") from error


def is_records(path: Path) -> bool:
    """Whether a file has the name of a TFRecord file."""
    return bool(_SHARD.fullmatch(path.name) or _SINGLE.fullmatch(path.name))


def in_folder(folder: Path) -> list[str]:
    """List the TFRecord files of a folder, in natural order; empty where there are none.

    Raises:
        RequestError: the folder has several sets of TFRecords, such as train-* and validation-*, or shards are missing.
    """
    files = [path for path in entries_of(folder) if is_records(path)]
    sets = sorted({_set_of(path) for path in files})
    if len(sets) > 1:
        stems = list(dict.fromkeys(stem for stem, *_ in sets))
        raise RequestError(
            f"{folder} has several sets of TFRecords: {', '.join(f'{stem}*' for stem in stems[:5])}. Name one of them, "
            f"for example {str(folder / stems[0]) + '*'!r}."
        )
    return _complete(files)


def matching(pattern: str) -> list[str]:
    """List the files that a pattern such as "imagenet/train-*" matches, in natural order. A pattern may leave out
    shards, but those of its sets must all be in the folder.

    Raises:
        RequestError: no file matches, or shards are missing.
    """
    names = glob.glob(pattern, recursive=True)
    files = [Path(name) for name in names if os.path.isfile(name) and not is_a_tools(os.path.basename(name))]
    if not files:
        raise RequestError(f"No file matches {pattern!r}.")
    return _complete(files)


def _set_of(path: Path) -> tuple[str, str, str]:
    shard = _SHARD.fullmatch(path.name)
    match = shard or _SINGLE.fullmatch(path.name)
    assert match, "only files of these names are asked about"
    return match["stem"], shard["total"] if shard else "", match["suffix"]


def _complete(files: Sequence[Path]) -> list[str]:
    """Sort files; an error where shards of their sets are missing."""
    for folder in sorted({path.parent for path in files}):
        sets = {_set_of(path) for path in files if path.parent == folder and _SHARD.fullmatch(path.name)}
        shards = [path for path in entries_of(folder) if _SHARD.fullmatch(path.name)] if sets else []
        for stem, total, suffix in sorted(sets):
            same = (path.name for path in shards if _set_of(path) == (stem, total, suffix))
            numbers = {int(match["number"]) for match in map(_SHARD.fullmatch, same) if match}
            if (missing := int(total) - sum(number < int(total) for number in numbers)) > 0:
                first = next(number for number in itertools.count() if number not in numbers)
                raise RequestError(
                    f"{folder}: {missing} of {int(total)} files of {stem}-*-of-{total}{suffix} are missing, the first "
                    f"is {stem}-{first:0{len(total)}}-of-{total}{suffix}."
                )
    return [str(path) for path in sorted(files, key=lambda path: _natural(str(path)))]


def _natural(text: str) -> list:
    return [int(piece) if piece.isdigit() else piece for piece in re.split(r"(\d+)", text)]


# CRC-32C. TensorFlow has it in C++, but Python reaches it through private classes alone (RandomRecordReader). Here
# NumPy looks up the contribution of each of 64 bytes, by its place, to the checksum, and combines the contributions by
# exclusive or, for all blocks of 64 bytes at once. The states of sixteen blocks are 64 bytes again, and are combined in
# the same way with other tables, and so on.


def _table_of_bytes() -> np.ndarray:
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, table >> 1 ^ np.uint32(0x82F63B78), table >> 1)
    return table


_BYTE = _table_of_bytes()
_BYTE_LIST = _BYTE.tolist()
# (4, 256): the states that have one byte, by its place and value.
_STATES = np.arange(256, dtype=np.uint32) << (8 * np.arange(4, dtype=np.uint32)[:, None])
_PLACES = np.arange(64) * 256


def _apply(step: np.ndarray, states: np.ndarray) -> np.ndarray:
    return step[0][states & 255] ^ step[1][states >> 8 & 255] ^ step[2][states >> 16 & 255] ^ step[3][states >> 24]


@cache
def _zeros(power: int) -> np.ndarray:
    """Each of ``_STATES`` after 2 to the power of ``power`` bytes of zero."""
    if power == 0:
        return _BYTE[_STATES & 255] ^ _STATES >> 8
    return _apply(_zeros(power - 1), _zeros(power - 1))


@cache
def _table(level: int) -> np.ndarray:
    """The contribution of a byte to the checksum, by its place among 64 and its value, flat. Level 0: bytes of data;
    level n: the four bytes of each of sixteen states, each the state after 64 times 16**(n - 1) bytes."""
    rows, count, step = (_BYTE[None], 64, _zeros(0)) if level == 0 else (_STATES, 16, _zeros(6 + 4 * (level - 1)))
    behind = itertools.accumulate(range(count - 1), lambda states, _: _apply(step, states), initial=rows)
    return np.concatenate(list(behind)[::-1]).ravel()


def crc32c(data: bytes) -> int:
    """Compute the CRC-32C (Castagnoli) of some bytes; takes 0.2 ms for 100 KB."""
    values = np.frombuffer(data, np.uint8)
    if len(values) < 4:
        return _crc32c_of_few(data)
    level = 0
    while True:
        # The register begins with ones. With these put into the first four bytes instead, it begins with zero, and
        # zeros in front of the data change nothing.
        padded = np.concatenate([np.zeros(-len(values) % 64, np.uint8), values])
        if level == 0:
            padded[-len(values) :][:4] ^= 255
        blocks = padded.reshape(-1, 64)
        states = np.empty(len(blocks), "<u4")
        for at in range(0, len(blocks), 2048):  # few enough that the contributions stay in the processor's cache
            contributions = _table(level).take(blocks[at : at + 2048] + _PLACES, mode="clip")
            np.bitwise_xor.reduce(contributions, axis=1, out=states[at : at + 2048])
        if len(states) == 1:
            return int(states[0]) ^ 0xFFFFFFFF
        values = states.view(np.uint8)
        level += 1


def _crc32c_of_few(data: bytes) -> int:
    state = 0xFFFFFFFF
    for byte in data:
        state = state >> 8 ^ _BYTE_LIST[(state ^ byte) & 255]
    return state ^ 0xFFFFFFFF


def _masked(checksum: int) -> int:
    return ((checksum >> 15 | checksum << 17) + 0xA282EAD8) & 0xFFFFFFFF
