"""Calibration data: a stream of samples, normalised as the weights need it, and checked for the usual mistakes."""

import hashlib
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mobilenets_tf.data import images as image_files
from mobilenets_tf.data.annotated import photographs_of
from mobilenets_tf.data.preprocessing import Preprocessing
from mobilenets_tf.errors import RequestError
from mobilenets_tf.progress import Progress, silent, track
from mobilenets_tf.quantize.samples import count_of, samples_of

# ai-edge-quantizer's guide and the converter's documentation both say 100 to 500.
RECOMMENDED = 100
_IF_MEANT = "If they are meant to be so, pass --trust-calibration (in Python: Calibration(..., trusted=True))."


@dataclass
class Findings:
    """The results of the checks of the calibration samples.

    samples: how many there were. low, high, mean: of all their values. constant, noise, duplicates: how many samples
    have one value everywhere, have uncorrelated neighbouring pixels, or equal an earlier sample.
    """

    samples: int = 0
    low: float = float("inf")
    high: float = float("-inf")
    mean: float = 0.0
    constant: int = 0
    noise: int = 0
    duplicates: int = 0
    warnings: list[str] = field(default_factory=list)


class Calibration:
    """A stream of samples from which activation ranges are chosen, checked while it is read.

    Memory does not grow with the number of samples, except for 16 bytes each to recognise copies. Certain mistakes are
    errors: values that are not finite or outside the range that the model was trained on (normalised twice or not at
    all), or a set most of whose samples are noise, constant or copies. Doubtful data are warned of: fewer than 100
    samples, or a few that are constant, noise or copies.

    Args:
        samples: arrays, or an iterable or generator of samples or batches, or a function that returns one, as in
            ``samples.samples_of``: also of several inputs, and with labels.
        value_range: the lowest and highest value that correct samples can have; None if not known.
        total: how many samples there are, for progress.
        sources: the files of the samples, for the manifest.
        trusted: the samples are meant to be as they are: of a set most of whose samples are noise, constant or copies,
            or that looks normalised twice, only warn.

    Raises:
        RequestError: ``samples`` is a path; use ``from_images``. Or they never end.
    """

    def __init__(
        self,
        samples: Any,
        value_range: tuple[float, float] | None = None,
        total: int | None = None,
        sources: Iterable[Path] = (),
        trusted: bool = False,
    ):
        if isinstance(samples, (str, Path)):
            raise RequestError(
                f"calibration={str(samples)!r} is a path; use Calibration.from_images(path, preprocessing)."
            )
        self.samples = samples
        self._total = count_of(samples) if total is None else total
        self.value_range = value_range
        self.sources = tuple(sources)
        self.trusted = trusted
        self.findings = Findings()
        self._seen: set[bytes] = set()

    @classmethod
    def from_images(
        cls, images: "image_files.ImageSet | str | Path", preprocessing: Preprocessing, trusted: bool = False
    ) -> "Calibration":
        """Read image files.

        Args:
            images: an ``ImageSet``, or a folder, a CSV or a COCO JSON of images.
            preprocessing: how pixels become the model's input. trusted: as in ``Calibration``.

        Raises:
            RequestError: there is no such folder or file, or it has no images.
        """
        if not isinstance(images, image_files.ImageSet):
            images = photographs_of(images)
        stream = _Stream(
            lambda: (preprocessing(image_files.decode(path, alpha=preprocessing.alpha)) for path in images.paths)
        )
        return cls(stream, preprocessing.value_range, len(images), images.paths, trusted)

    def batches(self, input_shapes: dict[str, tuple], progress: Progress = silent) -> Iterator[list[np.ndarray]]:
        """Give each sample as float32 arrays, one for each input of the model.

        Args:
            input_shapes: name of each input -> its shape with a batch of 1; the arrays come in this order.
            progress: called after each sample.

        Raises:
            RequestError: a sample has the wrong shape or impossible values, or the set cannot be used.
        """
        self.findings = Findings()
        self._seen.clear()
        for sample in track(samples_of(self.samples, input_shapes), "calibrating", progress, self._total):
            pairs = zip(sample, input_shapes.values(), strict=True)
            arrays = [array.reshape(shape).astype(np.float32, copy=False) for array, shape in pairs]
            self._look_at(arrays)
            yield arrays
        self._conclude()

    def _look_at(self, arrays: list[np.ndarray]) -> None:
        findings = self.findings
        findings.samples += 1
        low, high = min(float(array.min()) for array in arrays), max(float(array.max()) for array in arrays)
        if not np.isfinite(low + high):
            raise RequestError(
                f"Calibration sample {findings.samples} has values that are not finite (NaN or infinite)."
            )
        if self.value_range:
            self._check_range(low, high)
        findings.low, findings.high = min(findings.low, low), max(findings.high, high)
        mean = sum(float(array.sum(dtype=np.float64)) for array in arrays) / sum(array.size for array in arrays)
        findings.mean += (mean - findings.mean) / findings.samples
        findings.constant += all(array.min() == array.max() for array in arrays)
        findings.noise += any(map(_is_noise, arrays))
        digest = hashlib.blake2b(digest_size=16)
        for array in arrays:
            digest.update(array.tobytes())
        findings.duplicates += digest.digest() in self._seen
        self._seen.add(digest.digest())

    def _check_range(self, low: float, high: float) -> None:
        # A hint at the mistake helps more than the numbers.
        lowest, highest = self.value_range
        slack = 0.01 * (highest - lowest)
        if low < lowest - slack or high > highest + slack:
            hint = " They look like pixels that were not normalised." if low >= 0 and high > 2 * abs(highest) else ""
            raise RequestError(
                f"Calibration sample {self.findings.samples} has values from {low:.4g} to {high:.4g}; this model's "
                f"preprocessing gives {lowest:.4g} to {highest:.4g}.{hint}"
            )

    def _conclude(self) -> None:
        findings = self.findings
        if findings.samples == 0:
            raise RequestError("There are no calibration samples.")
        for count, what in (
            (findings.constant, "constant (one value everywhere)"),
            (findings.noise, "noise (neighbouring pixels have nothing in common)"),
            (findings.duplicates, "copies of another"),
        ):
            if count > findings.samples / 2 and not self.trusted:
                raise RequestError(
                    f"{count} of {findings.samples} calibration samples are {what}. Ranges chosen from them would fit "
                    f"nothing a camera sees; use real images of the kind the app will meet. {_IF_MEANT}"
                )
            if count:
                findings.warnings.append(f"{count} of {findings.samples} calibration samples are {what}.")
        if self.value_range and findings.samples > 1:
            lowest, highest = self.value_range
            if findings.high - findings.low < 0.05 * (highest - lowest):
                # Image files are normalised here, once.
                cause = (
                    "the images are nearly black or of one colour. Are they masks?"
                    if self.sources
                    else "they look normalised twice."
                )
                text = (
                    f"All calibration values lie between {findings.low:.4g} and {findings.high:.4g}, where "
                    f"preprocessing gives {lowest:.4g} to {highest:.4g}: {cause}"
                )
                if not self.trusted:
                    raise RequestError(f"{text} {_IF_MEANT}")
                findings.warnings.append(text)
        if findings.samples < RECOMMENDED:
            findings.warnings.append(
                f"Only {findings.samples} calibration samples: a real deployment wants {RECOMMENDED} to 500 images of "
                "the kind the app will meet."
            )
        for text in findings.warnings:
            warnings.warn(text, stacklevel=2)

    def manifest(self) -> dict:
        """Give the findings, and the files with their sha256, as plain data for the manifest."""
        from mobilenets_tf.files import sha256_of

        files = [{"file": path.name, "sha256": sha256_of(path)} for path in self.sources]
        return asdict(self.findings) | {"files": files}


class _Stream:
    """An iterable that calls a function for a new iterator each time."""

    def __init__(self, start: Callable[[], Iterator]):
        self._start = start

    def __iter__(self):
        return self._start()


def _is_noise(array: np.ndarray) -> bool:
    """Tell whether neighbouring pixels are uncorrelated. Photographs have a correlation of 0.8 and more, noise of 0."""
    if array.ndim != 4 or min(array.shape[1:3]) < 8:
        return False  # not an image
    left, right = array[:, :, :-1].ravel(), array[:, :, 1:].ravel()
    left, right = left - left.mean(), right - right.mean()
    scale = float(np.sqrt(np.dot(left, left) * np.dot(right, right)))
    return scale > 0 and float(np.dot(left, right)) / scale < 0.2
