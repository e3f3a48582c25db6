"""Measure what each layer costs in integers: quantise that layer alone, and compare with the float model.

The layer has its rounded weights and its corrected bias, and its results are rounded as in the integer file; all other
layers stay float. So a figure names the layer that causes the noise, wherever the noise becomes visible.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from mobilenets_tf.progress import Progress, silent, track
from mobilenets_tf.quantize.drop import Drop
from mobilenets_tf.quantize.integers import WEIGHTED, Form, IntegerPlan, RoundedWeights
from mobilenets_tf.quantize.post_training import PreparedModel
from mobilenets_tf.quantize.steps.effects import Effects
from mobilenets_tf.tflite import flatbuffer
from mobilenets_tf.tflite.flatbuffer import schema
from mobilenets_tf.tflite.runtime import Runner

SAMPLES = 16  # calibration samples to measure on


@dataclass(frozen=True)
class Sensitivity:
    """The loss when a single Keras layer is quantised.

    layer: the layer's name.
    operators: the layer's ops that round, and how many of each.
    layer_db: signal-to-noise ratio of the layer's results, in dB.
    output_db: signal-to-noise ratio of the model's outputs, in dB; where the model ends in a softmax, of the highest
        scores that the softmax reads (effects.py).
    weights_db: the same as output_db when only the layer's weights are rounded, not its results. A ratio is infinite
        where quantising the layer changes nothing.
    drop: how much the file whose only integer layer is this one loses of the task's score against the float file; None
        if the score was not measured.
    """

    layer: str
    operators: dict[str, int]
    layer_db: float
    output_db: float
    weights_db: float
    drop: float | None = None

    def as_dict(self) -> dict:
        """Give the fields as plain data, without ``drop`` where that was not measured."""
        return {name: value for name, value in asdict(self).items() if name != "drop" or value is not None}


def measure(
    prepared: PreparedModel,
    layers: Sequence[str],
    samples: int = SAMPLES,
    progress: Progress = silent,
    *,
    drop: Drop | None = None,
) -> list[Sensitivity]:
    """Measure every layer that rounds; layers that only move, pick or average integers are left out.

    Args:
        prepared: the result of ``post_training.prepare``.
        layers: the layer of each operator, see ``layers.of_operators``.
        samples: how many of the prepared model's calibration samples to measure noise on.
        progress: called after each layer.
        drop: a function of a file's content: how much the file loses of the task's score against the float file, as
            for ``mixed_precision.search``. It is called once for each layer, with a file in which that layer computes
            in integers and all others in float: what the layer reads is stored in integers too, and the file's inputs
            and outputs have the scheme's types. None: measure noise only.

    Returns:
        One row for each layer, the most sensitive first: by ``drop`` where it was measured, then by ``output_db``.

    Raises:
        ConversionError: LiteRT cannot run one of the files that ``drop`` is to judge.
    """
    reference = _Reference(prepared)
    places_of: dict[str, list[int]] = {}
    for place in reference.rounding:
        places_of.setdefault(layers[place], []).append(place)
    rows = []
    for layer, places in track(list(places_of.items()), "measuring layers", progress):
        both = _OneLayer(reference, places)
        weights = _OneLayer(reference, places, results_too=False) if both.has_weights else None
        for arrays in prepared.samples[:samples]:
            reference.run(arrays)
            both.compare(arrays)
            if weights:
                weights.compare(arrays)
        rows.append(
            Sensitivity(
                layer,
                dict(Counter(reference.name(reference.operators[place]) for place in places)),
                both.at_layer.db,
                both.output_db,
                weights.output_db if weights else float("inf"),
                drop(_file_with_one_integer_layer(prepared, layers, layer)) if drop else None,
            )
        )
    return sorted(rows, key=lambda row: (-(row.drop or 0.0), row.output_db))


def rounding_places(graph: flatbuffer.Graph, plan: IntegerPlan) -> Iterator[int]:
    """Give the places of the integer operators that round: those whose result has another form than all inputs."""
    for place in sorted(plan.integer):
        operator = graph.operators[place]
        input_forms = {plan.forms[index] for index in graph.activations(operator.inputs)}
        result_forms = {plan.forms[index] for index in graph.activations(operator.outputs)}
        if result_forms and (graph.name(operator) in WEIGHTED or result_forms - input_forms):
            yield place


def _file_with_one_integer_layer(prepared: PreparedModel, layers: Sequence[str], layer: str) -> bytes:
    return prepared.write(place for place, other in enumerate(layers) if other != layer)


class _Reference(flatbuffer.Graph):
    """The float model, which is run for every activation that the integer file rounds.

    rounding: the places of the operators that round. targets: the tensors in which errors at the model's outputs are
    counted. ends: the outputs themselves, as far as they are float32.
    """

    def __init__(self, prepared: PreparedModel):
        super().__init__(flatbuffer.read(prepared.uncorrected))
        self.prepared, self.plan = prepared, prepared.plan()
        self.rounding = list(rounding_places(self, self.plan))
        self.targets = Effects(prepared.uncorrected, []).targets
        self.ends = self.activations(self.outputs)
        observed = {index for place in self.rounding for index in self.activations(self.operators[place].outputs)}
        observed.update(self.ends, (target.index for target in self.targets))
        self.run = _Run(self.model, sorted(observed))


class _Run:
    """Runs a model and keeps the values of some of its tensors."""

    def __init__(self, tree: schema.ModelT, observed: list[int]):
        self._inputs = tree.subgraphs[0].inputs
        self._arrays: list[np.ndarray] = []
        computed = [index for index in observed if index not in self._inputs]
        self._runner = Runner(flatbuffer.with_outputs(tree, computed), trusted=True)

    def __call__(self, arrays: list[np.ndarray]) -> None:
        self._arrays = arrays
        self._runner.invoke(*arrays)

    def value(self, index: int) -> np.ndarray:
        """Copy the values that an observed tensor has on the sample that was run last."""
        if index in self._inputs:
            return self._arrays[self._inputs.index(index)]
        return np.array(self._runner.raw(index))


class _OneLayer:
    """The float model with one layer quantised, and the noise that this has made on the samples so far.

    places: of the layer's operators. results_too: round the layer's results as well as its weights.
    """

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
        forms, dtype = reference.plan.forms, reference.plan.dtype
        self._rounded = {index: _round(tree, index, forms[index], dtype) for index in results} if results_too else {}
        ends = [*(target.index for target in reference.targets), *reference.ends]
        self._run = _Run(tree, list(dict.fromkeys(map(self._tensor, [*ends, *self._results]))))
        self.at_layer, self._at_targets, self._at_outputs = _Noise(), _Noise(), _Noise()

    def _tensor(self, index: int) -> int:
        """Return the tensor of this model that corresponds to a tensor of the reference."""
        return self._rounded.get(index, index)

    def compare(self, arrays: list[np.ndarray]) -> None:
        """Run the sample that the reference has run last, and add up the differences."""
        self._run(arrays)
        for noise, indices in ((self.at_layer, self._results), (self._at_outputs, self._reference.ends)):
            for index in indices:
                noise.add(index, *self._pair(index))
        for target in self._reference.targets:
            exact, quantised = self._pair(target.index)
            part = target.decisive(exact)
            self._at_targets.add(target.index, part(exact), part(quantised))

    def _pair(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Return a tensor's values in the float model and in this model."""
        return self._reference.run.value(index), self._run.value(self._tensor(index))

    @property
    def output_db(self) -> float:
        # The layer that turns the scores into the answer is behind the targets.
        return (self._at_outputs if self._at_targets.silent else self._at_targets).db


