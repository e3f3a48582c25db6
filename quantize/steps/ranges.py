"""Choose the range (low, high) of real values that the integers of an activation span.

Zero is always inside the range: padding and ReLU need it exact. Three kinds of choice: all values seen (``min_max``,
and with a headroom ``widest``); estimators that look at the activation's distribution (``percentile``, ``entropy``,
``mean_square_error``); and ``least_output_error``, which measures what each of several ranges does to the model's
outputs.
"""

from collections.abc import Callable, Mapping

import numpy as np

from mobilenets_tf.errors import unknown
from mobilenets_tf.progress import Progress, silent, track
from mobilenets_tf.quantize.integers import Form
from mobilenets_tf.quantize.steps.effects import DECISIVE, Cut, Effects
from mobilenets_tf.quantize.steps.statistics import ActivationStatistics
from mobilenets_tf.tflite.threads import in_order

Range = tuple[float, float]

# A tensor that is always zero still needs a scale above zero.
_SMALLEST = 1e-6


def min_max(statistics: ActivationStatistics) -> Range:
    """Take all values seen; nothing is clipped."""
    low, high = min(statistics.low, 0.0), max(statistics.high, 0.0)
    return (low, high) if high - low > _SMALLEST else (0.0, _SMALLEST)


def widest(statistics: ActivationStatistics) -> Range:
    """Take all values seen; where few samples were, a headroom too."""
    (low, high), (below, above) = min_max(statistics), statistics.headroom
    return low - below, high + above


def percentile(statistics: ActivationStatistics, share: float = 0.9999) -> Range:
    """Take the range that is left when ``(1 - share) / 2`` of all values are cut off at either end."""
    low, high = min_max(statistics)
    below = np.cumsum(statistics.counts) / max(statistics.counts.sum(), 1)
    edges = np.linspace(-statistics.limit, statistics.limit, len(below) + 1)
    tail = (1 - share) / 2
    lowest = edges[np.searchsorted(below, tail, side="right")]
    highest = edges[1:][np.searchsorted(below, 1 - tail)]
    low, high = float(np.clip(lowest, low, 0.0)), float(np.clip(highest, 0.0, high))
    return (low, high) if high - low > _SMALLEST else (0.0, _SMALLEST)


def mean_square_error(statistics: ActivationStatistics, levels: int = 256) -> Range:
    """Take the range with the least expected squared error of rounding and clipping, over the histogram.

    The two ends are searched in turn among 71 fractions (1.0 down to 0.3) of the extremes, twice.
    """
    values, weights = _distribution(statistics)

    def error(low, high):
        return float(weights @ (_rounded(values, low, high, levels) - values) ** 2)

    return _search_ends(statistics, error)


def entropy(statistics: ActivationStatistics, levels: int = 256) -> Range:
    """Take the range that loses the least information: the least Kullback-Leibler divergence of the distribution of the
    rounded values from that of the values (Migacz 2017, "8-bit inference with TensorRT").

    The ends are searched as in ``mean_square_error``.
    """
    values, weights = _distribution(statistics)
    weights = weights / max(weights.sum(), 1)

    def divergence(low, high):
        # Clipped values count for the ends. Each level's share is spread over the values that it stands for.
        level = np.round((np.clip(values, low, high) - low) / max(high - low, _SMALLEST) * (levels - 1)).astype(int)
        inside = (values >= low) & (values <= high)
        share, width = np.bincount(level, weights, levels), np.bincount(level, inside, levels)
        spread = np.where(inside, share[level] / np.maximum(width[level], 1), 1e-12)
        return float(weights @ np.log(weights / np.maximum(spread, 1e-12)))

    return _search_ends(statistics, divergence)


def _distribution(statistics: ActivationStatistics) -> tuple[np.ndarray, np.ndarray]:
    used = statistics.counts > 0
    return statistics.centres()[used], statistics.counts[used]


def _rounded(values: np.ndarray, low: float, high: float, levels: int) -> np.ndarray:
    scale = max(high - low, _SMALLEST) / (levels - 1)
    return np.clip(np.round((values - low) / scale), 0, levels - 1) * scale + low


