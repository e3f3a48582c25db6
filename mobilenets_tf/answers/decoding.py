"""Name the best classes of a classifier's scores."""

from collections.abc import Sequence

import numpy as np

from mobilenets_tf.tasks.task import class_name


def decode_predictions(
    scores: np.ndarray, labels: Sequence[str] = (), top: int = 5
) -> list[list[tuple[int, str, float]]]:
    """Return the best classes of each image.

    Args:
        scores: (images, classes), or (classes,) for one image.
        labels: a name for each class, as ``weight_labels`` gives them; without, classes go by their number.
        top: how many classes of each image.

    Returns:
        For each image a list of (class index, name, score), the best first; equal scores in the order of the classes.
    """
    rows = np.atleast_2d(np.asarray(scores))
    order = np.argsort(-rows, axis=-1, kind="stable")[:, :top]
    return [
        [(int(i), class_name(labels, i), float(row[i])) for i in best] for row, best in zip(rows, order, strict=True)
    ]
