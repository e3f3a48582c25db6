"""Cross-layer equalisation: scale channels that share one int8 scale so that they fill its range evenly.

The network gets no op more. Nagel et al. 2019, arXiv 1906.04721, section 4.1, in the two places where int8 with a scale
for each output channel of the weights gains something and loses nothing:

* A linear activation (the output of a linear bottleneck, and the residual sums over it) may be scaled channel by
  channel if the weights of the convolutions that read it are scaled back. The factor may be negative: a channel whose
  tail points down is turned round, so that all tails point the same way and share one side of the range.
* The result of a convolution with ReLU or ReLU6 may be scaled up if depthwise convolutions read it: their weights have
  a scale for each of these channels. No channel may reach ReLU6's bound of 6, so it grows to half of that at most.

How far a channel reaches is known of the calibration samples only; on others it may reach further. Where a few large
channels decide the range, the others have room for that. If all channels fill the range, each is clipped on some of the
other samples, which may cost more than the finer levels gain. So channels that grow keep a headroom (``_scale``).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mobilenets_tf.tflite import flatbuffer
from mobilenets_tf.tflite.flatbuffer import schema
from mobilenets_tf.tflite.runtime import Runner
from mobilenets_tf.tflite.threads import in_order

LARGEST_SCALE = 8.0  # a channel of tiny values must not be scaled up to the size of the others
# Behind a ReLU6, which would clip values that no calibration sample had: the largest factor, and how many times the
# largest value seen the bound must be.
BOUNDED_SCALE, HEADROOM = 2.0, 2.0
_BALANCES = np.linspace(0.2, 0.8, 25)  # shares of the range below zero that are tried
# Headrooms that are tried: the range is so many times the largest value seen of a channel that grows.
_HEADROOMS = (1.25, 1.5, 2.0, 3.0, LARGEST_SCALE)
# A headroom is taken, or channels are not turned round, if the expected error is less than this share of the error
# without that. In trained networks, the few values that are clipped cost less than their power: MobileNetV2 with real
# weights lost half a point of agreement where 0.9 was enough.
_CONVINCING = 0.6

_Ends = tuple[np.ndarray, np.ndarray]  # how far channels reach: below zero, above zero
_Fitting = Callable[[np.ndarray, np.ndarray], np.ndarray]  # (reach below zero, reach above zero) -> factors


@dataclass(frozen=True)
class Reach:
    """How far each channel of a tensor reaches below and above zero on each sample; neither is negative.

    below, above: shape (samples, channels). positions: how many values each channel has.
    """

    below: np.ndarray
    above: np.ndarray
    positions: int


def equalize(model: bytes, samples: list[list[np.ndarray]]) -> bytes:
    """Rewrite a float model so that the channels of its activations have even ranges.

    Args:
        model: the float file's content.
        samples: a few calibration samples, each a list of arrays in the order of the model's inputs.

    Returns:
        The content of a model with the same outputs, to float32 rounding.
    """
    tree = flatbuffer.read(model)
    graph = _ScalableGraph(tree)
    groups, rectified = graph.linear_groups(), graph.rectified()
    if len(samples) < 2 or not (groups or rectified):  # one sample does not tell how far others reach
        return model
    reach = _channel_reach(model, sorted({*rectified, *(index for group in groups for index in group)}), samples)
    for group in groups:
        scale = _round_scale(_linear_scale([reach[index] for index in group]))
        for index in group:
            graph.scale_output(index, scale)
            graph.scale_readers(index, 1 / scale)
    for index in rectified:
        scale = _round_scale(_rectified_scale(reach[index], graph.bound(index)))
        graph.scale_output(index, scale)
        graph.scale_readers(index, 1 / scale)
    return flatbuffer.write(tree)


def _linear_scale(reaches: list[Reach]) -> np.ndarray:
    """Choose one factor for each channel of a group of tensors that are added to each other.

    The rounding noise of a channel is proportional to the square of (the tensor's range / the channel's factor). So
    every channel gets the largest factor that keeps it, with the headroom, inside the range. Channels are turned round
    unless that leaves too little room for the shorter tails of samples not seen.
    """
    sizes = [max(float((reach.below.max(axis=0) + reach.above.max(axis=0)).max()), 1e-12) for reach in reaches]
    sides = [(reach.below / size, reach.above / size) for reach, size in zip(reaches, sizes, strict=True)]
    group = Reach(*(np.max(side, axis=0) for side in zip(*sides, strict=True)), reaches[0].positions)
    turned = sum(above.max(axis=0) - below.max(axis=0) for below, above in sides) < 0
    turned_without = sum(_without_each(above) - _without_each(below) for below, above in sides) < 0
    seen = group.below.max(axis=0), group.above.max(axis=0)
    scale, error = _scale(group, _split_range(*_swap(seen, turned)), turned=(turned, turned_without))
    straight, other = _scale(group, _split_range(*seen))
    return straight if other < _CONVINCING * error else np.where(turned, -scale, scale)


def _swap(ends: _Ends, turned: np.ndarray) -> _Ends:
    """Swap the two ends of the channels that are turned round."""
    return np.where(turned, ends[1], ends[0]), np.where(turned, ends[0], ends[1])


def _split_range(below: np.ndarray, above: np.ndarray) -> _Fitting:
    """Split a range at zero so that rounding makes the least noise; return what gives the factors that fill the range.

    below, above: how far each channel reaches.
    """

    def fitting(balance, below, above):
        return np.minimum(balance / np.maximum(below, 1e-12), (1 - balance) / np.maximum(above, 1e-12))

    def noise(balance):
        largest = fitting(balance, below, above)
        return np.mean(np.minimum(largest, LARGEST_SCALE * largest.min()) ** -2.0)

    balance = min(_BALANCES, key=noise)
    unit = fitting(balance, below, above).min()
    return lambda below, above: fitting(balance, below, above) / unit


def _rectified_scale(reach: Reach, bound: float | None) -> np.ndarray:
    largest = reach.above.max() if bound is None else bound / HEADROOM
    most = LARGEST_SCALE if bound is None else BOUNDED_SCALE
    return _scale(reach, lambda _, above: largest / np.maximum(above, 1e-12), most)[0]


def _scale(
    reach: Reach, fitting: _Fitting, most: float = LARGEST_SCALE, turned: _Ends | None = None
) -> tuple[np.ndarray, float]:
    """Choose the factors of the channels, at least 1, with the headroom that costs least on samples not seen.

    The cost is the power of the error, on average over all values: of rounding, and of clipping. What is clipped of a
    sample not seen is estimated by leaving out each sample in turn: factors, signs and range are then those of the
    others.

    Args:
        reach: of the channels.
        fitting: gives the factors with which the channels fill the range.
        most: the largest factor.
        turned: which channels are turned round: with all samples, and without each sample in turn.

    Returns:
        The factors without their signs, and their cost.
    """
    ends = reach.below, reach.above
    seen, others = tuple(side.max(axis=0) for side in ends), tuple(_without_each(side) for side in ends)
    if turned:
        seen, ends, others = _swap(seen, turned[0]), _swap(ends, turned[1]), _swap(others, turned[1])
    alive = seen[0] + seen[1] > 0  # zeros have no rounding error

    def factors(ends, headroom):
        return np.clip(np.minimum(fitting(*ends), most) / headroom, 1.0, None)

    def cost(headroom):
        scale, limited = factors(seen, headroom), factors(others, headroom)
        span = sum(float((scale * side).max()) for side in seen)
        error = np.mean(alive * scale**-2.0) * (span / 255) ** 2 / 12
        for side, other in zip(ends, others, strict=True):
            beyond = np.maximum(side - (limited * other).max(axis=1, keepdims=True) / limited, 0)
            error += np.mean(beyond**2) / reach.positions
        return float(error)

    costs = {headroom: cost(headroom) for headroom in (1.0, *_HEADROOMS)}
    best = min(costs, key=costs.get)
    headroom = best if costs[best] < _CONVINCING * costs[1.0] else 1.0
    return factors(seen, headroom), costs[headroom]


def _without_each(values: np.ndarray) -> np.ndarray:
    """Give for each row the largest value of each column in all other rows."""
    second, largest = np.partition(values, -2, axis=0)[-2:]
    return np.where(values == largest, second, largest)


def _round_scale(scale: np.ndarray) -> np.ndarray:
    """Round to sixteenths, so that the last bits of another processor's activations do not change every weight."""
    return np.round(16 * scale) / 16


