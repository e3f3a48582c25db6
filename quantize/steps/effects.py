"""Measure what a disturbance of one activation does to a float model's outputs, on a few samples.

The graph is cut in two behind the activation. The front runs once for each sample, for many cuts together; the back
runs once for each disturbance. So trying ten ranges for an activation near the end costs very little.
"""

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

import numpy as np

from mobilenets_tf.quantize.integers import WEIGHTED
from mobilenets_tf.tflite import flatbuffer
from mobilenets_tf.tflite.runtime import Runner
from mobilenets_tf.tflite.threads import in_order

# How many of a softmax's classes, those with the highest scores, count in an error.
DECISIVE = 20
# Early activations cost more than late ones, and are measured on fewer samples: one disturbance on all samples may take
# as long as _RUNS runs of the model, and the values at a cut may take _MEMORY bytes.
_RUNS = 8
_MEMORY = 24 << 20
# The work of an op is its multiply-adds, and this much for each value that it writes; comparing a value is this much.
_WRITTEN = 10
_COMPARED = 50
# How many bytes the values at all cuts that are made in one run may take together.
_TOGETHER = 24 << 20


class Effects:
    """A float model and its undisturbed outputs on some samples; ``cuts`` measure disturbances.

    targets: the tensors in which errors are counted.

    Args:
        model: the float file's content.
        samples: calibration samples, each a list of arrays in the order of the model's inputs.
    """

    def __init__(self, model: bytes, samples: list[list[np.ndarray]]):
        self._tree, self._samples = flatbuffer.read(model), samples
        self._graph = flatbuffer.Graph(self._tree)
        self._inputs = self._graph.inputs
        self.targets = [ErrorTarget(self._graph, index) for index in self._graph.activations(self._graph.outputs)]
        indices = {target.index for target in self.targets}
        self._work = [_work(self._graph, operator) for operator in self._graph.operators]
        self._comparing = _COMPARED * sum(math.prod(self._graph.shape(index)) for index in indices)
        self._parts = flatbuffer.Parts(self._tree)
        whole = range(len(self._graph.operators))
        self._outcomes = list(in_order(lambda: _Part(self._parts, whole, self._inputs, sorted(indices)), samples))

    def cut(self, index: int) -> "Cut":
        """Cut the model behind one of its activation tensors."""
        return next(self.cuts([index]))

    def share(self, index: int) -> float:
        """Tell how much work one disturbance of an activation on one sample is, in runs of the whole model.

        The work is counted from the graph, not timed: on every machine the same.
        """
        behind, _ = _behind(self._tree, index, {target.index for target in self.targets})
        return (sum(self._work[place] for place in behind) + self._comparing) / (sum(self._work) + self._comparing)

    def cuts(self, indices: Collection[int], samples: int | None = None) -> Iterator["Cut"]:
        """Cut the model behind each of some activation tensors, in the graph's order.

        samples: the most samples to use; None for all.
        """
        order = {index: place for place, index in enumerate(self._graph.writer)}
        group, together = [], 0
        for index in sorted(indices, key=lambda index: order.get(index, -1)):
            behind, live = _behind(self._tree, index, {target.index for target in self.targets})
            size = sum(4 * math.prod(self._graph.shape(i)) for i in live)
            affordable = _RUNS * len(self._graph.operators) // max(len(behind), 1)
            count = min(max(min(_MEMORY // size, affordable), _RUNS), samples or len(self._samples), len(self._samples))
            if group and together + count * size > _TOGETHER:
                yield from self._run(group)
                group, together = [], 0
            group.append((index, behind, live, count))
            together += count * size
        if group:
            yield from self._run(group)

    def _run(self, group: list[tuple[int, list[int], list[int], int]]) -> Iterator["Cut"]:
        """Make several cuts of one run of the model over the samples.

        group: of each cut the tensor, the places of the ops behind it, the tensors that lead to them, and the number of
        samples.
        """
        computed = sorted({i for _, _, live, _ in group for i in live} - set(self._inputs))
        operators = self._graph.operators
        places = _needed(operators, range(len(operators)), set(computed))
        samples = self._samples[: max(count for *_, count in group)]
        nothing: Iterable[dict[int, np.ndarray]] = ({} for _ in samples)
        fronts = in_order(lambda: _Part(self._parts, places, self._inputs, computed), samples) if computed else nothing
        values = [[] for _ in group]
        for number, (arrays, front) in enumerate(zip(samples, fronts, strict=True)):
            known = dict(zip(self._inputs, arrays, strict=True)) | front
            for at_cut, (_, _, live, count) in zip(values, group, strict=True):
                if number < count:
                    at_cut.append([known[i] for i in live])
        values.reverse()
        for index, behind, live, _ in group:  # the values of a cut are freed when it has been used
            yield Cut(self._parts, self._tree, index, behind, live, self.targets, values.pop(), self._outcomes)


class ErrorTarget:
    """A tensor in which errors at one output are counted: the output itself, or the scores that a final softmax reads.

    index: the tensor. is_scores: whether a softmax reads it.
    """

    def __init__(self, graph: flatbuffer.Graph, index: int):
        writer = graph.writer.get(index)
        if writer is not None and graph.name(writer) == "DEQUANTIZE":
            writer = graph.writer.get(writer.inputs[0], writer)
        self.is_scores = writer is not None and graph.name(writer) == "SOFTMAX"
        self.index = writer.inputs[0] if self.is_scores else index

    def decisive(self, values: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
        """Give a function that takes from values of this tensor the part in which errors count.

        Of scores, that is the classes with the highest undisturbed scores, without their mean, which a softmax ignores.

        Args:
            values: the undisturbed values.
        """
        if not self.is_scores:
            return np.ravel
        highest = np.argsort(-values, axis=-1, kind="stable")[..., :DECISIVE]

        def take(other: np.ndarray) -> np.ndarray:
            scores = np.take_along_axis(other, highest, axis=-1)
            return (scores - scores.mean(axis=-1, keepdims=True)).ravel()

        return take


class Cut:
    """The part of a float model behind one activation, with its inputs on each sample.

    index: the activation tensor.
    """

    def __init__(
        self,
        parts: flatbuffer.Parts,
        tree: flatbuffer.schema.ModelT,
        index: int,
        behind: list[int],
        live: list[int],
        targets: list[ErrorTarget],
        values: list[list[np.ndarray]],
        outcomes: list[dict[int, np.ndarray]],
    ):
        self.index, self._values = index, values
        written = {out for place in behind for out in tree.subgraphs[0].operators[place].outputs}
        targets = [target for target in targets if target.index in written | {index}]
        outputs = sorted({target.index for target in targets} & written)
        self._back = _Part(parts, behind, live, outputs) if behind else None
        # For each sample and target: the tensor, the function that takes the part in which errors count, and that part.
        self._undisturbed = []
        for outcome in outcomes[: len(values)]:
            taking = [(target.index, target.decisive(outcome[target.index])) for target in targets]
            self._undisturbed.append([(target, take, take(outcome[target])) for target, take in taking])
        self._order = list(range(len(values)))

    @property
    def values(self) -> list[np.ndarray]:
        """The activation's values on each sample."""
        return [values[0] for values in self._values]

    def error(
        self, disturb: Callable[[np.ndarray], np.ndarray], samples: int | None = None, limit: float = math.inf
    ) -> float:
        """Measure the power of the outputs' error over the outputs' own power; for several outputs, the sum.

        Args:
            disturb: gives the disturbed activation for the undisturbed one.
            samples: how many samples to use; None for all.
            limit: give up when the error is larger than this.

        Returns:
            The ratio; infinity if it is larger than ``limit``.
        """
        used = list(zip(self._values, self._undisturbed, strict=True))[:samples]
        signal = [
            sum(_power(part) for _, _, part in targets) for targets in zip(*(parts for _, parts in used), strict=True)
        ]
        errors: dict[int, list[float]] = {}  # of each sample, by its number
        so_far = 0.0
        for number in self._order:
            if number >= len(used):
                continue
            values, targets = used[number]
            outcome = {self.index: disturb(values[0])}
            if self._back:
                outcome |= self._back([outcome[self.index], *values[1:]])
            errors[number] = [
                _power(take(outcome[target]) - undisturbed) / max(power, 1e-30)
                for (target, take, undisturbed), power in zip(targets, signal, strict=True)
            ]
            so_far += sum(errors[number])
            if so_far > limit:
                return math.inf
        if len(used) == len(self._values):
            # What has lost on the samples that are disturbed most needs no other samples.
            self._order = sorted(errors, key=lambda number: (-sum(errors[number]), number))
        return sum(each for number in sorted(errors) for each in errors[number])


def _work(graph: flatbuffer.Graph, operator: flatbuffer.schema.OperatorT) -> int:
    """Count the work of an operator: multiply-adds, and the values that it writes."""
    written, name, sums = sum(math.prod(graph.shape(index)) for index in operator.outputs), graph.name(operator), 0
    if name in WEIGHTED:
        # Each position of the output, for a transposed convolution of the input, takes all weights once.
        index = operator.inputs[WEIGHTED[name].data] if name == "TRANSPOSE_CONV" else operator.outputs[0]
        sums = math.prod(graph.shape(index)[:-1]) * math.prod(graph.shape(operator.inputs[WEIGHTED[name].weights]))
    elif name == "BATCH_MATMUL":
        sums = written * graph.shape(operator.inputs[0])[-2 if operator.builtinOptions.adjX else -1]
    return sums + _WRITTEN * written


def _power(values: np.ndarray) -> float:
    return float(np.square(values, dtype=np.float64).sum())


def output_errors(reference: bytes, contents: Sequence[bytes], samples: list[list[np.ndarray]]) -> list[float]:
    """Measure the error of files' outputs over the outputs' own power, as ``Cut.error`` does.

    Args:
        reference: the content of the float file.
        contents: of other files of the same model, such as integer files.
        samples: each a list of arrays in the order of the files' inputs.
    """
    (before, targets), *others = (_with_targets(flatbuffer.read(content)) for content in (reference, *contents))

    def running() -> Callable[[list[np.ndarray]], list[list[np.ndarray]]]:
        runners = [Runner(content, threads=1, trusted=True) for content in (before, *(other for other, _ in others))]
        return lambda arrays: [runner(*arrays) for runner in runners]

    noise, signal = np.zeros((len(others), len(targets))), np.zeros(len(targets))
    for outputs, *found in in_order(running, samples):
        taking = [target.decisive(wanted) for target, wanted in zip(targets, outputs, strict=True)]
        expected = [take(wanted) for take, wanted in zip(taking, outputs, strict=True)]
        signal += [_power(part) for part in expected]
        for row, values in zip(noise, found, strict=True):
            row += [_power(take(value) - part) for take, value, part in zip(taking, values, expected, strict=True)]
    return (noise / np.maximum(signal, 1e-30)).sum(axis=1).tolist()


def _with_targets(tree: flatbuffer.schema.ModelT) -> tuple[bytes, list[ErrorTarget]]:
    """Write a file that gives the tensors in which errors are counted."""
    graph = flatbuffer.Graph(tree)
    targets = [ErrorTarget(graph, index) for index in graph.outputs]
    return flatbuffer.with_outputs(tree, [target.index for target in targets]), targets


def _behind(tree: flatbuffer.schema.ModelT, index: int, targets: set[int]) -> tuple[list[int], list[int]]:
    """Find the places of the ops behind the one that writes a tensor, as far as the targets depend on them, and the
    tensors that lead to these ops, ``index`` first.
    """
    operators, inputs = tree.subgraphs[0].operators, tree.subgraphs[0].inputs
    place = next((i for i, operator in enumerate(operators) if index in operator.outputs), -1)
    known = {*inputs, *(out for operator in operators[: place + 1] for out in operator.outputs)}
    behind = _needed(operators, range(place + 1, len(operators)), targets)
    read = {i for p in behind for i in operators[p].inputs}
    return behind, [index, *sorted((known & read) - {index})]


def _needed(operators: list[flatbuffer.schema.OperatorT], places: range, targets: set[int]) -> list[int]:
    """Find the places of the ops on which the targets depend."""
    tensors, needed = set(targets), []
    for place in reversed(places):
        if tensors.intersection(operators[place].outputs):
            needed.append(place)
            tensors.update(operators[place].inputs)
    return needed[::-1]


class _Part:
    """Runs some of a model's ops as a model of their own."""

    def __init__(self, parts: flatbuffer.Parts, places: Sequence[int], inputs: list[int], outputs: list[int]):
        self._runner = Runner(parts.write(places, inputs, outputs), threads=1, trusted=True)
        self.outputs = outputs

    def __call__(self, values: list[np.ndarray]) -> dict[int, np.ndarray]:
        self._runner.invoke(*values)
        return {index: np.array(self._runner.raw(index)) for index in self.outputs}
