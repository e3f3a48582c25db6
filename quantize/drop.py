"""Measure what a quantised file loses against its float file, for ``mixed_precision`` and ``sensitivity``."""

from collections.abc import Callable, Sequence

import numpy as np

from mobilenets_tf.tasks.classification import first_answers
from mobilenets_tf.tflite.runtime import Runner

# A function of a file's content: how much of the task's score, or which share of its answers, the file loses.
# And a function that makes such a function of the float file's content.
Drop = Callable[[bytes], float]
DropOf = Callable[[bytes], Drop]


class AnswerDrop:
    """Measures the share of samples to which a classifier's file gives another answer than its float file.

    Args:
        reference: the float file's content.
        samples: preprocessed samples, each a list of arrays in the order of the file's inputs.
    """

    def __init__(self, reference: bytes, samples: Sequence[list[np.ndarray]]):
        self._samples = samples
        self._reference = self._answers(reference)

    def __call__(self, content: bytes) -> float:
        """Give the share of samples to which a file gives another answer."""
        return float((self._answers(content) != self._reference).mean())

    def _answers(self, content: bytes) -> np.ndarray:
        runner = Runner(content)
        return np.concatenate([first_answers(runner(*arrays)[0].reshape(1, -1)) for arrays in self._samples])
