"""Measure the time of each op of a TFLite file with LiteRT's own profiler, which lists XNNPACK's ops one by one.

The profiler is part of LiteRT's C interface (litert/c/litert_profiler.h in google-ai-edge/LiteRT). The package
ai-edge-litert has this interface in libLiteRt.so, but not in its Python classes. The functions below call it through
ctypes, with the structures of its headers. XNNPACK reports whole microseconds, and uses its own names: it fuses some of
a file's ops (padding, activations) and skips others (reshapes in place). So the profile lists the ops that run, not the
ops that the file has.

A file can crash this native code: call ``profile`` in a ``worker.Worker`` unless you trust the file.
"""

import contextlib
import ctypes
import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mobilenets_tf.errors import RequestError
from mobilenets_tf.tflite import flatbuffer

_CPU = 1  # kLiteRtHwAcceleratorCpu
_WRITE = 1  # kLiteRtTensorBufferLockModeWrite
_FLOAT32 = 1  # kLiteRtElementTypeFloat32
_WHOLE_RANGE = (3, 9)  # kLiteRtElementTypeUInt8, Int8: any byte is a valid value
# LiteRtProfilerEventType: the whole inference; an op in LiteRT's own kernels; an op inside a delegate.
_WHOLE, _OPERATOR, _DELEGATED = 1, 2, (4, 8)
_NAME_LENGTH = 80
_WARM_UP = 3


@dataclass(frozen=True)
class Op:
    """An op as it ran: its name, its time in one inference in ms, and whether a delegate (XNNPACK) ran it."""

    name: str
    ms: float
    delegated: bool


@dataclass(frozen=True)
class Profile:
    """The times of all ops in one inference, in ms.

    Each time is the mean over the fastest quarter of the inferences: these were disturbed least, and the means of the
    ops still add up to the mean of their sum.

    ops: in the order in which they ran. call_ms: the whole inference, with the profiler on. calls: inferences in total.
    """

    ops: tuple[Op, ...]
    call_ms: float
    calls: int

    @property
    def sum_ms(self) -> float:
        """Sum of all ops. The rest of ``call_ms`` passes between the ops."""
        return sum(op.ms for op in self.ops)

    def as_dict(self) -> dict:
        """Return plain data for JSON."""
        return {
            "calls": self.calls,
            "call_ms": self.call_ms,
            "sum_ms": self.sum_ms,
            "ops": [{"name": op.name, "ms": op.ms, "delegated": op.delegated} for op in self.ops],
        }


def by_name(ops: Iterable[Op]) -> list[tuple[str, int, float]]:
    """Group ops by name: (name, number of ops, their total ms), the longest total first."""
    times = defaultdict(list)
    for op in ops:
        times[op.name].append(op.ms)
    return sorted(((name, len(ms), sum(ms)) for name, ms in times.items()), key=lambda row: -row[2])


def profile(content: bytes, calls: int = 20, threads: int = 1) -> Profile:
    """Run a file's first signature and measure the time of each op.

    Args:
        content: content of a TFLite file.
        calls: inferences that count.
        threads: number of threads that LiteRT uses.

    Raises:
        RequestError: LiteRT cannot run the file; the file runs other ops at each inference; or this version of
            ai-edge-litert lacks the profiler.
    """
    content = _with_fixed_shapes(content)
    with contextlib.ExitStack() as stack:
        try:
            whole, runs = _record(_Interface(stack), content, calls, threads)
        except AttributeError as error:
            raise RequestError(f"This version of ai-edge-litert has no profiler: {error}") from error
    names = [[(name, delegated) for name, _, delegated in run] for run in runs]
    if any(other != names[0] for other in names):
        raise RequestError("The file does not run the same ops in each inference, so it has no profile.")
    least = np.argsort(whole)[: math.ceil(calls / 4)]
    times = np.array([[elapsed for _, elapsed, _ in runs[call]] for call in least]).mean(axis=0) / 1e3
    ops = tuple(Op(name, float(ms), delegated) for (name, delegated), ms in zip(names[0], times, strict=True))
    return Profile(ops, float(np.array(whole)[least].mean()) / 1e3, calls)