class _ScalableGraph(flatbuffer.Graph):
    """Finds the tensors of a graph whose channels can be scaled, and scales them."""

    def _scalable(self, operator: schema.OperatorT, names: tuple[str, ...]) -> bool:
        """Tell whether an operator is an ungrouped convolution of these kinds, with constant weights and bias."""
        if self.name(operator) not in names or len(operator.inputs) < 3 or operator.inputs[2] < 0:
            return False
        weights, bias = (self.constant(operator.inputs[i]) for i in (1, 2))
        return weights is not None and bias is not None and weights.shape[-1] == self._input_channels(operator)

    def _input_channels(self, operator: schema.OperatorT) -> int:
        if self.name(operator) == "DEPTHWISE_CONV_2D" and operator.builtinOptions.depthMultiplier != 1:
            return -1
        return self.shape(operator.inputs[0])[-1]

    def _activation(self, index: int) -> int | None:
        writer = self.writer[index]
        return getattr(writer.builtinOptions, "fusedActivationFunction", None)

    def _is_linear(self, index: int) -> bool:
        """Tell whether a convolution or sum without activation writes a tensor that only convolutions and sums read."""
        writer = self.writer[index]
        if self.is_output(index) or not self.readers[index] or self._activation(index) != 0:
            return False
        if self.name(writer) != "ADD" and not self._scalable(writer, ("CONV_2D",)):
            return False
        return all(self.name(reader) == "ADD" or self._scalable(reader, ("CONV_2D",)) for reader in self.readers[index])

    def linear_groups(self) -> list[list[int]]:
        """Give the sets of linear tensors that must have the same factors because sums connect them."""
        linear = {index for index in self.writer if self._is_linear(index)}
        group_of = {index: {index} for index in linear}
        spoilt = set()
        for operator in self.operators:
            if self.name(operator) != "ADD":
                continue
            members = [*operator.inputs, *operator.outputs]
            shapes = {self.shape(index) for index in members}
            if not linear.issuperset(members) or len(shapes) > 1:  # a broadcast has channels of its own
                spoilt.update(linear.intersection(members))
                continue
            joined = set().union(*(group_of[index] for index in members))
            for index in joined:
                group_of[index] = joined
        unique = {min(group): sorted(group) for group in group_of.values() if not group & spoilt}
        return [unique[key] for key in sorted(unique)]

    def rectified(self) -> list[int]:
        """Give the tensors that a convolution with ReLU or ReLU6 writes and only depthwise convolutions read."""
        kinds = (schema.ActivationFunctionType.RELU, schema.ActivationFunctionType.RELU6)
        return [
            index
            for index, writer in self.writer.items()
            if self._scalable(writer, ("CONV_2D", "DEPTHWISE_CONV_2D"))
            and self._activation(index) in kinds
            and self.readers[index]
            and not self.is_output(index)
            and all(self._scalable(reader, ("DEPTHWISE_CONV_2D",)) for reader in self._final_readers(index))
        ]

    def _final_readers(self, index: int) -> list[schema.OperatorT]:
        """Give the readers; in the place of a PAD, which keeps the channels, its own readers."""
        final = []
        for reader in self.readers[index]:
            final += self.readers[reader.outputs[0]] if self.name(reader) == "PAD" else [reader]
        return final

    def bound(self, index: int) -> float | None:
        """Return the upper bound of the activation function that writes a tensor: 6, or None."""
        return 6.0 if self._activation(index) == schema.ActivationFunctionType.RELU6 else None

    def scale_output(self, index: int, scale: np.ndarray) -> None:
        """Multiply the output channels of a convolution. Those of a sum follow from its terms."""
        writer = self.writer[index]
        if self.name(writer) == "ADD":
            return
        weights, bias = (self.constant(writer.inputs[i]) for i in (1, 2))
        along = scale if self.name(writer) == "DEPTHWISE_CONV_2D" else scale[:, None, None, None]
        flatbuffer.replace_constant(self.model, writer, 1, weights * along)
        flatbuffer.replace_constant(self.model, writer, 2, bias * scale)

    def scale_readers(self, index: int, scale: np.ndarray) -> None:
        """Multiply the input channels of the convolutions that read a tensor."""
        for reader in self._final_readers(index):
            if self.name(reader) != "ADD":
                weights = self.constant(reader.inputs[1])
                flatbuffer.replace_constant(self.model, reader, 1, weights * scale)


