"""From a decoded photograph to the tensor that a network was trained on. NumPy and Pillow only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mobilenets_tf.errors import RequestError, unknown

if TYPE_CHECKING:
    from PIL import Image

INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos", "keras_bilinear")
CROPS = ("crop_then_resize", "resize_then_crop", "stretch")


@dataclass(frozen=True)
class Preprocessing:
    """Resize a photograph to a square, whole or cropped, then ``(pixel - mean) / std`` on RGB values 0-255.

    The defaults are those of ``keras.utils.image_dataset_from_directory``: the whole photograph, bilinear. A published
    weight set has its own crop and interpolation (``weight_preprocessing``).

    size: height and width of the result in pixels.
    resize: of a crop, ``size / resize`` is the share of the shorter side that the crop keeps; None becomes ``size``.
    interpolation: "nearest", "bilinear", "bicubic" or "lanczos" (Pillow's, antialiased); or "keras_bilinear": between
        the four nearest pixels, without antialiasing, as Keras' loaders (``tf.image.resize``), OpenCV, MediaPipe and
        Android's ``Bitmap.createScaledBitmap`` do.
    mean, std: per RGB channel, in pixel values 0-255.
    crop: "stretch" scales both sides of the whole photograph to ``size``; "crop_then_resize" crops the photograph to a
        square and scales that, as in the evaluation of TensorFlow's networks; "resize_then_crop" scales the shorter
        side to ``resize`` first, as in torchvision's.

    Raises:
        RequestError: a name is unknown or a number is out of range.
    """

    size: int = 224
    resize: int | None = None
    interpolation: str = "keras_bilinear"
    mean: tuple[float, float, float] = (127.5, 127.5, 127.5)
    std: tuple[float, float, float] = (127.5, 127.5, 127.5)
    crop: str = "stretch"

    def __post_init__(self):
        if self.interpolation not in INTERPOLATIONS:
            raise unknown("interpolation", self.interpolation, INTERPOLATIONS)
        if self.crop not in CROPS:
            raise unknown("crop", self.crop, CROPS)
        if self.resize is None:
            object.__setattr__(self, "resize", self.size)
        if not 0 < self.size <= self._resize:
            raise RequestError(f"size={self.size} must be positive and at most resize={self.resize}.")
        if self.crop == "stretch" and self.resize != self.size:
            raise RequestError(
                f"resize={self.resize} is for a crop, and the whole photograph is taken. Leave resize out, or say how "
                'to crop: "crop_then_resize" or "resize_then_crop".'
            )
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise RequestError(f"mean={self.mean} and std={self.std} need three values each, std above zero.")

    @property
    def _resize(self) -> int:
        return self.size if self.resize is None else self.resize

    @staticmethod
    def of(manifest: Mapping[str, Any], label: str | Path = "The manifest") -> Preprocessing | None:
        """Read the preprocessing out of a manifest; None if the manifest has none.

        Args:
            label: what to call the manifest in an error message.

        Raises:
            RequestError: the preprocessing is none that this package could have written.
        """
        given = manifest.get("preprocessing")
        if given is None:
            return None
        try:
            return Preprocessing(**given | {key: tuple(map(float, given[key])) for key in ("mean", "std")})
        except (KeyError, TypeError, ValueError) as error:
            raise RequestError(
                f"{label}: preprocessing is {str(given)[:200]} ({type(error).__name__}: {error}). Write the file and "
                "its manifest again, or remove the manifest."
            ) from error

    def at(self, size: int, resize: int | None = None) -> Preprocessing:
        """Return the same preprocessing for another ``size``.

        resize: the new ``resize``; None: a crop keeps its share of the photograph.

        Raises:
            RequestError: ``resize`` is below ``size``, or given where nothing is cropped.
        """
        return replace(self, size=size, resize=resize or round(self._resize * size / self.size))

    def whole(self) -> Preprocessing:
        """The same for the whole photograph, nothing cut off."""
        return replace(self, crop="stretch", resize=None)

    def described(self) -> str:
        """Say in words what part of a photograph the network gets, and how it is resized."""
        size, how = f"{self.size}x{self.size}", self.interpolation.replace("keras_bilinear", "bilinear as in Keras")
        if self.crop == "stretch":
            return f"resize the whole photograph to {size}, without keeping its aspect ratio ({how})"
        if self.crop == "resize_then_crop":
            return f"resize the shorter side to {self.resize} ({how}), then crop {size} from the centre"
        share = self.size / self._resize
        return f"crop a square of {share:.3f} times the shorter side from the centre, then resize it to {size} ({how})"

    def geometry(self, image: Image.Image) -> np.ndarray:
        """Crop and resize a ``PIL.Image`` of any size and mode to a uint8 array of shape (size, size, 3)."""
        image = image.convert("RGB")
        square = (self.size, self.size)
        if self.crop == "stretch":
            return np.asarray(resized(image, square, self.interpolation))
        if self.crop == "crop_then_resize":
            # Equal to the reference code of EfficientNet in every pixel.
            side = max(1, int(self.size / self._resize * min(image.size)))
            left, top = ((length - side + 1) // 2 for length in image.size)
            return np.asarray(resized(image, square, self.interpolation, (left, top, left + side, top + side)))
        # Equal to torchvision in every pixel: the longer side is rounded down, the crop's offset to the nearest.
        scale = self._resize / min(image.size)
        width, height = (max(self._resize, int(length * scale)) for length in image.size)
        left, top = round((width - self.size) / 2), round((height - self.size) / 2)
        small = resized(image, (width, height), self.interpolation)
        return np.asarray(small.crop((left, top, left + self.size, top + self.size)))

    def normalise(self, pixels: np.ndarray) -> np.ndarray:
        """Normalise uint8 RGB of shape (..., 3) to float32 of the same shape."""
        mean, std = np.asarray(self.mean, np.float32), np.asarray(self.std, np.float32)
        return ((pixels.astype(np.float32) - mean) / std).astype(np.float32)

    def __call__(self, image: Image.Image) -> np.ndarray:
        """Turn a ``PIL.Image`` into a float32 array of shape (size, size, 3)."""
        return self.normalise(self.geometry(image))

    def for_input(self, pixels: np.ndarray, dtype: npt.DTypeLike) -> np.ndarray:
        """Turn uint8 pixels into what a TFLite file with an input of ``dtype`` takes.

        A uint8 input takes the pixels as they are, because MediaPipe and the TFLite Task Library feed it so.
        """
        return pixels if np.dtype(dtype) == np.uint8 else self.normalise(pixels)

    @property
    def value_range(self) -> tuple[float, float]:
        """Lowest and highest value of normalised pixels."""
        low = min((0 - mean) / std for mean, std in zip(self.mean, self.std, strict=True))
        high = max((255 - mean) / std for mean, std in zip(self.mean, self.std, strict=True))
        return low, high


def resized(
    image: Image.Image,
    size: tuple[int, int],
    interpolation: str,
    box: tuple[int, int, int, int] | None = None,
    reducing_gap: float | None = None,
) -> Image.Image:
    """Resize a ``PIL.Image`` in RGB, or its part in ``box`` (left, top, right, bottom), to ``size`` (width, height).

    interpolation: one of ``INTERPOLATIONS``. reducing_gap: Pillow's, for its own interpolations.
    """
    from PIL import Image

    if interpolation != "keras_bilinear":
        resampling = Image.Resampling[interpolation.upper()]
        return image.resize(size, resampling, box=box, reducing_gap=reducing_gap)
    pixels = np.asarray(image.crop(box) if box else image)
    (top, bottom, down), (left, right, across) = map(_neighbours, pixels.shape[:2], size[::-1])
    rows = _between(pixels[top], pixels[bottom], down[:, None, None])
    return Image.fromarray(np.rint(_between(rows[:, left], rows[:, right], across[:, None])).astype(np.uint8))


def _neighbours(length: int, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return for each of ``size`` places along a side of ``length`` pixels the two pixels whose centres are beside the
    centre of the place, and how far the place is from the first to the second, 0 to 1."""
    places = (np.arange(size, dtype=np.float32) + np.float32(0.5)) * np.float32(length / size) - np.float32(0.5)
    places = places.clip(0, length - 1)
    first = places.astype(np.intp)
    return first, np.minimum(first + 1, length - 1), places - first.astype(np.float32)


def _between(first: np.ndarray, second: np.ndarray, share: np.ndarray) -> np.ndarray:
    first = first.astype(np.float32)
    return first + (second - first) * share
