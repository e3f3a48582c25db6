"""Accuracy-controlled quantisation: leave as few layers in float as keep a quantised file's loss within a bound.

The layers' measured sensitivities predict the order in which to leave them in float; the loss itself is measured on the
files. Doubling and halving find the least number of layers from the front of that order that keeps the bound. Then
layers go back to integers, the least sensitive first, as long as the bound still holds.
"""

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass

from mobilenets_tf.errors import RequestError
from mobilenets_tf.progress import Progress, silent
from mobilenets_tf.quantize import sensitivity
from mobilenets_tf.quantize.drop import Drop
from mobilenets_tf.quantize.integers import WEIGHTED
from mobilenets_tf.quantize.post_training import PreparedModel
from mobilenets_tf.quantize.sensitivity import Sensitivity
from mobilenets_tf.tflite import flatbuffer

_TRIALS = 128  # after so many files have been judged, no more layers are tried in integers


@dataclass(frozen=True)
class FloatLayer:
    """A layer that was left in float.

    layer, operators, output_db: see ``Sensitivity``.
    bought: how much larger the drop would be if this layer were integer too.
    bytes: how much larger the file is because this layer is float.
    conversions: how many more QUANTIZE and DEQUANTIZE ops the file has; negative where the layer's neighbours are float
        too.
    weight_bytes: the size of the layer's float weights.
    """

    layer: str
    operators: dict[str, int]
    output_db: float
    bought: float
    bytes: int
    conversions: int
    weight_bytes: int


@dataclass(frozen=True)
class MixedPrecision:
    """A quantised file that keeps its bound, and what that cost.

    content: the file. max_drop: the bound.
    drop: how much the file loses against float. integer_drop: how much it loses with no layer in float.
    left: the layers in float, the most sensitive first. layers: how many layers round, and could have been left.
    trials: how many files were made and judged.
    places: the places of the operators that were left in float, for ``PreparedModel.write``.
    """

    content: bytes
    max_drop: float
    drop: float
    integer_drop: float
    left: tuple[FloatLayer, ...]
    layers: int
    trials: int
    places: tuple[int, ...]

    def as_dict(self) -> dict:
        """Give the fields as plain data for the manifest, without the file and the places."""
        return {key: value for key, value in asdict(self).items() if key not in ("content", "places")}


def check_bound(max_drop: float) -> None:
    """Check that a bound is a share.

    Raises:
        RequestError: ``max_drop`` is below 0, or 1 or more.
    """
    if not 0 <= max_drop < 1:
        raise RequestError(f"max_drop={max_drop}: expected a share from 0 up to 1, such as 0.01 for one point in 100.")


def search(
    prepared: PreparedModel,
    layers: Sequence[str],
    drop: Drop,
    max_drop: float,
    progress: Progress = silent,
) -> MixedPrecision:
    """Find the quantised file with the fewest layers in float whose drop is at most ``max_drop``.

    Args:
        prepared: the result of ``post_training.prepare``; its ranges and rounded weights serve every trial.
        layers: the layer of each operator, see ``layers.of_operators``.
        drop: a function of a file's content: the share of accuracy or of answers that the file loses against float.
        max_drop: the bound, 0.01 for one point in a hundred.
        progress: called before each file that is tried.

    Raises:
        RequestError: the bound is no share, or even a file with every layer in float does not keep it.
    """
    check_bound(max_drop)
    trials = _Trials(prepared, layers, drop, progress)
    integer = trials[frozenset()]
    rows, floats = {}, []
    if integer.drop > max_drop:
        rows = {row.layer: row for row in sensitivity.measure(prepared, layers, progress=progress)}
        order = promising(prepared, layers, list(rows.values()))
        floats = _take_back(_least(order, trials, max_drop, prepared), rows, trials, max_drop)
    final = trials[frozenset(floats)]
    left = tuple(_float_layer(rows[layer], floats, trials, prepared, layers) for layer in floats)
    count = len({layers[place] for place in trials.rounding})
    places = tuple(trials.places(floats))
    return MixedPrecision(trials.content(floats), max_drop, final.drop, integer.drop, left, count, len(trials), places)


@dataclass(frozen=True)
class _Trial:
    """The result of judging one file. The files themselves are not kept: they would fill the memory."""

    drop: float
    bytes: int
    conversions: int


class _Trials:
    """Judges files with some layers in float, each set of layers once."""

    def __init__(self, prepared: PreparedModel, layers: Sequence[str], drop: Drop, progress: Progress):
        self._prepared, self._layers, self._drop, self._progress = prepared, layers, drop, progress
        graph = flatbuffer.Graph(flatbuffer.read(prepared.model))
        self.rounding = list(sensitivity.rounding_places(graph, prepared.plan()))
        self._known: dict[frozenset[str], _Trial] = {}

    def __len__(self) -> int:
        return len(self._known)

    def __getitem__(self, floats: frozenset[str]) -> _Trial:
        """Judge the file with those layers in float."""
        if floats not in self._known:
            self._progress("trying layers in float", len(self._known), None)
            content = self.content(floats)
            counts = flatbuffer.operator_counts(flatbuffer.read(content))
            conversions = counts.get("QUANTIZE", 0) + counts.get("DEQUANTIZE", 0)
            self._known[floats] = _Trial(self._drop(content), len(content), conversions)
        return self._known[floats]

    def content(self, floats: Collection[str]) -> bytes:
        """Write the file with those layers in float."""
        return self._prepared.write(self.places(floats))

    def places(self, floats: Collection[str]) -> list[int]:
        """List the places of the operators of those layers."""
        return [place for place, layer in enumerate(self._layers) if layer in floats]

    def allowed(self, floats: frozenset[str]) -> bool:
        """Tell whether the file has been judged already, or one more file may be judged."""
        return floats in self._known or len(self) < _TRIALS


