"""What a quantised file loses against its float file: the kinds of functions that ``mixed_precision`` asks."""

from collections.abc import Callable, Sequence

import numpy as np

from mobilenets_tf.tasks.classification import first_answers
from mobilenets_tf.tflite.runtime import Runner

# Of a file's content, the share of the score or of the answers that the file loses; and what makes such a function of
# the float file's content.
Drop = Callable[[bytes], float]
DropOf = Callable[[bytes], Drop]


class AnswerDrop:
    """What a classifier's files lose against its float file, on prepared samples: the share of other answers.

    Args:
        reference: the float file's content.
        samples: arrays in the order of the file's inputs; gone through once a file.
    """

    def __init__(self, reference: bytes, samples: Sequence[list[np.ndarray]]):
        self._samples = samples
        self._reference = self._answers(reference)

    def __call__(self, content: bytes) -> float:
        """The share of samples to which a file gives another answer."""
        return float((self._answers(content) != self._reference).mean())

    def _answers(self, content: bytes) -> np.ndarray:
        runner = Runner(content)
        return np.concatenate([first_answers(runner(*arrays)[0].reshape(1, -1)) for arrays in self._samples])
