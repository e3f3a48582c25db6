"""Number the channels of all tensors of a model, and join those that can only be taken away together."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Channels:
    """The channels of one tensor.

    axis: the axis along which they lie, counted from 0 with the batch. None: nothing of the tensor can be taken away.
    labels: the label of each channel; with axis None a single label, which is fixed.
    """

    axis: int | None
    labels: np.ndarray

    def over(self, size: int) -> np.ndarray:
        """Return the labels along an axis of ``size`` places, which is the channels' axis if they have one."""
        return np.repeat(self.labels, size) if self.axis is None else self.labels

    def repeated(self, times: int) -> "Channels":
        """Return the channels with each of them ``times`` times in a row."""
        return self if self.axis is None else Channels(self.axis, np.repeat(self.labels, times))


class Labels:
    """Labels in classes. What has labels of one class stays or goes together; a class with a fixed label stays."""

    def __init__(self) -> None:
        self._parents: list[int] = []  # towards the smallest label of the class
        self._reasons: dict[int, str] = {}  # of the fixed labels

    def new(self, count: int) -> np.ndarray:
        """Make labels, each in a class of its own."""
        first = len(self._parents)
        self._parents.extend(range(first, first + count))
        return np.arange(first, first + count)

    def fixed(self, reason: str) -> Channels:
        """Make channels that stay.

        reason: why, a clause that calls the channels "they".
        """
        label = self.new(1)
        self._reasons[int(label[0])] = reason
        return Channels(None, label)

    def join(self, some: np.ndarray, others: np.ndarray) -> None:
        """Join the classes of labels, pair by pair; arrays of one label are paired with all of the other array."""
        for one, other in zip(*(array.tolist() for array in np.broadcast_arrays(some, others)), strict=True):
            first, second = sorted((self._root(one), self._root(other)))
            self._parents[second] = first

    def _root(self, label: int) -> int:
        parents = self._parents
        while parents[label] != label:
            parents[label] = parents[parents[label]]
            label = parents[label]
        return label

    def roots(self) -> np.ndarray:
        """Return, for each label, the smallest label of its class."""
        roots = np.array(self._parents, int)
        while (roots != roots[roots]).any():
            roots = roots[roots]
        return roots

    def reasons(self) -> dict[int, str]:
        """Return, for the smallest label of each class that stays, the reason; of several the one that came last."""
        return {self._root(label): reason for label, reason in self._reasons.items()}
