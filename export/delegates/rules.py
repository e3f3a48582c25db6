"""Which operators a delegate takes over: what a rule is, what rules are made of, and what follows from them.

The rules themselves are in ``delegates``, ``xnnpack_rules`` and ``gpu_rules``.
"""

from collections.abc import Callable
from dataclasses import dataclass

from mobilenets_tf.tflite import flatbuffer
from mobilenets_tf.tflite.operators import Call, Tensor

COMMIT = "f67457790c9c2ab67347d6fe53270e8d3df20868"  # main of 21 August 2026, where the next release was 2.3.0
FLOAT = {"float32", "float16"}
FLOAT_OR_8 = FLOAT | {"int8", "uint8"}


@dataclass(frozen=True)
class Source:
    """Where a rule is written down: a file of a GitHub repository at a commit, and the place in it."""

    file: str
    place: str
    repository: str = "google-ai-edge/LiteRT"
    commit: str = COMMIT

    def __str__(self):
        return f"{self.repository}@{self.commit[:9]} {self.file}, {self.place}"


Check = Callable[[Call], str | None]  # the reason why an operator is not taken, or None


@dataclass(frozen=True)
class Rule:
    """What is asked of an operator so that it is taken: all of ``checks``, and no version above ``version``."""

    source: Source
    checks: tuple[Check, ...] = ()
    version: int | None = None

    def reason(self, call: Call) -> str | None:
        """Why the operator is not taken, or None."""
        if self.version is not None and call.version > self.version:
            return f"version {call.version} of the operator; at most {self.version}"
        try:
            return next((reason for check in self.checks if (reason := check(call))), None)
        except (AttributeError, IndexError):  # a file of somebody's may leave out what an operator cannot do without
            return "it has not the inputs or the dimensions that the operator needs"


@dataclass(frozen=True)
class Fallback:
    """An operator that is not taken. output: the name of the first tensor that it writes."""

    graph: int
    place: int
    operator: str
    output: str
    reason: str
    source: Source


@dataclass(frozen=True)
class Path:
    """A way to run a file.

    rules: by operator; one that is not among them is not taken, for the reason that ``missing`` is the source of.
    everywhere: asked of every operator. unpacks: the types of constants that it unpacks itself.
    single: it takes the largest connected part of the graph alone, by default; the source that says so.
    static: it takes nothing of a graph that has a tensor whose size only the run tells; the source that says so.
    main_graph: it does not look into the bodies of conditions and loops.
    """

    name: str
    title: str
    note: str
    rules: dict[str, Rule]
    missing: Source
    everywhere: tuple[Rule, ...] = ()
    unpacks: frozenset[str] = frozenset({"float16"})
    single: Source | None = None
    static: Source | None = None
    main_graph: bool = True

    def verdict(self, graphs: list[list[Call]]) -> "Verdict":
        """What becomes of each operator of a model's graphs, the main one first."""
        parts, found = [], []
        for number, listed in enumerate(graphs):
            if number and self.main_graph:
                missed = {call.place: ("it is in the body of a condition or a loop", self.missing) for call in listed}
            elif self.static and (call := _sized_by_run(listed)):
                reason = f"only the run tells the size of what operator {call.place}, {call.name}, writes"
                missed = {call.place: (reason, self.static) for call in listed}
            else:
                missed = self._missed(listed)
            epochs = _epochs(listed, missed)
            if self.single and number == 0:
                missed |= self._outside_largest(listed, missed, epochs)
            parts.append(len({epochs[call.place] for call in listed if call.place not in missed}))
            found += [
                Fallback(number, call.place, call.name, call.outputs[0].name if call.outputs else "", reason, source)
                for call in listed
                if call.place in missed
                for reason, source in [missed[call.place]]
            ]
        total = sum(map(len, graphs))
        return Verdict(self.name, self.title, self.note, total - len(found), total, tuple(parts), tuple(found))

    def _missed(self, listed: list[Call]) -> dict[int, tuple[str, Source]]:
        missed, unpackers = {}, {}
        for call in listed:
            if self._unpacks(call):
                unpackers |= {tensor.index: call.place for tensor in call.outputs}
                continue
            rule = self.rules.get(call.name)
            asked = [*self.everywhere, rule] if rule else [Rule(self.missing, (_not_known,))]
            for rule in asked:
                if reason := rule.reason(call):
                    missed[call.place] = (reason, rule.source)
                    # What it reads has to be there for it: the operator that unpacks it stays too.
                    for tensor in call.inputs:
                        if tensor is not None and (place := unpackers.get(tensor.index)) is not None:
                            missed[place] = (f"{call.name}, which reads its result, is not taken", self.missing)
                    break
        return missed

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

    def _outside_largest(self, listed, missed, epochs) -> dict[int, tuple[str, Source]]:
        sizes = {}
        for call in listed:
            if call.place not in missed:
                sizes[epochs[call.place]] = sizes.get(epochs[call.place], 0) + 1
        if len(sizes) < 2:
            return {}
        largest = max(sizes, key=sizes.get)
        reason = f"it is outside the largest of {len(sizes)} parts, and one is taken unless the app asks for more"
        return {
            call.place: (reason, self.single)
            for call in listed
            if call.place not in missed and epochs[call.place] != largest
        }


