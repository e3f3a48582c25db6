"""Cross-layer equalisation of linear activations: give the channels that share one int8 scale the same range.

Nagel et al. 2019, arXiv 1906.04721, section 4.1, where it is exact: an activation without non-linearity (the output of
a linear bottleneck, and the residual sums over it) may be scaled channel by channel if the convolutions that read it
are scaled back. The activations then use all of the 256 levels in every channel, and per-channel weights absorb the
scales for nothing. ReLU6 outputs are left alone: they are bounded already, and scaling would move the bound.
"""

import numpy as np

from mobilenets_tf import flatbuffer
from mobilenets_tf.runtime import Runner

SAMPLES = 16  # enough to see which channels are small
LARGEST_SCALE = 8.0  # a channel that hardly moves must not be blown up to the size of the others


def equalize(model: bytes, batches: list[list[np.ndarray]]) -> bytes:
    """A float model with the same outputs (to float32 rounding), whose linear activations have even channels.

    batches: a few calibration samples, arrays in the order of the model's inputs.
    """
    tree = flatbuffer.read(model)
    graph = _Graph(tree)
    groups = graph.linear_groups()
    if not groups:
        return model
    reach = _channel_reach(model, sorted(index for group in groups for index in group), batches)
    for group in groups:
        # One scale for the whole group: its members are added to each other. The widest member of a channel decides.
        widest = np.max([reach[index] / max(reach[index].max(), 1e-12) for index in group], axis=0)
        scale = np.clip(1 / np.maximum(widest, 1e-12), 1.0, LARGEST_SCALE)
        for index in group:
            graph.scale_output(index, scale)
            graph.scale_readers(index, 1 / scale)
    return flatbuffer.write(tree)


class _Graph(flatbuffer.Graph):
    """The linear tensors of a graph, and how to scale them."""

    def _is_linear(self, index: int) -> bool:
        """Written by a convolution or sum without activation, read only by convolutions and sums."""
        writer = self.writer[index]
        if self.is_output(index) or not self.readers[index]:
            return False
        if self.name(writer) not in ("CONV_2D", "ADD") or writer.builtinOptions.fusedActivationFunction != 0:
            return False
        if self.name(writer) == "CONV_2D" and not self._adjustable(writer, bias=True):
            return False
        return all(
            self.name(reader) == "ADD" or (self.name(reader) == "CONV_2D" and self._adjustable(reader, bias=False))
            for reader in self.readers[index]
        )

    def _adjustable(self, convolution, bias: bool) -> bool:
        """Its weights are constants over all input channels, and so is its bias where that matters."""
        weights = self.constant(convolution.inputs[1])
        channels = self.graph.tensors[convolution.inputs[0]].shape[-1]
        if weights is None or weights.shape[-1] != channels:
            return False
        return not bias or (len(convolution.inputs) > 2 and self.constant(convolution.inputs[2]) is not None)

    def linear_groups(self) -> list[list[int]]:
        """Sets of linear tensors that have to have one scale, because sums connect them."""
        linear = {index for index in self.writer if self._is_linear(index)}
        group_of = {index: {index} for index in linear}
        spoilt = set()
        for operator in self.graph.operators:
            if self.name(operator) != "ADD":
                continue
            members = [int(index) for index in [*operator.inputs, *operator.outputs]]
            shapes = {tuple(self.graph.tensors[index].shape) for index in members}
            if not linear.issuperset(members) or len(shapes) > 1:  # a broadcast has channels of its own
                spoilt.update(linear.intersection(members))
                continue
            joined = set().union(*(group_of[index] for index in members))
            for index in joined:
                group_of[index] = joined
        unique = {min(group): sorted(group) for group in group_of.values() if not group & spoilt}
        return [unique[key] for key in sorted(unique)]

    def scale_output(self, index: int, scale: np.ndarray) -> None:
        """Multiply a convolution's output channels; a sum's follow from its terms."""
        writer = self.writer[index]
        if self.name(writer) == "CONV_2D":
            weights, bias = (self.constant(writer.inputs[i]) for i in (1, 2))
            flatbuffer.replace_constant(self.model, writer, 1, weights * scale[:, None, None, None])
            flatbuffer.replace_constant(self.model, writer, 2, bias * scale)

    def scale_readers(self, index: int, scale: np.ndarray) -> None:
        """Multiply the input channels of the convolutions that read a tensor."""
        for reader in self.readers[index]:
            if self.name(reader) == "CONV_2D":
                weights = self.constant(reader.inputs[1])
                flatbuffer.replace_constant(self.model, reader, 1, weights * scale)


def _channel_reach(model: bytes, indices: list[int], batches) -> dict[int, np.ndarray]:
    """How far each channel of some tensors reaches over the samples: its range with zero in it."""
    tree = flatbuffer.read(model)
    tree.subgraphs[0].outputs, tree.signatureDefs = indices, []
    runner = Runner(flatbuffer.write(tree))
    reach = {}
    for arrays in batches:
        runner.invoke(*arrays)
        for index in indices:
            low, high = _channel_extremes(runner, index)
            span = np.maximum(high, 0) - np.minimum(low, 0)
            reach[index] = np.maximum(reach.get(index, 0), span)
    return reach


def _channel_extremes(runner: Runner, index: int) -> tuple[np.ndarray, np.ndarray]:
    values = runner.raw(index)  # a view, which must not outlive this call
    axes = tuple(range(values.ndim - 1))
    return values.min(axis=axes), values.max(axis=axes)
