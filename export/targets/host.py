"""The run of a file on this machine, with which other targets are compared, and how much two runs differ."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from mobilenets_tf.errors import RequestError
from mobilenets_tf.export.targets.child import TargetError
from mobilenets_tf.tflite import flatbuffer
from mobilenets_tf.tflite.runtime import Runner

# The largest difference allowed, divided by the largest output: for files that compute in floats only, and for files
# that round floats to integers on the way ("dynamic" files, and integer files with some ops in float). In the latter, a
# difference in a float's last bit can become a whole level of an integer, which changes everything that follows:
# measured, up to 0.04 for a "dynamic" MobileNetV2 with random weights.
FLOAT_TOLERANCE, MIXED_TOLERANCE = 1e-4, 0.1
# If the outputs have fewer different values than this, equal outputs prove little about the kernels.
FEW_VALUES = 8
_INTEGERS = [getattr(flatbuffer.schema.TensorType, name) for name in ("INT8", "UINT8", "INT16", "INT4")]


@dataclass(frozen=True)
class HostRun:
    """The run of a file on this machine, with which the emulated cores are compared.

    content: the file that was run, with additional outputs if those were asked for.
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

    @property
    def values(self) -> int:
        """The number of different values in the outputs, over all samples."""
        return len(np.unique(np.concatenate([array.ravel() for outputs in self.outputs for array in outputs])))


def run_on_host(content: bytes, samples: Iterable[Sequence[np.ndarray]], scores: bool = True) -> HostRun:
    """Run a file on this machine, with one thread. Call it in a ``worker.Worker`` if the file is not trusted.

    Args:
        content: content of the file.
        samples: for each sample one array for each input, as ``runtime.Runner`` accepts them.
        scores: make the input of a last SOFTMAX of an integer file an additional output.

    Raises:
        RequestError: LiteRT cannot run the file, a sample does not match the inputs, or there are no samples.
    """
    allowed = tolerance(content)
    content, steps = _with_scores(content) if scores and not allowed else (content, None)
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
class Differences:
    """How much the outputs of another target differ from those of this machine.

    equal: whether all outputs are equal bit for bit.
    within_steps: whether each output differs by ``HostRun.steps`` at most.
    relative: the largest difference of a real value, divided by the largest value of its output; infinite if one of the
        two is not finite. For a mask, the share of pixels that have another class.
    levels: the largest difference of a quantised output, in levels; None if no output is quantised.
    absolute: the largest difference of a real value of a float output; None if no output is in float.
    sample: the index of the sample with the largest relative difference; None if all outputs are equal.
    """

    equal: bool
    within_steps: bool
    relative: float
    levels: int | None
    absolute: float | None
    sample: int | None


def differences(host: HostRun, outputs: Sequence[Sequence[np.ndarray]], target: str) -> Differences:
    """Compare the outputs of another target with those of this machine.

    Args:
        host: the run on this machine.
        outputs: for each of its samples one array for each output.
        target: what the message calls the other target.

    Raises:
        TargetError: the outputs have other shapes or types than those of this machine.
    """
    equal, close, worst, sample = True, True, 0.0, None
    apart: dict[bool, float] = {}  # whether an output is quantised -> the largest difference of its stored values
    ends = range(len(host.quantization))
    largest = [max(_largest(each[i], host.quantization[i]) for each in host.outputs) for i in ends]
    for index, (here, there) in enumerate(zip(host.outputs, outputs, strict=True)):
        if [(a.dtype, a.shape) for a in here] != [(a.dtype, a.shape) for a in there]:
            raise TargetError(
                f"The {target} gives {[f'{a.dtype}{list(a.shape)}' for a in there]} for sample {index}; "
                f"this machine gives {[f'{a.dtype}{list(a.shape)}' for a in here]}."
            )
        for place, (a, b) in enumerate(zip(here, there, strict=True)):
            scale, _ = quantization = host.quantization[place]
            difference = 0.0 if a.tobytes() == b.tobytes() else _difference(a, b, quantization)
            if not _are_classes(a, quantization):
                stored = difference / (scale or 1.0)
                apart[bool(scale)] = max(apart.get(bool(scale), 0.0), stored if np.isfinite(stored) else np.inf)
            if a.tobytes() == b.tobytes():
                continue
            equal = False
            close = close and difference <= 1.001 * host.steps[place]
            difference = difference / max(largest[place], 1e-30) if np.isfinite(difference) else np.inf
            if sample is None or difference > worst:
                worst, sample = difference, index
    levels = round(apart[True]) if True in apart else None
    return Differences(equal, close, worst, levels, apart.get(False), sample)


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
