"""Post-training quantisation: a float TFLite model and calibration data in, a quantised TFLite model out.

integer forms -> equalise the channels -> observe the activations -> choose the ranges -> round the weights -> correct
the biases -> write the integers, but for islands that stay float. Each step is a module of its own; ``Recipe`` says
which are taken.
"""

import itertools
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from mobilenets_tf.errors import ConversionError, RequestError, unknown
from mobilenets_tf.progress import Progress, silent
from mobilenets_tf.quantize import integers, schemes
from mobilenets_tf.quantize.calibration import Calibration
from mobilenets_tf.quantize.schemes import Scheme
from mobilenets_tf.quantize.steps import equalize, ranges, rounding
from mobilenets_tf.quantize.steps.bias_correction import correct_biases
from mobilenets_tf.quantize.steps.effects import Effects
from mobilenets_tf.quantize.steps.float_islands import float_islands
from mobilenets_tf.quantize.steps.integer_forms import integer_forms
from mobilenets_tf.quantize.steps.ranges import Range
from mobilenets_tf.quantize.steps.statistics import ActivationStatistics, observe
from mobilenets_tf.tflite import flatbuffer
from mobilenets_tf.tflite.input_fold import fold_input
from mobilenets_tf.tflite.runtime import Runner

_KEPT = 128  # samples that are kept for the steps that run the model more than once; the rest pass by
_TRIED_ON = 32  # of these, on how many ranges are tried


@dataclass(frozen=True)
class Recipe:
    """The steps of post-training quantisation. The default is what measured best (benchmarks/post_training.py).

    equalize: let channels share scales evenly (equalize.py).
    ranges: "least_output_error", or an estimator by its name: "min_max", "percentile", "entropy", "mean_square_error".
    rounding: "learned" or "nearest" (rounding.py).
    correct_biases: take off the shift that rounding the weights causes (bias_correction.py).
    per_tensor: one scale for all channels of a layer's weights, for hardware that has no more.

    Raises:
        RequestError: a name that is none of these.
    """

    equalize: bool = True
    ranges: str = "least_output_error"
    rounding: str = "learned"
    correct_biases: bool = True
    per_tensor: bool = False

    def __post_init__(self):
        if self.ranges != "least_output_error":
            ranges.estimator(self.ranges)
        if self.rounding not in ("learned", "nearest"):
            raise unknown("rounding", self.rounding, ("learned", "nearest"))


@dataclass(frozen=True)
class PreparedModel:
    """A float model ready to be written in integers; see ``PreparedModel.write``.

    model: the float file's content, its biases corrected; uncorrected: without that, its outputs those of the model
    that was given. original: as it was given, for its signature's names.
    ranges: of every activation. rounded: the layers' integer weights, by place among the operators. islands: places of
    the operators that stay float whatever is asked. samples: some of the calibration data.
    """

    model: bytes
    uncorrected: bytes
    original: bytes
    scheme: Scheme
    ranges: dict[int, Range]
    rounded: dict[int, integers.RoundedWeights]
    islands: frozenset[int]
    samples: list[list[np.ndarray]]

    def plan(self, keep_float: Iterable[int] = ()) -> integers.IntegerPlan:
        """What will be integer, if the operators at those places are not to be."""
        return integers.plan(flatbuffer.read(self.model), self.ranges, self.scheme, {*self.islands, *keep_float})

    def write(self, keep_float: Iterable[int] = ()) -> bytes:
        """The quantised file's content, its signature as in the float file.

        Raises:
            ConversionError: LiteRT cannot run it.
        """
        tree = flatbuffer.read(self.model)
        made = self.plan(keep_float)
        self._restore_biases(tree, made)
        integers.write(tree, made, self.scheme, self.rounded)
        flatbuffer.copy_signature(flatbuffer.read(self.original), tree)
        content = flatbuffer.write(tree)
        try:
            Runner(content).invoke(*self.samples[0])
        except (RequestError, RuntimeError) as error:
            raise ConversionError(
                f"This model cannot run as {self.scheme.name}: {str(error).splitlines()[0]}"
            ) from error
        return content

    def _restore_biases(self, tree, made: integers.IntegerPlan) -> None:
        """A layer that stays float has no rounding whose shift its biases should take off."""
        uncorrected = flatbuffer.read(self.uncorrected)
        for place in sorted(set(self.rounded) - made.integer):
            operator, before = (model.subgraphs[0].operators[place] for model in (tree, uncorrected))
            if operator.inputs[2] != before.inputs[2]:
                bias = flatbuffer.constant(uncorrected, before.inputs[2])
                flatbuffer.replace_constant(tree, operator, 2, bias)


