"""Which operators of a file a backend runs: the form of a rule, the checks that rules consist of, and the verdict.

A backend is what runs a part of a graph instead of LiteRT's own kernels: XNNPACK, the GPU delegate, NNAPI, an NPU. The
rules themselves are in ``xnnpack``, ``gpu``, ``nnapi`` and ``npu``.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass

from mobilenets_tf.errors import RequestError
from mobilenets_tf.export.delegates.multiply_adds import multiply_adds
from mobilenets_tf.tflite import flatbuffer
from mobilenets_tf.tflite.flatbuffer_check import called_graphs
from mobilenets_tf.tflite.operators import Call, Tensor

COMMIT = "f67457790c9c2ab67347d6fe53270e8d3df20868"  # main on 21 August 2026, before the release 2.3.0
FLOAT = {"float32", "float16"}
FLOAT_OR_8 = FLOAT | {"int8", "uint8"}


@dataclass(frozen=True)
class RuleSource:
    """The source code that a rule was taken from: a file of a GitHub repository at a commit, and the function in it."""

    file: str
    place: str
    repository: str = "google-ai-edge/LiteRT"
    commit: str = COMMIT

    def __str__(self):
        return f"{self.repository}@{self.commit[:9]} {self.file}, {self.place}"


Check = Callable[[Call], str | None]  # returns the reason why a backend refuses an operator, or None


@dataclass(frozen=True)
class Rule:
    """The conditions for an operator: it passes all ``checks``, and its version is at most ``version`` (None: any)."""

    source: RuleSource
    checks: tuple[Check, ...] = ()
    version: int | None = None

    def reason(self, call: Call) -> str | None:
        """Return why the operator is refused, or None if it is accepted."""
        if self.version is not None and call.version > self.version:
            return f"version {call.version} of the operator; at most {self.version}"
        try:
            return next((reason for check in self.checks if (reason := check(call))), None)
        except (
            AttributeError,
            IndexError,
            TypeError,
            ValueError,
        ):  # an untrusted file may lack inputs that the operator needs
            return "it lacks inputs or dimensions that the operator needs"


@dataclass(frozen=True)
class Fallback:
    """An operator that a backend leaves to LiteRT's own kernels. output: the name of its first output tensor."""

    graph: int
    place: int
    operator: str
    output: str
    reason: str
    source: RuleSource


