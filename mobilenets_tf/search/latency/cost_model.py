"""Predict the time of an operator from the operators that were measured.

Where the operator was measured, that is its time. Elsewhere the time is the product of two parts:

* a trend of all operators of a kind: a sum of parts that grow with the multiply-adds, the positions, the bytes that are
  read and written, and the weights, each with a factor that is not negative. XNNPACK computes tiles of channels (8, 16
  or 32 at once, whichever fits the measurements best), so the work counts whole tiles.
* a ratio of measured time to trend, interpolated between the measured operators that are nearest in size and channels
  (in the logarithm): what the trend misses there, such as a working set that leaves a cache.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mobilenets_tf.search.latency.workloads import Workload

_TILES = (1, 4, 8, 16, 32)
_NEAREST = 8  # operators from which a ratio is interpolated
_LEAST = 4  # measured operators of a family, from which it gets a trend of its own
_FLOOR = 1e-4  # ms: LiteRT's profiler counts whole µs, so 0 means short
_AWAY = 0.05  # weight of the trend itself, where the weight of an operator of twice the width is 1


class CostModel:
    """The times of operators.

    Args:
        measured: workload -> ms of the operators that were measured.
    """

    def __init__(self, measured: Mapping[Workload, float]):
        self._measured = dict(measured)
        self._families = _grouped(self._measured, _family)
        self._ops = _grouped(self._measured, _op)
        self._fits: dict[int, _Fit] = {}  # by the identity of the list of members

    def ms(self, workload: Workload) -> float | None:
        """Give the time of an operator in ms; None if no operator of its kind was measured."""
        if (known := self._measured.get(workload)) is not None:
            return known
        family = self._families.get(_family(workload), [])
        if len(family) < _LEAST:
            family = self._ops.get(_op(workload), [])
        return self._fit(family).ms(workload) if family else None

    def _fit(self, members: list[Workload]) -> "_Fit":
        """Fit the trend of some measured operators, once."""
        key = id(members)
        if key not in self._fits:
            self._fits[key] = _Fit(members, [self._measured[each] for each in members])
        return self._fits[key]


def _family(workload: Workload) -> tuple:
    return workload.family


def _op(workload: Workload) -> tuple:
    return workload.op, workload.type


def _grouped(workloads: Iterable[Workload], key: Callable[[Workload], tuple]) -> dict[tuple, list[Workload]]:
    groups = defaultdict(list)
    for each in workloads:
        groups[key(each)].append(each)
    return groups


class _Fit:
    """The trend of some measured operators, and what they differ from it."""

    def __init__(self, members: Sequence[Workload], times: Sequence[float]):
        values = np.maximum(np.array(times), _FLOOR)
        trends = [_Trend.fitted(members, values, tile) for tile in _TILES]
        self._trend = min(trends, key=lambda trend: trend.error)
        self._places = np.array([_place(each) for each in members])
        self._log_ratios = np.log(values / self._trend.ms(members))

    def ms(self, workload: Workload) -> float:
        distances = np.abs(self._places - _place(workload)).sum(axis=1)
        nearest = np.argsort(distances, kind="stable")[:_NEAREST]
        weights = 1.0 / (distances[nearest] + 1e-3) ** 2
        # Towards the trend where nothing near was measured.
        ratio = float((weights * self._log_ratios[nearest]).sum() / (weights.sum() + _AWAY))
        return float(self._trend.ms([workload])[0] * np.exp(ratio))


@dataclass(frozen=True)
class _Trend:
    tile: int
    factors: np.ndarray
    error: float

    @classmethod
    def fitted(cls, members: Sequence[Workload], values: np.ndarray, tile: int) -> "_Trend":
        parts = _parts(members, tile)
        scale = np.maximum(parts.max(axis=0), 1e-30)
        factors = _least_squares(parts / scale / values[:, None], np.ones(len(values))) / scale
        error = float(np.mean(np.abs(parts @ factors / values - 1)))
        return cls(tile, factors, error)

    def ms(self, members: Sequence[Workload]) -> np.ndarray:
        return np.maximum(_parts(members, self.tile) @ self.factors, _FLOOR)


def _parts(members: Sequence[Workload], tile: int) -> np.ndarray:
    rows = []
    for each in members:
        written = each.channels[1]
        tiled = -(-written // tile) * tile
        share = tiled / max(written, 1)
        rows.append(
            (
                1.0,
                each.positions,
                each.multiply_adds * share,
                each.positions * tiled,
                each.bytes_read,
                each.bytes_of_weights * share,
            )
        )
    return np.array(rows, float)


def _place(workload: Workload) -> np.ndarray:
    kernel = workload.kernel[0] * workload.kernel[1] * workload.stride[0] * workload.stride[1]
    return np.log2([workload.positions + 1, workload.channels[0] + 1, workload.channels[1] + 1, kernel])


def _least_squares(matrix: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Solve ``matrix @ x = target`` with the least squares and no negative x (Lawson and Hanson 1974, chapter 23)."""
    product, right = matrix.T @ matrix, matrix.T @ target
    x = np.zeros(len(right))
    free = np.zeros(len(right), bool)
    for _ in range(3 * len(right)):
        gradient = np.where(free, 0.0, right - product @ x)
        if gradient.max() <= 1e-10 * np.abs(right).max():
            break
        free[np.argmax(gradient)] = True
        while free.any():
            solved = np.zeros(len(right))
            solved[free] = np.linalg.lstsq(product[np.ix_(free, free)], right[free], rcond=1e-13)[0]
            negative = free & (solved <= 0)
            if not negative.any():
                x = solved
                break
            step = (x[negative] / (x[negative] - solved[negative])).min()
            x = x + step * (solved - x)
            free &= x > 1e-12
            x[~free] = 0.0
    return x
