"""What is in a TFLite file: anyone's, and read without trusting it."""

import contextlib
import io
import math
import resource
import zipfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from mobilenets_tf.errors import RequestError
from mobilenets_tf.export.delegates.backends import PATHS
from mobilenets_tf.export.delegates.rules import COMMIT, Source, Verdict
from mobilenets_tf.tflite import flatbuffer
from mobilenets_tf.tflite.flatbuffer_check import tensor_bytes
from mobilenets_tf.tflite.operators import Call, Tensor, calls, tensors
from mobilenets_tf.worker import Worker, WorkerError

_LIMITS = {"int8": (-128, 127), "uint8": (0, 255), "int16": (-32768, 32767)}
_CONTROL_FLOW = {"CALL", "CALL_ONCE", "IF", "WHILE", "STABLEHLO_CASE", "STABLEHLO_WHILE"}
# Custom operators that LiteRT has kernels for all the same (BuiltinOpResolver in tflite/core/kernels/register.cc).
_BUNDLED = {"AudioSpectrogram", "Mfcc", "NumericVerify", "TFLite_Detection_PostProcess"}
# What an untrusted file may take of this machine while LiteRT plans its memory.
_SECONDS, _MEMORY = 60, 16 << 30


@dataclass(frozen=True)
class End:
    """An input or an output of the main graph.

    shape: -1 where the size is free. scale, zero_point: None if it is not quantised with one scale. lowest, highest:
    the real numbers that its type can hold. formula: from what is stored to real numbers.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    scale: float | None
    zero_point: int | None
    lowest: float | None
    highest: float | None
    formula: str


@dataclass(frozen=True)
class Operation:
    """All operators of one type: how many, and the multiply-adds of all of them together (0 where none are counted)."""

    name: str
    count: int
    multiply_adds: int


@dataclass(frozen=True)
class Weights:
    """Constants of one type: how many values, and the bytes they take; what several tensors share counts once."""

    dtype: str
    values: int
    bytes: int


@dataclass(frozen=True)
class FloatOperator:
    """An operator that computes in float in a file of integers, and the first tensor it writes."""

    operator: str
    output: str


@dataclass(frozen=True)
class Trial:
    """What LiteRT on this machine makes of the file. It is not run, its memory is planned.

    arena_bytes: of ``arena.arena_bytes``. plan: how often each operator runs under XNNPACK, each "DELEGATE" being a
    part of the graph that it took (``runtime.execution_plan``). error: why there is none.
    """

    arena_bytes: int | None
    plan: dict[str, int] | None
    error: str | None


@dataclass(frozen=True)
class Inspection:
    """What ``inspect`` found.

    bytes: the file's size. signatures: for each its inputs and outputs, as {name: the tensor's name}. operations: by
    multiply-adds, then count. multiply_adds: of one run, in all graphs; free sizes count as 1. activations: the types
    that operators compute. not_integer: None if the file has no integer activations at all. free_shapes: tensors with
    sizes that only the run tells, and their shapes with -1 there. metadata: names and bytes. associated_files: names
    and bytes of what is packed behind the model (a ZIP). verdicts: what each way to run the file takes of it.
    """

    bytes: int
    description: str
    inputs: tuple[End, ...]
    outputs: tuple[End, ...]
    signatures: dict[str, dict[str, dict[str, str]]]
    operations: tuple[Operation, ...]
    multiply_adds: int
    weights: tuple[Weights, ...]
    activations: dict[str, int]
    not_integer: tuple[FloatOperator, ...] | None
    custom_operators: dict[str, int]
    graphs: int
    control_flow: dict[str, int]
    free_shapes: dict[str, tuple[int, ...]]
    metadata: dict[str, int]
    associated_files: dict[str, int]
    trial: Trial
    verdicts: tuple[Verdict, ...]

    def as_dict(self) -> dict:
        """For JSON."""
        return asdict(self)

    def lines(self) -> list[str]:
        """For people."""
        return [*_lines(self)]


def inspect(file: str | Path | bytes) -> Inspection:
    """Look into a TFLite file.

    The file is checked before anything else reads it (``flatbuffer.read``), and LiteRT sees it in a child process only.
    TensorFlow is not needed.

    Args:
        file: a path, or a file's content.

    Raises:
        RequestError: no such file, or not a sound TFLite file; the reason is given.
    """
    label = "The model"
    if not isinstance(file, bytes):
        label = str(file)
        if not Path(file).is_file():
            raise RequestError(f"No such TFLite file: {file}")
        file = Path(file).read_bytes()
    with Worker(preload="") as worker:  # starts while the file is read
        try:
            model = flatbuffer.read(file)
        except RequestError as error:
            raise RequestError(f"{label}: {error}") from error
        return _inspection(file, model, worker)


def _inspection(content: bytes, model, worker: Worker) -> Inspection:
    graphs = [calls(model, number) for number in range(len(model.subgraphs))]
    main, listed = model.subgraphs[0], [call for graph in graphs for call in graph]
    every = [tensors(model, number) for number in range(len(model.subgraphs))]
    counts, products = Counter(call.name for call in listed), Counter()
    for call in listed:
        products[call.name] += multiply_adds(call)
    order = sorted(counts, key=lambda name: (-products[name], -counts[name], name))
    activations = Counter(call.outputs[0].type for call in listed if call.outputs and not call.outputs[0].unpacked)
    custom = Counter(call.name for call in listed if call.custom)
    return Inspection(
        bytes=len(content),
        description=(model.description or b"").decode(),
        inputs=tuple(_end(main, every[0][index]) for index in main.inputs),
        outputs=tuple(_end(main, every[0][index]) for index in main.outputs),
        signatures=_signatures(model),
        operations=tuple(Operation(name, counts[name], products[name]) for name in order),
        multiply_adds=products.total(),
        weights=_weights(model, every),
        activations=dict(activations.most_common()),
        not_integer=_not_integer(listed, activations),
        custom_operators=dict(custom.most_common()),
        graphs=len(graphs),
        control_flow={name: counts[name] for name in order if name in _CONTROL_FLOW},
        free_shapes=_free_shapes(model),
        metadata={(entry.name or b"").decode(): _stored(model.buffers[entry.buffer]) for entry in model.metadata or ()},
        associated_files=_associated_files(content),
        trial=_trial(content, worker),
        verdicts=tuple(path.verdict(graphs) for path in PATHS),
    )


def multiply_adds(call: Call) -> int:
    """Of convolutions, linear layers and matrix products, as ``complexity.multiply_adds`` counts them; 0 for others.

    Raises:
        RequestError: the operator has not the inputs or dimensions to count them by.
    """
    rule = _COUNTS.get(call.name)
    if rule is None:
        return 0
    try:
        return rule(call)
    except (AttributeError, IndexError) as error:
        what = f"operator {call.place}, {call.name}, has not the inputs or the dimensions it needs"
        raise RequestError(f"a damaged TFLite file ({what}).") from error


def _convolution(call: Call) -> int:
    _, height, width, channels = _dimensions(call.inputs[1], 4)
    return math.prod(call.outputs[0].shape) * height * width * channels


def _depthwise(call: Call) -> int:
    _, height, width, _ = _dimensions(call.inputs[1], 4)
    return math.prod(call.outputs[0].shape) * height * width


def _convolution_3d(call: Call) -> int:
    depth, height, width, channels, _ = _dimensions(call.inputs[1], 5)
    return math.prod(call.outputs[0].shape) * depth * height * width * channels


def _fully_connected(call: Call) -> int:
    return math.prod(call.outputs[0].shape) * call.inputs[1].shape[-1]


def _transposed(call: Call) -> int:
    channels, height, width, _ = _dimensions(call.inputs[1], 4)
    return math.prod(call.inputs[2].shape) * height * width * channels


def _products(call: Call) -> int:
    return math.prod(call.outputs[0].shape) * call.inputs[0].shape[-2 if call.option("adjX") else -1]


_COUNTS = {
    "BATCH_MATMUL": _products,
    "CONV_2D": _convolution,
    "CONV_3D": _convolution_3d,
    "DEPTHWISE_CONV_2D": _depthwise,
    "FULLY_CONNECTED": _fully_connected,
    "TRANSPOSE_CONV": _transposed,
}


def _dimensions(tensor: Tensor, rank: int) -> tuple[int, ...]:
    if len(tensor.shape) != rank:
        raise IndexError
    return tensor.shape


def _end(graph, tensor: Tensor) -> End:
    signature = graph.tensors[tensor.index].shapeSignature
    shape = tensor.shape if signature is None or not len(signature) else tuple(signature.tolist())
    scale = float(tensor.scales[0]) if len(tensor.scales) == 1 and tensor.type in _LIMITS else None
    zero = int(tensor.zero_points[0]) if scale is not None else None
    lowest, highest, formula = None, None, "real = stored"
    if scale is not None:
        lowest, highest = (scale * (limit - zero) for limit in _LIMITS[tensor.type])
        shifted = "stored" if not zero else f"(stored {'-' if zero > 0 else '+'} {abs(zero)})"
        formula = f"real = {scale!r} * {shifted}"
    elif len(tensor.scales) > 1:
        formula = f"real = scale[i] * (stored - zero_point[i]), i along dimension {tensor.axis}"
    elif tensor.type in _LIMITS:
        lowest, highest = map(float, _LIMITS[tensor.type])
    return End(tensor.name, shape, tensor.type, scale, zero, lowest, highest, formula)


def _signatures(model) -> dict[str, dict[str, dict[str, str]]]:
    found = {}
    for signature in model.signatureDefs or ():
        named = model.subgraphs[signature.subgraphIndex].tensors
        found[(signature.signatureKey or b"").decode()] = {
            what: {(entry.name or b"").decode(): named[entry.tensorIndex].name.decode() for entry in entries or ()}
            for what, entries in (("inputs", signature.inputs), ("outputs", signature.outputs))
        }
    return found


def _stored(buffer) -> int:
    return int(buffer.size) if buffer.offset > 1 else 0 if buffer.data is None else len(buffer.data)


def _weights(model, every: list[list[Tensor]]) -> tuple[Weights, ...]:
    values, sizes, seen = Counter(), Counter(), set()
    for graph, views in zip(model.subgraphs, every, strict=True):
        for tensor, view in zip(graph.tensors, views, strict=True):
            if not view.constant or (tensor.buffer and tensor.buffer in seen):
                continue
            seen.add(tensor.buffer)
            size = (
                _stored(model.buffers[tensor.buffer]) if tensor.buffer else tensor_bytes(view.type.upper(), view.shape)
            )
            values[view.type] += math.prod(view.shape)
            sizes[view.type] += size or 0
    return tuple(Weights(name, values[name], size) for name, size in sizes.most_common())


def _not_integer(listed: list[Call], activations: Counter) -> tuple[FloatOperator, ...] | None:
    """Operators that compute in float; those that convert to and from it do not compute."""
    if not any(name in _LIMITS for name in activations):
        return None
    return tuple(
        FloatOperator(call.name, call.outputs[0].name)
        for call in listed
        if call.name not in ("DEQUANTIZE", "QUANTIZE")
        and any(tensor.type in ("float16", "bfloat16", "float32", "float64") for tensor in call.outputs)
    )


def _free_shapes(model) -> dict[str, tuple[int, ...]]:
    found = {}
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            signature = [] if tensor.shapeSignature is None else tensor.shapeSignature.tolist()
            if -1 in signature:
                found[tensor.name.decode()] = tuple(signature)
    return found


def _associated_files(content: bytes) -> dict[str, int]:
    """Names and sizes in the ZIP that may stand behind the model; nothing is unpacked."""
    # A damaged ZIP is no concern of LiteRT's, and zipfile has many ways to say that there is one.
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return {entry.filename: entry.file_size for entry in archive.infolist()}
    except (zipfile.BadZipFile, ValueError, NotImplementedError, EOFError, OSError):
        return {}


def _trial(content: bytes, worker: Worker) -> Trial:
    try:
        return worker.call(_try, content)
    except WorkerError as error:
        return Trial(None, None, f"LiteRT crashed on it. {error}")


def _try(content: bytes) -> Trial:
    """Runs in the worker: a hostile file can take down no more than that."""
    from mobilenets_tf.tflite.arena import arena_bytes
    from mobilenets_tf.tflite.runtime import Runner

    arena = plan = error = None
    with _limits():
        # What LiteRT or its tensors make of a file that nobody vouches for is not to be foreseen.
        try:
            arena = arena_bytes(content)
        except Exception as reason:
            error = str(reason) or type(reason).__name__
        try:
            plan = Runner(content, threads=1, trusted=True).execution_plan()
        except Exception as reason:
            error = error or str(reason)
    return Trial(arena, plan, error)


@contextlib.contextmanager
def _limits() -> Iterator[None]:
    """Bound the time and the memory of this process; beyond them the system ends it, or refuses the memory."""
    used = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
    kinds = {resource.RLIMIT_CPU: int(used) + _SECONDS, resource.RLIMIT_AS: _MEMORY}
    before = {kind: resource.getrlimit(kind) for kind in kinds}
    for kind, value in kinds.items():
        hard = before[kind][1]
        resource.setrlimit(kind, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))
    try:
        yield
    finally:
        for kind, value in before.items():
            resource.setrlimit(kind, value)


# For people. Names come from the file, and go to a terminal.


_SHOWN = 5  # of long lists


def _plain(name: str, length: int = 80) -> str:
    text = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in name)
    return text if len(text) <= length else f"{text[: length - 3]}..."


def _sides(shape) -> str:
    return "x".join("?" if side < 0 else str(side) for side in shape) or "scalar"


def _lines(found: Inspection) -> Iterator[str]:
    yield f"size             {found.bytes:,} bytes"
    if found.description:
        yield f"description      {_plain(found.description)}"
    for what, ends in (("input", found.inputs), ("output", found.outputs)):
        for end in ends:
            limits = "" if end.lowest is None else f"; from {end.lowest:.6g} to {end.highest:.6g}"
            formula = "" if end.scale is None and end.lowest is None else f", {end.formula}{limits}"
            yield f"{what:<16} {_plain(end.name)}: {end.dtype} {_sides(end.shape)}{formula}"
    for key, signature in found.signatures.items():
        ends = (", ".join(map(_plain, signature[what])) for what in ("inputs", "outputs"))
        yield f"signature        {_plain(key)}: {' -> '.join(ends)}"
    yield f"multiply-adds    {found.multiply_adds:,}"
    for operation in found.operations:
        share = f"  {operation.multiply_adds:>15,} multiply-adds" if operation.multiply_adds else ""
        yield f"  {operation.count:>5} {_plain(operation.name):<28}{share}"
    for weights in found.weights:
        yield f"constants        {weights.dtype}: {weights.values:,} values, {weights.bytes:,} bytes"
    types = ", ".join(f"{name} ({count})" for name, count in found.activations.items())
    yield f"computed         {types or 'nothing'}"
    if found.not_integer:
        yield f"not integer      {_counted(Counter(entry.operator for entry in found.not_integer).most_common())}"
        yield from (f"  {_plain(entry.operator)} -> {_plain(entry.output)}" for entry in found.not_integer[:_SHOWN])
        if len(found.not_integer) > _SHOWN:
            yield f"  and {len(found.not_integer) - _SHOWN} more (--json has them all)"
    elif found.not_integer is not None:
        yield "not integer      nothing"
    for bundled, where in ((True, "LiteRT has the kernels, on the CPU"), (False, "an app has to bring their kernels")):
        if custom := [entry for entry in found.custom_operators.items() if (entry[0] in _BUNDLED) == bundled]:
            yield f"custom operators {_counted(custom)}; {where}"
    if any(name.startswith("Flex") for name in found.custom_operators):
        yield "                 Flex operators are TensorFlow's own and need its kernels, tens of megabytes, in the app"
    if found.graphs > 1:
        yield f"graphs           {found.graphs}; control flow: {_counted(found.control_flow.items()) or 'none'}"
    if found.free_shapes:
        names = [f"{_plain(name)} {_sides(shape)}" for name, shape in found.free_shapes.items()]
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        yield f"free sizes       {', '.join(names[:_SHOWN])}{more}; counts and memory take them as 1"
    for what, entries in (("metadata", found.metadata), ("associated file", found.associated_files)):
        yield from (f"{what:<16} {_plain(name)}, {size:,} bytes" for name, size in entries.items())
    if found.trial.arena_bytes is not None:
        yield f"arena            {found.trial.arena_bytes:,} bytes (LiteRT's own kernels)"
    if found.trial.error:
        yield f"{'does not run' if found.trial.plan is None else 'arena':<16} {_plain(found.trial.error, 400)}"
    for verdict in found.verdicts:
        yield from _verdict_lines(verdict, found.trial.plan if verdict.path == "xnnpack" else None)
    yield f"What is left runs in LiteRT's own kernels. Rules: google-ai-edge/LiteRT at {COMMIT[:9]}, in the files named"


def _counted(counts) -> str:
    return ", ".join(f"{_plain(name)} ({count})" for name, count in counts)


def _verdict_lines(verdict: Verdict, plan: dict[str, int] | None) -> Iterator[str]:
    parts = sum(verdict.parts)
    yield (
        f"{verdict.title}: {verdict.taken} of {verdict.total} operators"
        + (f" in {parts} part{'s' * (parts != 1)}" if parts else "")
        + f" ({verdict.note})"
    )
    grouped: dict[tuple[str, Source], list[str]] = {}
    for fallback in verdict.fallbacks:
        grouped.setdefault((fallback.reason, fallback.source), []).append(fallback.operator)
    for (reason, source), operators in grouped.items():
        where = f"{Path(source.file).name}, {source.place}"
        named = "all" if len(operators) == verdict.total else _counted(Counter(operators).most_common())
        yield f"  left: {named}: {_plain(reason, 200)} [{where}]"
    if plan is not None and plan != predicted_plan(verdict):
        yield f"  LiteRT on this machine runs it otherwise: {_counted(plan.items())}"


def predicted_plan(verdict: Verdict) -> dict[str, int]:
    """A verdict on the main graph, in the form of ``runtime.execution_plan``."""
    plan = Counter(fallback.operator for fallback in verdict.fallbacks if fallback.graph == 0)
    return dict(plan) | ({"DELEGATE": verdict.parts[0]} if verdict.parts[0] else {})