@dataclass(frozen=True)
class Backend:
    """One way to run a file, with the rules for the operators that it accepts.

    rules: operator -> its rule. An operator without a rule is refused; ``missing`` is the source of that refusal.
    everywhere: rules that hold for every operator.
    unpacks: types of constants that the backend unpacks itself, without a DEQUANTIZE or DENSIFY operator.
    single: None if the backend runs every part of the graph that it can. Otherwise it runs only the largest connected
        part by default, and this is the source that says so.
    static: None if the backend runs graphs with tensors of unknown size. Otherwise it refuses the whole graph if the
        size of one tensor is known only at run time, and this is the source that says so.
    float_inputs: None if the model's inputs may have any type that the operators accept. Otherwise they have to be
        float32, and this is the source that says so.
    whole: None if the backend runs the operators that it accepts. Otherwise it refuses a file with any other operator,
        and this is the source that says so.
    calls: whether the backend runs the bodies of conditions and loops too.
    """

    name: str
    title: str
    note: str
    rules: Mapping[str, Rule]
    missing: RuleSource
    everywhere: tuple[Rule, ...] = ()
    unpacks: frozenset[str] = frozenset({"float16"})
    single: RuleSource | None = None
    static: RuleSource | None = None
    float_inputs: RuleSource | None = None
    whole: RuleSource | None = None
    calls: bool = False

    def verdict(self, graphs: list[list[Call]]) -> "Verdict":
        """Judge every operator of a model.

        graphs: the operators of each graph, the main graph first. Others are bodies of conditions and loops, or belong
            to further signatures.
        """
        parts, fallbacks = [], []
        bodies = {number for operators in graphs for call in operators for number in called_graphs(call.options)}
        for number, operators in enumerate(graphs):
            if number in bodies and not self.calls:
                body = ("it is in the body of a condition or a loop", self.missing)
                refused = {call.place: body for call in operators}
            elif self.static and (call := _sized_by_run(operators)):
                reason = f"the size of the output of operator {call.place}, {call.name}, is known only at run time"
                refused = {call.place: (reason, self.static) for call in operators}
            else:
                refused = self._refused(operators) | self._integer_inputs(operators)
            if self.whole and refused:
                rest = ("it takes a file only if it takes every operator", self.whole)
                refused = {call.place: rest for call in operators} | refused
            epochs = _epochs(operators, refused)
            if self.single and number not in bodies:
                refused |= self._outside_largest(operators, refused, epochs)
            parts.append(len({epochs[call.place] for call in operators if call.place not in refused}))
            fallbacks += [
                Fallback(number, call.place, call.name, call.outputs[0].name if call.outputs else "", reason, source)
                for call in operators
                if call.place in refused
                for reason, source in [refused[call.place]]
            ]
        total = sum(map(len, graphs))
        accepted = total - len(fallbacks)
        outside = sum(_work(graphs[each.graph][each.place]) for each in fallbacks)
        work = sum(_work(call) for operators in graphs for call in operators)
        share = outside / work if work else 0.0
        return Verdict(self.name, self.title, self.note, accepted, total, tuple(parts), tuple(fallbacks), share)

    def _refused(self, operators: list[Call]) -> dict[int, tuple[str, RuleSource]]:
        """Place of a refused operator -> the reason and its source."""
        refused, unpackers = {}, {}
        for call in operators:
            if self._unpacks(call):
                unpackers |= {tensor.index: call.place for tensor in call.outputs}
                continue
            own = self.rules.get(call.name)
            for rule in [*self.everywhere, own] if own else [Rule(self.missing, (_not_known,))]:
                if reason := rule.reason(call):
                    refused[call.place] = (reason, rule.source)
                    # The refused operator needs its unpacked constants: the operator that unpacks them has to run too.
                    for tensor in call.inputs:
                        if tensor is not None and (place := unpackers.get(tensor.index)) is not None:
                            refused[place] = (f"{call.name}, which reads its result, is not taken", self.missing)
                    break
        return refused

    def _integer_inputs(self, operators: list[Call]) -> dict[int, tuple[str, RuleSource]]:
        """Place of an operator that reads an input of another type than float32 -> the reason and its source."""
        if self.float_inputs is None:
            return {}
        written = {tensor.index for call in operators for tensor in call.outputs}
        return {
            call.place: (f"the model's input {tensor.name} is {tensor.type}; it takes float32", self.float_inputs)
            for call in operators
            for tensor in call.inputs
            if tensor is not None and not tensor.known and tensor.index not in written and tensor.type != "float32"
        }

    def _unpacks(self, call: Call) -> bool:
        if call.name not in ("DEQUANTIZE", "DENSIFY") or not call.inputs or not call.outputs:
            return False
        tensor, result = call.inputs[0], call.outputs[0]
        if tensor is None or not tensor.known or len(call.inputs) != 1:
            return False
        if call.name == "DENSIFY":
            return tensor.sparse and tensor.constant and tensor.type in ("float32", *self.unpacks)
        scaled = tensor.type == "float16" or len(tensor.scales) > 0
        dense = not (tensor.sparse and tensor.constant)
        return tensor.type in self.unpacks and scaled and dense and result.type == "float32"

    def _outside_largest(self, operators, refused, epochs) -> dict[int, tuple[str, RuleSource]]:
        sizes = {}
        for call in operators:
            if call.place not in refused:
                sizes[epochs[call.place]] = sizes.get(epochs[call.place], 0) + 1
        if len(sizes) < 2:
            return {}
        largest = max(sizes, key=sizes.get)
        reason = f"it is outside the largest of {len(sizes)} parts, and one is taken unless the app asks for more"
        return {
            call.place: (reason, self.single)
            for call in operators
            if call.place not in refused and epochs[call.place] != largest
        }


@dataclass(frozen=True)
class Verdict:
    """How much of a file a backend runs: ``taken`` of ``total`` operators.

    path: the backend's name.
    parts: for each graph of the file, the number of connected parts that the backend runs. Every further part costs
        time: at its borders tensors go through memory, and to another chip if the backend is a GPU or an NPU.
    fallbacks: the operators that the backend does not run, with the reasons.
    outside: the share of the file's multiply-adds in these operators, which is what they cost at least: moving data
        and functions have no multiply-adds, and take time too.
    """

    path: str
    title: str
    note: str
    taken: int
    total: int
    parts: tuple[int, ...]
    fallbacks: tuple[Fallback, ...]
    outside: float


