"""Choose the ranges of all activations of a model."""

from collections.abc import Mapping

import numpy as np

from mobilenets_tf.progress import Progress, silent
from mobilenets_tf.quantize import integers
from mobilenets_tf.quantize.schemes import Scheme
from mobilenets_tf.quantize.steps import ranges
from mobilenets_tf.quantize.steps.effects import Effects
from mobilenets_tf.quantize.steps.ranges import Range
from mobilenets_tf.quantize.steps.shared_forms import SharedForms
from mobilenets_tf.quantize.steps.statistics import ActivationStatistics
from mobilenets_tf.tflite import flatbuffer
from mobilenets_tf.tflite.flatbuffer import schema

# The upper bounds of activations, as operators and inside of other operators.
_BOUNDS = {"RELU6": 6.0, "RELU_N1_TO_1": 1.0, "RELU_0_TO_1": 1.0}
_FUSED_BOUNDS = {schema.ActivationFunctionType.RELU6: 6.0, schema.ActivationFunctionType.RELU_N1_TO_1: 1.0}
_TRIED_ON = 32  # the most samples that serve to choose ranges


def tried_on(samples: list[list[np.ndarray]]) -> list[list[np.ndarray]]:
    """Choose the samples on which ranges are tried: half of them at most, so that the others can judge the choice."""
    return samples[: min(_TRIED_ON, len(samples) // 2)]


def choose(
    model: bytes,
    statistics: Mapping[int, ActivationStatistics],
    scheme: Scheme,
    method: str,
    shared: SharedForms,
    samples: list[list[np.ndarray]],
    progress: Progress = silent,
) -> dict[int, Range]:
    """Choose the range of each observed tensor.

    Sixteen bits need no clipping: the range is all values seen. Eight bits: the method decides, except for the model's
    inputs and outputs, whose ranges are all values seen, the constants that share a form with activations, and the
    scores that the last softmax or sigmoid reads, which have a way of their own (``ranges.softmax_scores``,
    ``ranges.sigmoid_scores``). Of few samples all values seen get a headroom (``ranges.widest``).

    Args:
        model: the float file's content.
        statistics: of each float32 activation tensor, by index.
        scheme: a calibrated scheme.
        method: "least_output_error", or the name of an estimator of ``ranges``.
        shared: which tensors share a form.
        samples: calibration samples, arrays in the order of the model's inputs.
        progress: called as ranges are tried.

    Returns:
        (low, high) of each tensor, by index. Only those of the roots of ``shared`` decide a form.
    """
    extremes = {index: ranges.widest(seen) for index, seen in statistics.items()}
    graph = flatbuffer.Graph(flatbuffer.read(model))
    if scheme.activations == "int16":
        result = {index: shared.bounded(index, span) for index, span in extremes.items()}
        _widen_bounded(graph, result, shared, scheme)
        return result
    if method == "least_output_error" and not tried_on(samples):
        method = "min_max"  # one sample does not tell what others have beyond a range
    searched = method == "least_output_error"
    estimate = ranges.widest if method == "min_max" else ranges.estimator("mean_square_error" if searched else method)
    roots = set(shared.roots.values()) - {*graph.inputs}
    free = {root for root in roots if shared.leaves_choice(root, extremes[root])}
    scores = _scores(graph, shared.roots)
    whole = {*graph.inputs, *graph.outputs, *scores, *(roots - free)}
    result = {index: extremes[index] if index in whole else estimate(seen) for index, seen in statistics.items()}
    if searched:
        inner = {index: result[index] for index in sorted(free - scores.keys())}
        effects = Effects(model, tried_on(samples))
        result |= ranges.least_output_error(effects, inner, statistics, progress)
        for root in scores.keys() & free:
            result[root] = _range_of_scores(graph, effects, scores[root], extremes[root])
    result |= {index: shared.bounded(index, result[index]) for index in roots}
    _widen_scores(graph, result, shared)  # before the sums, which may be scores
    _widen_sums(graph, result, shared)
    _widen_layers(graph, result, shared)
    _widen_bounded(graph, result, shared, scheme)
    return {index: span if index in graph.inputs else _round_range(*span) for index, span in result.items()}


def _scores(graph: flatbuffer.Graph, roots: Mapping[int, int]) -> dict[int, dict[int, str]]:
    """Find the scores of which the model's outputs are the probabilities.

    Returns:
        Root of the scores' form -> {tensor: "SOFTMAX" or "LOGISTIC", which reads it}; empty where other ops read
        tensors of that form too.
    """
    last, found = set(graph.activations(graph.outputs)), {}
    for operator in reversed(graph.operators):
        if last.isdisjoint(operator.outputs):
            continue
        name = graph.name(operator)
        if name in integers.SAME_SCALE:
            last.update(graph.activations(operator.inputs))
        elif name in ("SOFTMAX", "LOGISTIC"):
            (index,) = operator.inputs
            found.setdefault(roots.get(index, index), {})[index] = name
    for root, ends in found.items():
        group = {index for index, other in roots.items() if other == root} | {root}
        readers = [(index, reader) for index in group for reader in graph.readers[index]]
        if any(graph.name(reader) != ends.get(index) and reader.outputs[0] not in group for index, reader in readers):
            found[root] = {}
    return found


def _range_of_scores(graph: flatbuffer.Graph, effects: Effects, ends: Mapping[int, str], extremes: Range) -> Range:
    """Choose the range of scores of one form; ``ends`` as from ``_scores``."""
    found = [extremes] if not ends else []
    for index, name in ends.items():
        if name == "LOGISTIC":
            found.append(ranges.sigmoid_scores(extremes))
        else:
            found.append(ranges.softmax_scores(effects.cut(index).values, extremes))
    return min(low for low, _ in found), max(high for _, high in found)


def _round_range(low: float, high: float) -> Range:
    """Round a range to about a thousandth, so that another processor's last bits do not change the file."""
    step = 2.0 ** (np.floor(np.log2(high - low)) - 10)
    return float(np.round(low / step) * step), float(np.round(high / step) * step)


def _integer(graph: flatbuffer.Graph, shared: SharedForms) -> list[schema.OperatorT]:
    """List the operators that compute in integers: the limits of integer kernels do not hold for the others."""
    return [graph.operators[place] for place in sorted(shared.integer)]


def _widen_scores(graph: flatbuffer.Graph, spans: dict[int, Range], shared: SharedForms) -> None:
    """Widen the ranges of scores that are all about zero, as in untrained networks, to 255 steps of 2^-25.

    TFLite Micro's int8 kernels of softmax and log-softmax abort where scale x beta is not above 2^-26
    ("PreprocessSoftmaxScaling" in tensorflow/lite/kernels/internal/quantization_util.cc). No probability changes by a
    level: scores of that range make probabilities differ by less than one part in 10^5.
    """
    for operator in _integer(graph, shared):
        if graph.name(operator) not in ("SOFTMAX", "LOG_SOFTMAX"):
            continue
        index = shared.roots.get(operator.inputs[0], operator.inputs[0])
        if index in spans:
            low, high = spans[index]
            factor = 255 * 2.0**-25 / getattr(operator.builtinOptions, "beta", 1.0) / (high - low)
            if factor > 1:
                spans[index] = (factor * low, factor * high)


def _widen_sums(graph: flatbuffer.Graph, spans: dict[int, Range], shared: SharedForms) -> None:
    """Widen ranges where the terms and the result of a sum are of very different size, as in untrained networks.

    XNNPACK adds 8-bit numbers if their scales are between 2^-10 and 2^8 times the result's. Beyond that, the op falls
    out of the accelerated graph; far beyond, LiteRT's own kernel aborts the process.
    """
    # From the end: a range that is widened for the sums that read a tensor then counts for the sum that writes it.
    for operator in reversed(_integer(graph, shared)):
        if graph.name(operator) not in ("ADD", "SUB"):
            continue
        out = shared.roots.get(operator.outputs[0], operator.outputs[0])
        for index in (shared.roots.get(index, index) for index in operator.inputs if index in spans):
            width, result = (high - low for low, high in (spans[index], spans[out]))
            for tensor, factor in ((index, result / width / 1000), (out, width / result / 250)):
                if factor > 1:
                    spans[tensor] = tuple(factor * end for end in spans[tensor])


def _widen_layers(graph: flatbuffer.Graph, spans: dict[int, Range], shared: SharedForms) -> None:
    """Widen the ranges of layers whose results are tiny beside their inputs, such as a layer whose ReLU gave zero on
    all calibration samples: XNNPACK refuses files where (input scale x weight scale) is 256 times the output's scale
    or more.
    """
    for operator in _integer(graph, shared):
        if graph.name(operator) not in integers.WEIGHTED:
            continue
        places = integers.WEIGHTED[graph.name(operator)]
        index, out = (shared.roots.get(i, i) for i in (operator.inputs[places.data], operator.outputs[0]))
        values = graph.constant(operator.inputs[places.weights])
        if values is None or index not in spans or out not in spans:
            continue
        width, result = (high - low for low, high in (spans[index], spans[out]))
        factor = width * float(np.abs(values).max()) / integers.LARGEST_WEIGHT / result / 200
        if factor > 1:
            spans[out] = tuple(factor * end for end in spans[out])


def _widen_bounded(graph: flatbuffer.Graph, spans: dict[int, Range], shared: SharedForms, scheme: Scheme) -> None:
    """Widen the ranges of activations that have an upper bound and are tiny beside it, as in untrained networks.

    LiteRT expresses the bound, such as ReLU6's 6, in steps of the result. It refuses files in which that number does
    not fit into 32 bits ("no_integer_overflow_from_quantization" in tflite/kernels/kernel_util.cc).
    """
    steps = 255 if scheme.activations == "int8" else 32767
    for operator in _integer(graph, shared):
        fused = getattr(operator.builtinOptions, "fusedActivationFunction", 0)
        bound = _BOUNDS.get(graph.name(operator), _FUSED_BOUNDS.get(fused, 0.0))
        for out in (shared.roots.get(index, index) for index in operator.outputs if bound):
            if out in spans:
                low, high = spans[out]
                factor = 1.1 * bound * steps / 2**31 / (high - low)
                if factor > 1:
                    spans[out] = (factor * low, factor * high)
