"""Benchmark TFLite files from any source on this machine: latency, memory, and the time of each op.

A file can crash LiteRT, but not this process. Each file is first loaded, run and measured in a child process of its
own, so that a crash becomes an error that names the file. Then all files are timed together in another child process
(``timing``).
"""

import contextlib
import hashlib
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from mobilenets_tf.errors import RequestError, first_line
from mobilenets_tf.export.speed import op_profile, timing
from mobilenets_tf.export.speed.op_profile import Profile
from mobilenets_tf.export.speed.timing import Ratio, Timing
from mobilenets_tf.files import TemporaryFolder
from mobilenets_tf.progress import Progress, silent, track
from mobilenets_tf.public_api.types import check_fields
from mobilenets_tf.tflite.arena import arena_bytes
from mobilenets_tf.worker import Worker, WorkerError


@dataclass(frozen=True)
class BenchmarkRequest:
    """What ``benchmark`` is to time, and how.

    files: paths of TFLite files. The first file is the base of the ratios. A file may be listed twice: the ratio of the
        two shows how much the times vary.
    calls: inferences of each file that count. threads: of LiteRT. profile: also measure each op, in ``calls`` more
        inferences.
    """

    files: Sequence[str | Path]
    calls: int = 50
    threads: int = 1
    profile: bool = False

    def __post_init__(self):
        if isinstance(self.files, (str, os.PathLike)):
            object.__setattr__(self, "files", (self.files,))
        check_fields(self)

    def check(self) -> None:
        """Refuse what cannot work, before anything runs.

        Raises:
            RequestError: no files, a file does not exist, or ``calls`` or ``threads`` is less than 1.
        """
        timing.check_files(self.files)
        timing.check_counts(self.calls, self.threads)


@dataclass(frozen=True)
class MemoryUse:
    """The memory that a file needs, in bytes.

    peak: how much resident memory loading the file and running it twice adds, at the most, to a process that has
        imported LiteRT (Linux' VmHWM). This includes the file's content, and 3 to 4 MB of LiteRT's own.
    arena: memory for activations with LiteRT's own kernels (``arena.arena_bytes``); None if LiteRT cannot run the file
        without XNNPACK. Compare files by this figure.
    """

    peak: int
    arena: int | None


@dataclass(frozen=True)
class FileBenchmark:
    """The measurements of one file.

    bytes: the file's size. ratio: its time divided by the first file's time; None for the first file.
    profile: the time of each op; None unless requested, and where LiteRT's profiler cannot run the file: no_profile has
        the reason then.
    """

    file: str
    bytes: int
    sha256: str
    timing: Timing
    ratio: Ratio | None
    memory: MemoryUse
    profile: Profile | None
    no_profile: str | None = None

    def as_dict(self) -> dict:
        """Return plain data for JSON."""
        return {
            "file": self.file,
            "bytes": self.bytes,
            "sha256": self.sha256,
            "timing": self.timing.as_dict(),
            "ratio": self.ratio and asdict(self.ratio),
            "memory_bytes": asdict(self.memory),
            "profile": self.profile and self.profile.as_dict(),
            "no_profile": self.no_profile,
        }


@dataclass(frozen=True)
class Benchmark:
    """The result of ``benchmark``.

    machine: what the times hold for. files: those that run, in the order of the request; the first is the base of the
    ratios. failed: each file that does not run -> the reason.
    """

    machine: str
    files: tuple[FileBenchmark, ...]
    failed: dict[str, str]

    def as_dict(self) -> dict:
        """Return plain data for JSON."""
        return {"machine": self.machine, "files": [file.as_dict() for file in self.files], "failed": self.failed}


