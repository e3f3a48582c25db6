"""Limit the masks that keep positions or classes out of a softmax.

A mask adds -1e9, or minus infinity, to the scores that have to get the probability zero. Integers whose range holds
such a value have no levels left for the other scores. A value of about 20 below the highest score gives the same
probabilities: exp(-20) is far below the levels of eight and of sixteen bits.
"""

from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from mobilenets_tf.quantize import integers
from mobilenets_tf.tflite import flatbuffer
from mobilenets_tf.tflite.flatbuffer import schema
from mobilenets_tf.tflite.runtime import Runner

# A mask makes a score at least so much lower than the highest, and log(scores in a row) more: all masked scores of a
# row get half a level of sixteen bits together, and on the calibration samples exp(-2) of that, because other samples
# may have a lower highest score.
_DEPTH = float(np.log(65536)) + 2.0
# A constant is limited if it reaches so many times further down than it has to. Encodings of positions do not.
_MASKING = 4.0
_UNCHANGED = 1e-4  # probabilities that differ by less count as equal
_MOVERS = {"BROADCAST_TO", "EXPAND_DIMS", "GATHER", "RESHAPE", "SLICE", "SQUEEZE", "STRIDED_SLICE", "TILE", "TRANSPOSE"}


class _Mask(NamedTuple):
    """A constant that becomes a part of scores.

    operator, position: who reads the constant, and as which input. scores: the tensor that the softmax reads.
    sign: -1 if the constant is subtracted. beside: what else is added on the way to the scores, with signs.
    """

    operator: schema.OperatorT
    position: int
    scores: int
    sign: int = 1
    beside: tuple[tuple[int, int], ...] = ()

    @property
    def constant(self) -> int:
        return self.operator.inputs[self.position]


class _Seen:
    """What the calibration samples have shown of a tensor.

    low, high: the extremes. peak: the lowest of the rows' highest values. smallest: the smallest magnitude but zero.
    """

    def __init__(self):
        self.low, self.high, self.peak, self.smallest = np.inf, -np.inf, np.inf, np.inf

    def add(self, values: np.ndarray) -> None:
        self.low, self.high = min(self.low, float(values.min())), max(self.high, float(values.max()))
        self.peak = min(self.peak, float(values.max(axis=-1).min()))
        self.smallest = min(self.smallest, float(np.abs(values).min(initial=np.inf, where=values != 0)))


def limit_masks(model: bytes, samples: list[list[np.ndarray]]) -> bytes:
    """Rewrite a float model so that the masks in front of its softmaxes reach no further down than they have to.

    These constants are limited: the term of a sum, the bias of a layer, what a SELECT_V2 puts in the place of scores,
    and the factor of a mask of zeros and ones.

    Args:
        model: the float file's content.
        samples: calibration samples, each a list of arrays in the order of the model's inputs.

    Returns:
        The content of a model that gives the same probabilities on the samples; ``model`` itself if it has no masks.
    """
    tree = flatbuffer.read(model)
    graph = flatbuffer.Graph(tree)
    softmaxes = [o for o in graph.operators if graph.name(o) == "SOFTMAX" and o.builtinOptions.beta == 1]
    only_scores = _only_scores(graph)
    masks = [mask for softmax in softmaxes for mask in _masks(graph, softmax.inputs[0], only_scores)]
    if not masks:
        return model
    seen = _observe(graph, masks, samples)
    compared = list(dict.fromkeys([*(softmax.outputs[0] for softmax in softmaxes), *graph.outputs]))
    before = Runner(flatbuffer.with_outputs(tree, compared), trusted=True)
    if not _limit(graph, masks, seen):
        return model
    after = Runner(flatbuffer.with_outputs(tree, compared), trusted=True)
    for arrays in samples:
        if not all(_is_unchanged(*pair) for pair in zip(before(*arrays), after(*arrays), strict=True)):
            return model
    return flatbuffer.write(tree)


def _is_unchanged(wanted: np.ndarray, found: np.ndarray) -> bool:
    largest = np.abs(wanted).max(initial=1.0, where=np.isfinite(wanted))
    return np.allclose(found, wanted, rtol=0, atol=_UNCHANGED * largest, equal_nan=True)


def _only_scores(graph: flatbuffer.Graph) -> set[int]:
    """List the tensors that nothing but softmaxes reads, directly or behind what moves scores and adds to them."""
    only: set[int] = set()

    def leads_to_softmax(reader: schema.OperatorT, index: int) -> bool:
        name, options = graph.name(reader), reader.builtinOptions
        if name == "SOFTMAX":
            return options.beta == 1
        if name == "MUL" or getattr(options, "fusedActivationFunction", 0) or reader.outputs[0] not in only:
            return False
        parts = {position for position, *_ in _parts(graph, reader, 1)}
        return all(place in parts for place, each in enumerate(reader.inputs) if each == index)

    for operator in reversed(graph.operators):
        for out in operator.outputs:
            readers = graph.readers[out]
            if readers and not graph.is_output(out) and all(leads_to_softmax(reader, out) for reader in readers):
                only.add(out)
    return only


def _masks(graph: flatbuffer.Graph, scores: int, only_scores: set[int]) -> Iterator[_Mask]:
    """Find the constants far from zero that become a part of scores, and of nothing else.

    scores: the tensor that the softmax reads. only_scores: see ``_only_scores``.
    """
    visited, waiting = {scores}, _inner_parts(graph, scores, 1, (), only_scores)
    while waiting:
        operator, position, sign, beside = waiting.pop()
        part = operator.inputs[position]
        values = graph.constant(part)
        if values is None:
            if graph.name(operator) != "MUL" and part not in visited:
                visited.add(part)
                waiting += _inner_parts(graph, part, sign, beside, only_scores)
        elif np.abs(values).max(initial=0.0) > _MASKING * _DEPTH:
            yield _Mask(operator, position, scores, sign, beside)


