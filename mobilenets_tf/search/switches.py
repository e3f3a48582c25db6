"""Switch channels of a model off, without making a smaller model.

What nothing reads has no effect. So the weights that read a channel are set to zero, after each step of a training
again: the model then answers, and learns, as the model would that ``prune`` makes, and nothing is compiled anew.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from mobilenets_tf.pruning.channels import TracedModel
from mobilenets_tf.pruning.prune import kernel_norms


@dataclass(frozen=True, eq=False)
class _Reader:
    """A weight that reads channels along an axis, with the group and the slice of each; -1 for those that stay."""

    variable: Any
    axis: int
    groups: np.ndarray
    slices: np.ndarray
    mask: tf.Variable


class Switches:
    """The channels of a model that can be switched off.

    groups: name -> number of slices, as ``channel_groups`` finds them.
    read_by: the weights that read the channels, in a fixed order.

    Raises:
        RequestError: the model is not functional or sequential, or not built.
    """

    def __init__(self, model: keras.Model):
        self._trace = trace = TracedModel(model)
        self.groups = {name: group.width for name, group in trace.found.groups.items()}
        self._readers = []
        for axes in trace.weighed.values():
            for each in axes:
                groups = trace.group_of[each.labels]
                if each.part == "consumers" and (groups >= 0).any():
                    shape = [1] * len(each.variable.shape)
                    shape[each.axis] = len(groups)
                    mask = tf.Variable(tf.ones(shape), trainable=False)
                    self._readers.append(_Reader(each.variable, each.axis, groups, trace.slice_of[each.labels], mask))
        self.read_by = [reader.variable for reader in self._readers]
        self._switch = tf.function(self._multiply, autograph=False)

    def set(self, kept: Mapping[str, np.ndarray]) -> None:
        """Choose the slices that stay, and switch the others off. Groups that are not named stay whole.

        Args:
            kept: name of a group -> of each slice, whether it stays.
        """
        stays = [np.asarray(kept.get(name, np.ones(width, bool))) for name, width in self.groups.items()]
        for reader in self._readers:
            on = [group < 0 or stays[group][place] for group, place in zip(reader.groups, reader.slices, strict=True)]
            reader.mask.assign(np.reshape(np.array(on, np.float32), reader.mask.shape))
        self.switch()

    def switch(self) -> None:
        """Switch off again what a step of a training may have switched on."""
        self._switch()

    def _multiply(self) -> None:
        for reader in self._readers:
            reader.variable.assign(reader.variable.value * reader.mask)

    def norms(self) -> dict[str, np.ndarray]:
        """Return the L2 norm of the kernels that make each slice, (width,) for each group."""
        return {name: kernel_norms(self._trace, group) for name, group in self._trace.found.groups.items()}

    def sums(self, products: list[np.ndarray]) -> dict[str, np.ndarray]:
        """Add up values of the weights ``read_by`` for each slice of each group, (width,)."""
        totals = [np.zeros(width) for width in self.groups.values()]
        for reader, values in zip(self._readers, products, strict=True):
            others = tuple(axis for axis in range(values.ndim) if axis != reader.axis)
            for group, place, value in zip(reader.groups, reader.slices, values.sum(axis=others), strict=True):
                if group >= 0:
                    totals[group][place] += value
        return dict(zip(self.groups, totals, strict=True))
