"""Run files in TensorFlow Lite Micro (TFLM), with its own interpreter in the wheel tflite-micro (extra ``micro``).

The interpreter is native code that may end its process, and keeps its arena until its process ends. So it runs in child
processes.
"""

import importlib.util
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from mobilenets_tf.errors import RequestError, first_line
from mobilenets_tf.progress import Progress, silent
from mobilenets_tf.tflite import flatbuffer
from mobilenets_tf.tflite.arena import live_bytes
from mobilenets_tf.worker import Worker, WorkerError

_STEP = 1024  # bytes; the arena is measured in whole KiB
_LARGEST = 1 << 30
_SECONDS = 600  # of one run in a child process

Arrays = list[np.ndarray]


def check_installed() -> None:
    """Refuse to go on without TFLM's interpreter.

    Raises:
        RequestError: the wheel is not installed.
    """
    if importlib.util.find_spec("tflite_micro") is None:
        raise RequestError(
            "TensorFlow Lite Micro's interpreter is not installed: pip install 'mobilenets-tf[micro]' (or, beside "
            "packages that disagree:  pip install --no-deps tflite-micro)."
        )


def outputs(content: bytes, samples: Sequence[Arrays]) -> list[Arrays]:
    """Compute a file's outputs in TFLM.

    Args:
        content: of the file.
        samples: for each run one array for each input, of the input's type and shape.

    Returns:
        For each run, one array for each output, of the output's type.

    Raises:
        RequestError: TFLM refuses the file; the message has its reason.
    """
    room = 16 * max(live_bytes(flatbuffer.read(content)), default=0) + (16 << 20)
    with Worker(preload="", always=True) as worker:
        try:
            return worker.call(_run, content, list(samples), min(room, _LARGEST), seconds=_SECONDS * len(samples))
        except WorkerError as error:
            raise RequestError(f"TensorFlow Lite Micro ended on this file: {error}") from error


def least_arena(content: bytes, progress: Progress = silent) -> int:
    """Find the least bytes of arena with which TFLM runs a file here, to 1 KiB, by bisection.

    Each size is tried in a process of its own. The arena holds the activations and, for each tensor and operator, what
    the kernels keep. Pointers have 8 bytes here and 4 on a microcontroller, where the second part is smaller. Kernels
    for a processor (CMSIS-NN) may need scratch memory in addition.

    Raises:
        RequestError: TFLM does not run the file with any arena up to 1 GiB.
    """
    tree = flatbuffer.read(content)
    sample = [np.zeros(tensor.shape, _dtype(tensor)) for tensor in (_tensor(tree, i) for i in tree.subgraphs[0].inputs)]
    low = max(live_bytes(tree), default=0) // _STEP  # too small: TFLM needs memory for its own tables too
    high, tried = low + 64, 0
    while not _runs(content, sample, high * _STEP):
        low, high, tried = high, 2 * high, tried + 1
        progress("arena", tried, tried + 8)
        if high * _STEP > _LARGEST:
            outputs(content, [sample])  # raises TFLM's reason, if it is not the memory
            raise RequestError("TensorFlow Lite Micro does not run the file with an arena of 1 GiB.")
    steps = tried + max(high - low - 1, 0).bit_length()
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if _runs(content, sample, middle * _STEP) else (middle, high)
        tried += 1
        progress("arena", tried, max(tried, steps))
    return high * _STEP


def _tensor(tree: flatbuffer.schema.ModelT, index: int) -> flatbuffer.schema.TensorT:
    return tree.subgraphs[0].tensors[index]


def _dtype(tensor: flatbuffer.schema.TensorT) -> np.dtype:
    kinds = {code: name for name, code in vars(flatbuffer.schema.TensorType).items() if isinstance(code, int)}
    return np.dtype(kinds[tensor.type].lower())


def _runs(content: bytes, sample: Arrays, arena: int) -> bool:
    """Tell whether TFLM runs a file with an arena of so many bytes, in a process of its own."""
    with Worker(preload="", always=True) as worker:
        try:
            worker.call(_run, content, [sample], arena, seconds=_SECONDS)
        except (WorkerError, RequestError):
            return False
    return True


def _run(content: bytes, samples: Sequence[Arrays], arena: int) -> list[Arrays]:
    """Run a file in this process, a child."""
    from tflite_micro.python.tflite_micro import runtime

    count = len(flatbuffer.read(content).subgraphs[0].outputs)
    with _messages() as messages:
        try:
            interpreter = runtime.Interpreter.from_bytes(content, arena_size=arena)
            results = []
            for sample in samples:
                for place, array in enumerate(sample):
                    interpreter.set_input(np.ascontiguousarray(array), place)
                interpreter.invoke()
                results.append([np.array(interpreter.get_output(place)) for place in range(count)])
        except (RuntimeError, ValueError) as error:
            reason = " ".join(messages()) or first_line(error)
            raise RequestError(f"TensorFlow Lite Micro refuses the file: {reason}") from error
    return results


@contextmanager
def _messages() -> Iterator:
    """Give a function that returns the lines which native code has written to standard error."""
    with tempfile.TemporaryFile() as file:
        before = os.dup(2)
        os.dup2(file.fileno(), 2)

        def lines() -> list[str]:
            file.seek(0)
            return [line.strip() for line in file.read().decode(errors="replace").splitlines() if line.strip()]

        try:
            yield lines
        finally:
            os.dup2(before, 2)
            os.close(before)
