"""Describe a TFLite file from any source. The file is not trusted: it cannot crash or block this process."""

import contextlib
import math
import resource
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from mobilenets_tf.errors import RequestError
from mobilenets_tf.export.delegates import web_gpu
from mobilenets_tf.export.delegates.backends import BACKENDS
from mobilenets_tf.export.delegates.compiled import PART, REPORT, Compiled, compiled
from mobilenets_tf.export.delegates.gpu import ON_INTEGERS
from mobilenets_tf.export.delegates.half_precision import HalfValue, values
from mobilenets_tf.export.delegates.multiply_adds import multiply_adds
from mobilenets_tf.export.delegates.rules import COMMIT, RuleSource, Verdict
from mobilenets_tf.progress import printable
from mobilenets_tf.tflite import flatbuffer
from mobilenets_tf.tflite.file_metadata import REMEDY, metadata_of
from mobilenets_tf.tflite.flatbuffer_check import LITERT_CUSTOM, XNNPACK_CUSTOM, tensor_bytes
from mobilenets_tf.tflite.operators import Call, Tensor, calls, tensors
from mobilenets_tf.worker import Worker, WorkerError

_LIMITS = {"int8": (-128, 127), "uint8": (0, 255), "int16": (-32768, 32767)}
_CONTROL_FLOW = {"CALL", "CALL_ONCE", "IF", "WHILE", "STABLEHLO_CASE", "STABLEHLO_WHILE"}
# Limits for an untrusted file while LiteRT plans its memory: seconds of CPU time, bytes of memory.
_SECONDS, _MEMORY = 60, 16 << 30


