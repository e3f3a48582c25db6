"""The photographs of an annotated data set, which stand in a folder of their own."""

from pathlib import Path

from mobilenets_tf.data.boxes import find_boxes
from mobilenets_tf.data.images import ImageSet, find_images

_FOLDERS = ("images", "JPEGImages")


def photographs_of(spec: str) -> ImageSet:
    """Find the photographs of a data set with boxes or masks, or of a plain folder, without their annotations.

    Raises:
        RequestError: nothing there.
    """
    if Path(spec).suffix == ".json":
        return ImageSet(find_boxes(spec).paths)
    folder = next((Path(spec) / name for name in _FOLDERS if (Path(spec) / name).is_dir()), Path(spec))
    return find_images(folder)