def _work(call: Call) -> int:
    """Return the multiply-adds of an operator, which may be damaged."""
    try:
        return multiply_adds(call)
    except RequestError:
        return 0


def _not_known(call: Call) -> str:
    return f"{call.name} is not among the operators that it has"


def _epochs(operators: list[Call], refused) -> dict[int, int]:
    """Place of an operator -> the number of the part of the graph in which it runs, as LiteRT divides the graph.

    Parts of accepted operators and parts of refused operators alternate; the first part is of the first operator's
    kind. Each part has all operators whose inputs are computed by then (tflite/graph_info.cc,
    PartitionGraphIntoIndependentNodeSubsets).
    """
    written, epochs = {}, {}
    for call in operators:
        earliest = max((written.get(tensor.index, 0) for tensor in call.inputs if tensor is not None), default=0)
        like_first = (call.place in refused) == (operators[0].place in refused)
        epochs[call.place] = earliest + (earliest % 2 == like_first)
        written |= {tensor.index: epochs[call.place] for tensor in call.outputs}
    return epochs


# Inputs of which the values, not only the shapes, decide the shape of the operator's output.
_SHAPED_BY = {
    "ARG_MAX": (1,), "ARG_MIN": (1,), "BATCH_TO_SPACE_ND": (1, 2), "BROADCAST_TO": (1,), "EXPAND_DIMS": (1,),
    "FILL": (0,), "MEAN": (1,), "MIRROR_PAD": (1,), "ONE_HOT": (1,), "PAD": (1,), "PADV2": (1,), "RANGE": (0, 1, 2),
    "REDUCE_ALL": (1,), "REDUCE_ANY": (1,), "REDUCE_MAX": (1,), "REDUCE_MIN": (1,), "REDUCE_PROD": (1,),
    "RESHAPE": (1,), "RESIZE_BILINEAR": (1,), "RESIZE_NEAREST_NEIGHBOR": (1,), "SLICE": (1, 2),
    "SPACE_TO_BATCH_ND": (1, 2), "SPLIT": (0,), "SPLIT_V": (1, 2), "STRIDED_SLICE": (1, 2, 3), "SUM": (1,),
    "TILE": (1,), "TOPK_V2": (1,), "TRANSPOSE": (1,), "TRANSPOSE_CONV": (0,),
}  # fmt: skip
_SIZED_BY_RUN = {"UNIQUE", "WHERE"}
# Operators that LiteRT computes before the run if all their inputs are known (they use SetTensorToPersistentRo).
_FOLDED = {
    "BROADCAST_ARGS", "CONCATENATION", "GATHER", "MUL", "RANGE", "RESHAPE", "STRIDED_SLICE", "SUM", "TILE",
}  # fmt: skip


def _sized_by_run(operators: list[Call]) -> Call | None:
    """Return the first operator with an output whose size is not known before the run."""
    folded = set()
    for call in operators:
        computed = {tensor.index for tensor in call.inputs if tensor is not None and not tensor.known} - folded
        shaping = (call.input(position) for position in _SHAPED_BY.get(call.name, ()))
        if call.name in _SIZED_BY_RUN or any(tensor is not None and tensor.index in computed for tensor in shaping):
            return call
        if call.name in ("RANK", "SHAPE") or (call.name in _FOLDED and not computed):
            folded |= {tensor.index for tensor in call.outputs}
    return None


# The checks that rules consist of. A position is the number of an input; the position -1 stands for all outputs.


def ends(call: Call, positions: Iterable[int]) -> list[tuple[str, Tensor]]:
    """Return (name for people, tensor) of the inputs and outputs at some positions. Inputs left out are skipped."""
    tensors = []
    for position in positions:
        if position == -1:
            tensors += [(f"output {number}", tensor) for number, tensor in enumerate(call.outputs)]
        elif (tensor := call.input(position)) is not None:
            tensors.append((f"input {position}", tensor))
    return tensors


def all_ends(call: Call) -> list[tuple[str, Tensor]]:
    """Return ``ends`` of all inputs and outputs."""
    return ends(call, [*range(len(call.inputs)), -1])


def listed(names: Iterable[str]) -> str:
    """Join names in alphabetical order, for people."""
    return ", ".join(sorted(names))


