"""Measure what a quantised file loses against its float file, for ``mixed_precision`` and ``sensitivity``."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from mobilenets_tf.tasks.fidelity import tallies_of
from mobilenets_tf.tasks.outputs import OutputKind, decided, ends_of_file
from mobilenets_tf.tflite.runtime import Runner

# A function of a file's content: how much of the task's score, or which share of its answers, the file loses.
# And a function that makes such a function of the float file's content.
Drop = Callable[[bytes], float]
DropOf = Callable[[bytes], Drop]


class AnswerDrop:
    """Measures how far the outputs of a file disagree with those of its float file: by the measure of each output's
    kind, such as the share of samples with another class. The worst output counts.

    Args:
        reference: the float file's content.
        samples: preprocessed samples, each a list of arrays in the order of the file's inputs.
        kinds: of the outputs; empty: as shapes and last activations show.
    """

    def __init__(self, reference: bytes, samples: Sequence[list[np.ndarray]], kinds: Sequence[OutputKind] = ()):
        self._samples, self._ends = samples, ends_of_file(reference)
        self._kinds = tuple(kinds) or decided(self._ends)
        self._reference = list(self._outputs(reference))

    def __call__(self, content: bytes) -> float:
        """Give how far a file disagrees: 0 where every answer is the same, 1 at most."""
        tallies = tallies_of(self._ends, self._kinds)
        for expected, outputs in zip(self._reference, self._outputs(content), strict=True):
            for tally, one, other in zip(tallies, expected, outputs, strict=True):
                tally.add(one, other)
        return max(1 - tally.agreement for tally in tallies)

    def _outputs(self, content: bytes) -> Iterator[list[np.ndarray]]:
        runner = Runner(content)
        return (runner(*arrays) for arrays in self._samples)
