"""Images with masks: a mask gives the class of every pixel of its image."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

import numpy as np

from mobilenets_tf.data.annotations import check_names, check_size, content, paired, upright_size
from mobilenets_tf.data.images import ImageSet
from mobilenets_tf.errors import RequestError
from mobilenets_tf.progress import Progress, silent, track

_INDEXED = ("P", "L", "1", "I", "I;16")  # Pillow's modes of one number a pixel


@dataclass(frozen=True, eq=False)
class MaskedImages(ImageSet):
    """Images with their masks, a ``data.sources.Source``; ``find_masks`` makes it.

    masks: one file per image.
    class_names: one name per class index.
    void: value of the pixels without a class, which training and metrics leave out.
    seen: bool (images, classes): which classes each mask has.
    """

    masks: tuple[Path, ...] = ()
    class_names: tuple[str, ...] = ()
    void: int = 255
    seen: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), bool))

    def read(self, i: int) -> tuple[bytes, np.ndarray]:
        """Read image ``i``: its encoded bytes, and uint8 (height, width) with the class of each pixel or ``void``.

        Raises:
            RequestError: the image or the mask cannot be read.
        """
        return content(self.paths[i]), _indices(self.masks[i])

    @property
    def annotated(self) -> bool:
        return True

    def truth(self, i: int) -> np.ndarray:
        """uint8 (height, width), see ``read``.

        Raises:
            RequestError: the mask cannot be read.
        """
        return _indices(self.masks[i])

    def name(self, i: int) -> str:
        """Path of image ``i``."""
        return str(self.paths[i])

    def class_counts(self) -> list[int]:
        """Count the images that have a pixel of each class."""
        return self.seen.sum(axis=0).tolist()

    def _pick(self, indices: Sequence[int]) -> MaskedImages:
        paths, masks = (tuple(files[i] for i in indices) for files in (self.paths, self.masks))
        return replace(self, paths=paths, masks=masks, seen=self.seen[list(indices)])


def find_masks(
    spec: str | os.PathLike[str],
    classes: Sequence[str] = (),
    void: int = 255,
    count: int | None = None,
    progress: Progress = silent,
) -> MaskedImages:
    """Find the images and masks of a folder that has images/ and masks/, and read every mask.

    A mask is a .png with the name and the size of its image. Its values (indices of a palette, or grey) are the
    classes, counted from 0.

    Args:
        spec: the folder.
        classes: class names. Without them the classes are called "0", "1" and so on.
        void: value of the pixels without a class.
        count: number of classes, where they have no names; None: the highest value plus one.
        progress: called after each mask.

    Raises:
        RequestError: the folder does not exist; an image has no mask or a mask no image; a mask has another size than
            its image, cannot be read, has colours, or has values that are neither a class nor void.
    """
    root, classes = Path(spec), tuple(classes)
    check_names(classes)
    if classes and count not in (None, len(classes)):
        raise RequestError(f"count={count}, but {len(classes)} classes have names: {', '.join(classes[:5])} ...")
    if not root.is_dir():
        raise RequestError(f"No such folder: {root}")
    pairs = paired(root, ("images",), ("masks",), ".png")
    with ThreadPoolExecutor() as pool:
        values = np.array(
            list(track(pool.map(_values, *zip(*pairs, strict=True)), "reading masks", progress, len(pairs)))
        )
    images, masks = zip(*pairs, strict=True)
    count = count or len(classes) or _count(root, values, void)
    if not count <= void <= 255:
        raise RequestError(
            f"void={void} must be above the classes, 0 to {count - 1}, and at most 255: give the pixels without a "
            "class such a value."
        )
    known = np.arange(256) < count
    known[void] = True
    unknown = values & ~known
    if unknown.any():
        first = int(unknown.any(axis=1).argmax())
        raise RequestError(
            f"{masks[first]} has pixels of value {_listed(unknown[first])}; the classes are 0 to {count - 1}, and void "
            f"is {void}. If these pixels have no class, pass --void {unknown[first].argmax()} (void=); else there are "
            "more classes."
        )
    if void == 255 and set(np.flatnonzero(values.any(axis=0))) == {0, 255}:
        raise RequestError(
            f"The masks in {root} have only the values 0 and 255, and 255 is void. If 255 is a class, write it as 1."
        )
    names = classes or tuple(map(str, range(count)))
    return MaskedImages(images, masks=masks, class_names=names, void=void, seen=values[:, :count])


def _values(image: Path, mask: Path) -> np.ndarray:
    """Read which of the 256 values a mask has: bool (256,)."""
    indices = _indices(mask)
    height, width = indices.shape
    check_size(image, upright_size(image), str(mask), (width, height))
    return np.bincount(indices.ravel(), minlength=256) > 0


def _indices(mask: Path) -> np.ndarray:
    from PIL import Image

    try:
        with Image.open(mask) as opened:
            mode, pixels = opened.mode, np.asarray(opened)
    except Exception as error:  # Pillow's decoders raise many kinds
        raise RequestError(f"{mask} is not a readable mask ({error}).") from error
    if mode not in _INDEXED:
        raise RequestError(
            f"{mask} has colours ({mode}); expected a class index for each pixel: a PNG with a palette, or grey."
        )
    if pixels.max() > 255:
        raise RequestError(f"{mask} has the value {pixels.max()}; class indices are at most 255.")
    return pixels.astype(np.uint8)


def _count(root: Path, values: np.ndarray, void: int) -> int:
    """Count the classes from the values of all masks: every value up to the highest must be in use.

    Raises:
        RequestError: there is a gap, as in grey images of coloured masks, or only one value.
    """
    used = cast(np.ndarray, values.any(axis=0))
    any_void = used[void : void + 1].any()
    used[void : void + 1] = False
    count = int(used.nonzero()[0].max(initial=-1)) + 1
    if count < 2 or not used[:count].all():
        raise RequestError(
            f"The masks in {root} have the values {_listed(used)}{f' and {void} (void)' if any_void else ''}; classes "
            "are 0, 1 and so on without a gap. Give the number of classes, or the value of void (--void, void=); if "
            "the values are shades of grey, write class indices instead."
        )
    return count


def _listed(values: np.ndarray) -> str:
    numbers = values.nonzero()[0]
    return ", ".join(map(str, numbers[:8])) + (f", ... {numbers[-1]}" if len(numbers) > 8 else "")
