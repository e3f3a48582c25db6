"""Benchmark: latency, memory and ops of TFLite files on this machine, whoever made them.

Nothing that a file does can end this process: each is first loaded, run and measured in a child of its own, so that a
crash is an error that names the file; then all are timed together in another child (``timing``).
"""

import hashlib
import platform
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from mobilenets_tf.errors import RequestError
from mobilenets_tf.export.speed import op_profile, timing
from mobilenets_tf.export.speed.op_profile import Profile
from mobilenets_tf.export.speed.timing import Ratio, Timing
from mobilenets_tf.progress import Progress, silent, track
from mobilenets_tf.tflite.arena import arena_bytes
from mobilenets_tf.worker import Worker, WorkerError


@dataclass(frozen=True)
class Memory:
    """Bytes that a file takes in memory.

    peak: what loading it and running it twice adds to a process that has imported LiteRT: the most resident at once
        (Linux' VmHWM), the file's content with it, and 3 to 4 MB of LiteRT's own.
    arena: activations with LiteRT's own kernels (``arena.arena_bytes``), the figure to compare files by.
    """

    peak: int
    arena: int


@dataclass(frozen=True)
class Measured:
    """One file. ratio: its time over the first file's, None for the first itself. profile: None unless asked for."""

    file: str
    bytes: int
    sha256: str
    timing: Timing
    ratio: Ratio | None
    memory: Memory
    profile: Profile | None

    def as_dict(self) -> dict:
        """For JSON. Times are this machine's; ``machine`` says which that is."""
        return {
            "file": self.file,
            "bytes": self.bytes,
            "sha256": self.sha256,
            "timing": self.timing.as_dict(),
            "ratio": self.ratio and asdict(self.ratio),
            "memory_bytes": asdict(self.memory),
            "profile": self.profile and self.profile.as_dict(),
        }


def measure(
    files: Sequence[str | Path], calls: int = 50, threads: int = 1, profile: bool = False, progress: Progress = silent
) -> list[Measured]:
    """Time files side by side, and measure what each takes in memory and, if asked for, in each of its ops.

    Args:
        files: paths. The first is what the others are compared with; a file may be given twice, to see the noise.
        calls: rounds that count. threads: how many LiteRT uses. profile: with the ops, which takes ``calls`` more runs.

    Raises:
        RequestError: no files; one cannot be read or run, or crashes; ``calls`` or ``threads`` is less than 1.
    """
    if not files:
        raise RequestError("No files to time: name at least one .tflite file.")
    timing.check_counts(calls, threads)
    contents = [_read(Path(file)) for file in files]
    labels = [str(file) for file in files]
    labels = [label if label not in labels[:place] else f"{label} ({place + 1})" for place, label in enumerate(labels)]
    with tempfile.TemporaryDirectory(prefix="mobilenets-tf-") as folder:
        # The children read copies, so that all see the same bytes whatever becomes of the files.
        copies = {label: Path(folder) / f"{place}.tflite" for place, label in enumerate(labels)}
        for copy, content in zip(copies.values(), contents, strict=True):
            copy.write_bytes(content)
        memories, profiles = [], []
        for label, copy in track(list(copies.items()), "measuring", progress):
            arena = _in_child(_check, label, copy, threads)  # first of all: the others take the file for sound
            memories.append(Memory(_in_child(_peak, label, copy, threads), arena))
            profiles.append(_in_child(_profile, label, copy, calls, threads) if profile else None)
        with Worker(preload="") as worker:
            timings = worker.call(timing.side_by_side, copies, calls, threads, progress=progress)
    base = timings[labels[0]]
    return [
        Measured(
            file=label,
            bytes=len(content),
            sha256=hashlib.sha256(content).hexdigest(),
            timing=timings[label],
            ratio=None if place == 0 else timing.ratio(timings[label], base),
            memory=memories[place],
            profile=profiles[place],
        )
        for place, (label, content) in enumerate(zip(labels, contents, strict=True))
    ]


def machine() -> str:
    """What the times were measured on, and what it is not."""
    name = platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                name += f", {line.partition(':')[2].strip()}"
                break
    except OSError:
        pass
    return f"this machine ({name}), not a phone"


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise RequestError(f"{path} cannot be read: {error.strerror or error}.") from error


def _in_child(function, label: str, *arguments):
    """``function(label, *arguments)`` in a process that runs nothing else."""
    try:
        with Worker(preload="") as worker:
            return worker.call(function, label, *arguments)
    except WorkerError as error:
        raise RequestError(f"{label} cannot be run: it crashes LiteRT. {error}") from error


def _check(label: str, file: Path, threads: int) -> int:
    """Runs in a child: does the file load and run? The arena's bytes."""
    timing.load(file, threads, label).invoke()
    return arena_bytes(file.read_bytes())


def _peak(label: str, file: Path, threads: int) -> int:
    """Runs in a child: bytes that loading and running the file adds at the most."""
    from ai_edge_litert.interpreter import Interpreter

    Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten: proc(5)
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
    """Runs in a child."""
    try:
        return op_profile.profile(file.read_bytes(), calls, threads)
    except RequestError as error:
        raise RequestError(f"{label}: {error}") from error