def _channel_reach(model: bytes, indices: list[int], samples: list[list[np.ndarray]]) -> dict[int, Reach]:
    """Measure how far each channel of some tensors reaches below and above zero on each sample."""
    content = flatbuffer.with_outputs(flatbuffer.read(model), indices)

    def looking() -> Callable[[list[np.ndarray]], list[tuple[np.ndarray, np.ndarray, int]]]:
        runner = Runner(content, threads=1, trusted=True)

        def look(arrays: list[np.ndarray]) -> list[tuple[np.ndarray, np.ndarray, int]]:
            runner.invoke(*arrays)
            return [_channel_extremes(runner, index) for index in indices]

        return look

    lows, highs, positions = zip(*(zip(*each, strict=True) for each in in_order(looking, samples)), strict=True)
    return {
        index: Reach(np.maximum(-np.stack(low), 0), np.maximum(np.stack(high), 0), size)
        for index, low, high, size in zip(
            indices, zip(*lows, strict=True), zip(*highs, strict=True), positions[0], strict=True
        )
    }


def _channel_extremes(runner: Runner, index: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Return the least and the greatest value of each channel, and how many values a channel has."""
    values = runner.raw(index)  # a view, which must not outlive this call
    rows = values.reshape(-1, values.shape[-1])
    # NumPy is slow with many short rows, so several make one.
    wide = rows.reshape(-1, math.gcd(len(rows), 16) * rows.shape[-1])
    low, high = wide.min(axis=0), wide.max(axis=0)
    by_channel = (-1, rows.shape[-1])
    return low.reshape(by_channel).min(axis=0), high.reshape(by_channel).max(axis=0), len(rows)
