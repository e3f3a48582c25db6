"""Measure many files in turn, each as a whole and operator by operator, here or on a phone.

A machine is never quiet for long. So the files run in passes, each time in another order and loaded anew, and of each
figure the fastest half of the passes counts. A file whose two fastest passes differ too much gets more of them.
"""

import importlib.metadata
import os
import platform
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from mobilenets_tf.errors import RequestError
from mobilenets_tf.export.speed import op_profile, timing
from mobilenets_tf.export.speed.op_profile import Op
from mobilenets_tf.export.speed.phone import PhoneBenchmark, PhoneRequest, benchmark_on_phone
from mobilenets_tf.export.speed.side_by_side import processor
from mobilenets_tf.progress import Progress, silent
from mobilenets_tf.search.latency.alignment import times_of_operators
from mobilenets_tf.search.latency.prediction import MeasuredNetwork
from mobilenets_tf.search.latency.workloads import workload
from mobilenets_tf.tflite import flatbuffer
from mobilenets_tf.tflite.operators import calls
from mobilenets_tf.worker import Worker

CALLS = 10  # inferences of a file in a pass that count, with and without the profiler
PASSES = 4
_MOST_REPEATS = 3
_MOST_SPREAD = 0.03  # of a file's two fastest passes


class Run(NamedTuple):
    """One pass of a file.

    ms: of the whole inference, without the profiler. ops: (name, whether a delegate ran it) of each op of the profile.
    ops_ms: their times.
    """

    ms: float
    ops: tuple[tuple[str, bool], ...]
    ops_ms: tuple[float, ...]


@dataclass(frozen=True)
class Machine:
    """What latencies hold for.

    processor: its name; of a phone the phone's model. processors: how many LiteRT may use; None: not known.
    architecture: such as "x86_64" or "arm64-v8a". litert: the version of ai-edge-litert; on a phone the digest of the
    benchmark tool, which has LiteRT inside. system: of a phone, Android's version; else the system's name. cores: the
    mask of the cores of a phone.
    """

    processor: str
    processors: int | None
    architecture: str
    litert: str
    system: str
    cores: str | None = None


class Device(Protocol):
    """Where files run."""

    @property
    def machine(self) -> Machine: ...

    def run(self, path: Path) -> Run:
        """Run one pass of a file.

        Raises:
            RequestError: the file cannot be run or profiled.
        """


def this_machine() -> Machine:
    """Describe this machine."""
    return Machine(
        processor=processor(),
        processors=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        architecture=platform.machine(),
        litert=importlib.metadata.version("ai-edge-litert"),
        system=platform.system(),
    )


class Here:
    """This machine. Files run in a child process, which a file may crash.

    threads: of LiteRT. Use as a context manager.
    """

    def __init__(self, threads: int = 1):
        self._threads = threads
        self._worker = Worker(preload="")

    def __enter__(self):
        return self

    def __exit__(self, *arguments):
        self._worker.__exit__(*arguments)

    @property
    def machine(self) -> Machine:
        """This machine."""
        return this_machine()

    def run(self, path: Path) -> Run:
        """Run one pass of a file."""
        return self._worker.call(_run, path, CALLS, self._threads)


