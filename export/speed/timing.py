"""Time TFLite files side by side. Every latency in this package is measured here.

Files run in LiteRT with XNNPACK; only the inference is timed. In each round every file runs once, so that other load on
the machine disturbs all files alike. The order of the files changes from round to round, because the file that ran just
before leaves its own data in the processor's caches. Now and then all files are loaded anew, in another order: where
in memory a file's weights and activations lie changes its time, and stays the same as long as the file is loaded. Four
copies of one file, each loaded once, differed by up to 8 % of their time. Compare files by ``ratio``, which is computed
round by round.

The files run in this process. A file that is not trusted should run in a child process (``worker``), as in
``side_by_side.benchmark``.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mobilenets_tf.errors import RequestError, first_line
from mobilenets_tf.progress import Progress, silent, track
from mobilenets_tf.tflite import flatbuffer
from mobilenets_tf.tflite.runtime import execution_plan

if TYPE_CHECKING:
    from ai_edge_litert.interpreter import Interpreter

# The share of rounds in which a file has to be faster than another to be called faster.
_MOST_ROUNDS = 0.8
WARM_UP = 5  # rounds after each loading, which do not count
_LOADINGS = 4  # the most times that several files are loaded


@dataclass(frozen=True)
class Timing:
    """The latency of one file.

    samples_ms: one time for each round, in the order of the rounds, in milliseconds. threads: number of LiteRT's.
    delegated_partitions: the number of parts of the graph that XNNPACK runs; 1 is best, 0 means that it runs nothing.
    outside: op -> how many of this op LiteRT's own kernels run instead of XNNPACK.
    """

    samples_ms: tuple[float, ...]
    threads: int = 1
    delegated_partitions: int = 0
    outside: Mapping[str, int] = field(default_factory=dict)

    @property
    def median_ms(self) -> float:
        """Median of the samples."""
        return float(np.median(self.samples_ms))

    @property
    def p10_ms(self) -> float:
        """10th percentile of the samples: about the latency when nothing else runs on the machine."""
        return float(np.percentile(self.samples_ms, 10))

    @property
    def p90_ms(self) -> float:
        """90th percentile of the samples."""
        return float(np.percentile(self.samples_ms, 90))

    def as_dict(self) -> dict:
        """Return plain data for JSON, without the samples."""
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
    """One file's time divided by another file's time, round by round.

    median: of the ratios of all rounds. low, high: the 5th and the 95th percentile: 9 of 10 ratios are between them.
    """

    median: float
    low: float
    high: float


def ratio(timing: Timing, base: Timing) -> Ratio:
    """Compare a file with another file (``base``) that was timed in the same rounds.

    A disturbance that lasts for several rounds lengthens both times of a round, so it cancels out of the round's ratio.
    It would not cancel out of a ratio of two medians.
    """
    ratios = np.array(timing.samples_ms) / np.array(base.samples_ms)
    return Ratio(*map(float, (np.median(ratios), *np.percentile(ratios, (5, 95)))))


def is_faster(timing: Timing, other: Timing) -> bool:
    """Tell whether a file was faster than another file that was timed in the same rounds, in at least 8 of 10 rounds.

    A smaller median alone does not tell: medians of one file differ from run to run.
    """
    return float(np.mean(np.array(timing.samples_ms) < np.array(other.samples_ms))) >= _MOST_ROUNDS


def side_by_side(
    files: Mapping[str, bytes | Path], calls: int = 50, threads: int = 1, progress: Progress = silent
) -> dict[str, Timing]:
    """Time files in interleaved rounds.

    Args:
        files: label -> content or path of a TFLite file. All files are in memory at the same time.
        calls: rounds that count. ``WARM_UP`` rounds after each loading do not.
        threads: number of threads that LiteRT uses.

    Returns:
        label -> timing, in the order of ``files``. The samples of all timings are in the order of the rounds.

    Raises:
        RequestError: a file cannot be run (the message has its label), or ``calls`` or ``threads`` is less than 1.
    """
    check_counts(calls, threads)
    labels, loadings = list(files), min(len(files), calls, _LOADINGS)
    samples: dict[str, list[float]] = {label: [] for label in labels}
    loaded: dict[str, Interpreter] = {}
    rounds = iter(track(range(loadings * WARM_UP + calls), "timing", progress))
    for loading in range(loadings):
        loaded.clear()
        first = loading * len(labels) // loadings
        loaded |= {label: load(files[label], threads, label) for label in labels[first:] + labels[:first]}
        start, end = calls * loading // loadings, calls * (loading + 1) // loadings
        for number in range(start - WARM_UP, end):
            next(rounds)
            for place in order(number, len(labels)):
                invoke = loaded[labels[place]].invoke
                started = time.perf_counter_ns()
                invoke()
                elapsed = time.perf_counter_ns() - started
                if number >= start:
                    samples[labels[place]].append(elapsed / 1e6)
    next(rounds, None)  # the last report of progress
    timings = {}
    for label in labels:
        outside = execution_plan(loaded[label])
        timings[label] = Timing(tuple(samples[label]), threads, outside.pop("DELEGATE", 0), outside)
    return timings


def check_files(files: Sequence[str | Path]) -> None:
    """Refuse a list of files that is empty or names a file that does not exist.

    Raises:
        RequestError: no files, one path instead of a list, or a file does not exist.
    """
    if isinstance(files, (str, Path)):
        raise RequestError(f"files={str(files)!r}: expected a list of paths, such as [{str(files)!r}].")
    if not files:
        raise RequestError("No files to time: give at least one .tflite file.")
    for file in files:
        if not Path(file).is_file():
            raise RequestError(f"No such TFLite file: {file}")


def check_counts(calls: int, threads: int) -> None:
    """Refuse numbers of calls and threads that are less than 1.

    Raises:
        RequestError: one of them is.
    """
    for name, value in (("calls", calls), ("threads", threads)):
        if value < 1:
            raise RequestError(f"{name}={value}: expected at least 1.")


def order(number: int, count: int) -> list[int]:
    """Return the order in which round ``number`` runs ``count`` files: the rows of a Williams design in turn.

    In any ``count`` rounds each file runs once at each place. In ``count`` rounds (or 2 * ``count`` if ``count`` is
    odd) each file runs directly after each other file equally often (E. J. Williams, Australian Journal of Scientific
    Research A 2, 1949).
    """
    zigzag = [-(place // 2) if place % 2 == 0 else (place + 1) // 2 for place in range(count)]
    row = [(place + number) % count for place in zigzag]
    return row[::-1] if count % 2 and number // count % 2 else row


def load(file: bytes | Path, threads: int = 1, label: str | None = None) -> "Interpreter":
    """Load a file into a LiteRT interpreter that is ready to be invoked: memory is planned, inputs are filled.

    Args:
        file: content or path of a TFLite file.
        threads: number of threads that LiteRT uses.
        label: name of the file in error messages; None: its path.

    Raises:
        RequestError: the file does not exist, or LiteRT cannot run it.
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
        raise RequestError(f"{label} cannot be run: {first_line(error)}") from error
    return interpreter


def inputs(interpreter: "Interpreter") -> list[np.ndarray]:
    """Return an array for each input, with the same values at each call.

    Values of quantised and uint8 inputs are uniform over the whole type, of float inputs uniform in [-1, 1). Other
    integers, such as indices, are 0, which is always valid.

    Raises:
        RequestError: an input is text, or of another type that is not a number.
    """
    random = np.random.default_rng(0)
    arrays = []
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
            raise RequestError(f"input {details['name']!r} is of type {dtype}, for which there are no test values.")
        arrays.append(values.astype(dtype))
    return arrays
