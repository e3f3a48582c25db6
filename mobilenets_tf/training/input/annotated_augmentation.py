"""Augment a training image together with its boxes or its mask, with NumPy and Pillow only, as ``augmentation`` does.

With strength, area and aspect at one nothing is cropped: the whole picture is squeezed into the square, as
``Preprocessing`` does with the crop "stretch", and sizes and aspects of crops are relative to that.
"""

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image

from mobilenets_tf.data.boxes import Boxes
from mobilenets_tf.errors import RequestError
from mobilenets_tf.training.input.augmentation import recoloured, resized
from mobilenets_tf.training.recipes import Augment

_GREY = 127  # around a picture that does not fill the square


@dataclass(frozen=True)
class _View:
    """The visible part of a picture (left, top, right, bottom in pixels), and its place in the result (likewise)."""

    source: tuple[int, int, int, int]
    target: tuple[int, int, int, int]
    mirrored: bool


def with_boxes(
    image, boxes: Boxes, size: int, augment: Augment, random: np.random.Generator
) -> tuple[np.ndarray, Boxes]:
    """Augment a ``PIL.Image`` in RGB of any size with its boxes: uint8 array of shape (size, size, 3), and the boxes.

    A box whose centre is visible stays, and is clipped; other boxes are dropped. ``augment.area`` may be above one: the
    picture then lies at a random place on a grey square. ``augment.aspect`` is relative to the picture's own.

    random: the only source of chance, so that the same state gives the same result.

    Raises:
        RequestError: the interpolation is unknown, or the augmentation is for classifiers only.
    """
    view = _view(image.size, size, augment, random)
    return _pixels(image, view, size, augment, random), _seen(boxes, image.size, view, size)


def with_mask(
    image, mask: np.ndarray, size: int, augment: Augment, random: np.random.Generator, void: int
) -> tuple[np.ndarray, np.ndarray]:
    """Augment an image as ``with_boxes`` does, with a mask: uint8 of the image's (height, width) -> uint8 (size, size),
    by nearest pixels, with ``void`` outside of the picture."""
    view = _view(image.size, size, augment, random)
    left, top, right, bottom = view.target
    seen = Image.fromarray(mask).resize((right - left, bottom - top), Image.Resampling.NEAREST, box=view.source)
    result = np.full((size, size), void, np.uint8)
    result[top:bottom, left:right] = seen
    return _pixels(image, view, size, augment, random), _mirrored(result, view)


def _view(picture: tuple[int, int], size: int, augment: Augment, random: np.random.Generator) -> _View:
    for name in ("policy", "erase", "mixup", "cutmix"):
        if value := getattr(augment, name):
            raise RequestError(f"{name}={value!r} is for classifiers: neither boxes nor masks could go along with it.")
    area = random.uniform(*augment.area)
    aspect = math.exp(random.uniform(*map(math.log, augment.aspect)))
    shares = math.sqrt(area * aspect), math.sqrt(area / aspect)
    if area <= 1:
        shares = tuple(min(share, 1) for share in shares)
    (left, right, x, x_end), (top, bottom, y, y_end) = (
        _interval(length, share, size, random) for length, share in zip(picture, shares, strict=True)
    )
    mirrored = bool(augment.flip and random.random() < 0.5)
    return _View((left, top, right, bottom), (x, y, x_end, y_end), mirrored)


def _interval(length: int, share: float, size: int, random: np.random.Generator) -> tuple[int, int, int, int]:
    """Draw, for one side, begin and end in the picture and in the result: a part of the picture fills the result, or
    the whole picture fills a part of the result."""
    if share <= 1:
        extent = max(1, round(length * share))
        begin = int(random.integers(length - extent + 1))
        return begin, begin + extent, 0, size
    extent = max(1, round(size / share))
    begin = int(random.integers(size - extent + 1))
    return 0, length, begin, begin + extent


def _pixels(image, view: _View, size: int, augment: Augment, random: np.random.Generator) -> np.ndarray:
    left, top, right, bottom = view.target
    seen = np.asarray(resized(image, view.source, (right - left, bottom - top), augment.interpolation, random))
    result = np.full((size, size, 3), _GREY, np.uint8)
    result[top:bottom, left:right] = recoloured(seen, random) if augment.colour else seen
    return _mirrored(result, view)


def _mirrored(pixels: np.ndarray, view: _View) -> np.ndarray:
    return np.ascontiguousarray(pixels[:, ::-1]) if view.mirrored else pixels


def _seen(boxes: Boxes, picture: tuple[int, int], view: _View, size: int) -> Boxes:
    # Corners are y, x, y, x. From shares of the picture to shares of what is seen of it, which are clipped, to those of
    # the result.
    whole = np.array(picture[::-1] * 2, np.float64)
    begin, end = (np.array((y, x) * 2, np.float64) for x, y in (view.source[:2], view.source[2:]))
    corners = (boxes.corners * whole - begin) / (end - begin)
    middle = (corners[:, :2] + corners[:, 2:]) / 2
    stays = ((middle >= 0) & (middle <= 1)).all(axis=1)
    begin, end = (np.array((y, x) * 2, np.float64) for x, y in (view.target[:2], view.target[2:]))
    corners = (begin + corners[stays].clip(0, 1) * (end - begin)) / size
    if view.mirrored:
        corners[:, (1, 3)] = 1 - corners[:, (3, 1)]
    return Boxes(corners.astype(np.float32), boxes.classes[stays], boxes.ignored[stays])
