"""Augment one training image: crop, mirror, policy, colours. NumPy and Pillow only, for many threads at once.

Most of the time is spent in a few calls to Pillow and NumPy, which let other threads run meanwhile.
"""

import math

import numpy as np
from PIL import Image

from mobilenets_tf.data import preprocessing
from mobilenets_tf.errors import unknown
from mobilenets_tf.training.input.policies import autoaugment, randaugment
from mobilenets_tf.training.recipes import Augment

_POLICIES = ("autoaugment", "randaugment")
_ATTEMPTS = 10
# Pictures of more than four times the result's sides are first reduced by a whole number, to no less than this many
# times: 224 pixels out of 2400 take a third of the time, and differ by 0.3 of 255 levels on average.
_REDUCING_GAP = 2.0
# TensorFlow slim's inception_preprocessing, distort_color: greatest changes, and its four orders.
_BRIGHTNESS, _HUE, _FACTORS = 32.0, 0.2, (0.5, 1.5)
_ORDERS = (
    ("brightness", "saturation", "hue", "contrast"),
    ("saturation", "brightness", "contrast", "hue"),
    ("contrast", "hue", "brightness", "saturation"),
    ("hue", "saturation", "contrast", "brightness"),
)


def random_for(seed: int, *position: int) -> np.random.Generator:
    """Make a random generator for a seed and a position, such as (epoch, index): up to three integers from 0 on.

    The generator is counter-based (Philox): the seed is its key, and the position its first counter, so that no two
    generators share numbers. Making a generator takes microseconds.
    """
    # The lowest of the counter's four words is what counts on; the key's second word tells (1,) from (1, 0).
    key = np.array((seed % 2**64, len(position)), np.uint64)
    counter = np.array((0, *position, *(0,) * (3 - len(position))), np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))


def augmented(image, size: int, augment: Augment, strength: float, random: np.random.Generator) -> np.ndarray:
    """Augment a ``PIL.Image`` in RGB of any size: uint8 array of shape (size, size, 3).

    strength: of the policy's magnitudes; 1 is the published one.
    random: the only source of chance, so that the same state gives the same bytes.

    Raises:
        RequestError: the interpolation or the policy is unknown.
    """
    if augment.policy is not None and augment.policy not in _POLICIES:
        raise unknown("augmentation policy", augment.policy, _POLICIES)
    box = crop_box(image.width, image.height, augment, random)
    image = resized(image, box, (size, size), augment.interpolation, random)
    if augment.flip and random.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if augment.policy == "autoaugment":
        image = autoaugment(image, strength, random)
    elif augment.policy == "randaugment":
        image = randaugment(image, augment.operations, augment.magnitude, strength, random)
    pixels = np.asarray(image)
    return recoloured(pixels, random) if augment.colour else pixels


def resized(
    image, box: tuple[int, int, int, int], size: tuple[int, int], interpolation: str, random: np.random.Generator
):
    """Resize the part of a ``PIL.Image`` in ``box`` (left, top, right, bottom) to ``size`` (width, height).

    interpolation: as in ``Augment``; for "random" the generator ``random`` draws bilinear or bicubic.

    Raises:
        RequestError: the interpolation is unknown.
    """
    if interpolation not in (*preprocessing.INTERPOLATIONS, "random"):
        raise unknown("interpolation", interpolation, (*preprocessing.INTERPOLATIONS, "random"))
    if interpolation == "random":
        interpolation = ("bilinear", "bicubic")[random.integers(2)]
    return preprocessing.resized(image, size, interpolation, box, _REDUCING_GAP)


def crop_box(width: int, height: int, augment: Augment, random: np.random.Generator) -> tuple[int, int, int, int]:
    """Draw a random crop as torchvision's RandomResizedCrop does: left, top, right and bottom in pixels.

    The area is uniform and the aspect log-uniform; where ten draws do not fit into the image, the crop is the largest
    crop in the middle of the image with an aspect in range.
    """
    shortest, widest = augment.aspect
    for _ in range(_ATTEMPTS):
        area = width * height * random.uniform(*augment.area)
        aspect = math.exp(random.uniform(math.log(shortest), math.log(widest)))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(random.integers(width - w + 1)), int(random.integers(height - h + 1))
            return left, top, left + w, top + h
    w, h = min(width, max(1, round(height * widest))), min(height, max(1, round(width / shortest)))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def recoloured(pixels: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Change colours with ``distorted``, by random amounts in the ranges of TensorFlow slim."""
    order = int(random.integers(len(_ORDERS)))
    brightness, hue = random.uniform(-_BRIGHTNESS, _BRIGHTNESS), random.uniform(-_HUE, _HUE)
    saturation, contrast = random.uniform(*_FACTORS, size=2)
    return distorted(pixels, order, brightness, saturation, hue, contrast)


def distorted(
    pixels: np.ndarray, order: int, brightness: float, saturation: float, hue: float, contrast: float
) -> np.ndarray:
    """Change colours as TensorFlow's ``tf.image.adjust_*`` do, one change after the other, and clip at the end.

    pixels: uint8 RGB of shape (height, width, 3), as is the result.
    order: which of TensorFlow slim's four, 0 to 3.
    brightness: to be added, in levels of 255; hue: in turns; saturation and contrast: factors.
    """
    # A plane for each colour: three times as fast as with the colours side by side.
    planes = np.ascontiguousarray(pixels.transpose(2, 0, 1), np.float32)
    for name in _ORDERS[order]:
        if name == "brightness":
            planes += np.float32(brightness)
        elif name == "contrast":
            mean = planes.mean((1, 2), dtype=np.float64).astype(np.float32)[:, None, None]
            planes = (planes - mean) * np.float32(contrast) + mean
        elif name == "saturation":
            planes = _saturated(planes, np.float32(saturation))
        else:
            planes = _turned(planes, np.float32(hue))
    return np.ascontiguousarray(np.rint(planes.clip(0, 255)).astype(np.uint8).transpose(1, 2, 0))


def _saturated(planes: np.ndarray, factor: np.float32) -> np.ndarray:
    """Multiply HSV's saturation by ``factor``, to at most 1: scale the distances from the greatest colour."""
    greatest, spread = _range(planes)
    return greatest - (greatest - planes) * np.minimum(factor, np.maximum(greatest, 0) / spread)


def _turned(planes: np.ndarray, turn: np.float32) -> np.ndarray:
    """Add ``turn`` (1 for a full turn, six sectors) to HSV's hue; the greatest and the smallest colour stay."""
    red, green, blue = planes
    greatest, spread = _range(planes)
    hue = np.where(
        red == greatest,
        (green - blue) / spread,
        np.where(green == greatest, (blue - red) / spread + 2, (red - green) / spread + 4),
    )
    hue = (hue + 6 * turn) % 6
    result = np.empty_like(planes)
    for plane, sector in zip(result, (0, 2, 4), strict=True):
        # A colour is greatest up to one sector from its own, smallest from the second on.
        away = np.abs(hue - sector)
        np.subtract(greatest, spread * (np.minimum(away, 6 - away) - 1).clip(0, 1), out=plane)
    return result


def _range(planes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return each pixel's greatest colour, and its distance from the smallest (at least 1e-6, also in grey pixels)."""
    red, green, blue = planes
    greatest = np.maximum(np.maximum(red, green), blue)
    smallest = np.minimum(np.minimum(red, green), blue)
    return greatest, np.maximum(greatest - smallest, np.float32(1e-6))
