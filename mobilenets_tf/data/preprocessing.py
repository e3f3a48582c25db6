"""From a decoded photograph to the tensor that a network was trained on. NumPy and Pillow only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mobilenets_tf.errors import RequestError, unknown

if TYPE_CHECKING:
    from PIL import Image

RESAMPLING = ("nearest", "bilinear", "bicubic", "lanczos")
CROPS = ("crop_then_resize", "resize_then_crop", "stretch")


@dataclass(frozen=True)
class Preprocessing:
    """Crop to a centred square, resize, then ``(pixel - mean) / std`` on RGB values 0-255.

    size: height and width of the result in pixels.
    resize: ``size / resize`` is the share of the shorter side that the crop keeps. With "stretch" nothing is cropped,
        and ``resize`` becomes ``size``.
    resampling: "nearest", "bilinear", "bicubic" or "lanczos" (Pillow's, antialiased).
    mean, std: per RGB channel, in pixel values 0-255.
    crop: "crop_then_resize" crops the photograph to a square and scales that, as in the evaluation of TensorFlow's
        networks; "resize_then_crop" scales the shorter side to ``resize`` first, as in torchvision's; "stretch" scales
        both sides of the whole photograph to ``size``, as for detectors and segmenters.

    Raises:
        RequestError: a name is unknown or a number is out of range.
    """

    size: int = 224
    resize: int = 256
    resampling: str = "bilinear"
    mean: tuple[float, float, float] = (127.5, 127.5, 127.5)
    std: tuple[float, float, float] = (127.5, 127.5, 127.5)
    crop: str = "crop_then_resize"

    def __post_init__(self):
        if self.resampling not in RESAMPLING:
            raise unknown("resampling", self.resampling, RESAMPLING)
        if self.crop not in CROPS:
            raise unknown("crop", self.crop, CROPS)
        if self.crop == "stretch":
            object.__setattr__(self, "resize", self.size)
        if not 0 < self.size <= self.resize:
            raise RequestError(f"size={self.size} must be positive and at most resize={self.resize}.")
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise RequestError(f"mean={self.mean} and std={self.std} need three values each, std above zero.")

    @staticmethod
    def of(manifest: Mapping[str, Any]) -> Preprocessing | None:
        """Read the preprocessing out of a manifest; None if the manifest has none or one that is not valid."""
        try:
            values = dict(manifest["preprocessing"])
            return Preprocessing(**values | {key: tuple(map(float, values[key])) for key in ("mean", "std")})
        except (KeyError, TypeError, ValueError):
            return None

    def at(self, size: int) -> Preprocessing:
        """Return the same preprocessing for another ``size``; the crop keeps its share of the photograph."""
        return replace(self, size=size, resize=round(self.resize * size / self.size))

    def whole(self) -> Preprocessing:
        """The same for the whole photograph, nothing cut off."""
        return replace(self, crop="stretch")

    def geometry(self, image: Image.Image) -> np.ndarray:
        """Crop and resize a ``PIL.Image`` of any size and mode to a uint8 array of shape (size, size, 3)."""
        from PIL import Image

        image = image.convert("RGB")
        resampling = Image.Resampling[self.resampling.upper()]
        if self.crop == "stretch":
            return np.asarray(image.resize((self.size, self.size), resampling))
        if self.crop == "crop_then_resize":
            # Equal to the reference code of EfficientNet in every pixel.
            side = max(1, int(self.size / self.resize * min(image.size)))
            left, top = ((length - side + 1) // 2 for length in image.size)
            box = (left, top, left + side, top + side)
            return np.asarray(image.resize((self.size, self.size), resampling, box=box))
        # Equal to torchvision in every pixel: the longer side is rounded down, the crop's offset to the nearest.
        scale = self.resize / min(image.size)
        width, height = (max(self.resize, int(length * scale)) for length in image.size)
        left, top = round((width - self.size) / 2), round((height - self.size) / 2)
        resized = image.resize((width, height), resampling)
        return np.asarray(resized.crop((left, top, left + self.size, top + self.size)))

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