@dataclass(frozen=True)
class Verdict:
    """What a path takes of a file: ``taken`` of ``total`` operators.

    parts: for each graph of the file, into how many connected parts that falls. More than one costs time: at each
        border the results go through memory, and with a GPU or an NPU to another chip.
    """

    path: str
    title: str
    note: str
    taken: int
    total: int
    parts: tuple[int, ...]
    fallbacks: tuple[Fallback, ...]


def _not_known(call: Call) -> str:
    return f"{call.name} is not among the operators that it has"


def _epochs(listed: list[Call], missed) -> dict[int, int]:
    """For each operator the number of the part of the graph in which it runs, as LiteRT cuts it.

    Parts of operators that are taken and of such that are not run in turn, beginning with the first operator's, and
    each has all that can run by then (tflite/graph_info.cc, PartitionGraphIntoIndependentNodeSubsets).
    """
    written, epochs = {}, {}
    for call in listed:
        earliest = max((written.get(tensor.index, 0) for tensor in call.inputs if tensor is not None), default=0)
        like_first = (call.place in missed) == (listed[0].place in missed)
        epochs[call.place] = earliest + (earliest % 2 == like_first)
        written |= {tensor.index: epochs[call.place] for tensor in call.outputs}
    return epochs


# The inputs whose values, not only their shapes, decide the shape of an operator's output.
_SHAPED_BY = {
    "ARG_MAX": (1,), "ARG_MIN": (1,), "BATCH_TO_SPACE_ND": (1, 2), "BROADCAST_TO": (1,), "EXPAND_DIMS": (1,),
    "FILL": (0,), "MEAN": (1,), "MIRROR_PAD": (1,), "ONE_HOT": (1,), "PAD": (1,), "PADV2": (1,), "RANGE": (0, 1, 2),
    "REDUCE_ALL": (1,), "REDUCE_ANY": (1,), "REDUCE_MAX": (1,), "REDUCE_MIN": (1,), "REDUCE_PROD": (1,),
    "RESHAPE": (1,), "RESIZE_BILINEAR": (1,), "RESIZE_NEAREST_NEIGHBOR": (1,), "SLICE": (1, 2),
    "SPACE_TO_BATCH_ND": (1, 2), "SPLIT": (0,), "SPLIT_V": (1, 2), "STRIDED_SLICE": (1, 2, 3), "SUM": (1,),
    "TILE": (1,), "TOPK_V2": (1,), "TRANSPOSE": (1,), "TRANSPOSE_CONV": (0,),
}  # fmt: skip
_SIZED_BY_RUN = {"UNIQUE", "WHERE"}
# What LiteRT computes before the run, where all inputs are known by then (those that use SetTensorToPersistentRo).
_FOLDED = {
    "BROADCAST_ARGS", "CONCATENATION", "GATHER", "MUL", "RANGE", "RESHAPE", "STRIDED_SLICE", "SUM", "TILE",
}  # fmt: skip


