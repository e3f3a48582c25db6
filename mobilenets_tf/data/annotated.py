"""The photographs of an annotated data set, which stand in a folder of their own."""

import os
from pathlib import Path

from mobilenets_tf.data.boxes import find_boxes
from mobilenets_tf.data.images import ImageSet, find_photographs


def photographs_of(spec: str | os.PathLike[str]) -> ImageSet:
    """Find the photographs that a folder, a CSV or COCO's JSON names, without their annotations.

    Raises:
        RequestError: nothing there.
    """
    if Path(spec).suffix.lower() == ".json":
        return ImageSet(find_boxes(spec).paths)
    return find_photographs(spec)
