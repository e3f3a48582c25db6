"""What a disturbance of one activation does to a float model's outputs, measured on a few samples.

The graph is cut in two behind the activation. The front runs once a sample, for many cuts together; the back once a
disturbance, so that trying ten ranges for an activation near the end costs next to nothing.
"""

import math
from collections.abc import Callable, Collection, Iterator

import numpy as np

from mobilenets_tf.tflite import flatbuffer
from mobilenets_tf.tflite.runtime import Runner

# Of a softmax's classes, those whose scores decide the answer.
DECISIVE = 20
# Early activations are measured on fewer samples than late ones, which cost less: a disturbance on all samples may take
# the time of so many runs of the model, and the values at a cut so much memory.
_RUNS = 16
_MEMORY = 24 << 20
# What the values at several cuts that are made in one run may take together.
_TOGETHER = 96 << 20


class Effects:
    """Of disturbances in a float model.

    Args:
        model: the float file's content.
        samples: calibration samples, arrays in the order of the model's inputs.
    """

    def __init__(self, model: bytes, samples: list[list[np.ndarray]]):
        self._tree, self._samples = flatbuffer.read(model), samples
        self._graph = flatbuffer.Graph(self._tree)
        self._inputs = self._graph.inputs
        self.targets = [_Target(self._graph, index) for index in self._graph.activations(self._graph.outputs)]
        indices = {target.index for target in self.targets}
        whole = _Part(self._tree, range(len(self._graph.operators)), self._inputs, sorted(indices))
        self._outcomes = [whole(arrays) for arrays in samples]

    def cut(self, index: int) -> "Cut":
        """The model, cut behind one of its activation tensors."""
        return next(self.cuts([index]))

    def cuts(self, indices: Collection[int]) -> Iterator["Cut"]:
        """The model, cut behind each of some activation tensors, in the graph's order."""
        order = {index: place for place, index in enumerate(self._graph.writer)}
        group, together = [], 0
        for index in sorted(indices, key=lambda index: order.get(index, -1)):
            behind, live = _behind(self._tree, index, {target.index for target in self.targets})
            size = sum(4 * math.prod(self._graph.shape(i)) for i in live)
            affordable = _RUNS * len(self._graph.operators) // max(len(behind), 1)
            count = min(max(min(_MEMORY // size, affordable), _RUNS), len(self._samples))
            if group and together + count * size > _TOGETHER:
                yield from self._made(group)
                group, together = [], 0
            group.append((index, behind, live, count))
            together += count * size
        if group:
            yield from self._made(group)

    def _made(self, group: list[tuple]) -> Iterator["Cut"]:
        """Runs the model once for all of them."""
        computed = sorted({i for _, _, live, _ in group for i in live} - set(self._inputs))
        operators = self._graph.operators
        places = _needed(operators, range(len(operators)), set(computed))
        front = _Part(self._tree, places, self._inputs, computed) if computed else None
        values = [[] for _ in group]
        for number in range(max(count for *_, count in group)):
            arrays = self._samples[number]
            known = dict(zip(self._inputs, arrays, strict=True)) | (front(arrays) if front else {})
            for kept, (_, _, live, count) in zip(values, group, strict=True):
                if number < count:
                    kept.append([known[i] for i in live])
        values.reverse()
        for index, behind, live, _ in group:  # of each the values are let go when it has been dealt with
            yield Cut(self._tree, index, behind, live, self.targets, values.pop(), self._outcomes)


class _Target:
    """A tensor in which errors are counted: an output, or what a final softmax reads."""

    def __init__(self, graph: flatbuffer.Graph, index: int):
        writer = graph.writer.get(index)
        self.is_scores = writer is not None and graph.name(writer) == "SOFTMAX"
        self.index = writer.inputs[0] if self.is_scores else index

    def decisive(self, values: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
        """Given the undisturbed values: a function that takes out of any the part whose error counts.

        Of scores, the highest classes, less their mean, which a softmax does not see.
        """
        if not self.is_scores:
            return np.ravel
        highest = np.argsort(-values, axis=-1, kind="stable")[..., :DECISIVE]

        def take(other):
            scores = np.take_along_axis(other, highest, axis=-1)
            return (scores - scores.mean(axis=-1, keepdims=True)).ravel()

        return take


class Cut:
    """A float model's second half, and what the first half gives it on each sample."""

    def __init__(self, tree, index: int, behind: list[int], live: list[int], targets, values: list, outcomes: list):
        self.index, self._values = index, values
        written = {out for place in behind for out in tree.subgraphs[0].operators[place].outputs}
        targets = [target for target in targets if target.index in written | {index}]
        outputs = sorted({target.index for target in targets} & written)
        self._back = _Part(tree, behind, live, outputs) if behind else None
        # For each sample and target: what takes out of its values the part that counts, and that part undisturbed.
        self._wanted = []
        for outcome in outcomes[: len(values)]:
            taking = [(target.index, target.decisive(outcome[target.index])) for target in targets]
            self._wanted.append([(place, take, take(outcome[place])) for place, take in taking])

    @property
    def values(self) -> list[np.ndarray]:
        """The activation on each sample that is used."""
        return [values[0] for values in self._values]

    def error(
        self, disturb: Callable[[np.ndarray], np.ndarray], samples: int | None = None, limit: float = math.inf
    ) -> float:
        """Power of the outputs' error over the outputs' own, when the activation is ``disturb(activation)``.

        With several outputs, the sum over them.

        Args:
            samples: how many to look at; None for all.
            limit: if the error is more than that, it does not matter how much more: infinity then, and less work.
        """
        kept = list(zip(self._values, self._wanted, strict=True))[:samples]
        signal = [
            sum(_power(wanted) for _, _, wanted in targets) for targets in zip(*(w for _, w in kept), strict=True)
        ]
        total = 0.0
        for values, targets in kept:
            outcome = {self.index: disturb(values[0])}
            if self._back:
                outcome |= self._back([outcome[self.index], *values[1:]])
            for (place, take, wanted), power in zip(targets, signal, strict=True):
                total += _power(take(outcome[place]) - wanted) / max(power, 1e-30)
            if total > limit:
                return math.inf
        return total


def _power(values: np.ndarray) -> float:
    return float(np.square(values, dtype=np.float64).sum())


def _behind(tree, index: int, targets: set[int]) -> tuple[list[int], list[int]]:
    """Places of the ops behind the one that writes a tensor, and the tensors that lead to them, ``index`` first."""
    operators, inputs = tree.subgraphs[0].operators, tree.subgraphs[0].inputs
    place = next((i for i, operator in enumerate(operators) if index in operator.outputs), -1)
    known = {*inputs, *(out for operator in operators[: place + 1] for out in operator.outputs)}
    behind = _needed(operators, range(place + 1, len(operators)), targets)
    read = {i for p in behind for i in operators[p].inputs}
    return behind, [index, *sorted((known & read) - {index})]


def _needed(operators: list, places: range, targets: set[int]) -> list[int]:
    """Places of those ops that the targets depend on."""
    wanted, needed = set(targets), []
    for place in reversed(places):
        if wanted.intersection(operators[place].outputs):
            needed.append(place)
            wanted.update(operators[place].inputs)
    return needed[::-1]


class _Part:
    """Some of a model's ops, as a model of their own."""

    def __init__(self, tree, places: list[int], inputs: list[int], outputs: list[int]):
        self._runner = Runner(flatbuffer.part(tree, places, inputs, outputs), trusted=True)
        self.outputs = outputs

    def __call__(self, values: list[np.ndarray]) -> dict[int, np.ndarray]:
        self._runner.invoke(*values)
        return {index: np.array(self._runner.raw(index)) for index in self.outputs}