def count(inputs: int | tuple[int, int], outputs: int | tuple[int, int] = 1) -> Check:
    """Check the numbers of inputs and outputs. Each is one number, or a pair of the least and the largest number."""

    def check(call):
        for what, wanted, actual in (("inputs", inputs, len(call.inputs)), ("outputs", outputs, len(call.outputs))):
            least, most = wanted if isinstance(wanted, tuple) else (wanted, wanted)
            if not least <= actual <= most:
                return f"{actual} {what}; it takes {least if least == most else f'{least} to {most}'}"
        return None

    return check


def types(allowed: Collection[str], *positions: int) -> Check:
    """Check that the tensors at some positions have one of the allowed types, whatever their scales."""

    def check(call):
        for what, tensor in ends(call, positions):
            if tensor.type not in allowed:
                return f"{what} is {tensor.type}; it takes {listed(allowed)}"
        return None

    return check


def scaled(allowed: Collection[str], *positions: int) -> Check:
    """Check types as ``types`` does, and that each tensor quantised to 8 bits has exactly one scale."""
    by_type = types(allowed, *positions)

    def check(call):
        if reason := by_type(call):
            return reason
        for what, tensor in ends(call, positions):
            if tensor.type in ("int8", "uint8") and (len(tensor.scales) != 1 or tensor.axis != 0):
                scales = "no scale" if not len(tensor.scales) else f"{len(tensor.scales)} scales"
                return f"{what} is {tensor.type} with {scales}; it takes one for the whole tensor"
        return None

    return check


def same_type(*positions: int) -> Check:
    """Check that the tensors at some positions all have the same type."""

    def check(call):
        names = {tensor.type for _, tensor in ends(call, positions)}
        return f"mixed types: {listed(names)}" if len(names) > 1 else None

    return check


def known(*positions: int) -> Check:
    """Check that the tensors at some positions are constants, or unpacked from constants."""

    def check(call):
        for what, tensor in ends(call, positions):
            if not tensor.known:
                return f"{what} is computed; it takes a constant"
        return None

    return check


def constant(*positions: int, types: Collection[str] = ("int32",)) -> Check:
    """Check that the tensors at some positions are integer constants in the file, such as axes or paddings."""

    def check(call):
        for what, tensor in ends(call, positions):
            if not tensor.constant:
                return f"{what} is computed; it takes a constant"
            if tensor.type not in types:
                return f"{what} is {tensor.type}; it takes {listed(types)}"
        return None

    return check


def dims(position: int, least: int, most: int | None = None, positive: bool = True) -> Check:
    """Check the number of dimensions of a tensor and, if ``positive`` (XNNPACK asks for it), that no size is 0."""
    most = least if most is None else most

    def check(call):
        for what, tensor in ends(call, [position]):
            if not least <= len(tensor.shape) <= most:
                wanted = least if least == most else f"{least} to {most}"
                return f"{what} has {len(tensor.shape)} dimensions; it takes {wanted}"
            if positive and 0 in tensor.shape:
                return f"{what} is empty"
        return None

    return check


def activation(*allowed: str) -> Check:
    """Check the activation that is fused into an operator, by its name in the schema."""
    names = {code: name for name, code in vars(flatbuffer.schema.ActivationFunctionType).items() if name.isupper()}

    def check(call):
        name = names.get(call.option("fusedActivationFunction"), "unknown")
        return None if name in allowed else f"the activation {name} is part of it"

    return check


def positive(*options: str) -> Check:
    """Check that options of the operator are greater than 0."""

    def check(call):
        bad = [name for name in options if call.option(name) <= 0]
        return f"{bad[0]} is {call.option(bad[0])}" if bad else None

    return check


def computed(*allowed: int, constants: tuple[int, ...] | None = None, outputs: int | None = 1) -> Check:
    """Check how many inputs are computed and how many are constants, and the number of outputs (None: any number)."""

    def check(call):
        tensors = [tensor for tensor in call.inputs if tensor is not None]
        number = sum(not tensor.known for tensor in tensors)
        if number not in allowed:
            return f"{number} inputs are computed; it takes {' or '.join(map(str, allowed))}"
        if constants is not None and len(tensors) - number not in constants:
            return f"{len(tensors) - number} inputs are constants; it takes {' or '.join(map(str, constants))}"
        if outputs is not None and len(call.outputs) != outputs:
            return f"{len(call.outputs)} outputs; it takes {outputs}"
        return None

    return check


def two_operands(call: Call) -> str | None:
    """Check that two operands are computed, or one and the other is a constant."""
    return computed(2, constants=(0,))(call) and computed(1, constants=(1,))(call)
