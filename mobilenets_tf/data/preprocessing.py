"""From a decoded photograph to the tensor a network was trained on. NumPy and Pillow only."""

from dataclasses import dataclass, replace

import numpy as np

from mobilenets_tf.errors import RequestError, unknown

RESAMPLING = ("nearest", "bilinear", "bicubic", "lanczos")
CROPS = ("crop_then_resize", "resize_then_crop", "stretch")


@dataclass(frozen=True)
class Preprocessing:
    """Centre crop and resize, then ``(pixel - mean) / std`` on 0-255 RGB.

    size: height and width in pixels of the result.
    resize: ``size / resize`` is the part of the shorter side that the crop keeps; with "stretch" it is ``size``,
        whatever is given.
    resampling: "nearest", "bilinear", "bicubic" or "lanczos" (Pillow's, antialiased).
    mean, std: per RGB channel, in pixel values 0-255.
    crop: "crop_then_resize" takes the square out of the photograph and scales it, as TensorFlow's networks were
        evaluated; "resize_then_crop" scales the shorter side to ``resize`` first, as torchvision's were; "stretch"
        scales both sides of the whole photograph to ``size``, as detectors and segmenters see it.
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
    def of(manifest: dict) -> "Preprocessing | None":
        """What a manifest says of its file's input; None where it says nothing that can be understood."""
        try:
            values = dict(manifest["preprocessing"])
            return Preprocessing(**values | {key: tuple(map(float, values[key])) for key in ("mean", "std")})
        except (KeyError, TypeError, ValueError):
            return None

    def at(self, size: int) -> "Preprocessing":
        """The same for another input size, the crop in proportion."""
        return replace(self, size=size, resize=round(self.resize * size / self.size))

    def whole(self) -> "Preprocessing":
        """The same for the whole photograph, nothing cut off."""
        return replace(self, crop="stretch")

    def geometry(self, image) -> np.ndarray:
        """A ``PIL.Image`` of any size and mode -> uint8 array of shape (size, size, 3)."""
        from PIL import Image

        image = image.convert("RGB")
        resampling = Image.Resampling[self.resampling.upper()]
        if self.crop == "stretch":
            return np.asarray(image.resize((self.size, self.size), resampling))
        if self.crop == "crop_then_resize":
            # As in the reference code of EfficientNet, to the pixel.
            side = max(1, int(self.size / self.resize * min(image.size)))
            left, top = ((length - side + 1) // 2 for length in image.size)
            box = (left, top, left + side, top + side)
            return np.asarray(image.resize((self.size, self.size), resampling, box=box))
        # As in torchvision, to the pixel: the longer side is cut to a whole number, the crop's offset rounded.
        scale = self.resize / min(image.size)
        width, height = (max(self.resize, int(length * scale)) for length in image.size)
        left, top = round((width - self.size) / 2), round((height - self.size) / 2)
        resized = image.resize((width, height), resampling)
        return np.asarray(resized.crop((left, top, left + self.size, top + self.size)))

    def normalise(self, pixels: np.ndarray) -> np.ndarray:
        """uint8 RGB of shape (..., 3) -> float32 of the same shape."""
        return ((pixels.astype(np.float32) - np.float32(self.mean)) / np.float32(self.std)).astype(np.float32)

    def __call__(self, image) -> np.ndarray:
        """A ``PIL.Image`` -> float32 array of shape (size, size, 3)."""
        return self.normalise(self.geometry(image))

    def for_input(self, pixels: np.ndarray, dtype) -> np.ndarray:
        """What a TFLite file with an input of that type takes for pixels of the right size: uint8 takes them as they
        are, which is how MediaPipe and the TFLite Task Library feed it."""
        return pixels if np.dtype(dtype) == np.uint8 else self.normalise(pixels)

    @property
    def value_range(self) -> tuple[float, float]:
        """The lowest and highest value that normalised pixels can have."""
        low = min((0 - mean) / std for mean, std in zip(self.mean, self.std, strict=True))
        high = max((255 - mean) / std for mean, std in zip(self.mean, self.std, strict=True))
        return low, high
