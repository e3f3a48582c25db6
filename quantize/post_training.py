"""Post-training quantisation: make a quantised TFLite model of a float one and calibration data.

The steps: integer forms -> equalise the channels -> observe the activations -> choose the ranges -> round the weights
-> correct the biases -> write the integers, except for islands of ops that stay float. Each step is a module in
``steps``; a ``Recipe`` selects among them.
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

_KEPT = 128  # samples kept in memory for the steps that run the model more than once; of the others, statistics only
_TRIED_ON = 32  # how many of the kept samples serve to compare ranges


@dataclass(frozen=True)
class Recipe:
    """The steps of post-training quantisation. The defaults measured best (benchmarks/post_training.py).

    equalize: scale channels so that they fill the range of a shared scale evenly (steps/equalize.py).
    ranges: how ranges of activations are chosen: "least_output_error", or an estimator by its name: "min_max",
        "percentile", "entropy", "mean_square_error" (steps/ranges.py).
    rounding: how weights are rounded: "learned" or "nearest" (steps/rounding.py).
    correct_biases: remove the shift of a layer's mean that rounding its weights causes (steps/bias_correction.py).
    per_tensor: one scale for all channels of a layer's weights, for hardware that has only one.

    Raises:
        RequestError: the name for ``ranges`` or ``rounding`` is unknown.
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
    """A float model with all that its integer form needs: ``write`` makes the file.

    model: the content of the float file whose biases are corrected for the rounding of the weights.
    uncorrected: the same file with its own biases; its outputs are those of ``original``.
    original: the float file before any step.
    scheme: the scheme of the integer file.
    ranges: (low, high) of every activation tensor.
    rounded: the integer weights of each operator that has weights, by the operator's place.
    islands: the places of the operators that stay float in any case.
    samples: some of the calibration samples, each a list of arrays in the order of the model's inputs.
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
        """Decide what becomes integer, where the operators at the places ``keep_float`` are to stay float."""
        return integers.plan(flatbuffer.read(self.model), self.ranges, self.scheme, {*self.islands, *keep_float})

    def write(self, keep_float: Iterable[int] = ()) -> bytes:
        """Make the content of the quantised file; its signature has the names of the float file.

        Args:
            keep_float: the places of operators that are to stay float.

        Raises:
            ConversionError: LiteRT cannot run the file.
        """
        tree = flatbuffer.read(self.model)
        plan = self.plan(keep_float)
        self._restore_biases(tree, plan)
        integers.write(tree, plan, self.scheme, self.rounded)
        flatbuffer.copy_signature(flatbuffer.read(self.original), tree)
        content = flatbuffer.write(tree)
        try:
            Runner(content).invoke(*self.samples[0])
        except (RequestError, RuntimeError) as error:
            raise ConversionError(
                f"This model cannot run as {self.scheme.name}: {str(error).splitlines()[0]}"
            ) from error
        return content

    def _restore_biases(self, tree: flatbuffer.schema.ModelT, plan: integers.IntegerPlan) -> None:
        """Give layers that stay float their own biases back: their weights are not rounded, so there is no shift."""
        uncorrected = flatbuffer.read(self.uncorrected)
        for place in sorted(set(self.rounded) - plan.integer):
            operator, before = (model.subgraphs[0].operators[place] for model in (tree, uncorrected))
            position = integers.WEIGHTED[flatbuffer.operator_name(tree, operator)].bias
            if position >= len(operator.inputs):
                continue
            corrected = flatbuffer.constant(tree, operator.inputs[position])
            bias = flatbuffer.constant(uncorrected, before.inputs[position])
            if bias is not None and not np.array_equal(bias, corrected):
                flatbuffer.replace_constant(tree, operator, position, bias)


def prepare(
    model: bytes,
    scheme: str | Scheme,
    calibration: Calibration,
    recipe: Recipe | None = None,
    progress: Progress = silent,
    *,
    exact_border: bool = False,
) -> PreparedModel:
    """Do all steps of quantisation before the integers are written; ``prepare(...).write()`` is the quantised file.

    Args:
        model: the float file's content, every shape static.
        scheme: a calibrated scheme ("int8", "int8_float_io", "int16x8") or its name.
        calibration: the samples to choose ranges from.
        recipe: the steps to take; None for the default.
        progress: called as work goes on.
        exact_border: where a normalisation is folded into the first convolution (``fold_input``), keep the float
            outputs equal to float32 rounding. Otherwise they may be off by half a level of the input at the border.

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
        # The range that pixels can have is certain; the samples' own range is not.
        for index in graph.inputs:
            if index in statistics:  # an integer input has no statistics
                statistics[index].low, statistics[index].high = calibration.value_range
    islands = frozenset(float_islands(flatbuffer.read(model)))
    activation_ranges = choose_ranges(model, statistics, scheme, recipe, islands, samples, progress)
    round_all = rounding.learned if recipe.rounding == "learned" else rounding.nearest
    arguments = (samples[:64], recipe.per_tensor, progress) if recipe.rounding == "learned" else (recipe.per_tensor,)
    rounded = round_all(model, *arguments)
    corrected = correct_biases(model, rounded, statistics) if recipe.correct_biases else model
    return PreparedModel(corrected, model, original, scheme, activation_ranges, rounded, islands, samples)


