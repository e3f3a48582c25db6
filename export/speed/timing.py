"""Latency of TFLite files side by side: the one way files are timed here.

LiteRT with XNNPACK, only the invocation. Files are timed in rounds, each once a round, so that what the machine does
meanwhile meets them all; and the order changes from round to round, so that no file always runs in the caches that the
same other one left behind. Compare files by ``ratio``, which is taken round by round.

This runs files in this process. What comes from elsewhere belongs into a child (``worker``): see ``benchmark``.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mobilenets_tf.errors import RequestError
from mobilenets_tf.progress import Progress, silent, track
from mobilenets_tf.tflite import flatbuffer
from mobilenets_tf.tflite.runtime import execution_plan

WARM_UP = 5  # rounds before the first that counts


@dataclass(frozen=True)
class Timing:
    """How long one file's invocations took.

    samples_ms: one a round, in the order of the rounds, in milliseconds. threads: that LiteRT was given.
    delegated_partitions: how many parts of the graph XNNPACK runs; 1 is best, 0 means that it runs nothing.
    outside: op -> how many of them LiteRT's own kernels run, or those of no delegate.
    """

    samples_ms: tuple[float, ...]
    threads: int = 1
    delegated_partitions: int = 0
    outside: Mapping[str, int] = field(default_factory=dict)

    @property
    def median_ms(self) -> float:
        """Of the samples."""
        return float(np.median(self.samples_ms))

    @property
    def p10_ms(self) -> float:
        """10th percentile: what the file takes when nothing else disturbs."""
        return float(np.percentile(self.samples_ms, 10))

    @property
    def p90_ms(self) -> float:
        """90th percentile."""
        return float(np.percentile(self.samples_ms, 90))

    def as_dict(self) -> dict:
        """For JSON; without the samples."""
        return {
            "calls": len(self.samples_ms),
            "threads": self.threads,
            "median_ms": self.median_ms,
            "p10_ms": self.p10_ms,
            "p90_ms": self.p90_ms,
            "delegated_partitions": self.delegated_partitions,
            "outside": dict(self.outside),
        }


@dataclass(frozen=True)
class Ratio:
    """One file's time over another's, round by round: the median of the rounds' ratios, and between which values nine
    in ten of them are (the 5th and the 95th percentile)."""

    median: float
    low: float
    high: float


def ratio(timing: Timing, base: Timing) -> Ratio:
    """How much longer a file takes than another that was timed in the same rounds.

    A disturbance that lasts for several rounds lengthens both sides of a round's ratio, so that it cancels out, as it
    does not in a ratio of two medians.
    """
    ratios = np.array(timing.samples_ms) / np.array(base.samples_ms)
    return Ratio(*map(float, (np.median(ratios), *np.percentile(ratios, (5, 95)))))


def side_by_side(
    files: Mapping[str, bytes | Path], calls: int = 50, threads: int = 1, progress: Progress = silent
) -> dict[str, Timing]:
    """Time files in interleaved rounds.

    Args:
        files: label -> a TFLite file's content or path. All are in memory together.
        calls: rounds that count, after ``WARM_UP`` that do not.
        threads: how many LiteRT uses.

    Returns:
        label -> its timing, in the order of ``files``. The timings' samples belong together by round.

    Raises:
        RequestError: a file cannot be run, with its label; or ``calls`` or ``threads`` is less than 1.
    """
    check_counts(calls, threads)
    loaded = [load(file, threads, label) for label, file in files.items()]
    samples = [[] for _ in loaded]
    for number in track(range(WARM_UP + calls), "timing", progress):
        for place in order(number, len(loaded)):
            invoke = loaded[place].invoke
            started = time.perf_counter_ns()
            invoke()
            taken = time.perf_counter_ns() - started
            if number >= WARM_UP:
                samples[place].append(taken / 1e6)
    timings = {}
    for label, interpreter, taken in zip(files, loaded, samples, strict=True):
        outside = execution_plan(interpreter)
        timings[label] = Timing(tuple(taken), threads, outside.pop("DELEGATE", 0), outside)
    return timings


def check_counts(calls: int, threads: int) -> None:
    """Refuse numbers of calls and threads that make no sense.

    Raises:
        RequestError: one is less than 1.
    """
    if calls < 1 or threads < 1:
        raise RequestError(f"There has to be at least one call and one thread; received {calls} and {threads}.")


def order(number: int, count: int) -> list[int]:
    """In which order a round runs ``count`` files: the rows of a Williams design in turn.

    In any ``count`` rounds each file runs once at each place, and in ``count`` rounds (twice as many if that is odd)
    each follows each other one equally often within a round (E. J. Williams, Australian Journal of Scientific Research
    A 2, 1949).
    """
    zigzag = [-(place // 2) if place % 2 == 0 else (place + 1) // 2 for place in range(count)]
    row = [(place + number) % count for place in zigzag]
    return row[::-1] if count % 2 and number // count % 2 else row


def load(file: bytes | Path, threads: int = 1, label: str | None = None):
    """A LiteRT interpreter, ready to be invoked: memory is planned, inputs are filled.

    Args:
        label: what errors call the file; left out, its path.

    Raises:
        RequestError: no such file, or not one that LiteRT can run.
    """
    from ai_edge_litert.interpreter import Interpreter

    if label is None:
        label = "The model" if isinstance(file, bytes) else str(file)
    try:
        content = file if isinstance(file, bytes) else Path(file).read_bytes()
        flatbuffer.read(content)
        interpreter = Interpreter(model_content=content, num_threads=threads)
        interpreter.allocate_tensors()
        for details, values in zip(interpreter.get_input_details(), inputs(interpreter), strict=True):
            interpreter.set_tensor(details["index"], values)
    except OSError as error:
        raise RequestError(f"{label} cannot be read: {error.strerror or error}.") from error
    except (RequestError, ValueError, RuntimeError) as error:
        raise RequestError(f"{label} cannot be run: {str(error).splitlines()[0]}") from error
    return interpreter


def inputs(interpreter) -> list[np.ndarray]:
    """Values for each input, the same at each call: over all levels if it is quantised or uint8, in [-1, 1) if real.

    Integers that stand for no real values, such as indices, are 0, which is valid wherever any number is.

    Raises:
        RequestError: an input of text, or of a type that is no number.
    """
    random = np.random.default_rng(0)
    made = []
    for details in interpreter.get_input_details():
        shape, dtype = tuple(details["shape"]), np.dtype(details["dtype"])
        if dtype.kind == "f":
            values = random.uniform(-1, 1, shape)
        elif dtype.kind in "iu" and (details["quantization"][0] or dtype == np.uint8):
            limits = np.iinfo(dtype)
            values = random.integers(limits.min, limits.max, shape, dtype, endpoint=True)
        elif dtype.kind in "iub":
            values = np.zeros(shape)
        else:
            raise RequestError(f"input {details['name']!r} is of type {dtype}, for which no values can be made up.")
        made.append(values.astype(dtype))
    return made
