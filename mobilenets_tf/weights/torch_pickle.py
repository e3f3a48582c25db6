"""Interpret the pickle of a PyTorch checkpoint without running code from it.

A pickle is a program for a small stack machine. Here each operation builds plain data or a record: nothing that the
pickle names is imported, so nothing can run. A call is allowed only of the names that torch.save needs for tensors and
the usual training scripts for their settings; every other call is refused, and the error names it. Work and memory are
proportional to the length of the pickle.
"""

import math
import pickletools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import IO, Any

import ml_dtypes
import numpy as np

from mobilenets_tf.errors import RequestError

DTYPES = {
    "DoubleStorage": np.dtype("f8"), "FloatStorage": np.dtype("f4"), "HalfStorage": np.dtype("f2"),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16), "LongStorage": np.dtype("i8"), "IntStorage": np.dtype("i4"),
    "ShortStorage": np.dtype("i2"), "CharStorage": np.dtype("i1"), "ByteStorage": np.dtype("u1"),
    "BoolStorage": np.dtype("?"),
}  # fmt: skip
# A checkpoint of MobileNetV3 with the state of its optimizer has 15,000 operations, a million recorded losses are a
# million more. An operation takes up to 300 bytes of memory.
_MOST_OPERATIONS = 4_000_000
_MOST_ARGUMENTS = 32
_MOST_AXES = 8


@dataclass
class Storage:
    """A flat array of a checkpoint. In the old format the values follow the pickle: until then ``data`` is None."""

    kind: str
    numel: int
    data: np.ndarray | None = None


@dataclass
class StoredTensor:
    """The arguments of ``torch._utils._rebuild_tensor_v2``: a view of a storage."""

    storage: Any
    offset: Any
    shape: Any
    strides: Any

    def array(self) -> np.ndarray:
        """Return the tensor as a view of its storage, after a check that it lies within the storage. No value is
        copied, so many tensors of one storage take no memory.

        Raises:
            RequestError: the tensor does not lie within its storage, or has no values.
        """
        if not isinstance(self.storage, Storage) or self.storage.data is None:
            raise RequestError("a tensor has no stored values")
        flat, shape, strides = self.storage.data, self.shape, self.strides
        if not (
            _are_sizes(shape) and _are_sizes(strides) and _are_sizes((self.offset,)) and len(shape) == len(strides)
        ):
            raise RequestError("a tensor has an impossible shape, or impossible strides")
        last = self.offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
        # The second bound refuses a huge tensor out of a tiny storage with stride 0.
        if math.prod(shape) and (last >= len(flat) or math.prod(shape) > len(flat)):
            raise RequestError(f"a tensor of shape {shape} reaches outside its {len(flat)} stored values")
        if not math.prod(shape):
            return np.zeros(shape, flat.dtype)
        steps = [stride * flat.itemsize for stride in strides]
        return np.lib.stride_tricks.as_strided(flat[self.offset :], shape, steps, writeable=False)


def _are_sizes(values: Any) -> bool:
    return (
        isinstance(values, tuple)
        and len(values) <= _MOST_AXES
        and all(type(value) is int and 0 <= value < 1 << 40 for value in values)
    )


@dataclass(eq=False)
class Record:
    """An object of a class that is not imported: what the pickle calls the class, and what it puts into the object."""

    name: str
    entries: dict = field(default_factory=dict)
    state: Any = None


@dataclass(frozen=True)
class _Name:
    """A global of the pickle, which is never imported."""

    module: str
    name: str

    def __str__(self):
        return f"{self.module}.{self.name}"


