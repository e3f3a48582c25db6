"""Does the file compute on a phone's processor what it computes here? Asked of LiteRT's own arm64 build, emulated.

LiteRT's XNNPACK has other kernels for arm64 than for x86, and other ones again for cores with the dot product and the
matrix product instructions. ``compare_with_host`` runs a file on emulated cores of each kind and on this machine and
compares the outputs. Integer files have to agree bit for bit, but for a SOFTMAX at the end: XNNPACK leaves that one to
LiteRT's own kernel, which rounds otherwise on arm64, by a level at most. What goes into it is compared bit for bit.

All outputs are compared, of a detector's file with the non-maximum suppression in it all four. That is LiteRT's own
kernel, which decodes boxes in double precision: where what goes into it is equal, so has been what comes out. But of
different classes with equal scores, of which an integer file has many, std::partial_sort says which comes first; both
builds here have libstdc++'s, Android has libc++'s.

What that does not prove: latency (an emulator has none worth measuring), the GPU and NPU delegates (they are not here),
and Android's own build of LiteRT (this is the Linux one, from the same source).

``arm64_setup`` makes the emulated runtime.
"""

import json
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from mobilenets_tf.errors import RequestError
from mobilenets_tf.export.arm64 import guest
from mobilenets_tf.progress import Progress, silent, track
from mobilenets_tf.tflite import flatbuffer
from mobilenets_tf.tflite.runtime import Runner
from mobilenets_tf.worker import WorkerError

# One core of each kind: ARMv8.0, with dot products (ARMv8.2), with matrix products (ARMv9).
CPUS = ("cortex-a53", "cortex-a76", "cortex-a710")
# Largest difference allowed, as a share of the largest output: where all is computed in floats, and where floats are
# rounded to integers on the way ("dynamic" files, float islands in integer ones). There a difference in a float's last
# bit makes another level of it, and all that follows is other too: up to 0.04 on a random MobileNetV2, "dynamic".
FLOAT_TOLERANCE, MIXED_TOLERANCE = 1e-4, 0.1
# Fewer different values among the outputs than this say little of the kernels that made them.
FEW_VALUES = 8
NOT_PROVED = "It does not show a phone's latency, its GPU or NPU, or Android's own build of LiteRT."
# In Linux' AT_HWCAP and AT_HWCAP2 for arm64 (arch/arm64/include/uapi/asm/hwcap.h).
_ASIMDDP, _I8MM = 1 << 20, 1 << 13
_INTEGERS = [getattr(flatbuffer.schema.TensorType, name) for name in ("INT8", "UINT8", "INT16", "INT4")]


class EmulatorError(WorkerError):
    """The emulated process died, hung, or answered with what is no answer. The message carries its last words."""


@dataclass(frozen=True)
class Answers:
    """What a file gave on one emulated core.

    outputs: for each sample the file's outputs, in its own dtypes.
    kernels: the instruction that XNNPACK's int8 kernels multiply with there: "smlal", "sdot" or "smmla".
    partitions: how many parts of the graph XNNPACK computes.
    """

    outputs: list[list[np.ndarray]]
    kernels: str
    partitions: int


