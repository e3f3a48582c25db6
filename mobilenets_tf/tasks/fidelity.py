"""How faithful a file is to another one, output by output and element by element."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from mobilenets_tf.decibels import signal_to_noise
from mobilenets_tf.errors import RequestError
from mobilenets_tf.tasks.outputs import End, OutputKind, kind_of

_LISTED = 16  # elements of an output, those with the largest errors beside their spread
_LEVELS = 255  # steps between the lowest and the highest value of an eight-bit output
# An element that takes fewer levels than this loses more than a percent of its spread by rounding alone: the variance
# of the rounding is 1/12 of a level, that of an even spread over n levels n^2 / 12.
_FEW_LEVELS = 10
_FAITHFUL = 0.99  # R2 from which nothing has to be said


@dataclass(frozen=True)
class ElementFidelity:
    """One element of an output, over all images and places.

    index: along the output's last axis. low, high: the reference's values. spread: their standard deviation.
    error: root mean square of the difference. r2: 1 - (error / spread)^2, the coefficient of determination; for an
    element that does not move, its size takes the place of its spread. levels: how many steps of an eight-bit output
    the element's range takes; the output has one scale for all elements.
    """

    index: int
    low: float
    high: float
    spread: float
    error: float
    r2: float
    levels: float


@dataclass(frozen=True)
class OutputFidelity:
    """One output of a candidate beside the same output of the reference.

    name, shape: of the output, without the batch axis. kind: the name of an ``OutputKind``.
    largest_difference: max |candidate - reference|, and relative_difference the same divided by max |reference|.
    snr_db: 10 log10(sum reference^2 / sum (candidate - reference)^2); infinite when they are equal.
    agreement: by the kind's measure, 1 where the outputs are equal. measure: what the agreement is called.
    elements: the least faithful first, at most 16. element_count: how many there are.
    constant: the candidate gives the same values for all images, of several.
    """

    name: str
    shape: tuple[int, ...]
    kind: str
    largest_difference: float
    relative_difference: float
    snr_db: float
    measure: str
    agreement: float
    elements: tuple[ElementFidelity, ...]
    element_count: int
    constant: bool

    @property
    def coarse(self) -> tuple[int, ...]:
        """The elements whose range is too small a part of the output's for one scale, and whose error shows it. Scores
        of classes are small where a class is not there, so only elements that are values count."""
        if not kind_of(self.kind).by_element:
            return ()
        return tuple(each.index for each in self.elements if each.levels < _FEW_LEVELS and each.r2 < _FAITHFUL)

    def as_dict(self) -> dict:
        """Return the fields as plain data."""
        return asdict(self)

    def lines(self) -> list[str]:
        """Return the output as lines of text: the differences, the worst element, and what to do about its scale."""
        lines = [
            f"{self.name}  {self.kind}: {self.measure} {self.agreement:.1%}; largest difference "
            f"{self.largest_difference:.3g} ({self.relative_difference:.2g} of the largest value), signal to noise "
            f"{self.snr_db:.1f} dB"
        ]
        worst = self.elements[0]
        if self.element_count > 1:
            lines.append(
                f"  worst of {self.element_count} elements: {worst.index} ({worst.low:.4g} to {worst.high:.4g}), error "
                f"{worst.error:.2g} beside a spread of {worst.spread:.2g}, R2 {worst.r2:.3f}"
            )
        if advice := self.advice():
            lines.append(f"  {advice}")
        return lines

    def advice(self) -> str | None:
        """Return what to do about elements that differ in scale by much; None where they do not."""
        if not self.coarse:
            return None
        worst = min((each for each in self.elements if each.index in self.coarse), key=lambda each: each.levels)
        return (
            f"The elements of {self.name!r} differ in scale: all share one scale of 256 steps, of which element "
            f"{worst.index} takes {worst.levels:.1f}. Give each scale an output of its own in the Keras model (a Dense "
            "layer for each), or take --scheme int8_float_io with --max-drop, which leaves the last layer in float."
        )


class OutputTally:
    """Adds up how far one output of a file is from another's, over all images."""

    def __init__(self, end: End, kind: OutputKind):
        self._end, self._kind, self.images, self._same = end, kind, 0, 0.0
        self._first: np.ndarray | None = None
        self._constant = True
        self._places, self._moments = 0, np.zeros((6, end.elements))  # a row for each of the names below
        self._mean, self._spread, self._signal, self._noise, self._low, self._high = self._moments
        self._low[:], self._high[:] = np.inf, -np.inf
        self._largest = 0.0

    def add(self, reference: np.ndarray, candidate: np.ndarray) -> None:
        """Count the outputs of both files for n images, (n, ...).

        Raises:
            RequestError: the shapes differ, or values are NaN or infinite.
        """
        if reference.shape != candidate.shape:
            raise RequestError(f"The model's output is {reference.shape[1:]}, the file's is {candidate.shape[1:]}.")
        for outputs, whose in ((reference, "model"), (candidate, "file")):
            if not np.isfinite(outputs).all():
                broken = int((~np.isfinite(outputs)).reshape(len(outputs), -1).any(-1).sum())
                raise RequestError(f"The {whose} gives NaN or infinite values on {broken} of {len(outputs)} images.")
        self.images += len(reference)
        if self._first is None:
            self._first = np.array(candidate[0])
        self._constant = self._constant and bool((candidate == self._first).all())
        rows, others = (np.asarray(each, np.float64).reshape(-1, self._end.elements) for each in (reference, candidate))
        difference = others - rows
        self._largest = max(self._largest, float(np.abs(difference).max(initial=0)))
        # The variances of two parts add up to that of the whole with the distance of their means (Chan et al. 1979).
        count, mean = len(rows), rows.mean(0)
        step, total = mean - self._mean, self._places + count
        self._spread += ((rows - mean) ** 2).sum(0) + step**2 * self._places * count / total
        self._mean += step * count / total
        self._places = total
        self._signal += (rows**2).sum(0)
        self._noise += (difference**2).sum(0)
        np.minimum(self._low, rows.min(0), out=self._low)
        np.maximum(self._high, rows.max(0), out=self._high)
        if (same := self._kind.same(rows, others)) is not None:
            self._same += float(same.sum())

    @property
    def agreement(self) -> float:
        """How far both files give the same answer, by the measure of the output's kind, 0 to 1."""
        least = max(0.0, float(self._r2().min())) if self._kind.by_element else 1.0
        return min(least, self._same / self._places) if self._kind.same_is_measured else least

    def result(self) -> OutputFidelity:
        """Return the fidelity of the output.

        Raises:
            RequestError: there were no images.
        """
        if not self.images:
            raise RequestError("There are no images to verify with.")
        greatest = self._greatest
        r2, whole = self._r2(), max(self._high.max(), 0) - min(self._low.min(), 0)
        order = np.argsort(r2, kind="stable")[:_LISTED]
        levels = _LEVELS * (self._high - self._low) / (whole or 1.0)
        columns = (
            self._low, self._high, np.sqrt(self._spread / self._places), np.sqrt(self._noise / self._places), r2, levels
        )  # fmt: skip
        return OutputFidelity(
            name=self._end.name,
            shape=self._end.shape,
            kind=self._kind.name,
            largest_difference=self._largest,
            relative_difference=self._largest / max(greatest, 1e-12),
            snr_db=signal_to_noise(float(self._signal.sum()), float(self._noise.sum())),
            measure=self._kind.measure,
            agreement=self.agreement,
            elements=tuple(ElementFidelity(int(i), *(float(column[i]) for column in columns)) for i in order),
            element_count=self._end.elements,
            constant=self._constant and self.images > 1,
        )

    @property
    def _greatest(self) -> float:
        return float(max(np.abs(self._low).max(), np.abs(self._high).max()))

    def _r2(self) -> np.ndarray:
        """Return the coefficient of determination of each element."""
        still = self._spread <= self._places * (1e-6 * self._greatest) ** 2
        power = np.where(still, self._signal, self._spread)
        # An element that is always 0 has neither spread nor size: a hundredth of the output's largest value counts.
        power = np.where(power > 0, power, self._places * max(1e-2 * self._greatest, 1e-30) ** 2)
        return 1 - self._noise / power


def tallies_of(ends: Sequence[End], kinds: Sequence[OutputKind]) -> list[OutputTally]:
    """Return an empty tally for each output."""
    return [OutputTally(end, kind) for end, kind in zip(ends, kinds, strict=True)]