def _sized_by_run(listed: list[Call]) -> Call | None:
    """The first operator whose output has a size that is not known before the run."""
    folded = set()
    for call in listed:
        given = [tensor for tensor in call.inputs if tensor is not None]
        computed = {tensor.index for tensor in given if not tensor.known} - folded
        shaping = (call.input(position) for position in _SHAPED_BY.get(call.name, ()))
        if call.name in _SIZED_BY_RUN or any(tensor is not None and tensor.index in computed for tensor in shaping):
            return call
        if call.name in ("RANK", "SHAPE") or (call.name in _FOLDED and not computed):
            folded |= {tensor.index for tensor in call.outputs}
    return None


# What rules are made of. Positions count inputs; -1 stands for all outputs.


def ends(call: Call, positions) -> list[tuple[str, Tensor]]:
    """The tensors at some positions, with what to call them; such as are not there are left out."""
    found = []
    for position in positions:
        if position == -1:
            found += [(f"output {number}", tensor) for number, tensor in enumerate(call.outputs)]
        elif (tensor := call.input(position)) is not None:
            found.append((f"input {position}", tensor))
    return found


def all_ends(call: Call) -> list[tuple[str, Tensor]]:
    """All inputs and outputs."""
    return ends(call, [*range(len(call.inputs)), -1])


def listed(names) -> str:
    """For people."""
    return ", ".join(sorted(names))


def count(inputs, outputs=1) -> Check:
    """How many inputs and outputs: a number, or a pair of the least and the most."""

    def check(call):
        for what, wanted, actual in (("inputs", inputs, len(call.inputs)), ("outputs", outputs, len(call.outputs))):
            least, most = wanted if isinstance(wanted, tuple) else (wanted, wanted)
            if not least <= actual <= most:
                return f"{actual} {what}; it takes {least if least == most else f'{least} to {most}'}"
        return None

    return check


def types(allowed, *positions) -> Check:
    """The types of some ends, whatever their scales."""

    def check(call):
        for what, tensor in ends(call, positions):
            if tensor.type not in allowed:
                return f"{what} is {tensor.type}; it takes {listed(allowed)}"
        return None

    return check


def scaled(allowed, *positions) -> Check:
    """The types of some ends; what is quantised to 8 bits has to have one scale."""
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


def same_type(*positions) -> Check:
    """Some ends have one type."""

    def check(call):
        found = {tensor.type for _, tensor in ends(call, positions)}
        return f"mixed types: {listed(found)}" if len(found) > 1 else None

    return check


def known(*positions) -> Check:
    """Constants, or what is unpacked from them."""

    def check(call):
        for what, tensor in ends(call, positions):
            if not tensor.known:
                return f"{what} is computed; it takes a constant"
        return None

    return check


def constant(*positions, types=("int32",)) -> Check:
    """Constants in the file, of integers: axes, shapes, paddings."""

    def check(call):
        for what, tensor in ends(call, positions):
            if not tensor.constant:
                return f"{what} is computed; it takes a constant"
            if tensor.type not in types:
                return f"{what} is {tensor.type}; it takes {listed(types)}"
        return None

    return check


def dims(position, least, most=None, positive=True) -> Check:
    """How many dimensions an end has, and, for XNNPACK, that none is 0."""
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


def activation(*allowed) -> Check:
    """The activation that is part of an operator, by its name in the schema."""
    names = {code: name for name, code in vars(flatbuffer.schema.ActivationFunctionType).items() if name.isupper()}

    def check(call):
        name = names.get(call.option("fusedActivationFunction"), "unknown")
        return None if name in allowed else f"the activation {name} is part of it"

    return check


def positive(*options) -> Check:
    """Options that are not 0 or less."""

    def check(call):
        bad = [name for name in options if call.option(name) <= 0]
        return f"{bad[0]} is {call.option(bad[0])}" if bad else None

    return check
