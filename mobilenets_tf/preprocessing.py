"""From a decoded photograph to the tensor a network was trained on. NumPy and Pillow only."""

from dataclasses import dataclass

import numpy as np

from mobilenets_tf.errors import RequestError

RESAMPLING = ("nearest", "bilinear", "bicubic", "lanczos")


@dataclass(frozen=True)
class Preprocessing:
    """Resize, centre crop, then ``(pixel - mean) / std`` on 0-255 RGB.

    size: height and width in pixels of the result.
    resize: the shorter side in pixels before the centre crop of ``size``; ``resize == size`` crops nothing off the
        shorter side.
    resampling: "nearest", "bilinear", "bicubic" or "lanczos" (Pillow's, antialiased).
    mean, std: per RGB channel, in pixel values 0-255.
    """

    size: int = 224
    resize: int = 256
    resampling: str = "bilinear"
    mean: tuple[float, float, float] = (127.5, 127.5, 127.5)
    std: tuple[float, float, float] = (127.5, 127.5, 127.5)

    def __post_init__(self):
        if self.resampling not in RESAMPLING:
            raise RequestError(f"resampling={self.resampling!r}: expected one of {', '.join(RESAMPLING)}.")
        if not 0 < self.size <= self.resize:
            raise RequestError(f"size={self.size} must be positive and at most resize={self.resize}.")
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise RequestError(f"mean={self.mean} and std={self.std} need three values each, std above zero.")

    def at(self, size: int) -> "Preprocessing":
        """The same for another input size, the crop in proportion."""
        return Preprocessing(size, round(self.resize * size / self.size), self.resampling, self.mean, self.std)

    def geometry(self, image):
        """A ``PIL.Image`` of any size and mode -> uint8 array of shape (size, size, 3)."""
        from PIL import Image

        image = image.convert("RGB")
        scale = self.resize / min(image.size)
        width, height = (max(self.size, round(side * scale)) for side in image.size)
        left, top = round((width - self.size) / 2), round((height - self.size) / 2)
        # reducing_gap would be faster and is not what the training pipelines did.
        resized = image.resize((width, height), Image.Resampling[self.resampling.upper()])
        return np.asarray(resized.crop((left, top, left + self.size, top + self.size)))

    def normalise(self, pixels: np.ndarray) -> np.ndarray:
        """uint8 RGB of shape (..., 3) -> float32 of the same shape."""
        return ((pixels.astype(np.float32) - np.float32(self.mean)) / np.float32(self.std)).astype(np.float32)

    def __call__(self, image) -> np.ndarray:
        """A ``PIL.Image`` -> float32 array of shape (size, size, 3)."""
        return self.normalise(self.geometry(image))

    @property
    def value_range(self) -> tuple[float, float]:
        """The lowest and highest value that normalised pixels can have."""
        low = min((0 - mean) / std for mean, std in zip(self.mean, self.std, strict=True))
        high = max((255 - mean) / std for mean, std in zip(self.mean, self.std, strict=True))
        return low, high
