"""What a disturbance of one activation does to a float model's outputs, measured on a few samples.

The graph is cut in two behind the activation. The front runs once a sample, the back once a disturbance, so that trying
twenty ranges for an activation near the end costs next to nothing.
"""

from collections.abc import Callable

import numpy as np

from mobilenets_tf import flatbuffer
from mobilenets_tf.runtime import Runner

# Of a softmax's classes, those whose scores decide the answer.
DECISIVE = 20
# What the values at a cut may take in memory: early activations are measured on fewer samples than late ones.
_MEMORY = 24 << 20
_FEWEST = 8


class Effects:
    """Of disturbances in a float model.

    Args:
        model: the float file's content.
        samples: calibration samples, arrays in the order of the model's inputs.
    """

    def __init__(self, model: bytes, samples: list[list[np.ndarray]]):
        self._tree, self._samples = flatbuffer.read(model), samples
        graph = flatbuffer.Graph(self._tree)
        self.targets = [_Target(graph, index) for index in graph.activations(graph.graph.outputs)]

    def cut(self, index: int, samples: int | None = None) -> "Cut":
        """The model, cut behind one of its activation tensors; with the first ``samples`` alone, or all."""
        return Cut(self._tree, index, self.targets, self._samples[:samples])


class _Target:
    """A tensor in which errors are counted: an output, or what a final softmax reads."""

    def __init__(self, graph: flatbuffer.Graph, index: int):
        writer = graph.writer.get(index)
        self.is_scores = writer is not None and graph.name(writer) == "SOFTMAX"
        self.index = int(writer.inputs[0]) if self.is_scores else index

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
    """A float model in two halves; what the first one gives is kept for each sample."""

    def __init__(self, tree, index: int, targets: list[_Target], samples: list[list[np.ndarray]]):
        self.index = index
        front, self._back, live = _halves(tree, index, {target.index for target in targets})
        reached = {index, *(self._back.outputs if self._back else ())}
        self._targets = [target for target in targets if target.index in reached]
        inputs = list(map(int, tree.subgraphs[0].inputs))
        self._values, size = [], 0
        for arrays in samples:
            known = dict(zip(inputs, arrays, strict=True)) | (front(arrays) if front else {})
            self._values.append([known[index] for index in live])
            size += sum(array.nbytes for array in self._values[-1])
            if len(self._values) >= _FEWEST and size >= _MEMORY:
                break
        self._references = [self._outcome(values) for values in self._values]
        self._decisive = [
            [target.decisive(reference[target.index]) for target in self._targets] for reference in self._references
        ]

    @property
    def values(self) -> list[np.ndarray]:
        """The activation on each sample that is used."""
        return [values[0] for values in self._values]

    def error(self, disturb: Callable[[np.ndarray], np.ndarray]) -> float:
        """Power of the outputs' error over the outputs' own, when the activation is ``disturb(activation)``.

        With several outputs, the sum over them.
        """
        noise, signal = np.zeros(len(self._targets)), np.full(len(self._targets), 1e-30)
        for values, reference, decisive in zip(self._values, self._references, self._decisive, strict=True):
            outcome = self._outcome([disturb(values[0]), *values[1:]])
            for place, (target, take) in enumerate(zip(self._targets, decisive, strict=True)):
                wanted = take(reference[target.index])
                noise[place] += np.square(take(outcome[target.index]) - wanted, dtype=np.float64).sum()
                signal[place] += np.square(wanted, dtype=np.float64).sum()
        return float((noise / signal).sum())

    def _outcome(self, values: list[np.ndarray]) -> dict[int, np.ndarray]:
        return {self.index: values[0]} | (self._back(values) if self._back else {})


def _halves(tree, index: int, targets: set[int]) -> tuple["_Part | None", "_Part | None", list[int]]:
    """The model up to the op that writes a tensor, the model behind it, and the tensors that lead across, ``index``
    first. A half without ops is None.
    """
    operators = list(tree.subgraphs[0].operators)
    inputs = list(map(int, tree.subgraphs[0].inputs))
    place = next((i for i, operator in enumerate(operators) if index in map(int, operator.outputs)), -1)
    known = {*inputs, *(int(out) for operator in operators[: place + 1] for out in operator.outputs)}
    behind = _needed(operators, range(place + 1, len(operators)), targets)
    read = {int(i) for p in behind for i in operators[p].inputs}
    written = {int(out) for p in behind for out in operators[p].outputs}
    live = [index, *sorted((known & read) - {index})]
    computed = [i for i in live if i not in inputs]
    front = _Part(tree, _needed(operators, range(place + 1), set(computed)), inputs, computed) if computed else None
    back = _Part(tree, behind, live, sorted(targets & written)) if behind else None
    return front, back, live


def _needed(operators: list, places: range, targets: set[int]) -> list[int]:
    """Places of those ops that the targets depend on."""
    wanted, needed = set(targets), []
    for place in reversed(places):
        if wanted & set(map(int, operators[place].outputs)):
            needed.append(place)
            wanted |= set(map(int, operators[place].inputs))
    return needed[::-1]


class _Part:
    """Some of a model's ops, as a model of their own."""

    def __init__(self, tree, places: list[int], inputs: list[int], outputs: list[int]):
        self._runner = Runner(flatbuffer.part(tree, places, inputs, outputs), trusted=True)
        self.outputs = outputs

    def __call__(self, values: list[np.ndarray]) -> dict[int, np.ndarray]:
        self._runner.invoke(*values)
        return {index: np.array(self._runner.raw(index)) for index in self.outputs}
