"""Run files in TensorFlow Lite Micro (TFLM), with its own interpreter in the wheel tflite-micro (extra ``micro``).

The interpreter is native code that may end its process, and keeps its arena until its process ends. So it runs in child
processes.
"""

import importlib.util
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from mobilenets_tf.errors import RequestError, first_line
from mobilenets_tf.tflite import flatbuffer
from mobilenets_tf.tflite.arena import live_bytes
from mobilenets_tf.worker import Worker, WorkerError

_PARTS = ("tflite_micro", "bitarray", "yaml")  # the interpreter, and what its wheel imports
_STEP = 1024  # bytes; the arena is measured in whole KiB
_TABLES = 32 << 20  # bytes; more than TFLM's tables of any file that a microcontroller could hold
_SECONDS = 1200  # for all that a child process does

Arrays = list[np.ndarray]


def check_installed() -> None:
    """Refuse to go on without TFLM's interpreter.

    Raises:
        RequestError: the wheel, or what the wheel imports, is not installed.
    """
    missing = [name for name in _PARTS if importlib.util.find_spec(name) is None]
    if missing:
        raise RequestError(
            f"TensorFlow Lite Micro's interpreter is not installed (missing: {', '.join(missing)}): pip install "
            "'mobilenets-tf[micro]' (or, beside packages that disagree: pip install --no-deps tflite-micro bitarray "
            "pyyaml)."
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
    return in_child(_run, content, list(samples), _room(flatbuffer.read(content)))


def least_arena(content: bytes) -> int:
    """Find the least bytes of arena with which TFLM runs a file here, to 1 KiB.

    TFLM tells how much it has used of a large arena; the search begins there and goes on by bisection. Each size is
    tried in a process of its own. The arena holds the activations and, for each tensor and operator, what the kernels
    keep. Pointers have 8 bytes here and 4 on a microcontroller, where the second part is smaller. Kernels for a
    processor (CMSIS-NN) may need scratch memory in addition.

    Raises:
        RequestError: TFLM refuses the file.
    """
    tree = flatbuffer.read(content)
    sample = zeros(content)
    enough = in_child(_used, content, sample, _room(tree)) // _STEP + 1
    step = 1
    while not _runs(content, sample, enough * _STEP):  # beside what is counted, TFLM needs memory for moments
        enough, step = enough + step, 2 * step
    too_small, step = enough - step, 1
    while _runs(content, sample, too_small * _STEP):
        enough, too_small, step = too_small, too_small - step, 2 * step
    while enough - too_small > 1:
        middle = (too_small + enough) // 2
        too_small, enough = (too_small, middle) if _runs(content, sample, middle * _STEP) else (middle, enough)
    return enough * _STEP


def _tensor(tree: flatbuffer.schema.ModelT, index: int) -> flatbuffer.schema.TensorT:
    return tree.subgraphs[0].tensors[index]


def _dtype(tensor: flatbuffer.schema.TensorT) -> np.dtype:
    kinds = {code: name for name, code in vars(flatbuffer.schema.TensorType).items() if isinstance(code, int)}
    return np.dtype(kinds[tensor.type].lower())


def _room(tree: flatbuffer.schema.ModelT) -> int:
    """Give the bytes of an arena that is certainly large enough."""
    return 2 * max(live_bytes(tree), default=0) + _TABLES


def _runs(content: bytes, sample: Arrays, arena: int) -> bool:
    """Tell whether TFLM runs a file with an arena of so many bytes."""
    try:
        in_child(_run, content, [sample], arena)
    except RequestError:
        return False
    return True


def zeros(content: bytes) -> Arrays:
    """Give a sample of zeros for a file, read from the file alone: no kernel is prepared."""
    tree = flatbuffer.read(content)
    return [np.zeros(tensor.shape, _dtype(tensor)) for tensor in (_tensor(tree, i) for i in tree.subgraphs[0].inputs)]


def in_child(function: Callable, content: bytes, *arguments, runtime: str = "TensorFlow Lite Micro") -> Any:
    """Call a function of a file in a process of its own, since the kernels of a runtime may end their process.

    Raises:
        RequestError: the runtime refuses the file, or the process ended.
    """
    with Worker(preload="", always=True) as worker:
        try:
            return worker.call(function, content, *arguments, seconds=_SECONDS)
        except WorkerError as error:
            ended = first_line(error).partition(" Its last")[0]
            raise RequestError(
                f"{runtime} ended on this file ({ended}) A kernel ends the process where it meets numbers "
                "that it is not made for, such as the scales of 1e-8 of a network with random weights: give trained "
                "weights, or other calibration images."
            ) from error


def _run(content: bytes, samples: Sequence[Arrays], arena: int) -> list[Arrays]:
    """Run a file in this process, a child."""
    count = len(flatbuffer.read(content).subgraphs[0].outputs)
    results = []
    with _interpreter(content, arena) as (interpreter, _):
        for sample in samples:
            _invoke(interpreter, sample)
            results.append([np.array(interpreter.get_output(place)) for place in range(count)])
    return results


def _used(content: bytes, sample: Arrays, arena: int) -> int:
    """Give the bytes of an arena that TFLM says it has used of it, in this process, a child."""
    with _interpreter(content, arena) as (interpreter, messages):
        _invoke(interpreter, sample)
        interpreter.print_allocations()
        told = re.search(r"Arena allocation total (\d+) bytes", " ".join(messages()))
    return int(told[1]) if told else arena


def _invoke(interpreter: Any, sample: Arrays) -> None:
    for place, array in enumerate(sample):
        interpreter.set_input(np.ascontiguousarray(array), place)
    interpreter.invoke()


@contextmanager
def _interpreter(content: bytes, arena: int) -> Iterator[tuple[Any, Callable[[], list[str]]]]:
    """Give TFLM's interpreter of a file, and the function that returns the lines which it has written.

    Raises:
        RequestError: TFLM refuses the file, or cannot run it in this arena.
    """
    from tflite_micro.python.tflite_micro import runtime

    with _messages() as messages:
        try:
            yield runtime.Interpreter.from_bytes(content, arena_size=arena), messages
        except (RuntimeError, ValueError) as error:
            reason = " ".join(messages()) or first_line(error)
            raise RequestError(f"TensorFlow Lite Micro refuses the file: {reason}") from error


@contextmanager
def _messages() -> Iterator[Callable[[], list[str]]]:
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
