"""Read a file of torch.save, in its present format (a zip) and in that before PyTorch 1.6, without torch."""

import io
import struct
import sys
import zipfile
import zlib
from typing import Any, Literal

import numpy as np

from mobilenets_tf.errors import RequestError
from mobilenets_tf.weights.torch_pickle import DTYPES, Storage, Unpickler

ByteOrder = Literal["<", ">"]
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001


def read_zip(content: bytes) -> Any:
    """Read what torch.save wrote: plain data with ``StoredTensor`` for each tensor. Values are views of ``content``.

    Raises:
        RequestError: the zip is not one of torch.save, is damaged, or its pickle is refused.
        Exception: of any type; the file is damaged.
    """
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        infos = {info.filename.split("/", 1)[-1]: info for info in archive.infolist()}
    if "data.pkl" not in infos:
        if "constants.pkl" in infos or any(name.startswith("code/") for name in infos):
            raise RequestError("a TorchScript archive, which is a program; save the state dict instead")
        raise RequestError("a zip file, but not one of torch.save")
    if "constants.pkl" in infos:
        raise RequestError("a TorchScript archive, which is a program; save the state dict instead")
    # torch.save never compresses: a compressed entry may be a bomb.
    if any(info.compress_type != zipfile.ZIP_STORED for info in infos.values()):
        raise RequestError("its entries are compressed, which torch.save never does")
    left = len(content)
    storages: dict[str, Storage] = {}

    def entry(name: str) -> memoryview:
        nonlocal left
        if name not in infos:
            raise RequestError(f"its entry {name[:40]!r} is missing; the file is cut short")
        left -= infos[name].file_size
        if left < 0:
            raise RequestError("its entries are larger than the file")
        return _stored(content, infos[name])

    def load(kind: str, key: str, numel: int) -> Storage:
        if key not in storages:
            data = _values(kind, entry(f"data/{key}"), order)
            if len(data) < numel:
                raise RequestError(f"stored values {key[:40]}: {len(data)} of {numel}; the file is cut short")
            storages[key] = Storage(kind, numel, data)
        return storages[key]

    order: ByteOrder = ">" if "byteorder" in infos and entry("byteorder") == b"big" else "<"
    return Unpickler(load).load(io.BytesIO(entry("data.pkl")))


def _stored(content: bytes, info: zipfile.ZipInfo) -> memoryview:
    """Return the bytes of an entry that is not compressed, without copying them."""
    name, extra = struct.unpack_from("<HH", content, info.header_offset + 26)
    start = info.header_offset + 30 + name + extra
    view = memoryview(content)[start : start + info.file_size]
    if len(view) != info.file_size or zlib.crc32(view) != info.CRC:
        raise RequestError(f"its entry {info.filename[-40:]!r} is damaged")
    return view


def read_legacy(content: bytes) -> Any:
    """Read the format before PyTorch 1.6: five pickles, then every storage as a count and its raw values.

    Raises:
        RequestError: the file is not one of torch.save, is damaged, or its pickle is refused.
        Exception: of any type; the file is damaged.
    """
    stream = io.BytesIO(content)

    def no_storage(*_):
        raise RequestError("a stored object where there should be none")

    def plain() -> Any:
        return Unpickler(no_storage).load(stream)

    if plain() != _LEGACY_MAGIC:
        raise RequestError("a pickle, but not a file of torch.save; save the state dict with torch.save")
    if plain() != _LEGACY_PROTOCOL:
        raise RequestError("its protocol of torch.save is not known")
    order: ByteOrder = "<" if plain().get("little_endian", sys.byteorder == "little") else ">"
    storages: dict[str, Storage] = {}

    def load(kind: str, key: str, numel: int) -> Storage:
        return storages.setdefault(key, Storage(kind, numel))

    loaded = Unpickler(load).load(stream)
    for key in plain():
        storage = storages[str(key)]
        (numel,) = struct.unpack(f"{order}q", stream.read(8))
        size = storage.numel * DTYPES[storage.kind].itemsize
        start = stream.tell()
        if numel != storage.numel or start + size > len(content):
            raise RequestError("the file is cut short")
        storage.data = _values(storage.kind, memoryview(content)[start : start + size], order)
        stream.seek(start + size)
    return loaded


def _values(kind: str, raw: memoryview, order: ByteOrder) -> np.ndarray:
    data = np.frombuffer(raw, DTYPES[kind])
    return data if order == "<" else data.byteswap()