def choose_ranges(
    model: bytes,
    statistics: dict[int, ActivationStatistics],
    scheme: Scheme,
    recipe: Recipe,
    islands: frozenset[int],
    samples: list[list[np.ndarray]],
    progress: Progress = silent,
) -> dict[int, Range]:
    """Choose the range of each observed tensor.

    Sixteen bits need no clipping: the range is all values seen. Eight bits: the recipe decides, except for the model's
    inputs and outputs, whose ranges are all values seen, and the scores that a final softmax reads, which have a way of
    their own (``ranges.softmax_scores``).

    Args:
        model: the float file's content.
        statistics: of each float32 activation tensor, by index.
        scheme, recipe: as for ``prepare``.
        islands: the places of operators that stay float.
        samples: calibration samples, arrays in the order of the model's inputs.
        progress: called as ranges are tried.

    Returns:
        (low, high) of each tensor, by index.
    """
    if scheme.activations == "int16":
        return {index: ranges.symmetric(seen) for index, seen in statistics.items()}
    tree = flatbuffer.read(model)
    graph = flatbuffer.Graph(tree)
    searched = recipe.ranges == "least_output_error"
    estimate = ranges.estimator("mean_square_error" if searched else recipe.ranges)
    extremes = {index: ranges.min_max(seen) for index, seen in statistics.items()}
    ends = {*graph.inputs, *graph.outputs}
    effects = Effects(model, samples[:_TRIED_ON])
    scores = {target.index for target in effects.targets if target.is_scores}
    result = {
        index: extremes[index] if index in ends | scores else estimate(seen) for index, seen in statistics.items()
    }
    if searched:
        roots = set(integers.plan(tree, result, scheme, islands).roots.values())
        inner = {index: result[index] for index in sorted(roots - ends - scores)}
        result |= ranges.least_output_error(effects, inner, statistics, progress)
        for index in (scores & roots) - ends:
            result[index] = ranges.softmax_scores(effects.cut(index).values, extremes[index])
    _widen_sums(graph, result)
    _widen_layers(graph, result)
    return {index: span if index in graph.inputs else _round_range(*span) for index, span in result.items()}


def _round_range(low: float, high: float) -> Range:
    """Round a range to about a thousandth, so that another processor's last bits do not change the file."""
    step = 2.0 ** (np.floor(np.log2(high - low)) - 10)
    return float(np.round(low / step) * step), float(np.round(high / step) * step)


def _widen_sums(graph: flatbuffer.Graph, spans: dict[int, Range]) -> None:
    """Widen ranges where the terms and the result of a sum are of very different size, as in untrained networks.

    XNNPACK adds 8-bit numbers if their scales are between 2^-10 and 2^8 times the result's. Beyond that, the op falls
    out of the accelerated graph; far beyond, LiteRT's own kernel aborts the process.
    """
    # From the end: a range that is widened for the sums that read a tensor then counts for the sum that writes it.
    for operator in reversed(graph.operators):
        if graph.name(operator) not in ("ADD", "SUB"):
            continue
        (out,) = operator.outputs
        for index in (index for index in operator.inputs if index in spans):
            width, result = (high - low for low, high in (spans[index], spans[out]))
            for tensor, factor in ((index, result / width / 1000), (out, width / result / 250)):
                if factor > 1:
                    spans[tensor] = tuple(factor * end for end in spans[tensor])


def _widen_layers(graph: flatbuffer.Graph, spans: dict[int, Range]) -> None:
    """Widen the ranges of layers whose results are tiny beside their inputs, such as a layer whose ReLU gave zero on
    all calibration samples: XNNPACK refuses files where (input scale x weight scale) is 256 times the output's scale
    or more.
    """
    for operator in graph.operators:
        if graph.name(operator) not in integers.WEIGHTED:
            continue
        places = integers.WEIGHTED[graph.name(operator)]
        index, out = operator.inputs[places.data], operator.outputs[0]
        values = graph.constant(operator.inputs[places.weights])
        if values is None or index not in spans or out not in spans:
            continue
        width, result = (high - low for low, high in (spans[index], spans[out]))
        factor = width * float(np.abs(values).max()) / integers.LARGEST_WEIGHT / result / 200
        if factor > 1:
            spans[out] = tuple(factor * end for end in spans[out])
