"""Compare what a TFLite file computes on a phone's kind of processor with what it computes on this machine.

The phone's processor is emulated, and runs LiteRT's own arm64 build. LiteRT's XNNPACK has different kernels for arm64
than for x86, and different ones again for cores with dot product or matrix product instructions. ``compare_with_host``
runs a file on one emulated core of each kind and on this machine, and compares the outputs.

Integer files have to give equal outputs, bit for bit. The only exception is a SOFTMAX at the end of a file: XNNPACK
leaves it to LiteRT's own kernel, whose rounding on arm64 differs by one level at most. The input of this SOFTMAX is
compared bit for bit.

All outputs are compared. A detector's file with non-maximum suppression has four. The suppression is LiteRT's own
kernel and decodes boxes in double precision; so far, equal inputs have given equal outputs. One thing may differ on a
phone: an integer file has many equal scores, and std::partial_sort decides which of several equal scores comes first.
Both builds of LiteRT here use libstdc++, Android uses libc++.

The comparison does not show: latency (an emulator's latency means nothing), the GPU and NPU delegates (they need the
phone's hardware), and Android's own build of LiteRT (the build here is for Linux, from the same source).

``setup`` makes the emulated runtime.
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
from mobilenets_tf.worker import WorkerError, ending_with_this_process

# One core of each kind: ARMv8.0, ARMv8.2 with dot products, ARMv9 with matrix products.
CPUS = ("cortex-a53", "cortex-a76", "cortex-a710")
# The largest difference allowed, divided by the largest output: for files that compute in floats only, and for files
# that round floats to integers on the way ("dynamic" files, and integer files with some ops in float). In the latter, a
# difference in a float's last bit can become a whole level of an integer, which changes everything that follows:
# measured, up to 0.04 for a "dynamic" MobileNetV2 with random weights.
FLOAT_TOLERANCE, MIXED_TOLERANCE = 1e-4, 0.1
# If the outputs have fewer different values than this, equal outputs prove little about the kernels.
FEW_VALUES = 8
NOT_PROVED = (
    "This comparison does not show a phone's latency, its GPU or NPU, or the results of Android's own build of LiteRT."
)
# Bits of Linux' AT_HWCAP and AT_HWCAP2 for arm64 (arch/arm64/include/uapi/asm/hwcap.h).
_ASIMDDP, _I8MM = 1 << 20, 1 << 13
_INTEGERS = [getattr(flatbuffer.schema.TensorType, name) for name in ("INT8", "UINT8", "INT16", "INT4")]


class EmulatorError(WorkerError):
    """The emulated process died, hung, or sent an invalid answer. The message has the last lines that it printed."""


@dataclass(frozen=True)
class EmulatedRun:
    """The outputs of a file on one emulated core.

    outputs: for each sample the file's outputs, in the file's dtypes.
    kernels: the instruction with which XNNPACK's int8 kernels multiply on this core: "smlal", "sdot" or "smmla".
    partitions: the number of parts of the graph that XNNPACK runs.
    """

    outputs: list[list[np.ndarray]]
    kernels: str
    partitions: int


@dataclass(frozen=True)
class Emulator:
    """An emulated arm64 machine with Python, NumPy and LiteRT, as ``setup.find`` returns it.

    command: the words that start the machine's Python; "{cpu}" stands for the name of the core.
    environment: all environment variables of the machine.
    versions: name of a part, such as "qemu" or "numpy" -> its version.
    patience: time limit for one inference, in seconds.
    """

    command: tuple[str, ...]
    environment: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    patience: float = 300.0

    def run(
        self, content: bytes, inputs: Sequence[list[np.ndarray]], cpu: str = CPUS[-1], progress: Progress = silent
    ) -> EmulatedRun:
        """Run a TFLite file on one core, with one thread.

        Args:
            content: content of the file.
            inputs: for each sample one array for each input, with the shape and dtype of the input.
            cpu: QEMU's name of the core.

        Raises:
            EmulatorError: the emulated process died, hung, or sent an invalid answer.
        """
        script = str(Path(guest.__file__))
        command = [cpu if word == "{cpu}" else word for word in self.command] + [script]
        with tempfile.TemporaryFile() as errors:
            try:
                process = subprocess.Popen(
                    ending_with_this_process(command),
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    env=self.environment,
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
                with suppress(BrokenPipeError):  # raised if the process died before it read all input
                    process.stdin.close()
                process.stdout.close()
        return EmulatedRun(outputs, _kernels(about), about["partitions"])

    @contextmanager
    def _explained(self, process, errors, cpu: str):
        """Set a time limit for one exchange with the process, and turn its failures into ``EmulatorError``."""
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
                reason = f"gave no answer in {self.patience:g} s and was ended"
            elif isinstance(error, ValueError):
                reason = f"sent an invalid answer ({error})"
            else:
                reason = _ending(process)
            raise EmulatorError(f"The emulated {cpu} {reason}.{_last_words(errors)}") from error
        finally:
            timer.cancel()


def _greeting(stream) -> dict:
    """Read the first line of the emulated process. ValueError if ``guest`` cannot have written the line."""
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
        return "closed its pipe"
    return f"ended with {f'signal {signal.Signals(-status).name}' if status < 0 else f'exit status {status}'}"


def _last_words(errors) -> str:
    errors.seek(0)
    lines = [line.strip() for line in errors.read().decode(errors="replace").splitlines() if line.strip()]
    return f" Its last lines: {' | '.join(lines[-4:])[-600:]}" if lines else ""


@dataclass(frozen=True)
class HostRun:
    """The run of a file on this machine, with which the emulated cores are compared.

    content: the file that was run. If the last op of an integer file is a SOFTMAX, its input is an additional output.
    inputs, outputs: for each sample one array for each input and output, in the file's dtypes.
    quantization: (scale, zero point) of each output; the scale of a float output is 0.
    tolerance: the largest difference allowed on another processor, divided by the largest output. 0 for a file that
        computes in integers only: its outputs have to be equal bit for bit.
    steps: for each output the difference of real values that is allowed nevertheless: one level for the output of a
        last SOFTMAX, else 0.
    """

    content: bytes
    inputs: list[list[np.ndarray]]
    outputs: list[list[np.ndarray]]
    quantization: list[tuple[float, int]]
    tolerance: float
    steps: list[float]


def run_on_host(content: bytes, samples: Iterable[Sequence[np.ndarray]]) -> HostRun:
    """Run a file on this machine, with one thread. Call it in a ``worker.Worker`` if the file is not trusted.

    Args:
        content: content of the file.
        samples: for each sample one array for each input, as ``runtime.Runner`` accepts them.

    Raises:
        RequestError: LiteRT cannot run the file, a sample does not match the inputs, or there are no samples.
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
    """Make the input of a last SOFTMAX an additional output of the file; return the new content, ``HostRun.steps``."""
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
    """Return the difference allowed between the outputs on two processors (``HostRun.tolerance``), from the ops."""
    tree = flatbuffer.read(content)
    if not flatbuffer.float_operator_counts(tree):
        return 0.0
    floats = flatbuffer.schema.TensorType.FLOAT32
    for graph in tree.subgraphs:
        computed = set()  # tensors that depend on floats which an operator computed; operators are in running order
        for operator in graph.operators:
            inputs, outputs = ([index for index in ends if index >= 0] for ends in (operator.inputs, operator.outputs))
            converts = flatbuffer.operator_name(tree, operator) == "DEQUANTIZE"
            in_floats = not converts and any(graph.tensors[index].type == floats for index in outputs)
            if in_floats or computed.intersection(inputs):
                computed.update(outputs)
                ends = outputs if converts else [*inputs, *outputs]
                if any(_is_quantised(graph.tensors[index]) for index in ends):
                    return MIXED_TOLERANCE
    return FLOAT_TOLERANCE


