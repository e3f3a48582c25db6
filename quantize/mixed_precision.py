"""Accuracy-controlled quantisation: the fewest layers left in float so that a quantised file stays within a bound.

The layers' measured sensitivities foretell in which order to leave them in float; what counts is measured on the files
themselves. The least number from the front of that order that keeps the bound is found by doubling and halving; then
layers are taken back into integers, the least sensitive first, as long as the bound still holds.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass

from mobilenets_tf.errors import RequestError
from mobilenets_tf.progress import Progress, silent
from mobilenets_tf.quantize import sensitivity
from mobilenets_tf.quantize.integers import WEIGHTED
from mobilenets_tf.quantize.post_training import PreparedModel
from mobilenets_tf.quantize.sensitivity import Sensitivity
from mobilenets_tf.tflite import flatbuffer

_TRIALS = 128  # files that are judged before no more layers are taken back into integers


@dataclass(frozen=True)
class FloatLayer:
    """A layer that stayed float.

    layer, operators, output_db: see ``Sensitivity``.
    bought: how much larger the drop would be if this layer were integer too.
    bytes: what leaving it in float adds to the file. conversions: the QUANTIZE and DEQUANTIZE ops that it adds, fewer
        than none where its neighbours are float as well.
    weight_bytes: the size of its float weights.
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
    """A quantised file within its bound, and what that took.

    drop: what the file loses against float; integer_drop: what it loses with no layer left in float.
    layers: how many layers there are to choose from. trials: files that were made and judged.
    places: of the operators that were left in float, for ``PreparedModel.write``.
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
        """For the manifest."""
        return {key: value for key, value in asdict(self).items() if key not in ("content", "places")}


def check_bound(max_drop: float) -> None:
    """Refuse what is no share.

    Raises:
        RequestError: it is not from 0 to 1.
    """
    if not 0 <= max_drop < 1:
        raise RequestError(f"max_drop={max_drop}: expected a share from 0 up to 1, such as 0.01 for one point in 100.")


def search(
    prepared: PreparedModel,
    layers: Sequence[str],
    drop: Callable[[bytes], float],
    max_drop: float,
    progress: Progress = silent,
) -> MixedPrecision:
    """The quantised file with the fewest layers in float whose drop is at most ``max_drop``.

    Args:
        prepared: what ``post_training.prepare`` gave; its calibration and rounded weights serve all trials.
        layers: of each operator, see ``layers.of_operators``.
        drop: of a file's content, the share of accuracy or of answers that it loses against float.
        max_drop: the bound, 0.01 for one point in a hundred.

    Raises:
        RequestError: the bound is no share, or even float layers do not keep it.
    """
    check_bound(max_drop)
    trials = _Trials(prepared, layers, drop, progress)
    nothing = trials[frozenset()]
    rows, kept = {}, []
    if nothing.drop > max_drop:
        rows = {row.layer: row for row in sensitivity.measure(prepared, layers, progress=progress)}
        order = promising(prepared, layers, list(rows.values()))
        kept = _take_back(_least(order, trials, max_drop, prepared), rows, trials, max_drop)
    final = trials[frozenset(kept)]
    left = tuple(_left_in_float(rows[layer], kept, trials, prepared, layers) for layer in kept)
    count = len({layers[place] for place in trials.rounding})
    places = tuple(trials.places(kept))
    return MixedPrecision(trials.content(kept), max_drop, final.drop, nothing.drop, left, count, len(trials), places)


@dataclass(frozen=True)
class _Trial:
    """What is kept of a file that was judged; the files themselves would fill the memory."""

    drop: float
    bytes: int
    conversions: int


class _Trials:
    """Files with some layers in float, each judged once."""

    def __init__(
        self, prepared: PreparedModel, layers: Sequence[str], drop: Callable[[bytes], float], progress: Progress
    ):
        self._prepared, self._layers, self._drop, self._progress = prepared, layers, drop, progress
        graph = flatbuffer.Graph(flatbuffer.read(prepared.model))
        self.rounding = list(sensitivity.rounding_places(graph, prepared.plan()))
        self._known: dict[frozenset[str], _Trial] = {}

    def __len__(self) -> int:
        return len(self._known)

    def __getitem__(self, kept: frozenset[str]) -> _Trial:
        if kept not in self._known:
            self._progress("trying layers in float", len(self._known), None)
            content = self.content(kept)
            counts = flatbuffer.operator_counts(flatbuffer.read(content))
            conversions = counts.get("QUANTIZE", 0) + counts.get("DEQUANTIZE", 0)
            self._known[kept] = _Trial(self._drop(content), len(content), conversions)
        return self._known[kept]

    def content(self, kept: Collection[str]) -> bytes:
        """The file with those layers in float."""
        return self._prepared.write(self.places(kept))

    def places(self, kept: Collection[str]) -> list[int]:
        """Of all operators of those layers."""
        return [place for place, layer in enumerate(self._layers) if layer in kept]

    def allowed(self, kept: frozenset[str]) -> bool:
        """Whether there is an answer already, or time for one."""
        return kept in self._known or len(self) < _TRIALS


def promising(prepared: PreparedModel, layers: Sequence[str], rows: Sequence[Sensitivity]) -> list[str]:
    """All measured layers in the order in which leaving them in float should take off the most noise for each.

    A layer in float does not round its weights. But its result is still rounded as long as an integer layer reads it,
    so a layer counts together with its readers where that takes off more.
    """
    weights = {row.layer: _power(row.weights_db) for row in rows}
    results = {row.layer: max(_power(row.output_db) - weights[row.layer], 0.0) for row in rows}
    readers = _readers(prepared, layers)
    # A layer whose results something that is no layer reads, an integer output of the file, rounds them in any case.
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
    """For each layer that rounds, the layers in integers that read its results, past what only moves them; None among
    them for an integer output of the file.
    """
    made, graph = prepared.plan(), flatbuffer.Graph(flatbuffer.read(prepared.model))
    rounding = set(sensitivity.rounding_places(graph, made))
    place_of = {id(operator): place for place, operator in enumerate(graph.operators)}
    found: dict[str, set[str | None]] = {layers[place]: set() for place in rounding}
    for place in rounding:
        own, waiting = found[layers[place]], list(graph.activations(graph.operators[place].outputs))
        while waiting:
            index = waiting.pop()
            if graph.is_output(index) and prepared.scheme.io != "float32":
                own.add(None)
            for reader in graph.readers[index]:
                other = place_of[id(reader)]
                if other in rounding:
                    own.add(layers[other])
                elif other in made.integer:
                    waiting += graph.activations(reader.outputs)
    return found


def _least(order: list[str], trials: _Trials, max_drop: float, prepared: PreparedModel) -> list[str]:
    """The shortest beginning of the order that keeps the bound, supposing that longer ones do too."""

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


def _take_back(kept: list[str], rows: dict[str, Sensitivity], trials: _Trials, max_drop: float) -> list[str]:
    """Those of the layers without which the bound would be broken. Many at once are tried in integers first, then each
    alone, until none can go or the trials run out.
    """

    def without(group: list[str]) -> list[str]:
        return [layer for layer in kept if layer not in group]

    def go(group: list[str]) -> bool:
        nonlocal kept
        rest = frozenset(without(group))
        if group and trials.allowed(rest) and trials[rest].drop <= max_drop:
            kept = without(group)
            return True
        return False

    def attempt(group: list[str]) -> None:
        if not go(group) and len(group) > 1:
            attempt(group[: len(group) // 2])
            attempt(group[len(group) // 2 :])

    def least_sensitive_first() -> list[str]:
        return sorted(kept, key=lambda layer: -rows[layer].output_db)

    attempt(least_sensitive_first())
    before = None
    while before != kept:
        before = kept
        for layer in least_sensitive_first():
            go([layer])
    return sorted(kept, key=lambda layer: rows[layer].output_db)


def _left_in_float(row: Sensitivity, kept: list[str], trials: _Trials, prepared: PreparedModel, layers) -> FloatLayer:
    final, other = trials[frozenset(kept)], trials[frozenset(kept) - {row.layer}]
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