def _with_fixed_shapes(content: bytes) -> bytes:
    """Give each size that is free, such as the batch in the converter's own files, the size with which LiteRT's
    interpreter begins, mostly 1: the profiler's interface has no memory for free sizes.
    """
    tree = flatbuffer.read(content)
    tensors = [tensor for graph in tree.subgraphs for tensor in graph.tensors]
    free = [t for t in tensors if t.shapeSignature is not None and -1 in t.shapeSignature]
    for tensor in free:
        tensor.shapeSignature = None
    return flatbuffer.write(tree) if free else content


class _Layout(ctypes.Structure):
    _fields_ = (
        ("rank", ctypes.c_uint, 7),
        ("has_strides", ctypes.c_uint, 1),
        ("dimensions", ctypes.c_int32 * 8),
        ("strides", ctypes.c_uint32 * 8),
    )


class _TensorType(ctypes.Structure):
    _fields_ = (("element_type", ctypes.c_int), ("layout", _Layout))


class _Event(ctypes.Structure):
    _fields_ = (
        ("tag", ctypes.c_char_p),
        ("kind", ctypes.c_int),
        ("start_us", ctypes.c_uint64),
        ("elapsed_us", ctypes.c_uint64),
        ("memory_before", ctypes.c_size_t * 3),
        ("memory_after", ctypes.c_size_t * 3),
        ("node", ctypes.c_uint64),
        ("subgraph", ctypes.c_uint64),
        ("source", ctypes.c_int),
    )


class _Interface:
    """The C functions of libLiteRt.so. The stack releases the handles of ``make``, in reverse order."""

    def __init__(self, stack: contextlib.ExitStack):
        import ai_edge_litert

        self._library = ctypes.CDLL(str(Path(ai_edge_litert.__file__).with_name("libLiteRt.so")))
        self._stack = stack

    def call(self, name: str, *arguments) -> None:
        """Call a function that returns a LiteRtStatus. Python's ints are passed as size_t."""
        status = getattr(self._library, name)(
            *(ctypes.c_size_t(value) if isinstance(value, int) else value for value in arguments)
        )
        if status:
            raise RequestError(f"LiteRT cannot run the file: {name} returns status {status}.")

    def make(self, name: str, *arguments, release: str = "") -> ctypes.c_void_p:
        """Call a function that returns a handle through its last argument, and return the handle."""
        handle = ctypes.c_void_p()
        self.call(name, *arguments, ctypes.byref(handle))
        if release:
            self._stack.callback(getattr(self._library, release), handle)
        return handle

    def count(self, name: str, *arguments) -> int:
        """Call a function that returns a number through its last argument, and return the number."""
        number = ctypes.c_size_t(0)
        self.call(name, *arguments, ctypes.byref(number))
        return number.value


def _record(litert: _Interface, content: bytes, calls: int, threads: int) -> tuple[list[int], list[list[tuple]]]:
    """Return the time of each inference in µs, and for each inference (name, µs, delegated) of each op."""
    environment = litert.make("LiteRtCreateEnvironment", 0, None, release="LiteRtDestroyEnvironment")
    model = litert.make("LiteRtCreateModelFromBuffer", environment, content, len(content), release="LiteRtDestroyModel")
    options = litert.make("LiteRtCreateOptions", release="LiteRtDestroyOptions")
    litert.call("LiteRtSetOptionsHardwareAccelerators", options, _CPU)
    _add_option(litert, options, b"runtime_options_string", b"enable_profiling = true\n")
    _add_option(litert, options, b"xnnpack", b"num_threads = %d\n" % threads)
    compiled = litert.make(
        "LiteRtCreateCompiledModel", environment, model, options, release="LiteRtDestroyCompiledModel"
    )
    profiler = litert.make("LiteRtCompiledModelGetProfiler", compiled)
    signature = litert.make("LiteRtGetModelSignature", model, 0)
    arguments = []
    for end in ("Input", "Output"):
        buffers = _buffers(litert, end, environment, compiled, signature)
        arguments += [len(buffers), (ctypes.c_void_p * len(buffers))(*(buffer.value for buffer in buffers))]
    whole, runs = [], []
    for number in range(_WARM_UP + calls):
        litert.call("LiteRtStartProfiler", profiler)
        litert.call("LiteRtRunCompiledModel", compiled, 0, *arguments)
        litert.call("LiteRtStopProfiler", profiler)
        if number >= _WARM_UP:
            events = _events(litert, profiler)
            whole.append(next(e.elapsed_us for e in events if e.kind == _WHOLE and e.tag == b"Invoke"))
            runs.append([(_name(e), e.elapsed_us, e.kind in _DELEGATED) for e in events if _is_op(e)])
    return whole, runs