def _run(path: Path, count: int, threads: int) -> Run:
    """Run one pass of a file. Runs in a child process."""
    content = path.read_bytes()
    profile = op_profile.profile(content, count, threads)
    samples = timing.side_by_side({path.name: content}, count, threads)[path.name].samples_ms
    fastest = sorted(samples)[: max(1, count // 4)]
    ops = tuple((op.name, op.delegated) for op in profile.ops)
    return Run(float(np.mean(fastest)), ops, tuple(op.ms for op in profile.ops))


class OnPhone:
    """An attached phone. Files run there in LiteRT's ``benchmark_model``, once with and once without its profiler.

    Args:
        benchmark_model, adb, serial, cores, threads: as in ``PhoneRequest``.
    """

    def __init__(
        self, benchmark_model: str | None, adb: str | None, serial: str | None, cores: str | None, threads: int = 1
    ):
        self._options = {
            "benchmark_model": benchmark_model, "adb": adb, "serial": serial, "cores": cores, "threads": threads,
            "calls": CALLS,
        }  # fmt: skip
        self._machine: Machine | None = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    @property
    def machine(self) -> Machine:
        """The phone, after the first pass of a file.

        Raises:
            RequestError: no file has run there yet.
        """
        if self._machine is None:
            raise RequestError("Nothing is known of the phone: no file has run there yet.")
        return self._machine

    def run(self, path: Path) -> Run:
        """Run one pass of a file."""
        whole = benchmark_on_phone(PhoneRequest([path], **self._options))
        output = whole.files[0].output
        profiled = benchmark_on_phone(PhoneRequest([path], profile=True, **self._options)).files[0].output
        if not profiled.ops:
            raise RequestError("This benchmark_model prints no profile of the ops; take a newer one, of 2019 or later.")
        self._machine = self._described(whole)
        ops = tuple((op.name, op.delegated) for op in profiled.ops)
        # A median where the tool prints one: a phone interrupts more than it is slow.
        ms = output.inference.median_ms or output.inference.average_ms  # type: ignore[union-attr]
        return Run(ms, ops, tuple(op.ms for op in profiled.ops))

    def _described(self, benchmark: PhoneBenchmark) -> Machine:
        about = benchmark.files[0].device
        return Machine(
            processor=about.get("model", "phone"),
            processors=None,
            architecture=benchmark.tool.abi,
            litert=f"benchmark_model {benchmark.tool.sha256[:16]}",
            system=f"Android {about.get('android', '')}".strip(),
            cores=self._options["cores"],  # type: ignore[arg-type]
        )


def measure_in_turn(
    paths: Sequence[Path],
    device: Device,
    runs: Sequence[list[Run]],
    minutes: float = 8.0,
    passes: int = PASSES,
    keep: Callable[[], None] = lambda: None,
    progress: Progress = silent,
) -> None:
    """Run all files in passes.

    Args:
        paths: of the files.
        device: where they run.
        runs: of each file the passes that are there already, from an earlier call. New ones are appended.
        minutes: no pass begins that would last beyond this time. Each file runs at least once.
        passes: of each file.
        keep: called after each pass of a file.
        progress: called with (label, done, total).

    Raises:
        RequestError: a file cannot be run, or does not run the same ops each time.
    """
    label, total = "measuring", passes * len(paths)
    began = time.monotonic()
    progress(label, sum(min(len(each), passes) for each in runs), total)
    for number in range(passes):
        started = time.monotonic()
        for place in random.Random(number).sample(range(len(paths)), len(paths)):
            if len(runs[place]) <= number:
                _append(runs[place], device.run(paths[place]))
                keep()
                progress(label, sum(min(len(each), passes) for each in runs), total)
        now = time.monotonic()
        if now - began + (now - started) > 60 * minutes:
            break
    progress(label, total, total)
    for _ in range(_MOST_REPEATS):
        noisy = [place for place, each in enumerate(runs) if spread(each) > _MOST_SPREAD]
        for done, place in enumerate(noisy):
            if time.monotonic() - began > 60 * minutes:
                return
            progress("repeating what was disturbed", done, len(noisy))
            _append(runs[place], device.run(paths[place]))
            keep()
            progress("repeating what was disturbed", done + 1, len(noisy))


def _append(runs: list[Run], run: Run) -> None:
    if runs and run.ops != runs[0].ops:
        raise RequestError("A file does not run the same ops each time, so it has no profile.")
    runs.append(run)


def spread(runs: Sequence[Run]) -> float:
    """Give how far the two fastest passes differ, as a share; 0 for one pass."""
    fastest = sorted(run.ms for run in runs)
    return fastest[1] / fastest[0] - 1 if len(fastest) > 1 else 0.0


def latency_of(runs: Sequence[Run]) -> float:
    """Give a file's latency in ms: the mean of the fastest half of its passes."""
    return float(_fastest_half(np.array([run.ms for run in runs])))


def measured(content: bytes, runs: Sequence[Run]) -> MeasuredNetwork:
    """Match a file's operators with what was measured.

    Raises:
        RequestError: the profile is not the file's.
    """
    times = _fastest_half(np.array([run.ops_ms for run in runs]))
    ops = [Op(name, float(ms), delegated) for (name, delegated), ms in zip(runs[0].ops, times, strict=True)]
    operators = calls(flatbuffer.read(content))
    matched = times_of_operators([call.name for call in operators], ops)
    return MeasuredNetwork(tuple(workload(call) for call in operators), tuple(matched), latency_of(runs))


def _fastest_half(times: np.ndarray) -> np.ndarray:
    return np.sort(times, axis=0)[: (len(times) + 1) // 2].mean(axis=0)
