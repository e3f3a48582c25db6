"""Weight files from elsewhere: read without torch, and nothing in them is run."""

import io
import os
import pickle
import struct
import sys
import types
import zipfile
from collections import OrderedDict

import h5py
import ml_dtypes
import numpy as np
import pytest

from mobilenets_tf import RequestError
from mobilenets_tf.weights import checkpoints

TENSORS = {
    "conv.weight": np.arange(24, dtype=np.float32).reshape(2, 3, 2, 2),
    "half": np.array([1.5, -2.0], np.float16),
    "count": np.array(7, np.int64),
}
STORAGE = {
    "float32": "FloatStorage", "float16": "HalfStorage", "int64": "LongStorage", "bfloat16": "BFloat16Storage",
}  # fmt: skip


class Stored:
    """Pickles as torch's storage does: by reference."""

    def __init__(self, key, array):
        self.key, self.array = key, array


class Tensor:
    def __init__(self, key, array, shape=None, strides=None):
        self.stored = Stored(key, array)
        self.shape = array.shape if shape is None else shape
        self.strides = [s // array.itemsize for s in array.strides] if strides is None else strides


@pytest.fixture
def torch_names(monkeypatch):
    """Empty modules of torch's names, so that pickle will write them down."""
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")

    def _rebuild_tensor_v2():
        raise AssertionError("the real one must never be called")

    _rebuild_tensor_v2.__module__ = "torch._utils"
    _rebuild_tensor_v2.__qualname__ = "_rebuild_tensor_v2"
    utils._rebuild_tensor_v2, torch._utils = _rebuild_tensor_v2, utils
    for name in STORAGE.values():
        setattr(torch, name, type(name, (), {"__module__": "torch"}))
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setitem(sys.modules, "torch._utils", utils)
    return torch


def pickled(content, torch, legacy=False):
    class Pickler(pickle.Pickler):
        def persistent_id(self, obj):
            if isinstance(obj, Stored):
                kind = getattr(torch, STORAGE[obj.array.dtype.name])
                return ("storage", kind, obj.key, "cpu", obj.array.size, *([None] if legacy else []))
            return None

        def reducer_override(self, obj):
            if isinstance(obj, Tensor):
                arguments = (obj.stored, 0, tuple(obj.shape), tuple(obj.strides), False, OrderedDict())
                return torch._utils._rebuild_tensor_v2, arguments
            return NotImplemented

    stream = io.BytesIO()
    Pickler(stream, protocol=2).dump(content)
    return stream.getvalue()


def write_zip(path, content, torch, compression=zipfile.ZIP_STORED, tensors=TENSORS):
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", pickled(content, torch))
        for index, array in enumerate(tensors.values()):
            archive.writestr(f"archive/data/{index}", array.tobytes())


def write_legacy(path, content, torch):
    with open(path, "wb") as stream:
        for header in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}):
            pickle.dump(header, stream, protocol=2)
        stream.write(pickled(content, torch, legacy=True))
        pickle.dump([str(i) for i in range(len(TENSORS))], stream, protocol=2)
        for array in TENSORS.values():
            stream.write(struct.pack("<q", array.size) + array.tobytes())


def state():
    return OrderedDict((name, Tensor(str(i), array)) for i, (name, array) in enumerate(TENSORS.items()))


@pytest.mark.parametrize("write", [write_zip, write_legacy])
@pytest.mark.parametrize("wrapped", [False, True])
def test_both_formats_of_pytorch(tmp_path, torch_names, write, wrapped):
    content = {"state_dict": {f"module.{k}": v for k, v in state().items()}, "epoch": 3} if wrapped else state()
    write(tmp_path / "w.pth", content, torch_names)
    read = checkpoints.read(tmp_path / "w.pth")
    assert read.framework == "torch" and list(read.tensors) == list(TENSORS)
    for name, array in TENSORS.items():
        assert read.tensors[name].dtype == array.dtype
        np.testing.assert_array_equal(read.tensors[name], array)


def test_strided_tensor(tmp_path, torch_names):
    array = np.arange(6, dtype=np.float32)
    content = {"t": Tensor("0", array, shape=(2, 3), strides=(1, 2))}
    write_zip(tmp_path / "w.pt", content, torch_names, tensors={"t": array})
    np.testing.assert_array_equal(checkpoints.read(tmp_path / "w.pt").tensors["t"], array.reshape(3, 2).T)


class Evil:
    def __init__(self, function, argument):
        self.call = function, (argument,)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("write", [write_zip, write_legacy])