def _inner_parts(
    graph: flatbuffer.Graph, index: int, sign: int, beside: tuple[tuple[int, int], ...], only_scores: set[int]
) -> list[tuple[schema.OperatorT, int, int, tuple[tuple[int, int], ...]]]:
    """List what becomes a part of a tensor, the last first: operator, position, sign, and what is added beside."""
    operator = graph.writer.get(index)
    if index not in only_scores or operator is None or getattr(operator.builtinOptions, "fusedActivationFunction", 0):
        return []
    return [
        (operator, position, own_sign, (*beside, *others))
        for position, own_sign, others in reversed(_parts(graph, operator, sign))
    ]


def _parts(graph: flatbuffer.Graph, operator: schema.OperatorT, sign: int) -> list[tuple]:
    """List the inputs that become a part of an operator's result: position, sign, and what is added, with signs."""
    name, inputs = graph.name(operator), operator.inputs
    if name in ("ADD", "SUB"):
        second = sign if name == "ADD" else -sign
        return [(0, sign, [(inputs[1], second)]), (1, second, [(inputs[0], sign)])]
    if name in ("SELECT", "SELECT_V2"):
        return [(1, sign, []), (2, sign, [])]
    if name == "MUL":
        return [(0, sign, []), (1, sign, [])]
    if name in integers.WEIGHTED:
        bias = integers.WEIGHTED[name].bias
        return [(bias, sign, [])] if bias < len(inputs) and inputs[bias] >= 0 else []
    return [(0, sign, [])] if name in _MOVERS else []


def _observe(graph: flatbuffer.Graph, masks: list[_Mask], samples: list[list[np.ndarray]]) -> dict[int, _Seen]:
    """Observe the tensors on which the limits of masks depend."""
    needed = {index for mask in masks for index in (mask.scores, mask.operator.outputs[0], *dict(mask.beside))}
    needed |= {mask.operator.inputs[0] for mask in masks if graph.name(mask.operator) in integers.WEIGHTED}
    seen: dict[int, _Seen] = defaultdict(_Seen)
    for index in needed:
        if (values := graph.constant(index)) is not None:
            seen[index].add(values)
    computed = sorted(set(graph.activations(needed)))
    runner = Runner(flatbuffer.with_outputs(graph.model, computed), trusted=True)
    for arrays in samples:
        runner.invoke(*arrays)
        for index in computed:
            seen[index].add(runner.raw(index))
    return seen


def _limit(graph: flatbuffer.Graph, masks: list[_Mask], seen: dict[int, _Seen]) -> bool:
    """Limit the constants, where they are masks; tell whether there was one."""
    # The converter keeps equal constants once, so several operators may read one: the lowest of their limits holds.
    groups: defaultdict[tuple[int, int, bool], list[_Mask]] = defaultdict(list)
    for mask in masks:
        groups[mask.constant, mask.sign, graph.name(mask.operator) == "MUL"].append(mask)
    changed = False
    for (index, sign, is_factor), group in groups.items():
        values, lowest = graph.constant(index), min(_lowest_needed(graph, mask, seen) for mask in group)
        change = _scaled if is_factor else _clipped
        limited = change(values, sign, lowest, [seen[mask.operator.outputs[0]] for mask in group])
        if limited is None:
            continue
        new, changed = flatbuffer.add_constant(graph.model, graph.tensors[index].name.decode(), limited), True
        for mask in group:
            mask.operator.inputs = [*mask.operator.inputs]
            mask.operator.inputs[mask.position] = new
    return changed


def _lowest_needed(graph: flatbuffer.Graph, mask: _Mask, seen: dict[int, _Seen]) -> float:
    """Give the value of a mask's constant that makes a score low enough, whatever is added to the constant."""
    added = sum(seen[index].high if sign > 0 else -seen[index].low for index, sign in mask.beside)
    name = graph.name(mask.operator)
    if name in integers.WEIGHTED:
        places = integers.WEIGHTED[name]
        weights, data = graph.constant(mask.operator.inputs[places.weights]), seen[mask.operator.inputs[places.data]]
        if weights is None:
            return -np.inf
        others = tuple(axis for axis in range(weights.ndim) if axis != places.output_axis)
        added += float(np.abs(weights).sum(axis=others).max()) * max(-data.low, data.high)
    return seen[mask.scores].peak - _DEPTH - np.log(graph.shape(mask.scores)[-1]) - added


def _clipped(values: np.ndarray, sign: int, lowest: float, results: list[_Seen]) -> np.ndarray | None:
    """Clip a constant that is added to scores or stands for them; None if it is no mask."""
    values = sign * values
    return sign * np.maximum(values, np.float32(lowest)) if values.min() < _MASKING * min(lowest, 0.0) else None


def _scaled(values: np.ndarray, sign: int, lowest: float, products: list[_Seen]) -> np.ndarray | None:
    """Scale the factor of a mask of zeros and ones; None if the constant is no such factor."""
    size = float(np.abs(values).max())
    if lowest >= 0 or size < -_MASKING * lowest or any(product.smallest < size for product in products):
        return None
    return values * np.float32(-lowest / size)