@dataclass(frozen=True)
class Emulator:
    """An emulated arm64 machine with Python, NumPy and LiteRT; see ``arm64_setup.find``.

    command: the words that start its Python; "{cpu}" stands for the core's name.
    environment: its environment variables, all of them.
    versions: what it is made of, by name.
    patience: seconds to wait for one answer (one inference).
    """

    command: tuple[str, ...]
    environment: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    patience: float = 300.0

    def run(
        self, content: bytes, inputs: Sequence[list[np.ndarray]], cpu: str = CPUS[-1], progress: Progress = silent
    ) -> Answers:
        """Run a TFLite file on one core, with one thread.

        Args:
            content: the file's content.
            inputs: for each sample one array an input, of the input's own shape and dtype.
            cpu: the core's name, as QEMU spells it.

        Raises:
            EmulatorError: the emulated process died, hung or gave no sensible answer.
        """
        script = str(Path(guest.__file__))
        command = [cpu if word == "{cpu}" else word for word in self.command] + [script]
        with tempfile.TemporaryFile() as errors:
            try:
                process = subprocess.Popen(
                    command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, env=self.environment
                )
            except OSError as error:
                raise EmulatorError(f"{command[0]} cannot be started: {error.strerror or error}.") from error
            try:
                with self._explained(process, errors, cpu):
                    guest.write_array(process.stdin, np.frombuffer(content, np.uint8))
                    about = _greeting(process.stdout)
                outputs = []
                for sample in track(inputs, f"on {cpu}", progress):
                    with self._explained(process, errors, cpu):
                        for array in sample:
                            guest.write_array(process.stdin, np.asarray(array))
                        outputs.append([guest.read_array(process.stdout) for _ in range(about["outputs"])])
            finally:
                process.kill()
                process.wait()
                with suppress(BrokenPipeError):  # what a dead process has not read
                    process.stdin.close()
                process.stdout.close()
        return Answers(outputs, _kernels(about), about["partitions"])

    @contextmanager
    def _explained(self, process, errors, cpu: str):
        """A time limit for one exchange, and whatever goes wrong in it as an ``EmulatorError``."""
        expired = threading.Event()

        def end():
            expired.set()
            process.kill()

        timer = threading.Timer(self.patience, end)
        timer.start()
        try:
            yield
        except (EOFError, BrokenPipeError, ValueError) as error:
            if expired.is_set():
                reason = f"gave no answer in {self.patience:g} s, and was ended"
            elif isinstance(error, ValueError):
                reason = f"gave no sensible answer ({error})"
            else:
                reason = _ending(process)
            raise EmulatorError(f"The emulated {cpu} {reason}.{_last_words(errors)}") from error
        finally:
            timer.cancel()


def _greeting(stream) -> dict:
    """The guest's first line. ValueError if it is not what ``arm64_guest`` writes."""
    line = stream.readline(4096)
    if not line:
        raise EOFError
    try:
        about = json.loads(line)
        numbers = [about["inputs"], about["outputs"], about["partitions"], *about["capabilities"]]
        if (
            len(numbers) == 5
            and all(isinstance(number, int) for number in numbers)
            and isinstance(about["machine"], str)
        ):
            return about
    except (ValueError, TypeError, KeyError, RecursionError):
        pass
    raise ValueError(f"its first line is {line[:80]!r}")


def _kernels(about: dict) -> str:
    if about["machine"] != "aarch64":
        return about["machine"]
    first, second = about["capabilities"]
    return "smmla" if second & _I8MM else "sdot" if first & _ASIMDDP else "smlal"


def _ending(process) -> str:
    try:
        status = process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        return "closed its end"
    return f"ended with {f'signal {signal.Signals(-status).name}' if status < 0 else f'exit status {status}'}"


def _last_words(errors) -> str:
    errors.seek(0)
    lines = [line.strip() for line in errors.read().decode(errors="replace").splitlines() if line.strip()]
    return f" Its last words: {' | '.join(lines[-4:])[-600:]}" if lines else ""


@dataclass(frozen=True)
class HostRun:
    """A file's own run on this machine, in the file's own dtypes: what the emulated cores are compared with.

    content: what was run: the file, but for what goes into a last SOFTMAX, which is an output more.
    inputs, outputs: for each sample one array an input and an output.
    quantization: for each output (scale, zero point); the scale of a float output is 0.
    tolerance: the largest difference that another processor's outputs may have, as a share of the largest output; 0 for
        a file that computes in integers alone, which has to be equal bit for bit.
    steps: for each output how much its real values may differ besides: one level of a last SOFTMAX, else 0.
    """

    content: bytes
    inputs: list[list[np.ndarray]]
    outputs: list[list[np.ndarray]]
    quantization: list[tuple[float, int]]
    tolerance: float
    steps: list[float]


def run_on_host(content: bytes, samples: Iterable[Sequence[np.ndarray]]) -> HostRun:
    """Run a file here, with one thread.

    Args:
        content: the file's content.
        samples: for each sample one array an input, as ``runtime.Runner`` takes them.

    Raises:
        RequestError: a file that cannot be run, samples that do not fit, or none.
    """
    allowed = tolerance(content)
    content, steps = (content, None) if allowed else _with_scores(content)
    runner = Runner(content, threads=1)
    inputs, outputs = [], []
    for sample in samples:
        runner.invoke(*sample)
        for arrays, ends in ((inputs, runner.inputs), (outputs, runner.outputs)):
            arrays.append([runner.raw(details["index"]).copy() for details in ends])
    if not inputs:
        raise RequestError("There are no samples to compare on.")
    quantization = [details["quantization"] for details in runner.outputs]
    return HostRun(content, inputs, outputs, quantization, allowed, steps or [0.0] * len(quantization))


