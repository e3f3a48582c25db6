"""Read tensors out of weight files from elsewhere without running anything in them.

A PyTorch checkpoint is a pickle, and a pickle is a program. Here it is interpreted with an allow-list of the names that
build tensors; every other name is refused, by name, before it is looked up. Neither torch nor the file's own code is
imported. HDF5 files with links out of the file are refused.
"""

import io
import math
import pickle
import sys
import zipfile
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mobilenets_tf.errors import RequestError
from mobilenets_tf.files import sha256_of
from mobilenets_tf.weights.hdf5 import open_hdf5


@dataclass(frozen=True)
class Checkpoint:
    """The tensors of one weight file. ``framework`` ("torch" or "keras") says how their axes are ordered."""

    path: Path
    sha256: str
    framework: str
    tensors: dict[str, np.ndarray]


def read(path) -> Checkpoint:
    """Read a ``.safetensors``, a ``.pth``, ``.pth.tar``, ``.pt`` or ``.bin`` (either format), or a Keras ``.h5``.

    Raises:
        RequestError: the suffix is not one of these, the file is damaged, or a pickle in it names anything that does
            not build a tensor.
    """
    path = Path(path)
    readers = {
        ".safetensors": ("torch", _read_safetensors),
        ".pth": ("torch", _read_torch),
        ".pt": ("torch", _read_torch),
        ".bin": ("torch", _read_torch),
        ".tar": ("torch", _read_torch),  # "name.pth.tar", which is no tar archive
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
    """keras.applications' layout: a group a layer, named in the ``layer_names`` attribute of the root."""
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


def _strings(values) -> list[str]:
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
    """A run of numbers; ``data`` arrives when it is read (in the old format, after the pickle)."""

    kind: str
    numel: int
    data: np.ndarray | None = None


@dataclass
class _StoredTensor:
    """What ``torch._utils._rebuild_tensor_v2`` is told."""

    storage: _Storage
    offset: int
    shape: tuple
    strides: tuple

    def array(self) -> np.ndarray:
        """The tensor as an array of its own; the bounds are checked before memory is touched."""
        if not isinstance(self.storage, _Storage) or self.storage.data is None:
            raise RequestError("a tensor has no stored values")
        flat, shape, strides = self.storage.data, tuple(self.shape), tuple(self.strides)
        sizes = (self.offset, *shape, *strides)
        if len(shape) != len(strides) or not all(isinstance(size, int) and size >= 0 for size in sizes):
            raise RequestError(f"a tensor has the impossible shape {shape} with strides {strides}")
        last = self.offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
        # The second bound keeps a tiny storage with stride 0 from being blown up to any size.
        if math.prod(shape) and (last >= len(flat) or math.prod(shape) > len(flat)):
            raise RequestError(f"a tensor of shape {shape} reaches outside its {len(flat)} stored values")
        view = np.lib.stride_tricks.as_strided(
            flat[self.offset :], shape, [stride * flat.itemsize for stride in strides], writeable=False
        )
        return np.ascontiguousarray(view).reshape(shape)


def _rebuild_tensor(storage, offset, shape, strides, *_):
    return _StoredTensor(storage, offset, shape, strides)


def _rebuild_parameter(data, *_):
    return data


class _TensorUnpickler(pickle.Unpickler):
    """Interprets a checkpoint's pickle with nothing but the names that build tensors."""

    def __init__(self, stream, load_storage):
        super().__init__(stream, encoding="latin-1")  # some checkpoints were written by Python 2
        self._load_storage = load_storage

    def find_class(self, module, name):
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

    def persistent_load(self, identifier):
        if not isinstance(identifier, tuple) or identifier[0] != "storage" or identifier[1] not in _STORAGES:
            raise RequestError(f"an unknown kind of stored object: {identifier!r:.80}")
        _, kind, key, _, numel, *_ = identifier
        return self._load_storage(kind, str(key), int(numel))


def _decode(kind: str, raw: bytes, byte_order: str = "<") -> np.ndarray:
    if _STORAGES[kind] == "bf16":  # the upper half of a float32
        return (np.frombuffer(raw, f"{byte_order}u2").astype(np.uint32) << 16).view(np.float32)
    return np.frombuffer(raw, np.dtype(_STORAGES[kind]).newbyteorder(byte_order))


def _read_torch(path: Path) -> dict[str, np.ndarray]:
    try:
        loaded = _read_torch_zip(path) if zipfile.is_zipfile(path) else _read_torch_legacy(path)
        return {name: tensor.array() for name, tensor in _state_dict(loaded).items()}
    except RequestError as error:
        raise RequestError(f"{path}: {error}") from error


def _read_torch_zip(path: Path):
    with zipfile.ZipFile(path) as archive:
        entries = {name.split("/", 1)[-1]: name for name in archive.namelist()}
        if "data.pkl" not in entries:
            if "constants.pkl" in entries or any(name.startswith("code/") for name in entries):
                raise RequestError("a TorchScript archive, which is a program; save the state dict instead")
            raise RequestError("a zip file, but not one of torch.save")
        # torch.save never compresses: a compressed entry may be a bomb.
        if any(info.compress_type != zipfile.ZIP_STORED for info in archive.infolist()):
            raise RequestError("its entries are compressed, which torch.save never does")
        order = ">" if "byteorder" in entries and archive.read(entries["byteorder"]) == b"big" else "<"
        storages: dict[str, _Storage] = {}

        def load(kind, key, numel):
            if key not in storages:
                data = _decode(kind, archive.read(entries[f"data/{key}"]), order)
                if len(data) < numel:
                    raise RequestError(f"stored values {key}: {len(data)} of {numel}; the file is cut short")
                storages[key] = _Storage(kind, numel, data)
            return storages[key]

        return _TensorUnpickler(io.BytesIO(archive.read(entries["data.pkl"])), load).load()


def _read_torch_legacy(path: Path):
    """The format before PyTorch 1.6: five pickles, then every storage as a count and its raw values."""
    with open(path, "rb") as stream:

        def no_storage(*_):
            raise RequestError("a stored object where there should be none")

        def header():
            return _TensorUnpickler(stream, no_storage).load()

        if header() != _LEGACY_MAGIC:
            raise RequestError("not a file of torch.save")
        if (protocol := header()) != _LEGACY_PROTOCOL:
            raise RequestError(f"protocol {protocol!r} of torch.save is not known")
        order = "<" if header().get("little_endian", sys.byteorder == "little") else ">"
        storages: dict[str, _Storage] = {}

        def load(kind, key, numel):
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


def _state_dict(loaded) -> dict[str, _StoredTensor]:
    """The tensors of a checkpoint: itself, or what it keeps under a training script's usual keys."""
    for key in ("state_dict_ema", "state_dict", "model_ema", "model"):
        if isinstance(loaded, dict) and isinstance(loaded.get(key), dict):
            loaded = loaded[key]
            break
    if not isinstance(loaded, dict):
        raise RequestError(f"it holds a {type(loaded).__name__}, not a state dict of named tensors")
    # DataParallel puts "module." before every name.
    return {str(k).removeprefix("module."): v for k, v in loaded.items() if isinstance(v, _StoredTensor)}
