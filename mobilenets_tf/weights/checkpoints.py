"""Read the tensors of weight files of unknown origin without running code from them.

A PyTorch checkpoint is a pickle, and a pickle is a program. Here it is interpreted with an allow-list of the names that
build tensors; every other name is refused before it is imported, and the error names it. Neither torch nor code of the
file is imported. HDF5 files with links out of the file are refused.
"""

import io
import math
import os
import pickle
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np

from mobilenets_tf.errors import RequestError
from mobilenets_tf.files import sha256_of
from mobilenets_tf.weights.hdf5 import open_hdf5


@dataclass(frozen=True)
class Checkpoint:
    """The tensors of one weight file. ``framework``, "torch" or "keras", tells the order of their axes."""

    path: Path
    sha256: str
    framework: str
    tensors: dict[str, np.ndarray]


def read(path: str | os.PathLike[str]) -> Checkpoint:
    """Read a weight file.

    Args:
        path: a ``.safetensors``; a ``.pth``, ``.pth.tar``, ``.pt`` or ``.bin`` in either format of torch.save; or an
            ``.h5`` in the layout of keras.applications.

    Raises:
        RequestError: the suffix is another, the file cannot be read, is damaged or has no tensors, or its pickle names
            anything that does not build a tensor.
    """
    path = Path(path)
    readers = {
        ".safetensors": ("torch", _read_safetensors),
        ".pth": ("torch", _read_torch),
        ".pt": ("torch", _read_torch),
        ".bin": ("torch", _read_torch),
        ".tar": ("torch", _read_torch),  # "name.pth.tar", which is not a tar archive
        ".h5": ("keras", _read_h5),
    }
    if path.suffix not in readers:
        raise RequestError(f"{path}: cannot read weights from {path.suffix!r} files; expected {', '.join(readers)}.")
    framework, reader = readers[path.suffix]
    try:
        tensors = reader(path)
    except RequestError:
        raise
    except OSError as error:
        raise RequestError(f"{path} cannot be read: {error}") from error
    except Exception as error:  # a hostile file may make any parser raise anything
        raise RequestError(f"{path} is damaged or not a {path.suffix} weight file ({error}).") from error
    if not tensors:
        raise RequestError(f"{path} holds no tensors.")
    return Checkpoint(path, sha256_of(path), framework, tensors)


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    from safetensors.numpy import load_file

    return load_file(path)


# ---------------------------------------------------------------------------------------------------------------- HDF5
def _read_h5(path: Path) -> dict[str, np.ndarray]:
    """Read keras.applications' layout: one group per layer, named in the ``layer_names`` attribute of the root."""
    tensors = {}
    with open_hdf5(path, path) as file:
        root = file.get("model_weights", file)
        if "layer_names" not in root.attrs:
            raise RequestError(f"{path} is not a Keras weight file of layers (it has no 'layer_names' attribute).")
        for layer in _strings(root.attrs["layer_names"]):
            for weight in _strings(root[layer].attrs["weight_names"]):
                # "conv1/conv1/kernel:0" -> "conv1.kernel"
                parameter = weight.rsplit("/", 1)[-1].split(":")[0]
                tensors[f"{layer}.{parameter}"] = np.asarray(root[layer][weight])
    return tensors


def _strings(values: Iterable[bytes | str]) -> list[str]:
    return [value.decode() if isinstance(value, bytes) else str(value) for value in values]


# ------------------------------------------------------------------------------------------------------------- PyTorch
_STORAGES = {
    "DoubleStorage": "f8", "FloatStorage": "f4", "HalfStorage": "f2", "BFloat16Storage": "bf16", "LongStorage": "i8",
    "IntStorage": "i4", "ShortStorage": "i2", "CharStorage": "i1", "ByteStorage": "u1", "BoolStorage": "?",
}  # fmt: skip
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001


@dataclass
class _Storage:
    """A flat array of a checkpoint. In the old format the values follow the pickle: until then ``data`` is None."""

    kind: str
    numel: int
    data: np.ndarray | None = None


@dataclass
class _StoredTensor:
    """The arguments of ``torch._utils._rebuild_tensor_v2``: a view of a storage."""

    storage: _Storage
    offset: int
    shape: tuple
    strides: tuple

    def array(self) -> np.ndarray:
        """Copy the tensor out of its storage, after a check that it lies within the storage.

        Raises:
            RequestError: it does not, or has no values.
        """
        if not isinstance(self.storage, _Storage) or self.storage.data is None:
            raise RequestError("a tensor has no stored values")
        flat, shape, strides = self.storage.data, tuple(self.shape), tuple(self.strides)
        sizes = (self.offset, *shape, *strides)
        if len(shape) != len(strides) or not all(isinstance(size, int) and size >= 0 for size in sizes):
            raise RequestError(f"a tensor has the impossible shape {shape} with strides {strides}")
        last = self.offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
        # The second bound refuses a huge tensor out of a tiny storage with stride 0.
        if math.prod(shape) and (last >= len(flat) or math.prod(shape) > len(flat)):
            raise RequestError(f"a tensor of shape {shape} reaches outside its {len(flat)} stored values")
        view = np.lib.stride_tricks.as_strided(
            flat[self.offset :], shape, [stride * flat.itemsize for stride in strides], writeable=False
        )
        return np.ascontiguousarray(view).reshape(shape)


def _rebuild_tensor(storage, offset, shape, strides, *_) -> _StoredTensor:
    return _StoredTensor(storage, offset, shape, strides)