@dataclass(frozen=True)
class End:
    """An input or an output of the main graph.

    shape: -1 stands for a free size. scale, zero_point: None if the tensor is not quantised with one scale.
    lowest, highest: the range of real numbers that the tensor can store. formula: from stored to real numbers.
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
class OperatorTotal:
    """All operators of one type: their number, and their multiply-adds in total (0 for types that are not counted)."""

    name: str
    count: int
    multiply_adds: int


@dataclass(frozen=True)
class Weights:
    """Constants of one type: the number of values, and their bytes. Data that several tensors share count once."""

    dtype: str
    values: int
    bytes: int


@dataclass(frozen=True)
class FloatOperator:
    """An operator that computes in float in an integer file, and the first tensor that it writes."""

    operator: str
    output: str


@dataclass(frozen=True)
class Trial:
    """LiteRT's own plan for the file on this machine. The memory is planned, but the file is not run.

    arena_bytes: memory for activations (``arena.arena_bytes``). plan: operator -> how often it runs, where "DELEGATE"
    is a part of the graph that XNNPACK runs (``runtime.execution_plan``). error: why arena_bytes or plan is None.
    """

    arena_bytes: int | None
    plan: dict[str, int] | None
    error: str | None


@dataclass(frozen=True)
class Inspection:
    """A description of a TFLite file, as ``inspect`` returns it.

    bytes: the file's size. description: the text that the file has for itself.
    inputs, outputs: of the main graph.
    signatures: name of a signature -> {"inputs" and "outputs": {name: name of the tensor}}.
    operations: one entry for each type of operator, sorted by multiply-adds, then by count.
    multiply_adds: of one inference, in all graphs. Free sizes count as 1.
    weights: the constants by type. activations: type -> number of operators whose output has that type.
    not_integer: operators that compute in float; None if the file has no integer activations at all.
    custom_operators: name -> number. graphs: their number. control_flow: operator -> number.
    free_shapes: tensor -> its shape, with -1 for each size that is known only at run time.
    metadata: name -> bytes. associated_files: name -> bytes of each file in the archive behind the model.
    damage: what is damaged or missing in the metadata and the archive. LiteRT runs the file all the same; readers of
    metadata, such as MediaPipe's tasks, do not.
    trial: LiteRT's plan for the file. verdicts: which operators each backend runs.
    compiled: what a file is that was compiled for an NPU; None of any other file.
    half_precision: what the operators of the main graph give on a GPU that may pass half precision.
    """

    bytes: int
    description: str
    inputs: tuple[End, ...]
    outputs: tuple[End, ...]
    signatures: dict[str, dict[str, dict[str, str]]]
    operations: tuple[OperatorTotal, ...]
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
    damage: tuple[str, ...]
    trial: Trial
    verdicts: tuple[Verdict, ...]
    half_precision: tuple[HalfValue, ...]
    compiled: Compiled | None

    def as_dict(self) -> dict:
        """Return plain data for JSON."""
        return asdict(self)

    def lines(self) -> list[str]:
        """Return the description as lines of text for people."""
        return [*_lines(self)]


def inspect(file: str | Path | bytes) -> Inspection:
    """Describe a TFLite file: inputs, outputs, operators, weights, and what phones' accelerators will run of it.

    The file may come from anywhere. It is checked before anything else reads it (``flatbuffer.read``), and LiteRT loads
    it in a child process only. TensorFlow is not needed.

    Args:
        file: a path, or the content of a file.

    Raises:
        RequestError: the file does not exist, or is not a valid TFLite file; the message gives the reason.
    """
    label, path = "The model", None
    if not isinstance(file, bytes):
        label, path = str(file), Path(file)
        if not Path(file).is_file():
            raise RequestError(f"No such TFLite file: {file}")
        file = Path(file).read_bytes()
    with Worker(preload="") as worker:  # starts while the file is read
        try:
            model = flatbuffer.read(file)
        except RequestError as error:
            raise RequestError(f"{label}: {error}") from error
        return _inspection(file, model, worker, path)


def _inspection(content: bytes, model, worker: Worker, path: Path | None) -> Inspection:
    graphs = [calls(model, number) for number in range(len(model.subgraphs))]
    main, operators = model.subgraphs[0], [call for graph in graphs for call in graph]
    tensors_of_graphs = [tensors(model, number) for number in range(len(model.subgraphs))]
    counts, products = Counter(call.name for call in operators), Counter()
    for call in operators:
        products[call.name] += multiply_adds(call)
    order = sorted(counts, key=lambda name: (-products[name], -counts[name], name))
    activations = Counter(call.outputs[0].type for call in operators if call.outputs and not call.outputs[0].unpacked)
    custom = Counter(call.name for call in operators if call.custom)
    described = metadata_of(content)
    return Inspection(
        bytes=len(content),
        description=(model.description or b"").decode(),
        inputs=tuple(_end(main, tensors_of_graphs[0][index]) for index in main.inputs),
        outputs=tuple(_end(main, tensors_of_graphs[0][index]) for index in main.outputs),
        signatures=_signatures(model),
        operations=tuple(OperatorTotal(name, counts[name], products[name]) for name in order),
        multiply_adds=products.total(),
        weights=_weights(model, tensors_of_graphs),
        activations=dict(activations.most_common()),
        not_integer=_not_integer(operators, activations),
        custom_operators=dict(custom.most_common()),
        graphs=len(graphs),
        control_flow={name: counts[name] for name in order if name in _CONTROL_FLOW},
        free_shapes=_free_shapes(model),
        metadata={(entry.name or b"").decode(): _stored(model.buffers[entry.buffer]) for entry in model.metadata or ()},
        associated_files=described.associated_files,
        damage=described.damage,
        trial=_trial(content, worker),
        verdicts=tuple(backend.verdict(graphs) for backend in BACKENDS),
        half_precision=tuple(each for each in values(graphs[0]) if each.named),
        compiled=compiled(model, path),
    )


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
    signatures = {}
    for signature in model.signatureDefs or ():
        of_graph = model.subgraphs[signature.subgraphIndex].tensors
        signatures[(signature.signatureKey or b"").decode()] = {
            what: {(entry.name or b"").decode(): of_graph[entry.tensorIndex].name.decode() for entry in entries or ()}
            for what, entries in (("inputs", signature.inputs), ("outputs", signature.outputs))
        }
    return signatures


def _stored(buffer) -> int:
    return int(buffer.size) if buffer.offset > 1 else 0 if buffer.data is None else len(buffer.data)


def _weights(model, tensors_of_graphs: list[list[Tensor]]) -> tuple[Weights, ...]:
    values, sizes, buffers = Counter(), Counter(), set()
    for graph, views in zip(model.subgraphs, tensors_of_graphs, strict=True):
        for tensor, view in zip(graph.tensors, views, strict=True):
            if not view.constant or (tensor.buffer and tensor.buffer in buffers):
                continue
            buffers.add(tensor.buffer)
            size = (
                _stored(model.buffers[tensor.buffer]) if tensor.buffer else tensor_bytes(view.type.upper(), view.shape)
            )
            values[view.type] += math.prod(view.shape)
            sizes[view.type] += size or 0
    return tuple(Weights(name, values[name], size) for name, size in sizes.most_common())


def _not_integer(operators: list[Call], activations: Counter) -> tuple[FloatOperator, ...] | None:
    """Return the operators that compute in float. Operators that only convert from or to float do not count."""
    if not any(name in _LIMITS for name in activations):
        return None
    return tuple(
        FloatOperator(call.name, call.outputs[0].name)
        for call in operators
        if call.name not in ("DEQUANTIZE", "QUANTIZE")
        and any(tensor.type in ("float16", "bfloat16", "float32", "float64") for tensor in call.outputs)
    )


def _free_shapes(model) -> dict[str, tuple[int, ...]]:
    shapes = {}
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            signature = [] if tensor.shapeSignature is None else tensor.shapeSignature.tolist()
            if -1 in signature:
                shapes[tensor.name.decode()] = tuple(signature)
    return shapes


def _trial(content: bytes, worker: Worker) -> Trial:
    try:
        return worker.call(_try, content)
    except WorkerError as error:
        return Trial(None, None, f"LiteRT crashed on it. {error}")


def _try(content: bytes) -> Trial:
    """Load the file in LiteRT. Runs in the worker, so that a hostile file can crash only the worker."""
    from mobilenets_tf.tflite.arena import arena_bytes
    from mobilenets_tf.tflite.runtime import Runner

    arena = plan = error = None
    with _limits():
        # An untrusted file can make LiteRT raise any exception.
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
    """Limit the time and the memory of this process. Past a limit the system kills the process or refuses memory."""
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


# Lines for people. Names come from an untrusted file and go to a terminal, so control characters are escaped.


_SHOWN = 5  # entries of a long list


def _plain(name: str, length: int = 80) -> str:
    text = printable(name).replace("\n", "\\n")
    return text if len(text) <= length else f"{text[: length - 3]}..."


def _kernels_of(custom: str) -> str:
    if custom in LITERT_CUSTOM:
        return "LiteRT has the kernels, on the CPU"
    if custom == PART:
        return "each is a part of the graph that was compiled for an NPU"
    if custom in XNNPACK_CUSTOM:
        return "XNNPACK has the kernels, on the CPU, and LiteRT's own are missing"
    return "an app has to bring their kernels"


def _sides(shape) -> str:
    return "x".join("?" if side < 0 else str(side) for side in shape) or "scalar"


def _lines(file: Inspection) -> Iterator[str]:
    yield f"size             {file.bytes:,} bytes"
    if file.description:
        yield f"description      {_plain(file.description)}"
    if file.compiled:
        yield from _compiled_lines(file.compiled)
    for what, ends in (("input", file.inputs), ("output", file.outputs)):
        for end in ends:
            limits = "" if end.lowest is None else f"; from {end.lowest:.6g} to {end.highest:.6g}"
            formula = "" if end.scale is None and end.lowest is None else f", {end.formula}{limits}"
            yield f"{what:<16} {_plain(end.name)}: {end.dtype} {_sides(end.shape)}{formula}"
    for key, signature in file.signatures.items():
        ends = (", ".join(map(_plain, signature[what])) for what in ("inputs", "outputs"))
        yield f"signature        {_plain(key)}: {' -> '.join(ends)}"
    yield f"multiply-adds    {file.multiply_adds:,}{', without those of the compiled parts' if file.compiled else ''}"
    for operation in file.operations:
        share = f"  {operation.multiply_adds:>15,} multiply-adds" if operation.multiply_adds else ""
        yield f"  {operation.count:>5} {_plain(operation.name):<28}{share}"
    for weights in file.weights:
        yield f"constants        {weights.dtype}: {weights.values:,} values, {weights.bytes:,} bytes"
    types = ", ".join(f"{name} ({count})" for name, count in file.activations.items())
    yield f"computed         {types or 'nothing'}"
    if file.not_integer:
        yield f"not integer      {_counted(Counter(entry.operator for entry in file.not_integer).most_common())}"
        yield from (f"  {_plain(entry.operator)} -> {_plain(entry.output)}" for entry in file.not_integer[:_SHOWN])
        if len(file.not_integer) > _SHOWN:
            yield f"  and {len(file.not_integer) - _SHOWN} more (--json has them all)"
    elif file.not_integer is not None:
        yield "not integer      nothing"
    by_kernel: dict[str, list[tuple[str, int]]] = {}
    for name, number in file.custom_operators.items():
        by_kernel.setdefault(_kernels_of(name), []).append((name, number))
    for where, custom in sorted(by_kernel.items(), reverse=True):
        yield f"custom operators {_counted(custom)}; {where}"
    if any(name.startswith("Flex") for name in file.custom_operators):
        yield "                 Flex operators need TensorFlow's kernels in the app, which are tens of megabytes"
    if file.graphs > 1:
        yield f"graphs           {file.graphs}; control flow: {_counted(file.control_flow.items()) or 'none'}"
    if file.free_shapes:
        names = [f"{_plain(name)} {_sides(shape)}" for name, shape in file.free_shapes.items()]
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        yield f"free sizes       {', '.join(names[:_SHOWN])}{more}; they count as 1 in multiply-adds and memory"
    for what, entries in (("metadata", file.metadata), ("associated file", file.associated_files)):
        yield from (f"{what:<16} {_plain(name)}, {size:,} bytes" for name, size in entries.items())
    yield from (f"damaged          {_plain(reason, 200)}" for reason in file.damage)
    if file.damage:
        yield f"                 {REMEDY}"
    if file.trial.arena_bytes is not None:
        yield f"arena            {file.trial.arena_bytes:,} bytes for activations, with LiteRT's own kernels"
    if file.trial.error and not file.compiled:
        what = "does not run     " if file.trial.plan is None else "arena            not known without XNNPACK: "
        yield f"{what}{_plain(file.trial.error, 400)}"
    if not file.compiled:
        yield from _backend_lines(file)


def _backend_lines(file: Inspection) -> Iterator[str]:
    for verdict in file.verdicts:
        yield from _verdict_lines(verdict, file.trial.plan if verdict.path == "xnnpack" else None)
    yield from (_plain(each.line(), 300) for each in file.half_precision)
    if file.not_integer is not None:
        yield ON_INTEGERS
    left = "Operators that are left run in LiteRT's own kernels on the CPU."
    refuses = any(verdict.path == "web_gpu" and verdict.fallbacks for verdict in file.verdicts)
    yield f"{left} MediaPipe in a browser refuses the file." if refuses else left
    yield f"The rules are those of google-ai-edge/LiteRT at {COMMIT[:9]}, in the files named in brackets."
    yield f"Those of MediaPipe in browsers were tried with {web_gpu.SOURCE.repository} {web_gpu.SOURCE.commit}."


def _compiled_lines(file: Compiled) -> Iterator[str]:
    yield f"compiled for     {_plain(file.line())}"
    if file.inside:
        counts = _counted(file.inside.items())
        yield f"on the NPU       {file.taken} of {file.operators} operators by {REPORT}: {counts}"
    yield "                 Nothing else runs it: for other phones ship the file that it was compiled from."


def _counted(counts) -> str:
    return ", ".join(f"{_plain(name)} ({count})" for name, count in counts)


def _verdict_lines(verdict: Verdict, plan: dict[str, int] | None) -> Iterator[str]:
    parts = sum(verdict.parts)
    yield (
        f"{verdict.title}: {verdict.taken} of {verdict.total} operators"
        + (f" in {parts} part{'s' * (parts != 1)}" if parts else "")
        + (f", {verdict.outside:.1%} of the multiply-adds outside" if parts and verdict.fallbacks else "")
        + f" ({verdict.note})"
    )
    operators_by_reason: dict[tuple[str, RuleSource], list[str]] = {}
    for fallback in verdict.fallbacks:
        operators_by_reason.setdefault((fallback.reason, fallback.source), []).append(fallback.operator)
    for (reason, source), operators in operators_by_reason.items():
        where = f"{Path(source.file).name}, {source.place}"
        names = "all" if len(operators) == verdict.total else _counted(Counter(operators).most_common())
        yield f"  left: {names}: {_plain(reason, 200)} [{where}]"
    if plan is not None and plan != predicted_plan(verdict):
        yield f"  LiteRT on this machine divides the file differently: {_counted(plan.items())}"


def predicted_plan(verdict: Verdict) -> dict[str, int]:
    """Return a verdict on the main graph in the form of ``runtime.execution_plan``, to compare both."""
    plan = Counter(fallback.operator for fallback in verdict.fallbacks if fallback.graph == 0)
    return dict(plan) | ({"DELEGATE": verdict.parts[0]} if verdict.parts[0] else {})