def _with_scores(content: bytes) -> tuple[bytes, list[float]]:
    """A file's content with what goes into its last SOFTMAX as an output more, and ``HostRun.steps``."""
    tree = flatbuffer.read(content)
    graph = flatbuffer.Graph(tree)
    steps, scores = [], []
    for index in graph.outputs:
        writer = graph.writer.get(index)
        while writer is not None and graph.name(writer) in ("QUANTIZE", "DEQUANTIZE"):
            writer = graph.writer.get(writer.inputs[0])
        rounds = writer is not None and graph.name(writer) == "SOFTMAX"
        steps.append(float(graph.tensors[writer.outputs[0]].quantization.scale[0]) if rounds else 0.0)
        scores += [writer.inputs[0]] if rounds else []
    if not scores:
        return content, steps
    tree.subgraphs[0].outputs, tree.signatureDefs = [*graph.outputs, *scores], []
    return flatbuffer.write(tree), [*steps, *[0.0] * len(scores)]


def tolerance(content: bytes) -> float:
    """What may differ between two processors in a file's outputs; see ``HostRun``."""
    tree = flatbuffer.read(content)
    if not flatbuffer.float_operator_counts(tree):
        return 0.0
    floats = flatbuffer.schema.TensorType.FLOAT32
    for graph in tree.subgraphs:
        computed = set()  # tensors in which computed floats have a part; operators are in the order of their run
        for operator in graph.operators:
            given, results = ([index for index in ends if index >= 0] for ends in (operator.inputs, operator.outputs))
            converts = flatbuffer.operator_name(tree, operator) == "DEQUANTIZE"
            in_floats = not converts and any(graph.tensors[index].type == floats for index in results)
            if in_floats or computed.intersection(given):
                computed.update(results)
                ends = results if converts else [*given, *results]
                if any(_is_quantised(graph.tensors[index]) for index in ends):
                    return MIXED_TOLERANCE
    return FLOAT_TOLERANCE


def _is_quantised(tensor) -> bool:
    scale = None if tensor.quantization is None else tensor.quantization.scale
    return tensor.type in _INTEGERS and scale is not None and len(scale) > 0


def random_inputs(runner: Runner, count: int, seed: int = 0) -> Iterator[list[np.ndarray]]:
    """Samples for a file of which nothing is known: any level of integer inputs, normal values for float ones.

    Raises:
        RequestError: an input that is neither, such as numbers of words.
    """
    random = np.random.default_rng(seed)
    for details in runner.inputs:
        dtype = np.dtype(details["dtype"])
        if dtype not in (np.float32, np.int8, np.uint8, np.int16):
            raise RequestError(f"Input {details['name']!r} is {dtype}: random values mean nothing to it.")
    for _ in range(count):
        sample = []
        for details in runner.inputs:
            dtype, shape = np.dtype(details["dtype"]), tuple(details["shape"])
            if dtype == np.float32:
                sample.append(random.standard_normal(shape, np.float32))
            else:
                limits = np.iinfo(dtype)
                sample.append(random.integers(limits.min, limits.max, shape, dtype, endpoint=True))
        yield sample


@dataclass(frozen=True)
class ArchComparison:
    """A file's outputs on one emulated core beside this machine's.

    cpu, kernels, partitions: the core, and what it computed with (see ``Answers``).
    samples: how many.
    tolerance: what was allowed, 0 for bit for bit (see ``HostRun``).
    equal: whether all outputs are equal bit for bit.
    equal_before_softmax: whether all are but those of a SOFTMAX at the end, which are no more than one level apart, and
        what goes into that is, too.
    values: how many different values the outputs have here, all samples together. Few of them prove little: a random
        network's int8 probabilities are all zero.
    relative_difference: the largest difference of any real value over the largest of that output's; infinite where one
        side has a value that is not finite. Of a mask, the share of pixels that are of another class.
    sample: the index of the sample with that difference; None if all are equal.
    passed: equal, but for a last SOFTMAX's level, or the difference is within the tolerance.
    """

    cpu: str
    kernels: str
    partitions: int
    samples: int
    tolerance: float
    equal: bool
    equal_before_softmax: bool
    values: int
    relative_difference: float
    sample: int | None
    passed: bool

    def as_dict(self) -> dict:
        """As plain data."""
        return asdict(self)

    def line(self) -> str:
        """For people."""
        if self.equal:
            found = f"equal bit for bit on {self.samples} samples ({self.values} different values)"
        elif self.equal_before_softmax:
            found = (
                f"equal bit for bit on {self.samples} samples up to the last SOFTMAX, in which LiteRT's own kernels "
                f"differ by one level ({self.values} different values)"
            )
        else:
            allowed = f"{self.tolerance:g} is allowed" if self.tolerance else "it has to be equal bit for bit"
            found = (
                f"{'' if self.passed else 'FAILED: '}differs by {self.relative_difference:.2g} of the largest output "
                f"(sample {self.sample} of {self.samples}; {allowed})"
            )
        if self.values < FEW_VALUES:
            found += "; so few values prove little: give other images"
        return f"{self.cpu:<12} {self.kernels:<6} {found}"