# Callables without effect whose results say nothing about tensors: numbers and settings beside the weights.
_SETTINGS = {
    "numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar", "numpy.core.multiarray._reconstruct",
    "numpy._core.multiarray._reconstruct", "numpy.dtype", "_codecs.encode", "collections.defaultdict",
    "collections.Counter", "collections.deque", "datetime.datetime", "datetime.date", "datetime.timedelta",
    "pathlib.PosixPath", "pathlib.WindowsPath", "pathlib.Path", "pathlib._local.PosixPath", "torch.device",
    "torch.serialization._get_layout", "uuid.UUID", "copy_reg._reconstructor", "copyreg._reconstructor",
}  # fmt: skip
_CONTAINERS = {
    "collections.OrderedDict": dict, "builtins.dict": dict, "__builtin__.dict": dict, "builtins.list": list,
    "__builtin__.list": list, "builtins.set": set, "__builtin__.set": set, "builtins.frozenset": set,
    "__builtin__.frozenset": set, "torch.Size": tuple,
}  # fmt: skip
_LITERALS = {
    "BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8",
    "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8", "INT", "LONG", "FLOAT",
    "STRING", "UNICODE",
}  # fmt: skip
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_EMPTY = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_SET": set}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class Unpickler:
    """Interprets one pickle.

    load_storage: called with kind, key and number of elements of a storage that the pickle refers to.
    """

    def __init__(self, load_storage: Callable[[str, str, int], Storage]):
        self._load_storage = load_storage
        self._stack: list = []
        self._outer: list[list] = []
        self._memo: dict[int, Any] = {}
        self._copied = 0

    def load(self, stream: IO[bytes]) -> Any:
        """Read a pickle from a stream, up to its end.

        Raises:
            RequestError: the pickle calls something that is not needed to store tensors, or is too long.
            Exception: of any type; the pickle is damaged.
        """
        for number, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
            if number >= _MOST_OPERATIONS:
                raise RequestError(f"its pickle has more than {_MOST_OPERATIONS} operations")
            if opcode.name == "STOP":
                return self._stack.pop()
            self._do(opcode.name, argument)
        raise RequestError("its pickle has no end")

    def _do(self, name: str, argument: Any) -> None:
        stack = self._stack
        if name in _LITERALS:
            stack.append(argument)
        elif name in ("BINPUT", "LONG_BINPUT", "PUT"):
            self._memo[argument] = stack[-1]
        elif name == "MEMOIZE":
            self._memo[len(self._memo)] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET", "GET"):
            stack.append(self._memo[argument])
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in _EMPTY:
            stack.append(_EMPTY[name]())
        elif name == "MARK":
            self._outer.append(stack)
            self._stack = []
        elif name in _TUPLES:
            count = _TUPLES[name]
            values = tuple(stack[-count:])
            del stack[-count:]
            stack.append(values)
        elif name == "TUPLE":
            self._push(tuple(self._marked()))
        elif name == "LIST":
            self._push(self._marked())
        elif name in ("APPEND", "APPENDS", "ADDITEMS"):
            self._add([stack.pop()] if name == "APPEND" else self._marked())
        elif name in ("SETITEM", "SETITEMS"):
            self._set([stack.pop(-2), stack.pop()] if name == "SETITEM" else self._marked())
        elif name == "DICT":
            items = self._marked()
            self._push({})
            self._set(items)
        elif name == "GLOBAL":
            stack.append(_Name(*argument.split(" ", 1)))
        elif name == "STACK_GLOBAL":
            stack[-2:] = [_Name(*stack[-2:])]
        elif name == "REDUCE":
            stack[-2:] = [self._called(*stack[-2:])]
        elif name in ("NEWOBJ", "NEWOBJ_EX"):
            count = 2 if name == "NEWOBJ" else 3
            stack[-count:] = [Record(str(stack[-count]))]
        elif name == "BUILD":
            state = stack.pop()
            if isinstance(stack[-1], Record):  # the state of other objects is the metadata of a state dict
                stack[-1].state = state
        elif name == "BINPERSID":
            stack.append(self._persistent(stack.pop()))
        elif name == "POP":
            stack.pop()
        elif name == "POP_MARK":
            self._marked()
        elif name not in ("PROTO", "FRAME"):
            raise RequestError(f"its pickle has the operation {name}, which torch.save never writes")

    def _push(self, value: Any) -> None:
        self._stack.append(value)

    def _marked(self) -> list:
        """Return what was pushed since the last mark, and go back to before the mark."""
        items, self._stack = self._stack, self._outer.pop()
        return items

    def _add(self, items: list) -> None:
        target = self._stack[-1]
        if isinstance(target, list):
            target.extend(items)
        elif isinstance(target, set):
            target.update(map(_key, items))

    def _set(self, items: list) -> None:
        target = self._stack[-1]
        entries = target.entries if isinstance(target, Record) else target
        if not isinstance(entries, dict):
            raise RequestError("its pickle puts items into something that is no dict")
        for key, value in zip(items[::2], items[1::2], strict=True):
            entries[_key(key)] = value

    def _called(self, function: Any, arguments: Any) -> Any:
        """Return what a call gives, for the callables that are known; nothing is imported."""
        name = str(function) if isinstance(function, _Name) else type(function).__name__
        if not isinstance(arguments, tuple) or len(arguments) > _MOST_ARGUMENTS:
            raise RequestError(f"its pickle calls {name} with impossible arguments")
        if name in ("torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor"):
            return StoredTensor(*arguments[:4])
        if name in ("torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state"):
            return arguments[0]
        if name == "torch._tensor._rebuild_from_type_v2":  # a tensor with attributes: the call that makes the tensor
            return self._called(arguments[0], arguments[2])
        if name in _CONTAINERS:
            return self._container(_CONTAINERS[name], *arguments)
        if name in _SETTINGS:
            return Record(name)
        raise RequestError(
            f"refused: its pickle asks for {name}, which is not needed to store tensors and may run code. "
            "Save the state dict alone (torch.save(model.state_dict(), path)) or as .safetensors."
        )

    def _container(self, kind: type, items: Any = ()) -> Any:
        if not isinstance(items, (tuple, list, set)):
            raise RequestError("its pickle makes a container of something that is none")
        self._copied += len(items)
        if self._copied > _MOST_OPERATIONS:  # the same items over and over
            raise RequestError(f"its pickle copies more than {_MOST_OPERATIONS} items")
        if kind is dict:
            return {_key(key): value for key, value in items}
        return set(map(_key, items)) if kind is set else kind(items)

    def _persistent(self, identifier: Any) -> Storage:
        if not isinstance(identifier, tuple) or len(identifier) < 5 or identifier[0] != "storage":
            raise RequestError("it refers to an unknown kind of stored object")
        _, kind, key, _, numel, *_ = identifier
        if not isinstance(kind, _Name) or kind.module not in ("torch", "torch.storage") or kind.name not in DTYPES:
            raise RequestError(f"it has values of the unknown kind {kind if isinstance(kind, _Name) else type(kind)}")
        if not isinstance(key, (str, int)) or not _are_sizes((numel,)):
            raise RequestError("it refers to stored values of an impossible number")
        return self._load_storage(kind.name, str(key), numel)


def _key(key: Any) -> Any:
    """Return a key of a dict. Nested tuples are refused: to hash them can take for ever."""
    if isinstance(key, (str, bytes, int, float, type(None), _Name, Record)):
        return key
    if isinstance(key, tuple) and all(isinstance(part, (str, bytes, int, float, type(None))) for part in key):
        return key
    raise RequestError(f"its pickle has a {type(key).__name__} as the key of a dict")
