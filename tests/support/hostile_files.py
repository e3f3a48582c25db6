"""Damaged and hostile files of every format that the package reads, and what a reader may do with them.

``hostile()`` gives files that were made to do harm, ``damaged()`` seeded mutations of good files. ``read`` reads a file
as the verbs do, in this process, and measures. benchmarks/hostile.py runs some hundred files in processes of their own;
tests/weights/test_hostile.py a few in its own.
"""

import functools
import io
import json
import os
import random
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from mobilenets_tf import RequestError

TF_KERAS_FILES = np.load(Path(__file__).with_name("tf_keras_files.npz"))
# A file may take this much memory beyond twelve times its size, and this much processor time (child processes too).
MEMORY, SECONDS = 300 << 20, 30.0


@dataclass(frozen=True)
class Outcome:
    """What happened to one file: the error's type and first words ("read" without an error), seconds of the processor,
    and bytes by which memory grew at the peak."""

    name: str
    told: str
    seconds: float
    growth: int
    size: int

    @property
    def is_fine(self) -> bool:
        """Whether the file was read, or refused with a ``RequestError``, in bounded time and memory."""
        bounded = self.seconds < SECONDS and self.growth < MEMORY + 12 * self.size
        return bounded and (self.told == "read" or self.told.startswith("RequestError"))


def read(path: Path) -> Outcome:
    """Read a file with the reader of its kind, which its name begins with, and measure."""
    reader = READERS[path.name.split("-")[0]]
    _reset_peak()
    before, start = _memory("VmRSS"), _processor_time()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            reader(path)
        told = "read"
    except BaseException as error:  # whatever comes is the result
        kind = RequestError if isinstance(error, RequestError) else type(error)
        told = f"{kind.__name__}: {str(error)[:400]}"
    return Outcome(path.name, told, _processor_time() - start, _memory("VmHWM") - before, size_of(path))


def size_of(path: Path) -> int:
    """Return the bytes of a file, or of the files in a folder."""
    return sum(each.stat().st_size for each in (path, *path.rglob("*")) if each.is_file())


def _processor_time() -> float:
    return sum(os.times()[:4])


def _reset_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def _memory(which: str) -> int:
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(which))
    return int(line.split()[1]) * 1024


def _weights(path: Path) -> None:
    from mobilenets_tf.weights import load

    load.classes_in(path, "mobilenet_v2")


def _model(path: Path) -> None:
    import mobilenets_tf

    mobilenets_tf.load_model(path)


def _tflite(path: Path) -> None:
    import mobilenets_tf

    mobilenets_tf.inspect(path)


def _manifest(path: Path) -> None:
    from mobilenets_tf import ModelSource
    from mobilenets_tf.answers.reading import Reading

    file = path.with_suffix("")  # "manifest-x.keras.json" is beside "manifest-x.keras"
    Reading.of(file)
    source = ModelSource(str(file))
    _ = source.task, source.void, source.label_names(), source.says_its_input


def _coco(path: Path) -> None:
    from mobilenets_tf.data import boxes

    boxes.find_boxes(str(path))


def _saved_model(path: Path) -> None:
    from mobilenets_tf.conversion.traced import saved_model

    if not saved_model.is_saved_model(path):
        raise RequestError(f"{path} is no SavedModel folder.")  # the verbs say more
    saved_model.frozen_saved_model(path)


def _training(path: Path) -> None:
    from mobilenets_tf.training import checkpoints

    checkpoints.read(path)


READERS: dict[str, Callable[[Path], None]] = {
    "weights": _weights, "model": _model, "tflite": _tflite, "manifest": _manifest, "coco": _coco,
    "training": _training, "savedmodel": _saved_model,
}  # fmt: skip


# ------------------------------------------------------------------------------------------------------------- pickles
def _text(value: str) -> bytes:
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def _integer(value: int) -> bytes:
    return b"J" + struct.pack("<i", value) if abs(value) < 1 << 31 else b"\x8a\x08" + struct.pack("<q", value)


def _tuple(*parts: bytes) -> bytes:
    return b"(" + b"".join(parts) + b"t"