def _add_option(litert: _Interface, options, identifier: bytes, text: bytes) -> None:
    """Add a text to the options. LiteRT keeps the text and frees it, so the C library has to allocate it."""
    libc = ctypes.CDLL(None)
    libc.strdup.restype = ctypes.c_void_p
    release = ctypes.cast(libc.free, ctypes.c_void_p)
    option = litert.make("LiteRtCreateOpaqueOptions", identifier, ctypes.c_void_p(libc.strdup(text)), release)
    litert.call("LiteRtAddOpaqueOptions", options, option)


def _buffers(litert: _Interface, end: str, environment, compiled, signature) -> list[ctypes.c_void_p]:
    """Allocate memory for each input or output of the signature. Inputs get values like those of ``timing.inputs``."""
    buffers = []
    for index in range(litert.count(f"LiteRtGetNumSignature{end}s", signature)):
        tensor = litert.make(f"LiteRtGetSignature{end}TensorByIndex", signature, index)
        kind = _TensorType()
        litert.call("LiteRtGetRankedTensorType", tensor, ctypes.byref(kind))
        needs = litert.make(f"LiteRtGetCompiledModel{end}BufferRequirements", compiled, 0, index)
        buffer = litert.make(
            "LiteRtCreateManagedTensorBufferFromRequirements", environment, ctypes.byref(kind), needs,
            release="LiteRtDestroyTensorBuffer",
        )  # fmt: skip
        buffers.append(buffer)
        if end == "Input":
            values = _values(kind.element_type, litert.count("LiteRtGetTensorBufferPackedSize", buffer))
            address = ctypes.c_void_p()
            litert.call("LiteRtLockTensorBuffer", buffer, ctypes.byref(address), _WRITE)
            ctypes.memmove(address, values, len(values))
            litert.call("LiteRtUnlockTensorBuffer", buffer)
    return buffers


def _values(element_type: int, size: int) -> bytes:
    random = np.random.default_rng(0)
    if element_type == _FLOAT32:
        return random.uniform(-1, 1, size // 4).astype(np.float32).tobytes()
    return random.bytes(size) if element_type in _WHOLE_RANGE else bytes(size)


def _events(litert: _Interface, profiler) -> ctypes.Array:
    count = litert.count("LiteRtGetNumProfilerEvents", profiler)
    events = (_Event * count)()
    litert.call("LiteRtGetProfilerEvents", profiler, count, events)
    return events


def _is_op(event: _Event) -> bool:
    """Whether an event is an op's. The time of a subgraph's ops (the body of a loop) is part of the calling op's."""
    return event.kind in _DELEGATED or (event.kind == _OPERATOR and event.subgraph == 0)


def _name(event: _Event) -> str:
    """Return XNNPACK's or LiteRT's name of the op. A custom op's name comes from the file and is not trusted."""
    text = event.tag.decode(errors="replace")[:_NAME_LENGTH]
    return "".join(letter if letter.isprintable() else "?" for letter in text)
