"""What each op of a TFLite file takes: LiteRT's own profiler, with XNNPACK's ops one by one.

The profiler is in LiteRT's C interface (litert/c/litert_profiler.h in google-ai-edge/LiteRT), which ai-edge-litert
ships as libLiteRt.so; its Python classes do not show it. The functions below are that interface, their structures as
its headers lay them out. XNNPACK reports in whole microseconds, and under its own names: it fuses some of a file's ops
(padding, activations) and leaves out others (reshapes in place), so the list is what runs, not what the file says.

Native code runs here with whatever file comes: call ``profile`` in a ``worker.Worker`` unless the file is your own.
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
_WHOLE_RANGE = (3, 9)  # kLiteRtElementTypeUInt8, Int8: any byte is a value
# LiteRtProfilerEventType: the whole invocation; an op of LiteRT's own; an op inside a delegate.
_WHOLE, _OPERATOR, _DELEGATED = 1, 2, (4, 8)
_NAME_LENGTH = 80
_WARM_UP = 3


@dataclass(frozen=True)
class Op:
    """One op as it ran: its name, its time in a call, and whether a delegate (XNNPACK) ran it."""

    name: str
    ms: float
    delegated: bool


@dataclass(frozen=True)
class Profile:
    """Times are means over the quarter of the calls that took least: the least disturbed, and they still add up.

    ops: in the order in which they ran. call_ms: the whole invocation, with the profiler on. calls: made in all.
    """

    ops: tuple[Op, ...]
    call_ms: float
    calls: int

    @property
    def sum_ms(self) -> float:
        """Of all ops. What is missing to ``call_ms`` goes on between the ops."""
        return sum(op.ms for op in self.ops)

    def as_dict(self) -> dict:
        """For JSON."""
        return {
            "calls": self.calls,
            "call_ms": self.call_ms,
            "sum_ms": self.sum_ms,
            "ops": [{"name": op.name, "ms": op.ms, "delegated": op.delegated} for op in self.ops],
        }


def by_name(ops: Iterable[Op]) -> list[tuple[str, int, float]]:
    """(name, how many, their ms together), the longest first."""
    found = defaultdict(list)
    for op in ops:
        found[op.name].append(op.ms)
    return sorted(((name, len(ms), sum(ms)) for name, ms in found.items()), key=lambda row: -row[2])


def profile(content: bytes, calls: int = 20, threads: int = 1) -> Profile:
    """Run a file's first signature and take the time of each op.

    Args:
        content: the file's. calls: that count. threads: how many LiteRT uses.

    Raises:
        RequestError: not a file that LiteRT can run; its ops are not the same at each call; or this version of
            ai-edge-litert has no such profiler.
    """
    flatbuffer.read(content)
    with contextlib.ExitStack() as stack:
        try:
            whole, runs = _record(_Interface(stack), content, calls, threads)
        except AttributeError as error:
            raise RequestError(f"This version of ai-edge-litert has no profiler: {error}") from error
    names = [[(name, delegated) for name, _, delegated in run] for run in runs]
    if any(other != names[0] for other in names):
        raise RequestError("The file does not run the same ops at each call, so there is no profile of it.")
    least = np.argsort(whole)[: math.ceil(calls / 4)]
    times = np.array([[elapsed for _, elapsed, _ in runs[call]] for call in least]).mean(axis=0) / 1e3
    ops = tuple(Op(name, float(ms), delegated) for (name, delegated), ms in zip(names[0], times, strict=True))
    return Profile(ops, float(np.array(whole)[least].mean()) / 1e3, calls)


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
    """libLiteRt.so. What ``make`` gives is released by the stack, in the reverse order."""

    def __init__(self, stack: contextlib.ExitStack):
        import ai_edge_litert

        self._library = ctypes.CDLL(str(Path(ai_edge_litert.__file__).with_name("libLiteRt.so")))
        self._stack = stack

    def call(self, name: str, *arguments) -> None:
        """Call a function that returns a LiteRtStatus; ints are passed as size_t."""
        status = getattr(self._library, name)(
            *(ctypes.c_size_t(value) if isinstance(value, int) else value for value in arguments)
        )
        if status:
            raise RequestError(f"LiteRT cannot run the file: {name} gives status {status}.")

    def make(self, name: str, *arguments, release: str = "") -> ctypes.c_void_p:
        """The handle that a function returns by its last argument."""
        handle = ctypes.c_void_p()
        self.call(name, *arguments, ctypes.byref(handle))
        if release:
            self._stack.callback(getattr(self._library, release), handle)
        return handle

    def count(self, name: str, *arguments) -> int:
        """The number that a function returns by its last argument."""
        number = ctypes.c_size_t(0)
        self.call(name, *arguments, ctypes.byref(number))
        return number.value


def _record(litert: _Interface, content: bytes, calls: int, threads: int) -> tuple[list[int], list[list[tuple]]]:
    """For each call: what it took in µs, and (name, µs, delegated) of each op."""
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
    buffers = []
    for end in ("Input", "Output"):
        made = _buffers(litert, end, environment, compiled, signature)
        buffers += [len(made), (ctypes.c_void_p * len(made))(*(buffer.value for buffer in made))]
    whole, runs = [], []
    for number in range(_WARM_UP + calls):
        litert.call("LiteRtStartProfiler", profiler)
        litert.call("LiteRtRunCompiledModel", compiled, 0, *buffers)
        litert.call("LiteRtStopProfiler", profiler)
        if number >= _WARM_UP:
            events = _events(litert, profiler)
            whole.append(next(e.elapsed_us for e in events if e.kind == _WHOLE and e.tag == b"Invoke"))
            runs.append([(_name(e), e.elapsed_us, e.kind in _DELEGATED) for e in events if _is_op(e)])
    return whole, runs


def _add_option(litert: _Interface, options, identifier: bytes, text: bytes) -> None:
    """LiteRT keeps the text and frees it, so it has to be the C library's."""
    libc = ctypes.CDLL(None)
    libc.strdup.restype = ctypes.c_void_p
    release = ctypes.cast(libc.free, ctypes.c_void_p)
    option = litert.make("LiteRtCreateOpaqueOptions", identifier, ctypes.c_void_p(libc.strdup(text)), release)
    litert.call("LiteRtAddOpaqueOptions", options, option)