@pytest.mark.parametrize("function", [os.system, eval, __import__])
def test_a_pickle_that_runs_code_is_refused_by_name(tmp_path, torch_names, write, function):
    target = tmp_path / "ran"
    write(tmp_path / "w.pth", OrderedDict(state(), evil=Evil(function, f"touch {target}")), torch_names)
    with pytest.raises(RequestError, match=rf"\.{function.__name__}, which is not needed"):
        checkpoints.read(tmp_path / "w.pth")
    assert not target.exists()


def test_evil_before_the_tensors_of_the_old_format(tmp_path):
    target = tmp_path / "ran"
    with open(tmp_path / "w.pth", "wb") as stream:
        pickle.dump(Evil(os.system, f"touch {target}"), stream)
    with pytest.raises(RequestError, match="system"):
        checkpoints.read(tmp_path / "w.pth")
    assert not target.exists()


@pytest.mark.parametrize(
    ("shape", "strides"), [((4, 4), (4, 1)), ((10**6, 10**6), (0, 0)), ((2, -3), (1, 1)), ((2,), (10**9,))]
)
def test_tensors_that_reach_outside_their_storage(tmp_path, torch_names, shape, strides):
    array = np.arange(6, dtype=np.float32)
    write_zip(tmp_path / "w.pt", {"t": Tensor("0", array, shape, strides)}, torch_names, tensors={"t": array})
    with pytest.raises(RequestError, match="tensor of shape|impossible shape"):
        checkpoints.read(tmp_path / "w.pt")


def test_compressed_storage_is_refused(tmp_path, torch_names):
    write_zip(tmp_path / "w.pt", state(), torch_names, compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(RequestError, match="compressed"):
        checkpoints.read(tmp_path / "w.pt")


@pytest.mark.parametrize("write", [write_zip, write_legacy])
@pytest.mark.parametrize("kept", [0, 1, 40, 200, -8])
def test_truncated_files(tmp_path, torch_names, write, kept):
    write(tmp_path / "w.pth", state(), torch_names)
    content = (tmp_path / "w.pth").read_bytes()
    (tmp_path / "w.pth").write_bytes(content[:kept])
    with pytest.raises(RequestError, match=r"w\.pth"):
        checkpoints.read(tmp_path / "w.pth")


def test_bfloat16(tmp_path, torch_names):
    array = np.array([1.0, -2.5, 3.0], ml_dtypes.bfloat16)
    write_zip(tmp_path / "w.pt", {"t.weight": Tensor("0", array)}, torch_names, tensors={"t": array})
    read = checkpoints.read(tmp_path / "w.pt").tensors["t.weight"]
    np.testing.assert_array_equal(read.astype(np.float32), [1.0, -2.5, 3.0])


def test_safetensors(tmp_path):
    from safetensors.numpy import save_file

    save_file(TENSORS, tmp_path / "w.safetensors")
    read = checkpoints.read(tmp_path / "w.safetensors")
    np.testing.assert_array_equal(read.tensors["conv.weight"], TENSORS["conv.weight"])
    (tmp_path / "w.safetensors").write_bytes(b"\xff" * 64)
    with pytest.raises(RequestError, match="damaged"):
        checkpoints.read(tmp_path / "w.safetensors")


def write_h5(path):
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [b"conv1"]
        file.create_group("conv1").attrs["weight_names"] = [b"conv1/kernel:0"]
        file["conv1/conv1/kernel:0"] = TENSORS["conv.weight"]


def test_keras_h5(tmp_path):
    write_h5(tmp_path / "w.h5")
    read = checkpoints.read(tmp_path / "w.h5")
    assert read.framework == "keras"
    np.testing.assert_array_equal(read.tensors["conv1.kernel"], TENSORS["conv.weight"])


def test_h5_that_points_at_another_file_is_refused(tmp_path):
    write_h5(tmp_path / "secret.h5")
    with h5py.File(tmp_path / "w.h5", "w") as file:
        file.attrs["layer_names"] = [b"conv1"]
        file["conv1"] = h5py.ExternalLink("secret.h5", "conv1")
    with pytest.raises(RequestError, match="link to elsewhere"):
        checkpoints.read(tmp_path / "w.h5")


def test_unknown_suffix_and_empty_file(tmp_path, torch_names):
    (tmp_path / "w.onnx").write_bytes(b"x")
    with pytest.raises(RequestError, match=r"'\.onnx'"):
        checkpoints.read(tmp_path / "w.onnx")
    write_zip(tmp_path / "w.pth", {}, torch_names)
    with pytest.raises(RequestError, match="no tensors"):
        checkpoints.read(tmp_path / "w.pth")
