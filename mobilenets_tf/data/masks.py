"""Images with a mask each, which says of every pixel what it is of."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mobilenets_tf.data.annotations import check_names, check_size, content, paired, upright_size
from mobilenets_tf.data.images import ImageSet
from mobilenets_tf.errors import RequestError
from mobilenets_tf.progress import Progress, silent, track

_INDEXED = ("P", "L", "1", "I", "I;16")  # Pillow's modes of one number a pixel


@dataclass(frozen=True, eq=False)
class MaskedImages(ImageSet):
    """A ``training.sources.Source`` whose images have masks; ``find_masks`` makes it.

    masks: of each image the file.
    void: the value of pixels that are of no class, to be neither learnt nor counted when judging.
    seen: bool (images, classes): which classes each mask has.
    """

    masks: tuple[Path, ...] = ()
    class_names: tuple[str, ...] = ()
    void: int = 255
    seen: np.ndarray | None = None

    def read(self, i: int) -> tuple[bytes, np.ndarray]:
        """The encoded image, and uint8 (height, width) with a class or ``void`` for each of its pixels.

        Raises:
            RequestError: one of both cannot be read.
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
        return str(self.paths[i])

    def class_counts(self) -> list[int]:
        """In how many images each class is."""
        return self.seen.sum(axis=0).tolist()

    def _pick(self, indices: Sequence[int]) -> "MaskedImages":
        paths, masks = (tuple(files[i] for i in indices) for files in (self.paths, self.masks))
        return replace(self, paths=paths, masks=masks, seen=self.seen[list(indices)])


def find_masks(
    spec, classes: Sequence[str] = (), void: int = 255, count: int | None = None, progress: Progress = silent
) -> MaskedImages:
    """The images and masks of a folder that has images/ and masks/. Every mask is read.

    A mask is a .png of the image's name and size whose values (indices of a palette, or grey) are classes from 0.

    classes: their names. Without them, they are called "0", "1" and so on.
    count: how many classes there are, where they have no names; None: one more than the highest value.
    void: the value of pixels that are of no class.

    Raises:
        RequestError: nothing there; images without a mask or the other way round; a mask that is of another size,
            cannot be read, has colours, or values that are neither a class nor void.
    """
    root, classes = Path(spec), tuple(classes)
    check_names(classes)
    if classes and count not in (None, len(classes)):
        raise RequestError(f"count={count}, and {len(classes)} classes have names: {', '.join(classes[:5])} ...")
    if not root.is_dir():
        raise RequestError(f"No such folder: {root}")
    pairs = paired(root, ("images",), ("masks",), ".png")
    with ThreadPoolExecutor() as pool:
        values = np.array(
            list(track(pool.map(_values, *zip(*pairs, strict=True)), "reading masks", progress, len(pairs)))
        )
    images, masks = (tuple(files) for files in zip(*pairs, strict=True))
    count = count or len(classes) or _count(root, values, void)
    if not count <= void <= 255:
        raise RequestError(
            f"void={void} must be above the classes, 0 to {count - 1}, and at most 255: give the pixels that are of no "
            "class such a value."
        )
    known = np.arange(256) < count
    known[void] = True
    strange = values & ~known
    if strange.any():
        first = int(strange.any(axis=1).argmax())
        raise RequestError(
            f"{masks[first]} has pixels of value {_listed(strange[first])}; the classes are 0 to {count - 1}, and void "
            f"is {void}. If they are of no class, pass --void {strange[first].argmax()}; else there are more classes."
        )
    if void == 255 and set(np.flatnonzero(values.any(axis=0))) == {0, 255}:
        raise RequestError(
            f"The masks in {root} have the values 0 and 255 alone, and 255 is void. If it is a class, write it as 1."
        )
    names = classes or tuple(map(str, range(count)))
    return MaskedImages(images, masks=masks, class_names=names, void=void, seen=values[:, :count])


def _values(image: Path, mask: Path) -> np.ndarray:
    """Which of 256 values a mask has."""
    indices = _indices(mask)
    check_size(image, upright_size(image), str(mask), indices.shape[::-1])
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
            f"{mask} has colours ({mode}); expected the index of a class for each pixel: a PNG with a palette, or grey."
        )
    if pixels.max() > 255:
        raise RequestError(f"{mask} has the value {pixels.max()}; indices of classes are at most 255.")
    return pixels.astype(np.uint8)


def _count(root: Path, values: np.ndarray, void: int) -> int:
    """How many classes there are when nobody says: all values up to the highest must be there.

    Raises:
        RequestError: they are not, which grey pictures of colours show.
    """
    there = values.any(axis=0)
    any_void = there[void : void + 1].any()
    there[void : void + 1] = False
    count = int(there.nonzero()[0].max(initial=-1)) + 1
    if count < 2 or not there[:count].all():
        raise RequestError(
            f"The masks in {root} have the values {_listed(there)}{f' and {void} (void)' if any_void else ''}; classes "
            "are 0, 1 and so on without a gap. Say how many there are, or which value is void (--void); if the values "
            "are shades of grey, write indices instead."
        )
    return count


def _listed(values: np.ndarray) -> str:
    found = values.nonzero()[0]
    return ", ".join(map(str, found[:8])) + (f", ... {found[-1]}" if len(found) > 8 else "")
