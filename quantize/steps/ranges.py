"""Range estimators: from what an activation looks like to the (low, high) that its integers will span.

Zero is always inside: padding and ReLU need it exact. Three kinds: everything that was seen (``min_max``,
``symmetric``); estimators that look at the distribution alone (``percentile``, ``entropy``, ``mean_square_error``);
and ``least_output_error``, which tries what a range does to the model's outputs.
"""

from collections.abc import Callable, Mapping

import numpy as np

from mobilenets_tf.errors import unknown
from mobilenets_tf.progress import Progress, silent, track
from mobilenets_tf.quantize.integers import Form
from mobilenets_tf.quantize.steps.effects import Cut, Effects
from mobilenets_tf.quantize.steps.statistics import ActivationStatistics

Range = tuple[float, float]

# A tensor that is always zero still needs a scale above zero.
_SMALLEST = 1e-6


def min_max(statistics: ActivationStatistics) -> Range:
    """Everything that was seen, nothing clipped."""
    low, high = min(statistics.low, 0.0), max(statistics.high, 0.0)
    return (low, high) if high - low > _SMALLEST else (0.0, _SMALLEST)


def symmetric(statistics: ActivationStatistics) -> Range:
    """Everything that was seen, zero in the middle: what 16-bit kernels require."""
    low, high = min_max(statistics)
    magnitude = max(-low, high)
    return -magnitude, magnitude


def percentile(statistics: ActivationStatistics, share: float = 0.9999) -> Range:
    """What is left when ``(1 - share) / 2`` of all values are cut off at either end."""
    low, high = min_max(statistics)
    below = np.cumsum(statistics.counts) / max(statistics.counts.sum(), 1)
    edges = np.linspace(-statistics.limit, statistics.limit, len(below) + 1)
    tail = (1 - share) / 2
    lowest = edges[np.searchsorted(below, tail, side="right")]
    highest = edges[1:][np.searchsorted(below, 1 - tail)]
    low, high = float(np.clip(lowest, low, 0.0)), float(np.clip(highest, 0.0, high))
    return (low, high) if high - low > _SMALLEST else (0.0, _SMALLEST)


def mean_square_error(statistics: ActivationStatistics, levels: int = 256) -> Range:
    """The range with the least expected squared error of rounding and clipping together, over the histogram.

    The two ends are searched in turn among 71 fractions (1.0 down to 0.3) of the extremes, twice.
    """
    values, weights = _distribution(statistics)

    def error(low, high):
        return float(weights @ (_rounded(values, low, high, levels) - values) ** 2)

    return _search_ends(statistics, error)


def entropy(statistics: ActivationStatistics, levels: int = 256) -> Range:
    """The range that loses the least information: least Kullback-Leibler divergence of the distribution of rounded
    values from that of the values (Migacz 2017, "8-bit inference with TensorRT"), searched as in ``mean_square_error``.
    """
    values, weights = _distribution(statistics)
    weights = weights / max(weights.sum(), 1)

    def divergence(low, high):
        # What is clipped goes to the ends; each level's share is spread over the values that it stands for.
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
    """The estimator of that name.

    Raises:
        RequestError: there is none; the nearest is given.
    """
    if name not in ESTIMATORS:
        raise unknown("range estimator", name, ESTIMATORS)
    return ESTIMATORS[name]


# Other ranges are tried for activations that have outliers: whose extremes are so many standard deviations apart ...
_OUTLYING = 14
# ... and that disturb the outputs by that much of their power (42 dB below them).
_WORTH_WHILE = 6e-5
# What another range must take off an activation's part before it is believed to be better and not luck.
_CONVINCING = 0.8
_SURVEY = 8  # samples to find out which activations matter


def least_output_error(
    effects: Effects,
    ranges: Mapping[int, Range],
    statistics: Mapping[int, ActivationStatistics],
    progress: Progress = silent,
) -> dict[int, Range]:
    """Better ranges for those activations with outliers whose rounding and clipping costs the outputs most.

    An outlier may mean nothing for the answer, or everything; the distribution does not say which. So each of these
    activations is quantised alone, with several ranges, and the one that leaves the outputs nearest to what they were
    is taken. What they do alone adds up, the errors being nearly independent.

    Args:
        effects: of the float model.
        ranges: to begin with; only these tensors are looked at.
        statistics: of each of them.
    """
    outlying = [
        index
        for index in ranges
        if statistics[index].high - statistics[index].low > _OUTLYING * statistics[index].deviation
    ]
    found = {}
    for cut in track(effects.cuts(outlying), "trying ranges", progress, len(outlying)):
        if _part(cut, ranges[cut.index], _SURVEY) > _WORTH_WHILE:
            found[cut.index] = _try_ranges(cut, ranges[cut.index], min_max(statistics[cut.index]))
    return found


def _part(cut: Cut, chosen: Range, samples: int | None = None, limit: float = np.inf) -> float:
    form = Form.spanning(*chosen, "int8")
    return cut.error(lambda values: form.rounded(values, "int8"), samples, limit)


def _try_ranges(cut: Cut, present: Range, extremes: Range) -> Range:
    low, high = extremes
    best, least = present, _part(cut, present) * _CONVINCING

    def attempt(*candidate) -> bool:
        """Take it if it is better; whether it is at least not much worse."""
        nonlocal best, least
        part = _part(cut, candidate, limit=1.5 * least)
        if part < least:
            best, least = candidate, part
        return part < np.inf

    for fraction in (1.0, 0.7, 0.5, 0.35):
        if not attempt(low * fraction, high * fraction) and fraction < 1:
            break  # what lies further in is worse still
    for fraction in (1.2, 0.8):
        attempt(best[0], min(best[1] * fraction, high))
        if low < 0:
            attempt(max(best[0] * fraction, low), best[1])
    return best


# What narrowing the range of a softmax's scores may cost its probabilities, in nats: a tenth of what int8 costs in all.
_NATS = 1e-3


def softmax_scores(scores: list[np.ndarray], extremes: Range) -> Range:
    """The narrowest range of what a final softmax reads that leaves its probabilities as they are.

    A level is a tenth and more of a unit of the scores, and classes that are nearer to each other tie. Scores far below
    the highest, and what the highest has more than it needs, add nothing to the probabilities: cutting them off makes
    the levels finer. The mean Kullback-Leibler divergence over the samples stays below 0.001 nats, or is the least
    there is.
    """
    low, high = extremes
    wanted = [_log_softmax(values) for values in scores]

    def divergence(candidate):
        form = Form.spanning(*candidate, "int8")
        pairs = ((log, _log_softmax(form.rounded(values, "int8"))) for log, values in zip(wanted, scores, strict=True))
        return sum(float((np.exp(log) * (log - other)).sum(axis=-1).mean()) for log, other in pairs) / len(scores)

    fractions = np.linspace(1, 0, 21)
    costs = {(low * a, high * b): divergence((low * a, high * b)) for a in fractions for b in fractions[:11]}
    harmless = [candidate for candidate, cost in costs.items() if cost <= max(_NATS, min(costs.values()))]
    return min(harmless, key=lambda candidate: candidate[1] - candidate[0])


def _log_softmax(scores: np.ndarray) -> np.ndarray:
    shifted = scores.astype(np.float64) - scores.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
