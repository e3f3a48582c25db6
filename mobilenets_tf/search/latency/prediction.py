"""From measured networks to a prediction, and how wrong the prediction is.

The latency of a network is a + b * (the sum of the times of its operators). a and b come from networks that were
measured as a whole too: LiteRT does some work around the operators, and its profiler costs some time.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

from mobilenets_tf.errors import RequestError
from mobilenets_tf.search.latency.cost_model import CostModel
from mobilenets_tf.search.latency.workloads import Workload, multiply_adds

_FOLDS = 5


@dataclass(frozen=True)
class MeasuredNetwork:
    """A network that was measured: its operators, the time of each in ms, and of the whole network in ms."""

    workloads: tuple[Workload, ...]
    times: tuple[float, ...]
    ms: float


@dataclass(frozen=True)
class Line:
    """Latency in ms as ``intercept`` + ``slope`` * x."""

    intercept: float
    slope: float

    @classmethod
    def through(cls, xs: Sequence[float], latencies: Sequence[float]) -> "Line":
        """Fit the line with the least squares of the relative error."""
        known = np.array(latencies, float)
        matrix = np.stack([np.ones(len(known)), np.array(xs, float)], axis=1) / known[:, None]
        scale = np.maximum(np.abs(matrix).max(axis=0), 1e-30)
        if len(known) < 2 or np.ptp(xs) == 0:
            return cls(0.0, float(known.mean() / max(float(np.mean(xs)), 1e-30)))
        intercept, slope = np.linalg.lstsq(matrix / scale, np.ones(len(known)), rcond=None)[0] / scale
        return cls(float(intercept), float(slope))

    def at(self, x: float) -> float:
        """Give the latency at x, in ms."""
        return self.intercept + self.slope * x


@dataclass(frozen=True)
class PredictionError:
    """How far predictions are from measurements.

    networks: how many were compared. median: of the relative errors. within_5, within_10: the share of networks whose
    relative error is at most 5 or 10 %. rank_correlation: Spearman's, of predicted and measured latencies; None for
    fewer than two networks or equal latencies.
    """

    networks: int
    median: float
    within_5: float
    within_10: float
    rank_correlation: float | None


def error_of(predicted: Sequence[float], measured: Sequence[float]) -> PredictionError:
    """Compare predicted with measured latencies."""
    errors = np.abs(np.array(predicted) / np.array(measured) - 1)
    return PredictionError(
        networks=len(errors),
        median=float(np.median(errors)),
        within_5=float(np.mean(errors <= 0.05)),
        within_10=float(np.mean(errors <= 0.10)),
        rank_correlation=spearman(predicted, measured),
    )


def entries_of(networks: Sequence[MeasuredNetwork]) -> dict[Workload, float]:
    """Give each operator's time in ms: the median over the networks that have the operator."""
    times: dict[Workload, list[float]] = {}
    for network in networks:
        for workload, ms in zip(network.workloads, network.times, strict=True):
            times.setdefault(workload, []).append(ms)
    return {workload: median(times[workload]) for workload in sorted(times)}


def line_of(networks: Sequence[MeasuredNetwork]) -> Line:
    """Fit the line from the sums of the operators' times to the latencies."""
    return Line.through([sum(network.times) for network in networks], [network.ms for network in networks])


def sum_of(model: CostModel, workloads: Sequence[Workload]) -> float:
    """Sum the times of a network's operators, in ms.

    Raises:
        RequestError: no operator of a kind was measured.
    """
    times = [model.ms(workload) for workload in workloads]
    if missing := sorted({each.op for each, ms in zip(workloads, times, strict=True) if ms is None}):
        raise RequestError(
            f"The table of latencies has no {' and no '.join(missing)}: the networks that it was measured on have no "
            "such operator. Measure a table of a network that has (mobilenets-tf latency)."
        )
    return float(sum(ms for ms in times if ms is not None))


def cross_validated(networks: Sequence[MeasuredNetwork]) -> PredictionError:
    """Measure the error on networks that were held out: each is predicted from four fifths of the others."""
    return error_of(_held_out(networks, _predictor), [network.ms for network in networks])


def cross_validated_multiply_adds(networks: Sequence[MeasuredNetwork]) -> PredictionError:
    """Measure the same error of a line through the multiply-adds."""
    return error_of(_held_out(networks, _line_predictor), [network.ms for network in networks])


def _predictor(networks: Sequence[MeasuredNetwork]) -> Callable[[MeasuredNetwork], float]:
    model, line = CostModel(entries_of(networks)), line_of(networks)
    return lambda network: line.at(sum_of(model, network.workloads))


def _line_predictor(networks: Sequence[MeasuredNetwork]) -> Callable[[MeasuredNetwork], float]:
    line = Line.through([multiply_adds(each.workloads) for each in networks], [each.ms for each in networks])
    return lambda network: line.at(multiply_adds(network.workloads))


def _held_out(
    networks: Sequence[MeasuredNetwork],
    fit: Callable[[Sequence[MeasuredNetwork]], Callable[[MeasuredNetwork], float]],
) -> list[float]:
    folds = min(_FOLDS, len(networks))
    predicted = [0.0] * len(networks)
    for fold in range(folds):
        predict = fit([network for place, network in enumerate(networks) if place % folds != fold])
        for place in range(fold, len(networks), folds):
            predicted[place] = predict(networks[place])
    return predicted


def spearman(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Return Spearman's rank correlation; None where it is not defined."""
    ranks = [_ranks(values) for values in (first, second)]
    if len(first) < 2 or any(np.ptp(each) == 0 for each in ranks):
        return None
    return float(np.corrcoef(*ranks)[0, 1])


def _ranks(values: Sequence[float]) -> np.ndarray:
    """Rank the values; equal ones share the mean of their ranks."""
    known = np.array(values, float)
    _, places, counts = np.unique(known, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[places]
