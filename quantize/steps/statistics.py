"""Measure the distributions of a float TFLite model's activations on calibration data.

The converter's own calibrator runs its reference kernels on one thread. Here every intermediate tensor is made an
output of the model, so that XNNPACK computes them all at full speed. One pass gathers everything: extremes and channel
means exactly, the histogram from a sample of the values.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from mobilenets_tf.errors import RequestError
from mobilenets_tf.tflite import flatbuffer
from mobilenets_tf.tflite.runtime import Runner
from mobilenets_tf.tflite.threads import in_order

BINS = 4096  # of a histogram over [-limit, limit], where limit is less than twice the largest magnitude seen
SAMPLED = 8192  # about how many values of a tensor enter its histogram from each calibration sample
FEW = 32  # fewer samples do not show how far the activations of others reach
_ENDS = 4  # samples that reach furthest, whose mean distance is the headroom that few samples get


@dataclass
class ActivationStatistics:
    """The distribution of one activation tensor over all calibration samples.

    low, high: the exact extremes; not finite if a value was not.
    lows, highs: the extremes of the samples that reach furthest below and above zero, the furthest first.
    channel_mean: the mean of each channel (last axis), shape (channels).
    limit, counts: the histogram of sampled values, in BINS equal bins over [-limit, limit].
    samples: how many calibration samples were added.
    """

    low: float = float("inf")
    high: float = float("-inf")
    lows: list[float] = field(default_factory=list)
    highs: list[float] = field(default_factory=list)
    channel_mean: np.ndarray | None = None
    limit: float = 0.0
    counts: np.ndarray = field(default_factory=lambda: np.zeros(BINS))
    samples: int = 0

    def centres(self) -> np.ndarray:
        """Give the middle of each histogram bin."""
        return (np.arange(BINS) + 0.5) * (2 * self.limit / BINS) - self.limit

    @property
    def deviation(self) -> float:
        """The standard deviation, computed from the histogram."""
        shares = self.counts / max(self.counts.sum(), 1)
        mean = shares @ self.centres()
        return float(np.sqrt(shares @ (self.centres() - mean) ** 2))

    @property
    def headroom(self) -> tuple[float, float]:
        """How much further than the extremes other samples may reach, below and above.

        Of few samples the next one often reaches further, by about the distance of those that reach furthest.
        """
        if not _ENDS <= self.samples < FEW or not self.lows:
            return 0.0, 0.0
        return (self.lows[-1] - self.lows[0]) / (_ENDS - 1), (self.highs[0] - self.highs[-1]) / (_ENDS - 1)

    def bound(self, low: float, high: float) -> None:
        """Set the extremes of values that are known to be in a range, and to reach its ends."""
        self.low, self.high, self.lows, self.highs = low, high, [], []

    def add(self, values: np.ndarray) -> None:
        """Add one sample's values, of any shape."""
        self.add_summary(summarised(values, self.samples + 1))

    def add_summary(self, summary: "Summary") -> None:
        """Add what ``summarised`` gave of the next sample's values."""
        low, high = summary.low, summary.high
        self.samples += 1
        if not np.isfinite(low + high):
            self.low, self.high = low, high  # min() and max() would pass over a NaN
            return  # ``observe`` refuses the model, and names the tensor
        self.low, self.high = min(self.low, low), max(self.high, high)
        self.lows = sorted([*self.lows, min(low, 0.0)])[:_ENDS]
        self.highs = sorted([*self.highs, max(high, 0.0)], reverse=True)[:_ENDS]
        if self.channel_mean is None:
            self.channel_mean = np.zeros(len(summary.channel_mean))
        self.channel_mean += (summary.channel_mean - self.channel_mean) / self.samples
        self._widen(max(abs(low), abs(high)))
        bins = ((summary.sampled + self.limit) * (BINS / (2 * self.limit))).astype(np.int64)
        counts = np.bincount(bins, minlength=BINS + 1)
        counts[BINS - 1] += counts[BINS]  # the values at the very end
        self.counts += counts[:BINS]

    def _widen(self, magnitude: float) -> None:
        """Double the histogram's span, halving its resolution, until ``magnitude`` is inside."""
        if self.limit == 0:
            self.limit = max(magnitude, 1e-6)
        while magnitude > self.limit:
            pairs = self.counts.reshape(-1, 2).sum(axis=1)
            self.counts = np.zeros(BINS)
            self.counts[BINS // 4 : BINS // 4 + BINS // 2] = pairs
            self.limit *= 2


class Summary(NamedTuple):
    """What is kept of a tensor's values on one sample: extremes, mean of each channel, and some of the values."""

    low: float
    high: float
    channel_mean: np.ndarray
    sampled: np.ndarray


def summarised(values: np.ndarray, number: int) -> Summary:
    """Summarise the values of a tensor, of any shape, on sample ``number`` (from 1)."""
    rows = values.reshape(-1, values.shape[-1]) if values.ndim else values.reshape(1, 1)
    # A product with ones is the fastest mean over rows that NumPy has.
    mean = np.ones(len(rows), np.float32) @ rows / len(rows)
    flat = rows.ravel()
    step = max(1, flat.size // SAMPLED)
    while math.gcd(step, rows.shape[-1]) > 1:  # otherwise the same few channels would be sampled each time
        step += 1
    return Summary(float(rows.min()), float(rows.max()), mean, np.array(flat[number % step :: step]))


def observe(model: bytes, batches: Iterable[list[np.ndarray]]) -> dict[int, ActivationStatistics]:
    """Run a float model on calibration samples and measure each of its float32 activation tensors.

    Args:
        model: the float file's content.
        batches: each sample as a list of arrays in the order of the model's inputs.

    Returns:
        The statistics of each tensor, by index.

    Raises:
        RequestError: an activation is NaN or infinite; the tensor is named.
    """
    tree = flatbuffer.read(model)
    graph = tree.subgraphs[0]
    float32 = flatbuffer.schema.TensorType.FLOAT32
    produced = {o for operator in graph.operators for o in operator.outputs if graph.tensors[o].type == float32}
    inputs = [i for i in graph.inputs if graph.tensors[i].type == float32]
    names = {index: graph.tensors[index].name.decode() for index in produced}
    content = flatbuffer.with_outputs(tree, sorted(produced))
    statistics = {index: ActivationStatistics() for index in [*inputs, *sorted(produced)]}

    def looking() -> Callable[[tuple[int, list[np.ndarray]]], dict[int, Summary]]:
        runner = Runner(content, threads=1, trusted=True)
        order = [int(details["index"]) for details in runner.inputs]

        def look(item: tuple[int, list[np.ndarray]]) -> dict[int, Summary]:
            """Summarise all tensors on one sample."""
            number, arrays = item
            runner.invoke(*arrays)
            given = dict(zip(order, arrays, strict=True))
            return {
                index: summarised(given[index] if index in given else runner.raw(index), number) for index in statistics
            }

        return look

    for summaries in in_order(looking, enumerate(batches, 1)):
        for index, summary in summaries.items():
            seen = statistics[index]
            seen.add_summary(summary)
            if index in produced and not np.isfinite(seen.low + seen.high):
                raise RequestError(
                    f"The activation {names[index]!r} is NaN or infinite on calibration sample {seen.samples}; "
                    "the float model itself is broken there, and no quantisation can mend it."
                )
    return statistics