def _buffers(litert: _Interface, end: str, environment, compiled, signature) -> list[ctypes.c_void_p]:
    """Memory for each input or output of the signature. Inputs are filled as ``timing.inputs`` does it."""
    made = []
    for index in range(litert.count(f"LiteRtGetNumSignature{end}s", signature)):
        tensor = litert.make(f"LiteRtGetSignature{end}TensorByIndex", signature, index)
        kind = _TensorType()
        litert.call("LiteRtGetRankedTensorType", tensor, ctypes.byref(kind))
        needs = litert.make(f"LiteRtGetCompiledModel{end}BufferRequirements", compiled, 0, index)
        buffer = litert.make(
            "LiteRtCreateManagedTensorBufferFromRequirements", environment, ctypes.byref(kind), needs,
            release="LiteRtDestroyTensorBuffer",
        )  # fmt: skip
        made.append(buffer)
        if end == "Input":
            values = _values(kind.element_type, litert.count("LiteRtGetTensorBufferPackedSize", buffer))
            address = ctypes.c_void_p()
            litert.call("LiteRtLockTensorBuffer", buffer, ctypes.byref(address), _WRITE)
            ctypes.memmove(address, values, len(values))
            litert.call("LiteRtUnlockTensorBuffer", buffer)
    return made


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
    """An op's event. Those of other subgraphs (the body of a loop) are in the time of the op that calls them."""
    return event.kind in _DELEGATED or (event.kind == _OPERATOR and event.subgraph == 0)


def _name(event: _Event) -> str:
    """XNNPACK's name or the op's; a custom op's is whatever the file says."""
    text = event.tag.decode(errors="replace")[:_NAME_LENGTH]
    return "".join(letter if letter.isprintable() else "?" for letter in text)