def _search_ends(statistics: ActivationStatistics, cost: Callable[[float, float], float]) -> Range:
    low, high = min_max(statistics)
    fractions = np.linspace(1.0, 0.3, 71)
    best_low, best_high = low, high
    for _ in range(2):
        best_high = min((high * fractions if high > 0 else [high]), key=lambda b: cost(best_low, b))
        best_low = min((low * fractions if low < 0 else [low]), key=lambda a: cost(a, best_high))
    return float(best_low), float(best_high)


ESTIMATORS: dict[str, Callable[[ActivationStatistics], Range]] = {
    "min_max": min_max,
    "percentile": percentile,
    "entropy": entropy,
    "mean_square_error": mean_square_error,
}


def estimator(name: str) -> Callable[[ActivationStatistics], Range]:
    """Find a range estimator by its name.

    Raises:
        RequestError: there is no estimator of that name; the message has the nearest name.
    """
    if name not in ESTIMATORS:
        raise unknown("range estimator", name, ESTIMATORS)
    return ESTIMATORS[name]


# Other ranges are tried for activations with outliers: with extremes so many standard deviations apart ...
_OUTLYING = 14
# ... whose rounding changes the outputs by at least this share of the outputs' power (42 dB below them) ...
_WORTH_WHILE = 6e-5
# ... and by at least this share of what all of them change: without the rest, the outputs would be as noisy.
_NOTICEABLE = 0.01
# Another range is taken only if its error is less than this share of the present range's error: less may be chance.
_CONVINCING = 0.8
_SURVEY = 4  # samples on which it is measured which activations matter
_TRIED_ON = 16  # the most samples on which ranges are tried
_TRIALS = 100  # about how often what is behind an activation runs while its ranges are tried
_BUDGET = 1000  # how much work all trials may be, in runs of the whole model


def least_output_error(
    effects: Effects,
    ranges: Mapping[int, Range],
    statistics: Mapping[int, ActivationStatistics],
    progress: Progress = silent,
) -> dict[int, Range]:
    """Find better ranges for the activations with outliers whose rounding and clipping changes the outputs most.

    An outlier may mean nothing for the answer, or everything; the distribution does not tell. So each of these
    activations is quantised alone, with several ranges, and the range that changes the outputs least is taken. The
    errors of different activations are nearly independent, so the best range of each is the best of all together.

    The activations that change the outputs most are tried first. Where that makes the outputs less noisy, activations
    that were lost in the noise before may be noticed, and are tried too. The work is bounded by a count of
    multiply-adds, not by time, so that every machine chooses the same ranges.

    Args:
        effects: of the float model.
        ranges: the present ranges; only these tensors are considered.
        statistics: of each of these tensors.
        progress: called after each activation.

    Returns:
        The ranges of the tensors that were tried, by index.
    """
    outlying = [
        index
        for index in ranges
        if statistics[index].high - statistics[index].low > _OUTLYING * statistics[index].deviation
    ]
    surveyed = in_order(
        lambda: lambda cut: (cut.index, _output_error(cut, ranges[cut.index])), effects.cuts(outlying, _SURVEY)
    )
    errors = dict(track(surveyed, "looking at outliers", progress, len(outlying)))
    found: dict[int, Range] = {}
    waiting, work = sorted(errors, key=lambda index: -errors[index]), 0.0
    while True:
        least = max(_WORTH_WHILE, _NOTICEABLE * sum(errors.values()))
        chosen = []
        for index in [index for index in waiting if errors[index] > least]:
            waiting.remove(index)
            work += effects.share(index) * _TRIALS
            if work <= _BUDGET:
                chosen.append(index)
        if not chosen:
            return found
        tried = in_order(
            lambda: lambda cut: (cut.index, _try_ranges(cut, ranges[cut.index], widest(statistics[cut.index]))),
            effects.cuts(chosen, _TRIED_ON),
        )
        for index, (span, error) in track(tried, "trying ranges", progress, len(chosen)):
            found[index] = span
            errors[index] = min(error, errors[index])