def _rebuild_parameter(data, *_):
    return data


class _TensorUnpickler(pickle.Unpickler):
    """Interprets a checkpoint's pickle; only names that build tensors are allowed."""

    def __init__(self, stream: IO[bytes], load_storage: Callable[[str, str, int], _Storage]):
        super().__init__(stream, encoding="latin-1")  # some checkpoints were written by Python 2
        self._load_storage = load_storage

    def find_class(self, module: str, name: str) -> Any:
        allowed = {
            ("collections", "OrderedDict"): OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
            ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
            ("torch", "Size"): tuple,
        }
        if (module, name) in allowed:
            return allowed[module, name]
        if module in ("torch", "torch.storage") and name in _STORAGES:
            return name
        raise RequestError(
            f"refused: its pickle asks for {module}.{name}, which is not needed to store tensors and may run code. "
            "Save the state dict alone (torch.save(model.state_dict(), path)) or as .safetensors."
        )

    def persistent_load(self, identifier: Any) -> _Storage:
        if not isinstance(identifier, tuple) or identifier[0] != "storage" or identifier[1] not in _STORAGES:
            raise RequestError(f"an unknown kind of stored object: {identifier!r:.80}")
        _, kind, key, _, numel, *_ = identifier
        return self._load_storage(kind, str(key), int(numel))


def _decode(kind: str, raw: bytes, byte_order: Literal["<", ">"] = "<") -> np.ndarray:
    if _STORAGES[kind] == "bf16":  # the upper half of a float32
        return (np.frombuffer(raw, f"{byte_order}u2").astype(np.uint32) << 16).view(np.float32)
    return np.frombuffer(raw, np.dtype(_STORAGES[kind]).newbyteorder(byte_order))


def _read_torch(path: Path) -> dict[str, np.ndarray]:
    try:
        loaded = _read_torch_zip(path) if zipfile.is_zipfile(path) else _read_torch_legacy(path)
        return {name: tensor.array() for name, tensor in _state_dict(loaded).items()}
    except RequestError as error:
        raise RequestError(f"{path}: {error}") from error


def _read_torch_zip(path: Path) -> Any:
    with zipfile.ZipFile(path) as archive:
        entries = {name.split("/", 1)[-1]: name for name in archive.namelist()}
        if "data.pkl" not in entries:
            if "constants.pkl" in entries or any(name.startswith("code/") for name in entries):
                raise RequestError("a TorchScript archive, which is a program; save the state dict instead")
            raise RequestError("a zip file, but not one of torch.save")
        # torch.save never compresses: a compressed entry may be a bomb.
        if any(info.compress_type != zipfile.ZIP_STORED for info in archive.infolist()):
            raise RequestError("its entries are compressed, which torch.save never does")
        big = "byteorder" in entries and archive.read(entries["byteorder"]) == b"big"
        order: Literal["<", ">"] = ">" if big else "<"
        storages: dict[str, _Storage] = {}

        def load(kind: str, key: str, numel: int) -> _Storage:
            if key not in storages:
                data = _decode(kind, archive.read(entries[f"data/{key}"]), order)
                if len(data) < numel:
                    raise RequestError(f"stored values {key}: {len(data)} of {numel}; the file is cut short")
                storages[key] = _Storage(kind, numel, data)
            return storages[key]

        return _TensorUnpickler(io.BytesIO(archive.read(entries["data.pkl"])), load).load()


def _read_torch_legacy(path: Path) -> Any:
    """Read the format before PyTorch 1.6: five pickles, then every storage as a count and its raw values."""
    with open(path, "rb") as stream:

        def no_storage(*_):
            raise RequestError("a stored object where there should be none")

        def header():
            return _TensorUnpickler(stream, no_storage).load()

        if header() != _LEGACY_MAGIC:
            raise RequestError("not a file of torch.save")
        if (protocol := header()) != _LEGACY_PROTOCOL:
            raise RequestError(f"protocol {protocol!r} of torch.save is not known")
        order: Literal["<", ">"] = "<" if header().get("little_endian", sys.byteorder == "little") else ">"
        storages: dict[str, _Storage] = {}

        def load(kind: str, key: str, numel: int) -> _Storage:
            return storages.setdefault(key, _Storage(kind, numel))

        loaded = _TensorUnpickler(stream, load).load()
        for key in header():
            storage = storages[str(key)]
            size = 2 if _STORAGES[storage.kind] == "bf16" else np.dtype(_STORAGES[storage.kind]).itemsize
            (numel,) = np.frombuffer(stream.read(8), f"{order}i8")
            raw = stream.read(int(numel) * size) if numel == storage.numel else b""
            if numel != storage.numel or len(raw) != numel * size:
                raise RequestError("the file is cut short")
            storage.data = _decode(storage.kind, raw, order)
        return loaded


def _state_dict(loaded: Any) -> dict[str, _StoredTensor]:
    """Return the tensors of a checkpoint, which may be under one of the usual keys of training scripts."""
    for key in ("state_dict_ema", "state_dict", "model_ema", "model"):
        if isinstance(loaded, dict) and isinstance(loaded.get(key), dict):
            loaded = loaded[key]
            break
    if not isinstance(loaded, dict):
        raise RequestError(f"it holds a {type(loaded).__name__}, not a state dict of named tensors")
    # DataParallel puts "module." before every name.
    return {str(k).removeprefix("module."): v for k, v in loaded.items() if isinstance(v, _StoredTensor)}
