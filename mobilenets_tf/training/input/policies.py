"""AutoAugment and RandAugment on one image: their operations as a table, the published policies as data. Pillow only.

A magnitude is a distance from the identity: degrees, shares of a side, bits taken away. So a policy of another strength
has all of its magnitudes multiplied by that.

Sources: [AA] arXiv 1805.09501, table 6 (operations) and table 9 (ImageNet's policy), and its authors' code for CIFAR in
tensorflow/models, research/autoaugment; [RA] arXiv 1909.13719 and torchvision's RandAugment.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

_GREY = (128, 128, 128)  # what geometric operations bring in at the border, as in [AA]'s code
_TRANSLATION = 150 / 331  # [AA] translates pictures of 331 pixels by up to 150


@dataclass(frozen=True)
class Operation:
    """An operation of a policy on an image.

    apply: (RGB image, magnitude) -> image of the same size.
    most: the magnitude of the highest level; 0 for operations that have none.
    signed: whether either direction is meant, drawn at random.
    neutral: the level of AutoAugment, out of 10, that changes nothing. Where it is not 0, the level also says the
        direction, and none is drawn: [AA]'s enhancement factors go from 0.1 to 1.9.
    """

    apply: Callable
    most: float = 0.0
    signed: bool = False
    neutral: int = 0


def _affine(image, *rows: float):
    # To the nearest pixel, as both papers' codes do, which keeps flat areas and noise as they were.
    return image.transform(image.size, Image.Transform.AFFINE, rows, Image.Resampling.NEAREST, fillcolor=_GREY)


def _enhancement(kind) -> Operation:
    return Operation(lambda image, magnitude: kind(image).enhance(1 + magnitude), 0.9, signed=True, neutral=5)


OPERATIONS = {
    "identity": Operation(lambda image, _: image),
    "shear_x": Operation(lambda image, m: _affine(image, 1, m, 0, 0, 1, 0), 0.3, signed=True),
    "shear_y": Operation(lambda image, m: _affine(image, 1, 0, 0, m, 1, 0), 0.3, signed=True),
    "translate_x": Operation(
        lambda image, m: _affine(image, 1, 0, round(m * image.width), 0, 1, 0), _TRANSLATION, signed=True
    ),
    "translate_y": Operation(
        lambda image, m: _affine(image, 1, 0, 0, 0, 1, round(m * image.height)), _TRANSLATION, signed=True
    ),
    "rotate": Operation(lambda image, m: image.rotate(m, Image.Resampling.NEAREST, fillcolor=_GREY), 30, signed=True),
    "brightness": _enhancement(ImageEnhance.Brightness),
    "colour": _enhancement(ImageEnhance.Color),
    "contrast": _enhancement(ImageEnhance.Contrast),
    "sharpness": _enhancement(ImageEnhance.Sharpness),
    # Of these two [AA]'s table 6 has the ranges (4 to 8 bits, thresholds of 0 to 256); that a higher level does more is
    # its code's reading, and torchvision's.
    "posterize": Operation(lambda image, m: ImageOps.posterize(image, 8 - round(m)), 4),
    "solarize": Operation(lambda image, m: ImageOps.solarize(image, 256 - round(m)), 256),
    "autocontrast": Operation(lambda image, _: ImageOps.autocontrast(image)),
    "equalize": Operation(lambda image, _: ImageOps.equalize(image)),
    "invert": Operation(lambda image, _: ImageOps.invert(image)),
}

# [AA], table 9: two times operation, probability, level. Operations without a magnitude keep the level that is printed.
AUTOAUGMENT = (
    (("posterize", 0.4, 8), ("rotate", 0.6, 9)),
    (("solarize", 0.6, 5), ("autocontrast", 0.6, 5)),
    (("equalize", 0.8, 8), ("equalize", 0.6, 3)),
    (("posterize", 0.6, 7), ("posterize", 0.6, 6)),
    (("equalize", 0.4, 7), ("solarize", 0.2, 4)),
    (("equalize", 0.4, 4), ("rotate", 0.8, 8)),
    (("solarize", 0.6, 3), ("equalize", 0.6, 7)),
    (("posterize", 0.8, 5), ("equalize", 1.0, 2)),
    (("rotate", 0.2, 3), ("solarize", 0.6, 8)),
    (("equalize", 0.6, 8), ("posterize", 0.4, 6)),
    (("rotate", 0.8, 8), ("colour", 0.4, 0)),
    (("rotate", 0.4, 9), ("equalize", 0.6, 2)),
    (("equalize", 0.0, 7), ("equalize", 0.8, 8)),
    (("invert", 0.6, 4), ("equalize", 1.0, 8)),
    (("colour", 0.6, 4), ("contrast", 1.0, 8)),
    (("rotate", 0.8, 8), ("colour", 1.0, 2)),
    (("colour", 0.8, 8), ("solarize", 0.8, 7)),
    (("sharpness", 0.4, 7), ("invert", 0.6, 8)),
    (("shear_x", 0.6, 5), ("equalize", 1.0, 9)),
    (("colour", 0.4, 0), ("equalize", 0.6, 3)),
    (("equalize", 0.4, 7), ("solarize", 0.2, 4)),
    (("solarize", 0.6, 5), ("autocontrast", 0.6, 5)),
    (("invert", 0.6, 4), ("equalize", 1.0, 8)),
    (("colour", 0.6, 4), ("contrast", 1.0, 8)),
    (("equalize", 0.8, 8), ("equalize", 0.6, 3)),
)

# [RA] leaves out the inversion.
RANDAUGMENT = tuple(name for name in OPERATIONS if name != "invert")


def autoaugment(image, strength: float, random: np.random.Generator):
    """Apply one of the 25 sub-policies of [AA] for ImageNet, drawn at random: RGB image -> image of the same size.

    strength: of all magnitudes; 1 is the published policy. It cannot change the operations without a magnitude
        (autocontrast, equalize, invert), which keep their probabilities too.
    """
    for name, probability, level in AUTOAUGMENT[random.integers(len(AUTOAUGMENT))]:
        if random.random() < probability:
            operation = OPERATIONS[name]
            magnitude = strength * operation.most * (level - operation.neutral) / (10 - operation.neutral)
            if operation.signed and not operation.neutral and random.random() < 0.5:
                magnitude = -magnitude
            image = operation.apply(image, magnitude)
    return image


def randaugment(image, operations: int, magnitude: float, strength: float, random: np.random.Generator):
    """Apply some of [RA]'s 14 operations, each drawn at random: RGB image -> image of the same size.

    operations: the number of operations.
    magnitude: of all operations, out of 30 (torchvision's 31 bins); 9 is its default.
    strength: of all magnitudes; 1 leaves them unchanged.
    """
    for index in random.integers(len(RANDAUGMENT), size=operations):
        operation = OPERATIONS[RANDAUGMENT[index]]
        amount = strength * operation.most * magnitude / 30
        if operation.signed and random.random() < 0.5:
            amount = -amount
        image = operation.apply(image, amount)
    return image
