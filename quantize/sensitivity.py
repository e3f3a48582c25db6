"""What each layer costs in integers: quantised alone in a float model, what it does to its own output and the model's.

The layer's weights are the rounded ones, its bias is the corrected one, and its results are rounded as the file will
round them; everything else stays float. So the figures name the layer that the noise comes from, wherever it is seen.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from mobilenets_tf.progress import Progress, silent, track
from mobilenets_tf.quantize.integers import WEIGHTED, Form, IntegerPlan
from mobilenets_tf.quantize.post_training import PreparedModel
from mobilenets_tf.quantize.steps.effects import Effects
from mobilenets_tf.tflite import flatbuffer
from mobilenets_tf.tflite.flatbuffer import schema
from mobilenets_tf.tflite.runtime import Runner

SAMPLES = 16  # calibration samples to measure on


@dataclass(frozen=True)
class Sensitivity:
    """Of one Keras layer.

    layer: its name. operators: its ops that round, and how many of each.
    layer_db: signal to noise at what the layer gives, in dB, when it alone is quantised.
    output_db: the same at the model's outputs; before a final softmax, of the highest scores (effects.py).
    weights_db: at the model's outputs again, its weights alone being rounded. Infinite where nothing changes.
    """

    layer: str
    operators: dict[str, int]
    layer_db: float
    output_db: float
    weights_db: float

    def as_dict(self) -> dict:
        """As plain data."""
        return asdict(self)


def measure(
    prepared: PreparedModel, layers: Sequence[str], samples: int = SAMPLES, progress: Progress = silent
) -> list[Sensitivity]:
    """Every layer that rounds, the most sensitive first. What only moves, picks or averages integers is left out.

    Args:
        prepared: what ``post_training.prepare`` gave.
        layers: of each of its operators, see ``layers.of_operators``.
        samples: of the calibration samples that were kept, how many to measure on.
    """
    made = prepared.plan()
    reference = _Reference(prepared, made)
    places: dict[str, list[int]] = {}
    for place in reference.rounding:
        places.setdefault(layers[place], []).append(place)
    rows = []
    for layer, own in track(list(places.items()), "measuring layers", progress):
        both = _Alone(reference, own)
        weights = _Alone(reference, own, results_too=False) if both.has_weights else None
        for arrays in prepared.samples[:samples]:
            reference.run(arrays)
            both.compare(arrays)
            if weights:
                weights.compare(arrays)
        rows.append(
            Sensitivity(
                layer,
                dict(Counter(reference.name(reference.operators[place]) for place in own)),
                both.at_layer.db,
                both.output_db,
                weights.output_db if weights else float("inf"),
            )
        )
    return sorted(rows, key=lambda row: row.output_db)


def rounding_places(graph: flatbuffer.Graph, made: IntegerPlan) -> Iterator[int]:
    """Places of the integer operators that round: their result has not the form of an input."""
    for place in sorted(made.integer):
        operator = graph.operators[place]
        kept = {made.forms[index] for index in graph.activations(operator.inputs)}
        results = graph.activations(operator.outputs)
        if results and (graph.name(operator) in WEIGHTED or any(made.forms[index] not in kept for index in results)):
            yield place


class _Reference(flatbuffer.Graph):
    """The float model, with every activation that will be rounded as an output.

    targets: where errors at the model's outputs are counted; ends: the outputs themselves, as far as they are float32.
    """

    def __init__(self, prepared: PreparedModel, made: IntegerPlan):
        super().__init__(flatbuffer.read(prepared.uncorrected))
        self.prepared, self.made = prepared, made
        self.rounding = list(rounding_places(self, made))
        self.targets = Effects(prepared.uncorrected, []).targets
        self.ends = self.activations(self.outputs)
        wanted = {out for place in self.rounding for out in self.activations(self.operators[place].outputs)}
        wanted.update(self.ends, (target.index for target in self.targets))
        self.run = _Run(self.model, sorted(wanted))


class _Run:
    """A model that is run for some of its tensors."""

    def __init__(self, tree, wanted: list[int]):
        self._inputs = tree.subgraphs[0].inputs
        self._arrays: list[np.ndarray] = []
        places = list(range(len(tree.subgraphs[0].operators)))
        computed = [index for index in wanted if index not in self._inputs]
        self._runner = Runner(flatbuffer.part(tree, places, self._inputs, computed), trusted=True)

    def __call__(self, arrays: list[np.ndarray]) -> None:
        self._arrays = arrays
        self._runner.invoke(*arrays)

    def value(self, index: int) -> np.ndarray:
        """Of a wanted tensor, on the sample that was run last; a copy."""
        if index in self._inputs:
            return self._arrays[self._inputs.index(index)]
        return np.array(self._runner.raw(index))


class _Alone:
    """The float model with one layer's weights rounded, and its results too or not; and what that has done so far."""

    def __init__(self, reference: _Reference, places: list[int], results_too: bool = True):
        self._reference, prepared = reference, reference.prepared
        tree, corrected = flatbuffer.read(prepared.uncorrected), flatbuffer.read(prepared.model)
        graph = flatbuffer.Graph(tree)
        operators = [graph.operators[place] for place in places]
        weighted = [place for place in places if place in prepared.rounded]
        self.has_weights = bool(weighted)
        for place in weighted:
            _round_weights(tree, corrected, place, prepared.rounded[place])
        results = [index for operator in operators for index in graph.activations(operator.outputs)]
        inside = {id(operator) for operator in operators}
        self._results = [
            index
            for index in results
            if graph.is_output(index) or any(id(reader) not in inside for reader in graph.readers[index])
        ]
        forms, dtype = reference.made.forms, reference.made.dtype
        self._rounded = {index: _round(tree, index, forms[index], dtype) for index in results} if results_too else {}
        ends = [*(target.index for target in reference.targets), *reference.ends]
        self._run = _Run(tree, list(dict.fromkeys(map(self._tensor, [*ends, *self._results]))))
        self.at_layer, self._at_targets, self._at_outputs = _Noise(), _Noise(), _Noise()

    def _tensor(self, index: int) -> int:
        """What stands for a tensor of the reference."""
        return self._rounded.get(index, index)

    def compare(self, arrays: list[np.ndarray]) -> None:
        """Run one more sample, which the reference has run."""
        self._run(arrays)
        for noise, indices in ((self.at_layer, self._results), (self._at_outputs, self._reference.ends)):
            for index in indices:
                noise.add(index, *self._pair(index))
        for target in self._reference.targets:
            wanted, found = self._pair(target.index)
            take = target.decisive(wanted)
            self._at_targets.add(target.index, take(wanted), take(found))

    def _pair(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        return self._reference.run.value(index), self._run.value(self._tensor(index))

    @property
    def output_db(self) -> float:
        # The layer that turns the scores into the answer is behind the targets.
        return (self._at_outputs if self._at_targets.silent else self._at_targets).db


class _Noise:
    """Its power and the signal's, summed over samples for each of several tensors."""

    def __init__(self):
        self._noise, self._signal = Counter(), Counter()

    def add(self, index: int, wanted: np.ndarray, found: np.ndarray) -> None:
        self._noise[index] += float(np.square(found - wanted, dtype=np.float64).sum())
        self._signal[index] += float(np.square(wanted, dtype=np.float64).sum())

    @property
    def silent(self) -> bool:
        """Whether there was none."""
        return not any(self._noise.values())

    @property
    def db(self) -> float:
        """Signal to noise; of several tensors, the ratios added up."""
        ratio = sum(noise / max(self._signal[index], 1e-30) for index, noise in self._noise.items())
        return float(-10 * np.log10(ratio)) if ratio else float("inf")


def _round_weights(tree, corrected, place: int, rounded) -> None:
    operator, with_bias = (model.subgraphs[0].operators[place] for model in (tree, corrected))
    places = WEIGHTED[flatbuffer.operator_name(tree, operator)]
    flatbuffer.replace_constant(tree, operator, places.weights, rounded.values(places.output_axis))
    if places.bias < len(operator.inputs) and operator.inputs[places.bias] >= 0:
        bias = flatbuffer.constant(corrected, with_bias.inputs[places.bias])
        flatbuffer.replace_constant(tree, operator, places.bias, bias)


def _round(tree, index: int, form: Form, dtype: str) -> int:
    """Let all that read a tensor read what is left of it when it is stored in integers; that tensor."""
    graph = tree.subgraphs[0]
    shape = graph.tensors[index].shape
    stored, back = (flatbuffer.add_tensor(tree, f"rounded/{index}/{kind}", shape) for kind in (dtype, "float32"))
    graph.tensors[stored].type = getattr(schema.TensorType, dtype.upper())
    parameters = graph.tensors[stored].quantization = schema.QuantizationParametersT()
    parameters.scale, parameters.zeroPoint = [form.scale], [form.zero_point]
    for operator in graph.operators:
        operator.inputs = [back if other == index else other for other in operator.inputs]
    place = next(place for place, operator in enumerate(graph.operators) if index in operator.outputs)
    graph.operators[place + 1 : place + 1] = [
        flatbuffer.make_operator(tree, "QUANTIZE", [index], [stored]),
        flatbuffer.make_operator(tree, "DEQUANTIZE", [stored], [back]),
    ]
    return back