def prepare(
    model: bytes,
    scheme,
    calibration: Calibration,
    recipe: Recipe | None = None,
    progress: Progress = silent,
    *,
    exact_border: bool = False,
) -> PreparedModel:
    """Everything that is decided before integers are written.

    Args:
        model: the float file's content, every shape static.
        scheme: a calibrated scheme ("int8", "int8_float_io", "int16x8") or its name.
        calibration: the samples to choose ranges from.
        recipe: the steps to take; None for the default.
        exact_border: a normalisation that goes into the first convolution (``fold_input``) leaves the float outputs as
            they are to float32 rounding, rather than to half a level of the input at the border.

    Raises:
        RequestError: calibration data that cannot be used, or activations that are not finite.
    """
    scheme, recipe = schemes.get(scheme), recipe or Recipe()
    original, model = model, integer_forms(model)
    if calibration.value_range and scheme.activations == "int8":
        low, high = calibration.value_range
        model = fold_input(model, 0.0 if exact_border else (high - low) / 255 / 2)
    graph = flatbuffer.read(model).subgraphs[0]
    shapes = {graph.tensors[i].name.decode(): tuple(graph.tensors[i].shape) for i in graph.inputs}
    batches = calibration.batches(shapes, progress)
    samples = list(itertools.islice(batches, _KEPT))
    if recipe.equalize:
        model = equalize.equalize(model, samples)
    statistics = observe(model, itertools.chain(samples, batches))
    if calibration.value_range:
        # What pixels can be is known better than what these pixels were.
        for index in graph.inputs:
            if index in statistics:  # an integer input has no range to choose
                statistics[index].low, statistics[index].high = calibration.value_range
    islands = frozenset(float_islands(flatbuffer.read(model)))
    chosen = choose_ranges(model, statistics, scheme, recipe, islands, samples, progress)
    round_all = rounding.learned if recipe.rounding == "learned" else rounding.nearest
    arguments = (samples[:64], recipe.per_tensor, progress) if recipe.rounding == "learned" else (recipe.per_tensor,)
    rounded = round_all(model, *arguments)
    corrected = correct_biases(model, rounded, statistics) if recipe.correct_biases else model
    return PreparedModel(corrected, model, original, scheme, chosen, rounded, islands, samples)


def choose_ranges(
    model: bytes,
    statistics: dict[int, ActivationStatistics],
    scheme: Scheme,
    recipe: Recipe,
    islands: frozenset[int],
    samples: list[list[np.ndarray]],
    progress: Progress = silent,
) -> dict[int, Range]:
    """The range of each observed tensor.

    Sixteen bits: nothing needs clipping. Eight bits: as the recipe says, but everything that was seen for the model's
    inputs and outputs, and what a final softmax reads in its own way (``ranges.softmax_scores``).
    """
    if scheme.activations == "int16":
        return {index: ranges.symmetric(found) for index, found in statistics.items()}
    tree = flatbuffer.read(model)
    graph = flatbuffer.Graph(tree)
    searched = recipe.ranges == "least_output_error"
    estimate = ranges.estimator("mean_square_error" if searched else recipe.ranges)
    extremes = {index: ranges.min_max(found) for index, found in statistics.items()}
    ends = {*graph.inputs, *graph.outputs}
    effects = Effects(model, samples[:_TRIED_ON])
    scores = {target.index for target in effects.targets if target.is_scores}
    chosen = {
        index: extremes[index] if index in ends | scores else estimate(found) for index, found in statistics.items()
    }
    if searched:
        roots = set(integers.plan(tree, chosen, scheme, islands).roots.values())
        inner = {index: chosen[index] for index in sorted(roots - ends - scores)}
        chosen |= ranges.least_output_error(effects, inner, statistics, progress)
        for index in (scores & roots) - ends:
            chosen[index] = ranges.softmax_scores(effects.cut(index).values, extremes[index])
    _fit_sums(graph, chosen)
    _fit_layers(graph, chosen)
    given = set(graph.inputs)
    return {index: found if index in given else _settled(*found) for index, found in chosen.items()}


def _settled(low: float, high: float) -> Range:
    """Rounded to about a thousandth, so that the last bits of another processor's activations do not matter."""
    step = 2.0 ** (np.floor(np.log2(high - low)) - 10)
    return float(np.round(low / step) * step), float(np.round(high / step) * step)


def _fit_sums(graph: flatbuffer.Graph, chosen: dict[int, Range]) -> None:
    """Widen ranges where the terms and the result of a sum are of very different size, as in untrained networks.

    XNNPACK adds 8-bit numbers whose scales are between 2^-10 and 2^8 of the result's; beyond, the op falls out of the
    accelerated graph, and far beyond LiteRT's own kernel aborts the process.
    """
    # From the end: what is widened for the sums that read a tensor is then seen by the sum that writes it.
    for operator in reversed(graph.operators):
        if graph.name(operator) not in ("ADD", "SUB"):
            continue
        (out,) = operator.outputs
        for index in (index for index in operator.inputs if index in chosen):
            width, result = (high - low for low, high in (chosen[index], chosen[out]))
            for tensor, factor in ((index, result / width / 1000), (out, width / result / 250)):
                if factor > 1:
                    chosen[tensor] = tuple(factor * end for end in chosen[tensor])


def _fit_layers(graph: flatbuffer.Graph, chosen: dict[int, Range]) -> None:
    """Widen the ranges of layers that give next to nothing for what they read, such as those behind whose ReLU no
    calibration sample got: XNNPACK refuses files where (input scale x weight scale) is 256 times the output's or more.
    """
    for operator in graph.operators:
        if graph.name(operator) not in integers.WEIGHTED:
            continue
        places = integers.WEIGHTED[graph.name(operator)]
        index, out = operator.inputs[places.data], operator.outputs[0]
        values = graph.constant(operator.inputs[places.weights])
        if values is None or index not in chosen or out not in chosen:
            continue
        width, result = (high - low for low, high in (chosen[index], chosen[out]))
        factor = width * float(np.abs(values).max()) / integers.LARGEST_WEIGHT / result / 200
        if factor > 1:
            chosen[out] = tuple(factor * end for end in chosen[out])