def _is_quantised(tensor) -> bool:
    scale = None if tensor.quantization is None else tensor.quantization.scale
    return tensor.type in _INTEGERS and scale is not None and len(scale) > 0


def random_inputs(runner: Runner, count: int, seed: int = 0) -> Iterator[list[np.ndarray]]:
    """Yield ``count`` random samples: integer inputs are uniform over their type, float inputs normally distributed.

    Raises:
        RequestError: an input has another type, such as the numbers of words.
    """
    random = np.random.default_rng(seed)
    for details in runner.inputs:
        dtype = np.dtype(details["dtype"])
        if dtype not in (np.float32, np.int8, np.uint8, np.int16):
            raise RequestError(f"Input {details['name']!r} is {dtype}, for which random values make no sense.")
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
    """A file's outputs on one emulated core, compared with those on this machine.

    cpu, kernels, partitions: the core and its kernels, as in ``EmulatedRun``.
    samples: the number of samples.
    tolerance: the difference allowed, as in ``HostRun``; 0: the outputs have to be equal bit for bit.
    equal: whether all outputs are equal bit for bit.
    equal_before_softmax: whether all outputs are equal bit for bit, except that the output of a SOFTMAX at the end may
        differ by one level; the input of this SOFTMAX is equal too.
    values: the number of different values in the outputs on this machine, over all samples. If it is small, equality
        proves little: a random network's int8 probabilities are all zero.
    relative_difference: the largest difference of a real value, divided by the largest value of its output; infinite if
        one of the two is not finite. For a mask, the share of pixels that have another class.
    sample: the index of the sample with this difference; None if all outputs are equal.
    passed: ``equal_before_softmax``, or the difference is within the tolerance.
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
        """Return plain data for JSON."""
        return asdict(self)

    def line(self) -> str:
        """Return the comparison as a line of text for people."""
        if self.equal:
            text = f"equal bit for bit on {self.samples} samples ({self.values} different values)"
        elif self.equal_before_softmax:
            text = (
                f"equal bit for bit on {self.samples} samples up to the last SOFTMAX, in which LiteRT's own kernels "
                f"differ by one level ({self.values} different values)"
            )
        else:
            allowed = f"{self.tolerance:g} is allowed" if self.tolerance else "it has to be equal bit for bit"
            text = (
                f"{'' if self.passed else 'FAILED: '}differs by {self.relative_difference:.2g} of the largest output "
                f"(sample {self.sample} of {self.samples}; {allowed})"
            )
        if self.values < FEW_VALUES:
            text += "; the outputs have too few different values to prove much: use other images"
        return f"{self.cpu:<12} {self.kernels:<6} {text}"


def compare_with_host(
    emulator: Emulator,
    content: bytes,
    samples: Iterable[Sequence[np.ndarray]],
    cpus: Sequence[str] = CPUS,
    progress: Progress = silent,
) -> list[ArchComparison]:
    """Run a file on this machine and on emulated cores, and compare the outputs.

    Args:
        emulator: the emulator that ``setup.find`` returns.
        content: content of the file.
        samples: for each sample one array for each input, as ``runtime.Runner`` accepts them.
        cpus: QEMU's names of the cores.

    Returns:
        One comparison for each core.

    Raises:
        RequestError: LiteRT cannot run the file, a sample does not match the inputs, or there are no samples.
        EmulatorError: the emulated process died, hung, or sent an invalid answer.
    """
    return compare_cores(emulator, run_on_host(content, samples), cpus, progress)


def compare_cores(
    emulator: Emulator, host: HostRun, cpus: Sequence[str] = CPUS, progress: Progress = silent
) -> list[ArchComparison]:
    """Run on emulated cores what ``run_on_host`` ran on this machine, and compare the outputs.

    Use this instead of ``compare_with_host`` if the file is not trusted: ``run_on_host`` can then run in a worker.

    Args:
        emulator: the emulator that ``setup.find`` returns.
        host: the run on this machine.
        cpus: QEMU's names of the cores (``setup.check_cpus`` checks them).

    Returns:
        One comparison for each core.

    Raises:
        EmulatorError: the emulated process died, hung, or sent an invalid answer.
    """
    return [_compare(cpu, emulator.run(host.content, host.inputs, cpu, progress), host) for cpu in cpus]


def _compare(cpu: str, run: EmulatedRun, host: HostRun) -> ArchComparison:
    equal, close, worst, sample = True, True, 0.0, None
    largest = [max(_largest(outputs[i], host.quantization[i]) for outputs in host.outputs)
               for i in range(len(host.quantization))]  # fmt: skip
    for index, (here, there) in enumerate(zip(host.outputs, run.outputs, strict=True)):
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
        kernels=run.kernels,
        partitions=run.partitions,
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
    """Return the largest difference of a real value; for class numbers, the share of values that differ."""
    if _are_classes(here, quantization):
        return float((here != there).mean())
    scale, _ = quantization
    with np.errstate(invalid="ignore"):  # infinity minus infinity
        return float(np.abs(here.astype(np.float64) - there.astype(np.float64)).max()) * (scale or 1.0)


def _largest(output: np.ndarray, quantization: tuple[float, int]) -> float:
    """Return the largest real value, by which differences are divided; 1 for class numbers."""
    if _are_classes(output, quantization):
        return 1.0
    scale, zero_point = quantization
    values = output.astype(np.float64)
    if scale:
        values = (values - zero_point) * scale
    return float(np.abs(values[np.isfinite(values)]).max(initial=0.0))


def _are_classes(output: np.ndarray, quantization: tuple[float, int]) -> bool:
    """Whether an output has integers without a scale, such as a mask: these are class numbers, not real values."""
    return output.dtype.kind in "iub" and not quantization[0]