def promising(prepared: PreparedModel, layers: Sequence[str], rows: Sequence[Sensitivity]) -> list[str]:
    """Order the measured layers by how much noise leaving each of them in float should remove, the most first.

    A layer in float does not round its weights. But its result is still rounded as long as an integer layer reads it,
    so a layer counts together with its readers where that removes more noise.
    """
    weights = {row.layer: _power(row.weights_db) for row in rows}
    results = {row.layer: max(_power(row.output_db) - weights[row.layer], 0.0) for row in rows}
    readers = _readers(prepared, layers)
    # A layer whose result is an integer output of the file rounds that result in any case.
    closed = {layer: {layer, *readers[layer]} for layer in results if None not in readers[layer]}
    noise_of = {layer: [own for own, needed in closed.items() if layer in needed] for layer in results}
    order: list[str] = []
    waiting = {row.layer: None for row in rows}
    while waiting:
        best, most = [next(iter(waiting))], 0.0
        for candidate in [{layer} for layer in waiting] + [closed[layer] for layer in closed]:
            added = [layer for layer in waiting if layer in candidate]
            if not added:
                continue
            after = {*order, *added}
            touched = {own for layer in added for own in noise_of[layer]}
            gain = sum(weights[layer] for layer in added)
            gain += sum(results[own] for own in touched if closed[own] <= after)
            if gain / len(added) > most:
                best, most = added, gain / len(added)
        order += best
        for layer in best:
            del waiting[layer]
    return order


def _power(db: float) -> float:
    return 10 ** (-db / 10)


def _readers(prepared: PreparedModel, layers: Sequence[str]) -> dict[str, set[str | None]]:
    """Find for each layer that rounds the integer layers that read its results, directly or behind ops that only move
    values. None among the readers stands for an integer output of the file.
    """
    plan, graph = prepared.plan(), flatbuffer.Graph(flatbuffer.read(prepared.model))
    rounding = set(sensitivity.rounding_places(graph, plan))
    place_of = {id(operator): place for place, operator in enumerate(graph.operators)}
    readers: dict[str, set[str | None]] = {layers[place]: set() for place in rounding}
    for place in rounding:
        own, waiting = readers[layers[place]], list(graph.activations(graph.operators[place].outputs))
        while waiting:
            index = waiting.pop()
            if graph.is_output(index) and prepared.scheme.io != "float32":
                own.add(None)
            for reader in graph.readers[index]:
                other = place_of[id(reader)]
                if other in rounding:
                    own.add(layers[other])
                elif other in plan.integer:
                    waiting += graph.activations(reader.outputs)
    return readers


def _least(order: list[str], trials: _Trials, max_drop: float, prepared: PreparedModel) -> list[str]:
    """Find the shortest beginning of the order that keeps the bound, supposing that longer ones keep it too."""

    def enough(count: int) -> bool:
        return trials[frozenset(order[:count])].drop <= max_drop

    bad, good = 0, 1
    while not enough(good):
        if good == len(order):
            raise RequestError(
                f"Even with every layer in float the {prepared.scheme.name} file loses "
                f"{trials[frozenset(order)].drop:.2%}, more than max_drop={max_drop}: its integer ends cost "
                "as much. Allow more, or take a scheme with float input and output, such as int8_float_io."
            )
        bad, good = good, min(2 * good, len(order))
    while good - bad > 1:
        middle = (bad + good) // 2
        bad, good = (bad, middle) if enough(middle) else (middle, good)
    return order[:good]


def _take_back(floats: list[str], rows: dict[str, Sensitivity], trials: _Trials, max_drop: float) -> list[str]:
    """Find the layers without which the bound would be broken: try many layers in integers at once, then each alone,
    until none can be integer or the trials run out.
    """

    def without(group: list[str]) -> list[str]:
        return [layer for layer in floats if layer not in group]

    def go(group: list[str]) -> bool:
        nonlocal floats
        rest = frozenset(without(group))
        if group and trials.allowed(rest) and trials[rest].drop <= max_drop:
            floats = without(group)
            return True
        return False

    def attempt(group: list[str]) -> None:
        if not go(group) and len(group) > 1:
            attempt(group[: len(group) // 2])
            attempt(group[len(group) // 2 :])

    def least_sensitive_first() -> list[str]:
        return sorted(floats, key=lambda layer: -rows[layer].output_db)

    attempt(least_sensitive_first())
    before = None
    while before != floats:
        before = floats
        for layer in least_sensitive_first():
            go([layer])
    return sorted(floats, key=lambda layer: rows[layer].output_db)


def _float_layer(
    row: Sensitivity, floats: list[str], trials: _Trials, prepared: PreparedModel, layers: Sequence[str]
) -> FloatLayer:
    final, other = trials[frozenset(floats)], trials[frozenset(floats) - {row.layer}]
    return FloatLayer(
        row.layer,
        row.operators,
        row.output_db,
        other.drop - final.drop,
        final.bytes - other.bytes,
        final.conversions - other.conversions,
        _weight_bytes(prepared, layers, row.layer),
    )


def _weight_bytes(prepared: PreparedModel, layers: Sequence[str], layer: str) -> int:
    graph = flatbuffer.Graph(flatbuffer.read(prepared.model))
    tensors = {
        operator.inputs[WEIGHTED[graph.name(operator)].weights]
        for operator, name in zip(graph.operators, layers, strict=True)
        if name == layer and graph.name(operator) in WEIGHTED
    }
    values = [graph.constant(index) for index in tensors]
    return sum(value.nbytes for value in values if value is not None)