def benchmark(request: BenchmarkRequest, progress: Progress = silent) -> Benchmark:
    """Time files side by side on this machine, and measure the memory that each file needs.

    The times are not those of a phone (``phone.benchmark_on_phone`` measures there); compare files by their ratios.

    Raises:
        RequestError: the request is wrong (``BenchmarkRequest.check``), or no file can be read and run.
    """
    request.check()
    contents = [_read(Path(file)) for file in request.files]
    labels = [str(file) for file in request.files]
    labels = [label if label not in labels[:place] else f"{label} ({place + 1})" for place, label in enumerate(labels)]
    with TemporaryFolder("mobilenets-tf-") as folder:
        # The children read copies, so that all of them see the same bytes even if a file changes meanwhile.
        copies = {label: Path(folder) / f"{place}.tflite" for place, label in enumerate(labels)}
        for copy, content in zip(copies.values(), contents, strict=True):
            copy.write_bytes(content)
        measured, failed = {}, {}
        for label, copy in track(list(copies.items()), "measuring", progress):
            try:
                measured[label] = _measure(label, copy, request)
            except RequestError as error:
                failed[label] = str(error)
        if not measured:
            raise RequestError("\n".join(failed.values()))
        with Worker(preload="") as worker:
            sound = {label: copies[label] for label in measured}
            timings = worker.call(timing.side_by_side, sound, request.calls, request.threads, progress=progress)
    base = next(iter(measured))
    files = tuple(
        FileBenchmark(
            file=label,
            bytes=len(content),
            sha256=hashlib.sha256(content).hexdigest(),
            timing=timings[label],
            ratio=None if label == base else timing.ratio(timings[label], timings[base]),
            memory=measured[label][0],
            profile=measured[label][1],
            no_profile=measured[label][2],
        )
        for label, content in zip(labels, contents, strict=True)
        if label in measured
    )
    return Benchmark(machine(), files, failed)


def machine() -> str:
    """Describe this machine, and say that it is not a phone."""
    names = dict.fromkeys((platform.machine(), processor()))  # which may be the same
    return f"this machine ({', '.join(names)}), not a phone"


def processor() -> str:
    """Name this machine's processor, as the system does; its architecture where the system has no name."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise RequestError(f"{path} cannot be read: {error.strerror or error}.") from error


def _measure(label: str, copy: Path, request: BenchmarkRequest) -> tuple[MemoryUse, Profile | None, str | None]:
    """Load and run a file in child processes; give its memory, its profile, and why there is none."""
    # The check comes first: the other functions expect a valid file.
    arena = _in_child(_check, label, copy, request.threads)
    memory = MemoryUse(_in_child(_peak, label, copy, request.threads), arena)
    if not request.profile:
        return memory, None, None
    try:
        return memory, _in_child(_profile, label, copy, request.calls, request.threads), None
    except RequestError as error:
        return memory, None, str(error)


def _in_child(function, label: str, *arguments):
    """Call ``function(label, *arguments)`` in a new process that runs nothing else."""
    try:
        with Worker(preload="") as worker:
            return worker.call(function, label, *arguments)
    except WorkerError as error:
        raise RequestError(f"{label} cannot be run: it crashes LiteRT. {error}") from error


def _check(label: str, file: Path, threads: int) -> int | None:
    """Load and run the file once; return the bytes of its arena. Runs in a child process."""
    try:
        timing.load(file, threads, label).invoke()
    except RuntimeError as error:
        raise RequestError(f"{label} cannot be run: {first_line(error)}") from error
    try:
        return arena_bytes(file.read_bytes())
    except RequestError:  # it has ops that only XNNPACK has
        return None


def _peak(label: str, file: Path, threads: int) -> int:
    """Return the bytes of memory that loading and running the file adds at the most. Runs in a child process."""
    from ai_edge_litert.interpreter import Interpreter

    Path("/proc/self/clear_refs").write_text("5")  # resets the peak: proc(5)
    before = _high_water()
    interpreter = Interpreter(model_content=file.read_bytes(), num_threads=threads)
    interpreter.allocate_tensors()
    interpreter.invoke()
    interpreter.invoke()
    return _high_water() - before


def _high_water() -> int:
    status = Path("/proc/self/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def _profile(label: str, file: Path, calls: int, threads: int) -> Profile:
    """Profile the file's ops. Runs in a child process."""
    try:
        return op_profile.profile(file.read_bytes(), calls, threads)
    except RequestError as error:
        raise RequestError(f"{label}: {error}") from error
