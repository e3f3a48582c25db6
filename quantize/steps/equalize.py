"""Cross-layer equalisation: scale channels that share one int8 scale so that they fill its range evenly.

The network gets no op more. Nagel et al. 2019, arXiv 1906.04721, section 4.1, in the two places where int8 with a scale
for each output channel of the weights gains something and loses nothing:

* A linear activation (the output of a linear bottleneck, and the residual sums over it) may be scaled channel by
  channel if the weights of the convolutions that read it are scaled back. The factor may be negative: a channel whose
  tail points down is turned round, so that all tails point the same way and share one side of the range.
* The result of a convolution with ReLU or ReLU6 may be scaled up if depthwise convolutions read it: their weights have
  a scale for each of these channels. No channel may reach ReLU6's bound of 6, so it grows to half of that at most.
"""

import math
from collections.abc import Callable

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
    if not groups and not rectified:
        return model
    reach = _channel_reach(model, sorted({*rectified, *(index for group in groups for index in group)}), samples)
    for group in groups:
        scale = _round_scale(_linear_scale([reach[index] for index in group]))
        for index in group:
            graph.scale_output(index, scale)
            graph.scale_readers(index, 1 / scale)
    for index in rectified:
        scale = _round_scale(_rectified_scale(reach[index][1], graph.bound(index)))
        graph.scale_output(index, scale)
        graph.scale_readers(index, 1 / scale)
    return flatbuffer.write(tree)


def _linear_scale(reaches: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Choose one factor for each channel of a group of tensors that are added to each other.

    The rounding noise of a channel is proportional to the square of (the tensor's range / the channel's factor). So
    every channel gets the largest factor that keeps it inside the range. The range is split at zero in the ratio that
    gives the least noise.

    reaches: of each tensor, how far its channels reach below and above zero.
    """
    sizes = [max(float((below + above).max()), 1e-12) for below, above in reaches]
    tail = sum((above - below) / size for (below, above), size in zip(reaches, sizes, strict=True))
    turned = tail < 0
    below, above = (
        np.max([np.where(turned, b, a) / size for (a, b), size in zip(sides, sizes, strict=True)], axis=0)
        for sides in (reaches, [(b, a) for a, b in reaches])
    )

    def factors(balance):
        fitting = np.minimum(balance / np.maximum(below, 1e-12), (1 - balance) / np.maximum(above, 1e-12))
        return np.minimum(fitting, LARGEST_SCALE * fitting.min())

    scale = min((factors(balance) for balance in _BALANCES), key=lambda scale: np.mean(scale**-2.0))
    return scale / scale.min() * np.where(turned, -1.0, 1.0)


def _rectified_scale(above: np.ndarray, bound: float | None) -> np.ndarray:
    largest = above.max() if bound is None else bound / HEADROOM
    return np.clip(largest / np.maximum(above, 1e-12), 1.0, LARGEST_SCALE if bound is None else BOUNDED_SCALE)


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


def _channel_reach(
    model: bytes, indices: list[int], samples: list[list[np.ndarray]]
) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """Measure how far each channel of some tensors reaches below and above zero; neither is negative."""
    content = flatbuffer.with_outputs(flatbuffer.read(model), indices)

    def looking() -> Callable[[list[np.ndarray]], list[tuple[np.ndarray, np.ndarray]]]:
        runner = Runner(content, threads=1, trusted=True)

        def look(arrays: list[np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]]:
            runner.invoke(*arrays)
            return [_channel_extremes(runner, index) for index in indices]

        return look

    reach: dict[int, tuple] = {}
    for extremes in in_order(looking, samples):
        for index, (low, high) in zip(indices, extremes, strict=True):
            below, above = reach.get(index, (0.0, 0.0))
            reach[index] = np.maximum(below, -low), np.maximum(above, high)
    return reach


def _channel_extremes(runner: Runner, index: int) -> tuple[np.ndarray, np.ndarray]:
    values = runner.raw(index)  # a view, which must not outlive this call
    rows = values.reshape(-1, values.shape[-1])
    # NumPy is slow with many short rows, so several make one.
    wide = rows.reshape(-1, math.gcd(len(rows), 16) * rows.shape[-1])
    low, high = wide.min(axis=0), wide.max(axis=0)
    return low.reshape(-1, rows.shape[-1]).min(axis=0), high.reshape(-1, rows.shape[-1]).max(axis=0)