def compare_with_host(
    emulator: Emulator,
    content: bytes,
    samples: Iterable[Sequence[np.ndarray]],
    cpus: Sequence[str] = CPUS,
    progress: Progress = silent,
) -> list[ArchComparison]:
    """Run a file on this machine and on emulated cores, and compare.

    Args:
        emulator: as ``arm64_setup.find`` gives it.
        content, samples: as for ``run_on_host``.
        cpus: the cores' names, as QEMU spells them.

    Raises:
        RequestError: as ``run_on_host``.
        EmulatorError: as ``Emulator.run``.
    """
    return compare_cores(emulator, run_on_host(content, samples), cpus, progress)


def compare_cores(
    emulator: Emulator, host: HostRun, cpus: Sequence[str] = CPUS, progress: Progress = silent
) -> list[ArchComparison]:
    """``compare_with_host`` where this machine's run is at hand already."""
    return [_compare(cpu, emulator.run(host.content, host.inputs, cpu, progress), host) for cpu in cpus]


def _compare(cpu: str, found: Answers, host: HostRun) -> ArchComparison:
    equal, close, worst, sample = True, True, 0.0, None
    largest = [max(_largest(outputs[i], host.quantization[i]) for outputs in host.outputs)
               for i in range(len(host.quantization))]  # fmt: skip
    for index, (here, there) in enumerate(zip(host.outputs, found.outputs, strict=True)):
        if [(a.dtype, a.shape) for a in here] != [(a.dtype, a.shape) for a in there]:
            raise EmulatorError(
                f"The emulated {cpu} gives {[f'{a.dtype}{list(a.shape)}' for a in there]} for sample {index}; "
                f"this machine gives {[f'{a.dtype}{list(a.shape)}' for a in here]}."
            )
        for place, (a, b) in enumerate(zip(here, there, strict=True)):
            if a.tobytes() == b.tobytes():
                continue
            equal = False
            difference = _difference(a, b, host.quantization[place])
            close = close and difference <= 1.001 * host.steps[place]
            difference = difference / max(largest[place], 1e-30) if np.isfinite(difference) else np.inf
            if sample is None or difference > worst:
                worst, sample = difference, index
    values = len(np.unique(np.concatenate([a.ravel() for outputs in host.outputs for a in outputs])))
    return ArchComparison(
        cpu=cpu,
        kernels=found.kernels,
        partitions=found.partitions,
        samples=len(host.outputs),
        tolerance=host.tolerance,
        equal=equal,
        equal_before_softmax=close,
        values=values,
        relative_difference=worst,
        sample=sample,
        passed=close or worst <= host.tolerance,
    )


def _difference(here: np.ndarray, there: np.ndarray, quantization: tuple[float, int]) -> float:
    """The largest of any real value; of classes the share that are others."""
    if _are_classes(here, quantization):
        return float((here != there).mean())
    scale, _ = quantization
    with np.errstate(invalid="ignore"):  # infinity less infinity
        return float(np.abs(here.astype(np.float64) - there.astype(np.float64)).max()) * (scale or 1.0)


def _largest(output: np.ndarray, quantization: tuple[float, int]) -> float:
    """What differences are divided by."""
    if _are_classes(output, quantization):
        return 1.0
    scale, zero_point = quantization
    values = output.astype(np.float64)
    if scale:
        values = (values - zero_point) * scale
    return float(np.abs(values[np.isfinite(values)]).max(initial=0.0))


def _are_classes(output: np.ndarray, quantization: tuple[float, int]) -> bool:
    """Integers without a scale, such as a mask's: numbers of something, not real values."""
    return output.dtype.kind in "iub" and not quantization[0]
