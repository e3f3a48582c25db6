"""Post-training quantisation: make a quantised TFLite model of a float one and calibration data.

The steps: integer forms -> limit the masks of softmaxes -> equalise the channels -> observe the activations -> choose
the ranges -> round the weights -> correct the biases -> write the integers, except for islands of ops that stay float.
Each step is a module in ``steps``; a ``Recipe`` selects among them.
"""

import functools
import itertools
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from mobilenets_tf.errors import ConversionError, RequestError, first_line, unknown
from mobilenets_tf.progress import Progress, silent
from mobilenets_tf.quantize import integers, schemes
from mobilenets_tf.quantize.calibration import Calibration
from mobilenets_tf.quantize.schemes import Scheme
from mobilenets_tf.quantize.steps import equalize, model_ranges, ranges, rounding
from mobilenets_tf.quantize.steps.bias_correction import correct_biases
from mobilenets_tf.quantize.steps.effects import output_errors
from mobilenets_tf.quantize.steps.float_islands import float_islands
from mobilenets_tf.quantize.steps.integer_forms import integer_forms
from mobilenets_tf.quantize.steps.ranges import Range
from mobilenets_tf.quantize.steps.shared_forms import shared_forms
from mobilenets_tf.quantize.steps.softmax_masks import limit_masks
from mobilenets_tf.quantize.steps.statistics import FEW, observe
from mobilenets_tf.tflite import flatbuffer
from mobilenets_tf.tflite.input_fold import fold_input
from mobilenets_tf.tflite.runtime import Runner

_KEPT = 128  # samples kept in memory for the steps that run the model more than once; of the others, statistics only


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


_QUICK = Recipe(equalize=False, ranges="min_max", rounding="nearest")
_FOLDS = 4  # of few samples, each of which judges what is made with the others
_CONVINCING = 0.9  # equalised channels lose most on samples that reach further than all folds: so a gain must be clear


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
    own_form: the places of the operators whose result does not have the form of its input (steps/shared_forms.py).
    chained: the inputs of concatenations that have the result's form although others read them too (the same module).
    samples: some of the calibration samples, each a list of arrays in the order of the model's inputs.
    """

    model: bytes
    uncorrected: bytes
    original: bytes
    scheme: Scheme
    ranges: dict[int, Range]
    rounded: dict[int, integers.RoundedWeights]
    islands: frozenset[int]
    own_form: frozenset[int]
    chained: frozenset[tuple[int, int]]
    samples: list[list[np.ndarray]]

    def plan(self, keep_float: Iterable[int] = ()) -> integers.IntegerPlan:
        """Decide what becomes integer, where the operators at the places ``keep_float`` are to stay float."""
        tree, stays_float = flatbuffer.read(self.model), {*self.islands, *keep_float}
        return integers.plan(tree, self.ranges, self.scheme, stays_float, self.own_form, self.chained)

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
            raise ConversionError(f"This model cannot run as {self.scheme.name}: {first_line(error)}") from error
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
    model = limit_masks(model, samples)
    equalized, headroom = recipe.equalize, False
    if _FOLDS <= len(samples) < FEW:
        equalized, headroom = _tried_by_folds(model, scheme, samples, calibration.value_range, recipe)
    if equalized:
        model = equalize.equalize(model, samples)
    every = itertools.chain(samples, batches)
    return _prepared(original, model, scheme, recipe, samples, every, calibration.value_range, headroom, progress)


def _tried_by_folds(
    model: bytes,
    scheme: Scheme,
    samples: list[list[np.ndarray]],
    value_range: tuple[float, float] | None,
    recipe: Recipe,
) -> tuple[bool, bool]:
    """Try what few samples do not show: whether to equalise the channels, and whether ranges need a headroom.

    Few samples do not show how far others reach, and equalised channels that reach further are clipped. With 12
    photographs, equalisation helps a trained MobileNetV2 and a headroom harms it; with a random MobileNetV3-Small it is
    the other way round. So each fold of the samples judges files that are made with the others.
    """
    quick = replace(_QUICK, per_tensor=recipe.per_tensor)
    folds = [
        ([sample for number, sample in enumerate(samples) if number % _FOLDS != fold], samples[fold::_FOLDS])
        for fold in range(_FOLDS)
    ]
    models = {False: [model] * _FOLDS}
    if recipe.equalize:
        models[True] = [equalize.equalize(model, seen) for seen, _ in folds]

    @functools.cache
    def error(equalized: bool, headroom: bool) -> float:
        total = 0.0
        for (seen, others), each in zip(folds, models[equalized], strict=True):
            file = _prepared(model, each, scheme, quick, seen, seen, value_range, headroom, silent).write()
            total += output_errors(model, [file], others)[0]
        return total

    equalized = recipe.equalize and error(True, False) < _CONVINCING * error(False, False)
    return equalized, error(equalized, True) < error(equalized, False)


def _prepared(
    original: bytes,
    model: bytes,
    scheme: Scheme,
    recipe: Recipe,
    samples: list[list[np.ndarray]],
    every: Iterable[list[np.ndarray]],
    value_range: tuple[float, float] | None,
    headroom: bool,
    progress: Progress,
) -> PreparedModel:
    """Do the steps that come after equalisation.

    Args:
        original: the float file before any step. model: the same file after the steps until here.
        samples: those that are kept in memory. every: all of them, also those that are read once.
        value_range: of the model's inputs; None if not known.
        headroom: let ranges of few samples reach further than the samples (``ActivationStatistics.headroom``).
    """
    statistics = observe(model, every)
    if not headroom:
        for seen in statistics.values():
            seen.bound(seen.low, seen.high)
    if value_range:
        # The range that pixels can have is certain; the samples' own range is not.
        for index in flatbuffer.read(model).subgraphs[0].inputs:
            if index in statistics:  # an integer input has no statistics
                statistics[index].bound(*value_range)
    tree = flatbuffer.read(model)
    islands = frozenset(float_islands(tree))
    shared = shared_forms(tree, {i: ranges.widest(seen) for i, seen in statistics.items()}, scheme, islands)
    activation_ranges = model_ranges.choose(model, statistics, scheme, recipe.ranges, shared, samples, progress)
    round_all = rounding.learned if recipe.rounding == "learned" else rounding.nearest
    arguments = (samples[:64], recipe.per_tensor, progress) if recipe.rounding == "learned" else (recipe.per_tensor,)
    rounded = round_all(model, *arguments)
    corrected = correct_biases(model, rounded, statistics) if recipe.correct_biases else model
    prepared = PreparedModel(
        corrected,
        model,
        original,
        scheme,
        activation_ranges,
        rounded,
        islands,
        shared.own_form,
        shared.chained,
        samples,
    )
    if recipe.ranges == "least_output_error" and scheme.activations == "int8":
        extremes = model_ranges.choose(model, statistics, scheme, "min_max", shared, samples)
        prepared = _better(prepared, replace(prepared, ranges=extremes))
    return prepared


def _better(searched: PreparedModel, other: PreparedModel) -> PreparedModel:
    """Choose between the searched ranges and others by the file's outputs on samples that the search has not seen: on
    all of them, since a few images may make most of the error (32 of 96 chose wrongly for a ResNet50 and a TinyNet).
    """
    held_out = searched.samples[len(model_ranges.tried_on(searched.samples)) :]
    if len(searched.samples) < 2:  # nothing was searched
        return searched
    contents = [model.write() for model in (searched, other)]
    before, after = output_errors(searched.uncorrected, contents, held_out)
    return searched if before <= after else other