class _Noise:
    """The power of the noise and of the signal, summed over samples for each of several tensors."""

    def __init__(self):
        self._noise, self._signal = Counter(), Counter()

    def add(self, index: int, exact: np.ndarray, quantised: np.ndarray) -> None:
        self._noise[index] += float(np.square(quantised - exact, dtype=np.float64).sum())
        self._signal[index] += float(np.square(exact, dtype=np.float64).sum())

    @property
    def silent(self) -> bool:
        """Whether there was no noise."""
        return not any(self._noise.values())

    @property
    def db(self) -> float:
        """The signal-to-noise ratio in dB. Of several tensors, the shares of noise are added up."""
        ratio = sum(noise / max(self._signal[index], 1e-30) for index, noise in self._noise.items())
        return float(-10 * np.log10(ratio)) if ratio else float("inf")


def _round_weights(tree: schema.ModelT, corrected: schema.ModelT, place: int, rounded: RoundedWeights) -> None:
    """Give one operator its rounded weights, and its bias from the model whose biases are corrected."""
    operator, with_bias = (model.subgraphs[0].operators[place] for model in (tree, corrected))
    places = WEIGHTED[flatbuffer.operator_name(tree, operator)]
    flatbuffer.replace_constant(tree, operator, places.weights, rounded.values(places.output_axis))
    if places.bias < len(operator.inputs) and operator.inputs[places.bias] >= 0:
        bias = flatbuffer.constant(corrected, with_bias.inputs[places.bias])
        flatbuffer.replace_constant(tree, operator, places.bias, bias)


def _round(tree: schema.ModelT, index: int, form: Form, dtype: str) -> int:
    """Let the readers of a tensor read a new one: its values rounded to integers of a form and back to float32.

    Returns the new tensor's index.
    """
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