def stored(key: str, numel: int, shape: tuple, strides: tuple, offset: int = 0, kind: str = "FloatStorage") -> bytes:
    """The operations that push one tensor, as torch.save writes them."""
    storage = _tuple(_text("storage"), b"ctorch\n" + kind.encode() + b"\n", _text(key), _text("cpu"), _integer(numel))
    sizes = (_tuple(*map(_integer, part)) for part in (shape, strides))
    hooks = b"ccollections\nOrderedDict\n)R"
    arguments = _tuple(storage + b"Q", _integer(offset), *sizes, b"\x89", hooks)
    return b"ctorch._utils\n_rebuild_tensor_v2\n" + arguments + b"R"


def pickled(items: dict[str, bytes]) -> bytes:
    """A pickle of a dict, its values given as operations."""
    return b"\x80\x02}(" + b"".join(_text(name) + value for name, value in items.items()) + b"u."


def torch_zip(pickle: bytes, *storages: bytes, compression: int = zipfile.ZIP_STORED) -> bytes:
    """A file of torch.save in the present format."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        archive.writestr("archive/data.pkl", pickle)
        for index, raw in enumerate(storages):
            archive.writestr(f"archive/data/{index}", raw)
    return stream.getvalue()


def torch_legacy(pickle: bytes, keys: bytes, storages: bytes) -> bytes:
    """A file of torch.save in the format before PyTorch 1.6."""
    magic = b"\x80\x02\x8a\x0a" + (0x1950A86A20F9469CFC6C).to_bytes(10, "little") + b"."
    return magic + b"\x80\x02M\xe9\x03." + b"\x80\x02}X\x0d\x00\x00\x00little_endian\x88s." + pickle + keys + storages


def _with(operations: bytes) -> bytes:
    """A state dict that has a good tensor, and after it what ``operations`` push."""
    good = stored("0", 4, (4,), (1,))
    return torch_zip(pickled({"conv_stem.weight": good, "evil": operations}), bytes(16))


# --------------------------------------------------------------------------------------------------------------- HDF5
def _h5(fill: Callable[[h5py.File], None]) -> bytes:
    stream = io.BytesIO()
    with h5py.File(stream, "w") as file:
        fill(file)
    return stream.getvalue()


def _keras2_weights(file: h5py.File, *names: str, times: int = 1) -> h5py.Group:
    file.attrs["layer_names"] = [b"Conv1"] * times
    group = file.create_group("Conv1")
    group.attrs["weight_names"] = [name.encode() for name in names or ("kernel:0",)]
    return group


def _claims(file: h5py.File, **options) -> None:
    _keras2_weights(file).create_dataset("kernel:0", (1 << 15, 1 << 16), "f4", **options)  # 8 GiB of nothing


def _gzip(file: h5py.File) -> None:
    group = _keras2_weights(file)
    data = group.create_dataset("kernel:0", (1 << 13, 1 << 14), "f4", chunks=(1 << 10, 1 << 14), compression="gzip")
    chunk = zlib.compress(np.ones((1 << 10, 1 << 14), "f4").tobytes())
    for row in range(0, 1 << 13, 1 << 10):  # 512 MiB in all
        data.id.write_direct_chunk((row, 0), chunk)


def _hard_links(file: h5py.File) -> None:
    names = [f"kernel{number}:0" for number in range(3000)]
    group = _keras2_weights(file, *names)
    group["kernel0:0"] = np.ones((1 << 20,), "f4")
    for name in names[1:]:
        group[name] = group["kernel0:0"]


def _many_links(file: h5py.File) -> None:
    group = _keras2_weights(file)
    for number in range(50_500):
        group[f"k{number}"] = file if number % 2 else group


def _repeated(file: h5py.File) -> None:
    _keras2_weights(file, times=4000)["kernel:0"] = np.ones(1 << 20, "f4")


def _other_dtype(file: h5py.File) -> None:
    _keras2_weights(file)["kernel:0"] = np.zeros(4, [("a", "f4"), ("b", "i4")])


def _no_names(file: h5py.File) -> None:
    file.attrs["layer_names"] = 5
    file.attrs["weight_names"] = np.float32(1)


def _external(file: h5py.File) -> None:
    file.attrs["layer_names"] = [b"Conv1"]
    file["Conv1"] = h5py.ExternalLink("/etc/passwd", "/")


def _with_byte(name: str, marker: bytes, offset: int) -> bytes:
    """One of the good files with the byte 255 at an offset from where a marker begins."""
    content = bytearray(dict(good())[name])
    content[content.index(marker) + offset] = 255
    return bytes(content)


# -------------------------------------------------------------------------------------------------------------- Keras
def keras_file(config: bytes | dict, weights: bytes | None = None, compression: int = zipfile.ZIP_STORED) -> bytes:
    """A ``.keras`` file."""
    weights = _h5(lambda file: file.create_group("layers")) if weights is None else weights
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        archive.writestr("metadata.json", json.dumps({"keras_version": "3.12.0"}))
        archive.writestr("config.json", config if isinstance(config, bytes) else json.dumps(config))
        archive.writestr("model.weights.h5", weights)
    return stream.getvalue()


def sequential(*layers: dict, shape: tuple = (8,)) -> dict:
    """The configuration of a Sequential model of layers (class_name, config)."""
    first = {"class_name": "InputLayer", "config": {"batch_shape": [None, *shape], "dtype": "float32", "name": "in"}}
    nodes = [{"module": "keras.layers", "registered_name": None, **layer} for layer in (first, *layers)]
    return {
        "module": "keras", "class_name": "Sequential", "registered_name": None,
        "config": {"name": "model", "layers": nodes},
    }  # fmt: skip


def _dense(units) -> dict:
    return {"class_name": "Dense", "config": {"name": f"dense{str(units)[:20]}", "units": units}}


def _deep(depth: int = 50_000) -> bytes:
    return b'{"a":' * depth + b"1" + b"}" * depth


def _as_model(file: h5py.File, fill: Callable[[h5py.File], None]) -> None:
    fill(file)
    file.attrs["model_config"] = json.dumps(sequential(_dense(4)))


def _keras_layers(names: int, fill: Callable[[h5py.Group], None]) -> bytes:
    def write(file: h5py.File) -> None:
        group = file.create_group("layers/dense/vars")
        group.attrs["name"] = "dense"
        fill(group)
        for number in range(names):
            file[f"layers/dense_{number}"] = file["layers/dense"]

    return _h5(write)


def _big(group: h5py.Group) -> None:
    group["0"] = np.ones((1 << 20,), "f4")


# ---------------------------------------------------------------------------------------------------------------- all
def _safetensors(header: bytes, data: bytes = b"") -> bytes:
    return struct.pack("<Q", len(header)) + header + data


def _deep_tuples(depth: int) -> bytes:
    return b")" + b"\x85" * depth


def _doubled(depth: int, one: bytes = b")", two: bytes = b"\x86") -> bytes:
    """A tuple of the same tuple twice, and so on: 2 ** depth ways through."""
    return one + b"".join(b"q\x01h\x01" + two for _ in range(depth))


def _npz_bomb() -> bytes:
    stream = io.BytesIO()
    np.savez_compressed(stream, a=np.zeros(1 << 28, np.uint8))
    return stream.getvalue()


def hostile() -> Iterator[tuple[str, bytes | Callable[[], bytes]]]:
    """Files that were made to do harm: name (the kind of file first, see ``READERS``), and content or what makes it."""
    good = stored("0", 4, (4,), (1,))
    views = {f"v{number}.weight": stored("0", 1 << 20, (1024, 1024), (1, 1024)) for number in range(5000)}
    yield "weights-views.pth", torch_zip(pickled({"conv_stem.weight": good, **views}), bytes(4 << 20))
    copies = b"".join(b"ccollections\nOrderedDict\nh\x05\x85R0" for _ in range(4000))
    pairs = b"](" + b"(NNt" * 5000 + b"eq\x050"
    tricks = {
        "memo": b"Nr\xf0\xff\xff\xff", "deep-key": b"}" + _deep_tuples(50_000) + b"Ns",
        "doubled-key": b"}" + _doubled(60) + b"Ns", "doubled-set": b"c__builtin__\nset\n](" + _doubled(60) + b"e\x85R",
        "doubled-id": _doubled(60) + b"Q", "deep-list": b"]" * 50_000 + b"a" * 49_999,
        "long": b"\x8b\xff\xff\xff\x7f", "bytes8": b"\x8e" + struct.pack("<Q", 1 << 62),
        "bytearray8": b"\x96" + struct.pack("<Q", 1 << 40), "text8": b"\x8d" + struct.pack("<Q", 1 << 62),
        "frame": b"\x95" + struct.pack("<Q", 1 << 62), "copies": pairs + copies + b"N",
        "arguments": b"(" + b"N" * 50_000 + b"tq\x020" + b"ccollections\nOrderedDict\nh\x02R0" * 5 + b"N",
        "system": b"cos\nsystem\nX\x02\x00\x00\x00id\x85R",
        "eval": b"X\x08\x00\x00\x00builtinsX\x04\x00\x00\x00eval\x93)R",
        "inst": b"(X\x02\x00\x00\x00idios\nsystem\n", "object": b"(cos\nsystem\nX\x02\x00\x00\x00ido",
        "extension": b"\x82\x01",
        "build": b"cos\nsystem\n)\x81}b", "digits": b"I" + b"9" * 1_000_000 + b"\n", "empties": b"}" * 4_500_000 + b"N",
        "set-items": b"(N" + b"NN" * 10 + b"u", "no-stack": b"000000000",
        "storage-key": b"(X\x07\x00\x00\x00storaget}Q",
        "negative": stored("0", 4, (-2,), (1,)), "float": stored("0", 4, (2,), (1,)).replace(b"(J\x02", b"(G\x02"),
        "huge-shape": stored("0", 4, (1 << 38, 1 << 38), (0, 0)), "axes": stored("0", 4, (1,) * 200, (1,) * 200),
        "numel": stored("0", 1 << 39, (4,), (1,)), "outside": stored("0", 4, (4,), (1,), 1),
        "no-entry": stored("9", 4, (4,), (1,)),
        "kind": stored("0", 4, (4,), (1,), kind="ComplexFloatStorage"), "reference": b"h\x63",
    }  # fmt: skip
    for name, operations in tricks.items():
        yield f"weights-pickle-{name}.pth", _with(operations)
    yield "weights-names.pth", torch_zip(pickled({"x" * 3_000_000 + str(i): good for i in range(3)}), bytes(16))
    yield (
        "weights-bomb.pth",
        functools.partial(torch_zip, pickled({"a.w": good}), bytes(1 << 28), compression=zipfile.ZIP_DEFLATED),
    )
    yield "weights-no-end.pth", torch_zip(b"\x80\x02}", bytes(16))
    yield "weights-nothing.pth", torch_zip(pickled({}), bytes(16))
    yield "weights-whole-number.pth", torch_zip(b"\x80\x02K\x05.")
    keys = b"\x80\x02]X\x01\x00\x00\x000a."
    tensor = pickled({"conv_stem.weight": stored("0", 1 << 39, (4,), (1,))})
    yield "weights-legacy-count.pth", torch_legacy(tensor, keys, struct.pack("<q", 1 << 39) + bytes(16))
    yield "weights-legacy-keys.pth", torch_legacy(pickled({"a.w": good}), b"\x80\x02]X\x01\x00\x00\x009a.", bytes(24))
    yield "weights-legacy-number.pth", torch_legacy(pickled({"a.w": good}), b"\x80\x02K\x07.", bytes(24))
    yield "weights-plain.pkl", b"\x80\x02}."
    for name, header in {
        "length": b"", "deep": b'{"a":' + b"[" * 100_000, "overlap": json.dumps(
            {f"t{i}": {"dtype": "F32", "shape": [1 << 20], "data_offsets": [0, 4 << 20]} for i in range(50)}).encode(),
        "shape": b'{"a":{"dtype":"F32","shape":[1099511627776],"data_offsets":[0,16]}}',
        "kind": b'{"a":{"dtype":"X9","shape":[4],"data_offsets":[0,16]}}', "list": b"[]", "number": b'{"a":5}',
        "negative": b'{"a":{"dtype":"F32","shape":[-4],"data_offsets":[0,16]}}',
    }.items():  # fmt: skip
        yield f"weights-{name}.safetensors", _safetensors(header, bytes(16))
    yield "weights-size.safetensors", struct.pack("<Q", 1 << 62) + b"{}"
    for name, fill in {
        "claims": _claims, "chunked": lambda file: _claims(file, chunks=(1, 1 << 16)), "gzip": _gzip,
        "chunk": lambda file: _claims(file, chunks=(1 << 13, 1 << 16), compression="gzip"),
        "hard-links": _hard_links, "many-links": _many_links, "dtype": _other_dtype, "names": _no_names,
        "external": _external, "empty": lambda file: None,
        "repeated": _repeated,
        "missing": lambda file: _keras2_weights(file, "other:0"),
    }.items():  # fmt: skip
        yield f"weights-{name}.h5", functools.partial(_h5, fill)
        if name not in ("gzip", "many-links"):  # which take long to make
            yield f"model-{name}.h5", functools.partial(_h5, functools.partial(_as_model, fill=fill))
    for name, marker, offset in (("loops", b"GCOL", 24), ("crashes", b"model_config", 17)):  # in the library
        yield f"model-{name}.h5", functools.partial(_with_byte, "model-k2.h5", marker, offset)
    yield "weights-linked.weights.h5", _keras_layers(3000, _big)
    yield "weights-deep.keras", keras_file(_deep())
    yield "weights-list.keras", keras_file(b"[]")
    big = sequential(_dense(1 << 20), _dense((1 << 20) + 1))
    for name, config in {
        "deep": _deep(), "nested": _deep(90), "list": b"[]", "number": b"5", "text": b"\xff\xfe", "none": b"",
        "huge": big, "units": sequential(_dense(-1)), "word": sequential(_dense("x")),
        "float": sequential(_dense(1e300)),
        "lambda": sequential({"class_name": "Lambda", "config": {"function": "os.system"}}),
        "module": sequential({"class_name": "system", "module": "os", "config": {}}),
        "class": sequential({"class_name": ["a"], "config": 5}), "config": {"class_name": "Sequential", "config": 7},
        "layers": {"class_name": "Functional", "module": "keras", "config": {"layers": 5, "input_layers": 6}},
        "long": json.dumps(sequential(*(_dense(8) for _ in range(300)))).encode(),
        "initializer": sequential({"class_name": "Dense", "config": {"units": 4, "kernel_initializer": {
            "class_name": "function", "config": "eval", "module": "builtins"}}}),
        "weightless": sequential(_dense(4)),
    }.items():  # fmt: skip
        yield f"model-{name}.keras", keras_file(config)
    yield "model-bomb.keras", lambda: keras_file(b" " * (1 << 28), compression=zipfile.ZIP_DEFLATED)
    yield "model-inner.keras", keras_file(sequential(_dense(4)), _h5(_claims))
    yield "model-linked.keras", keras_file(sequential(_dense(4)), _keras_layers(3000, _big))
    yield "model-deep.h5", _h5(lambda file: file.attrs.update(model_config=_deep(5000).decode()))
    yield "model-no-zip.keras", b"PK\x03\x04" + bytes(100)
    yield "model-folder.keras", b""
    for key in ("task", "labels", "options", "preprocessing", "form", "anchors", "model", "calibration", "files"):
        for name, value in (("list", [[1]]), ("number", 5), ("text", "x"), ("dict", {"a": [None]})):
            yield f"manifest-{key}-{name}.keras.json", json.dumps({key: value}).encode()
    yield "manifest-deep.keras.json", _deep()
    yield "manifest-utf16.keras.json", "{}".encode("utf-16")
    yield "coco-deep.json", _deep()
    yield "coco-names.json", json.dumps({"images": [{"id": 1, "file_name": "x" * 300}], "annotations": [],
                                         "categories": [{"id": 1, "name": "a"}]}).encode()  # fmt: skip
    yield "training-bomb.npz", _npz_bomb
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1099511627776,), }"
    array = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + bytes(16)
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("a.npy", array)
    yield "training-claims.npz", stream.getvalue()
    yield "tflite-empty.tflite", b""
    yield "tflite-marked.tflite", struct.pack("<I", 0xFFFFFFF0) + b"TFL3" + bytes(64)


def good() -> Iterator[tuple[str, bytes]]:
    """Small good files, to be damaged."""
    values = np.arange(24, dtype="f4")
    tensor = stored("0", 24, (2, 3, 2, 2), (12, 4, 2, 1))
    state = pickled({"conv_stem.weight": tensor, "classifier.weight": stored("1", 24, (4, 6), (6, 1))})
    yield "weights-zip.pth", torch_zip(state, values.tobytes(), values.tobytes())
    keys = b"\x80\x02](X\x01\x00\x00\x000X\x01\x00\x00\x001e."
    raw = struct.pack("<q", 24) + values.tobytes()
    yield "weights-legacy.pth", torch_legacy(state, keys, raw + raw)
    header = {"conv_stem.weight": {"dtype": "F32", "shape": [24], "data_offsets": [0, 96]}}
    yield "weights-st.safetensors", _safetensors(json.dumps(header).encode(), values.tobytes())
    yield "weights-k2.h5", _h5(lambda file: _keras2_weights(file).create_dataset("kernel:0", data=values))

    def variables(group: h5py.Group) -> None:
        group["0"], group["1"] = np.ones((8, 4), "f4"), np.ones(4, "f4")

    yield "weights-k3.weights.h5", _keras_layers(0, variables)
    yield "model-k3.keras", keras_file(sequential(_dense(4)), _keras_layers(0, variables))

    def legacy(file: h5py.File) -> None:
        file.attrs["model_config"] = json.dumps(sequential(_dense(4)))
        file.attrs["layer_names"] = [b"dense4"]
        group = file.create_group("dense4")
        group.attrs["weight_names"] = [b"kernel:0", b"bias:0"]
        group["kernel:0"], group["bias:0"] = np.ones((8, 4), "f4"), np.ones(4, "f4")

    yield "model-k2.h5", _h5(legacy)
    for kind in ("hdf5", "zip"):
        yield f"model-tf212-{kind}.keras", TF_KERAS_FILES[f"nested 2.12 {kind}"].tobytes()
    manifest = {"task": "detect", "labels": ["a"], "anchors": {"grids": [[1, 1]]}, "options": {"void": 255}}
    yield "manifest-m.keras.json", json.dumps(manifest).encode()


def damaged(seed: int, each: int, others: dict[str, bytes] | None = None) -> Iterator[tuple[str, bytes]]:
    """Mutations of ``good()`` and of ``others``: cut short, bits flipped, blocks zeroed, filled, moved and doubled."""
    generator = random.Random(seed)
    for name, content in {**dict(good()), **(others or {})}.items():
        kind, _, rest = name.partition("-")
        for number in range(each):
            yield f"{kind}-{number}-{rest}", mutated(content, generator)


def mutated(content: bytes, generator: random.Random) -> bytes:
    """The content with one or more random damages."""
    data = bytearray(content)
    for _ in range(generator.choice((1, 1, 2, 8))):
        start = generator.randrange(max(1, len(data)))
        end = min(len(data), start + generator.choice((1, 4, 8, 64, 1000)))
        way = generator.randrange(6)
        if way == 0:
            del data[start:]
        elif way == 1 and start < len(data):
            data[start] ^= 1 << generator.randrange(8)
        elif way == 2:
            data[start:end] = bytes(end - start)
        elif way == 3:
            data[start:end] = b"\xff" * (end - start)
        elif way == 4:
            data[start:start] = data[start:end]
        else:
            del data[start:end]
    return bytes(data)


def is_refused(outcome: Outcome) -> bool:
    """Whether a file was refused with a ``RequestError``."""
    return outcome.told.startswith(RequestError.__name__)