def _output_error(cut: Cut, span: Range, samples: int | None = None, limit: float = np.inf) -> float:
    """Measure the error of the model's outputs when the activation at the cut alone is rounded to eight bits."""
    form = Form.spanning(*span, "int8")
    return cut.error(lambda values: form.rounded(values, "int8"), samples, limit)


def _try_ranges(cut: Cut, present: Range, extremes: Range) -> tuple[Range, float]:
    """Find the range of the activation at a cut that changes the outputs least, and how much it changes them."""
    low, high = extremes
    before = _output_error(cut, present)
    best, least = present, before * _CONVINCING
    errors: dict[Range, float] = {}  # of the ranges that were tried; infinite for those given up

    def attempt(candidate: Range, limit: float) -> bool:
        """Take a candidate if it is better; tell whether its error is at most ``limit``."""
        nonlocal best, least
        if candidate not in errors:
            errors[candidate] = _output_error(cut, candidate, limit=limit)
        if errors[candidate] < least:
            best, least = candidate, errors[candidate]
        return errors[candidate] < np.inf

    for fraction in (1.0, 0.7, 0.5, 0.35):
        # A range at most 1.5 times as bad as the best may have a better one beside it.
        if not attempt((low * fraction, high * fraction), 1.5 * least) and fraction < 1:
            break  # narrower ranges are worse still
    for fraction in (1.2, 0.8):
        attempt((best[0], min(best[1] * fraction, high)), least)
        if low < 0:
            attempt((max(best[0] * fraction, low), best[1]), least)
    return best, before if best == present else least


# Half a level of probabilities of eight bits.
_HALF_LEVEL = 1 / 512
# Other samples may have a highest score that is so much lower than on the calibration samples.
_UNSEEN = 1.0
# Scores that are negligible get room, unless they take half of the levels or more, as those of masked classes do.
_WASTEFUL = 2
_COMPARED = 1 << 18  # on about how many scores it is tried what clipping changes


def sigmoid_scores(extremes: Range) -> Range:
    """Choose the range of the scores that the last sigmoid reads: no score beyond +-6.2 changes a level of eight bits.

    Args:
        extremes: the lowest and highest score seen.
    """
    saturated = float(np.log(1 / _HALF_LEVEL - 1))
    return max(extremes[0], -saturated), min(extremes[1], saturated)


def softmax_scores(values: list[np.ndarray], extremes: Range) -> Range:
    """Choose the range of the scores that the last softmax reads.

    The upper end keeps all scores: two classes beyond it would tie however different they are, and the calibration
    samples hold too few confident answers to show it. The lower end moves up, so that levels are finer and fewer
    classes tie: below the 20 highest scores of each sample, as long as clipping changes no probability by half a level.
    Scores of masked classes (steps/softmax_masks.py) need no room of their own.

    Args:
        values: the scores of each sample, shape (..., classes).
        extremes: the lowest and highest score seen.
    """
    low, high = extremes
    rows = np.concatenate([part.reshape(-1, part.shape[-1]) for part in values])
    rows = rows[:: max(1, rows.size // _COMPARED)]
    negligible = float(rows.max(axis=-1).min() + np.log(_HALF_LEVEL / rows.shape[-1])) - _UNSEEN
    if high - low > _WASTEFUL * (high - negligible):
        low = negligible
    if rows.shape[-1] <= DECISIVE:
        return low, high
    exact, highest = _softmax(rows), np.partition(rows, -DECISIVE, axis=-1)[:, -DECISIVE]
    for candidate in low * np.linspace(0.95, 0, 20):
        change = np.abs(_softmax(np.maximum(rows, candidate)) - exact).max()
        if change >= _HALF_LEVEL or candidate > highest.min() or high - candidate < _SMALLEST:
            break
        low = float(candidate)
    return low, high


def _softmax(scores: np.ndarray) -> np.ndarray:
    powers = np.exp(scores.astype(np.float64) - scores.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)
