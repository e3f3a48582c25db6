"""From a decoded photograph to the tensor that a network was trained on. NumPy and Pillow only."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
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
# Pillow's mode of an image with so many channels.
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
# The numbers of channels that an image can have.
CHANNELS = tuple(_MODES)
# And what people call it.
COLOURS = {1: "grey", 3: "RGB", 4: "RGBA"}
# Height and width in pixels: one number for a square, or both.
Size = int | tuple[int, int]


def sides(size: Size) -> tuple[int, int]:
    """Return height and width."""
    return (size, size) if isinstance(size, int) else size


def shown_size(size: Size) -> str:
    """Write a size as height x width."""
    return "{}x{}".format(*sides(size))


def image_shape(shapes: Sequence[tuple[int | None, ...]]) -> tuple[int, int, int] | None:
    """Return height, width and channels of the one image of fixed size that a model takes; None: it takes something
    else.

    shapes: of the model's inputs, without the batch axis.
    """
    if len(shapes) != 1 or len(shapes[0]) != 3:
        return None
    height, width, channels = shapes[0]
    return (height, width, channels) if height and width and channels in _MODES else None


def _are_apart(mean: float, std: float) -> bool:
    """Tell whether black and white become different finite numbers of single precision."""
    with np.errstate(over="ignore", under="ignore"):
        black, white = (np.float32((pixel - mean) / std) for pixel in (0.0, 255.0))
    return bool(np.isfinite(black) and np.isfinite(white) and black != white)


@dataclass(frozen=True)
class Preprocessing:
    """Resize a photograph, whole or cropped, to one size, then ``(pixel - mean) / std`` on values 0-255.

    The defaults are those of ``keras.utils.image_dataset_from_directory``: the whole photograph, bilinear. A published
    weight set has its own crop and interpolation (``weight_preprocessing``).

    size: of the result in pixels: one number for a square, or (height, width).
    resize: of a crop, the shorter side of ``size`` divided by ``resize`` is the share that the crop keeps of the
        largest part of the photograph with the result's aspect ratio; None becomes the shorter side.
    interpolation: "nearest", "bilinear", "bicubic" or "lanczos" (Pillow's, antialiased); or "keras_bilinear": between
        the four nearest pixels, without antialiasing, as Keras' loaders (``tf.image.resize``), OpenCV, MediaPipe and
        Android's ``Bitmap.createScaledBitmap`` do.
    mean, std: a value for each channel, in pixel values 0-255. Their number is that of the channels: one for grey,
        three for RGB, four for RGB and alpha.
    crop: "stretch" scales both sides of the whole photograph to ``size``; "crop_then_resize" crops the photograph to
        the result's aspect ratio and scales that, as in the evaluation of TensorFlow's networks; "resize_then_crop"
        scales first, of a square the shorter side to ``resize``, as in torchvision's.

    Raises:
        RequestError: a name is unknown or a number is out of range.
    """

    size: Size = 224
    resize: int | None = None
    interpolation: str = "keras_bilinear"
    mean: tuple[float, ...] = (127.5, 127.5, 127.5)
    std: tuple[float, ...] = (127.5, 127.5, 127.5)
    crop: str = "stretch"

    def __post_init__(self):
        if self.interpolation not in INTERPOLATIONS:
            raise unknown("interpolation", self.interpolation, INTERPOLATIONS)
        if self.crop not in CROPS:
            raise unknown("crop", self.crop, CROPS)
        if isinstance(self.size, Sequence):
            size = tuple(self.size)
            if len(size) != 2 or not all(isinstance(side, (int, np.integer)) for side in size):
                raise RequestError(f"size={self.size}: expected one number of pixels, or (height, width).")
            object.__setattr__(self, "size", int(size[0]) if size[0] == size[1] else tuple(map(int, size)))
        if self.resize is None:
            object.__setattr__(self, "resize", self._shorter)
        if not 0 < self._shorter <= self._resize:
            raise RequestError(f"size={self.size} must be positive and at most resize={self.resize}.")
        if self.crop == "stretch" and self.resize != self._shorter:
            raise RequestError(
                f"resize={self.resize} is for a crop, and the whole photograph is taken. Leave resize out, or say how "
                'to crop: "crop_then_resize" or "resize_then_crop".'
            )
        if len(self.mean) not in _MODES or len(self.std) != len(self.mean):
            raise RequestError(
                f"mean={self.mean} and std={self.std}: expected a value for each channel (one for grey, three for RGB, "
                "four for RGB and alpha)."
            )
        for mean, std in zip(self.mean, self.std, strict=True):
            if not (std > 0 and math.isfinite(mean) and _are_apart(mean, std)):
                raise RequestError(
                    f"mean={mean:g} and std={std:g}: expected values in pixels (0 to 255), std above zero, with which "
                    "(pixel - mean) / std gives different finite numbers for black and white."
                )

    @property
    def height(self) -> int:
        """Rows of the result."""
        return sides(self.size)[0]

    @property
    def width(self) -> int:
        """Columns of the result."""
        return sides(self.size)[1]

    @property
    def channels(self) -> int:
        """Channels of the result: 1, 3 or 4."""
        return len(self.mean)

    @property
    def alpha(self) -> bool:
        """Whether the fourth channel of an image is needed, see ``images.decode``."""
        return self.channels == 4

    @property
    def share(self) -> float:
        """The share that a crop keeps of the largest part of a photograph with the result's aspect ratio."""
        return self._shorter / self._resize

    @property
    def _shorter(self) -> int:
        return min(self.height, self.width)

    @property
    def _resize(self) -> int:
        return self._shorter if self.resize is None else self.resize

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
            values = {key: tuple(map(float, given[key])) for key in ("mean", "std")}
            return Preprocessing(**given | values)
        except (KeyError, TypeError, ValueError) as error:
            raise RequestError(
                f"{label}: preprocessing is {str(given)[:200]} ({type(error).__name__}: {error}). Write the file and "
                "its manifest again, or remove the manifest."
            ) from error

    def at(self, size: Size, resize: int | None = None) -> Preprocessing:
        """Return the same preprocessing for another ``size``.

        resize: the new ``resize``; None: a crop keeps its share of the photograph.

        Raises:
            RequestError: ``resize`` is below ``size``, or given where nothing is cropped.
        """
        return replace(self, size=size, resize=resize or round(self._resize * min(sides(size)) / self._shorter))

    def of_image(self, shape: tuple[int, int, int], resize: int | None = None) -> Preprocessing:
        """Return the same preprocessing for an image of ``shape`` (height, width, channels).

        resize: as in ``at``.

        Raises:
            RequestError: there is another value for each channel, and another number of channels; or as in ``at``.
        """
        *size, channels = shape
        known = self
        if channels != self.channels:
            if len(set(self.mean)) > 1 or len(set(self.std)) > 1:
                raise RequestError(
                    f"mean={self.mean} and std={self.std} are for {self.channels} channels, and the input has "
                    f"{channels}. Pass one value for all channels, or one for each (--mean, --std; mean=, std=)."
                )
            known = replace(self, mean=self.mean[:1] * channels, std=self.std[:1] * channels)
        return known.at((size[0], size[1]), resize)

    def whole(self) -> Preprocessing:
        """The same for the whole photograph, nothing cut off."""
        return replace(self, crop="stretch", resize=None)

    def described(self) -> str:
        """Say in words what part of a photograph the network gets, and how it is resized."""
        size, how = shown_size(self.size), self.interpolation.replace("keras_bilinear", "bilinear as in Keras")
        square = self.height == self.width
        size = size if square else f"{size} (height x width)"
        colour = {1: "turn it grey, ", 3: "", 4: "with its alpha channel, "}[self.channels]
        if self.crop == "stretch":
            return f"{colour}resize the whole photograph to {size}, without keeping its aspect ratio ({how})"
        if self.crop == "resize_then_crop" and square:
            return f"{colour}resize the shorter side to {self.resize} ({how}), then crop {size} from the centre"
        if self.crop == "resize_then_crop":
            covered = shown_size(self.covered)
            return f"{colour}resize to cover {covered} (height x width, {how}), then crop {size} from the centre"
        part = "a square" if square else "the result's aspect ratio"
        of = "the shorter side" if square else "the largest such part"
        share = f"{part} of {self.share:.3f} times {of}"
        return f"{colour}crop {share} from the centre, then resize it to {size} ({how})"

    @property
    def covered(self) -> tuple[int, int]:
        """Height and width that a photograph has to cover at least before "resize_then_crop" crops it."""
        return round(self._resize * self.height / self._shorter), round(self._resize * self.width / self._shorter)

    def geometry(self, image: Image.Image) -> np.ndarray:
        """Crop and resize a ``PIL.Image`` of any size and mode to a uint8 array of shape (height, width, channels)."""
        pixels = np.asarray(self._framed(image.convert(_MODES[self.channels])))
        return pixels if pixels.ndim == 3 else pixels[..., None]

    def _framed(self, image: Image.Image) -> Image.Image:
        height, width = self.height, self.width
        if self.crop == "stretch":
            return resized(image, (width, height), self.interpolation)
        if self.crop == "crop_then_resize":
            # Equal to the reference code of EfficientNet in every pixel.
            unit = min(image.width * self._shorter / width, image.height * self._shorter / height)
            side = max(1, int(self.share * unit))
            box = [max(1, round(side * length / self._shorter)) for length in (width, height)]
            left, top = ((length - kept + 1) // 2 for length, kept in zip(image.size, box, strict=True))
            return resized(image, (width, height), self.interpolation, (left, top, left + box[0], top + box[1]))
        # Equal to torchvision in every pixel: the longer side is rounded down, the crop's offset to the nearest.
        rows, columns = self.covered
        scale = max(columns / image.width, rows / image.height)
        wide, high = max(columns, int(image.width * scale)), max(rows, int(image.height * scale))
        left, top = round((wide - width) / 2), round((high - height) / 2)
        small = resized(image, (wide, high), self.interpolation)
        return small.crop((left, top, left + width, top + height))

    def normalise(self, pixels: np.ndarray) -> np.ndarray:
        """Normalise uint8 pixels of shape (..., channels) to float32 of the same shape."""
        mean, std = np.asarray(self.mean, np.float32), np.asarray(self.std, np.float32)
        return ((pixels.astype(np.float32) - mean) / std).astype(np.float32)

    def __call__(self, image: Image.Image) -> np.ndarray:
        """Turn a ``PIL.Image`` into a float32 array of shape (height, width, channels)."""
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
    """Resize a ``PIL.Image`` in grey, RGB or RGBA, or a part of it.

    size: width and height. box: left, top, right and bottom of the part; None: all of it.
    interpolation: one of ``INTERPOLATIONS``. reducing_gap: Pillow's, for its own interpolations.
    """
    from PIL import Image

    if interpolation != "keras_bilinear":
        resampling = Image.Resampling[interpolation.upper()]
        return image.resize(size, resampling, box=box, reducing_gap=reducing_gap)
    pixels = np.asarray(image.crop(box) if box else image)
    planes = pixels if pixels.ndim == 3 else pixels[..., None]
    (top, bottom, down), (left, right, across) = map(_neighbours, pixels.shape[:2], size[::-1])
    rows = _between(planes[top], planes[bottom], down[:, None, None])
    result = np.rint(_between(rows[:, left], rows[:, right], across[:, None])).astype(np.uint8)
    return Image.fromarray(result.reshape(*result.shape[:2], *pixels.shape[2:]))


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
