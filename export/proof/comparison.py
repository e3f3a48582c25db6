"""Compare the outputs and answers of two files on the same images."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

import numpy as np

from mobilenets_tf.decibels import signal_to_noise
from mobilenets_tf.errors import RequestError
from mobilenets_tf.export.proof.subject import Subject
from mobilenets_tf.tasks import intervals
from mobilenets_tf.tasks.classification import first_answers, first_five
from mobilenets_tf.tasks.task import percent


@dataclass(frozen=True)
class Comparison:
    """A candidate classifier's outputs beside the reference's, on the same images.

    images: how many. largest_difference: max |candidate - reference|, and relative_difference the same divided by
        max |reference|.
    snr_db: 10 log10(sum reference^2 / sum (candidate - reference)^2); infinite when they are equal.
    top1_agreement: share of images with the same first answer (for a model with one output value: on the same side of
        0.5); top5_agreement: share whose reference answer is among the candidate's first five.
    ties: share of images where the candidate's highest value is shared by several classes.
    constant: the places of the candidate's outputs that have the same values on every image, of several.
    reference_top1, reference_top5, top1, top5: accuracies, where labels were given. interval: the 95 % interval of the
        change of top-1, see ``tasks.intervals``.
    """

    images: int
    largest_difference: float
    relative_difference: float
    snr_db: float
    top1_agreement: float
    top5_agreement: float
    ties: float
    constant: tuple[int, ...] = ()
    reference_top1: float | None = None
    reference_top5: float | None = None
    top1: float | None = None
    top5: float | None = None
    interval: intervals.Interval | None = None

    measure = "top-1"
    agreement_measure = "same answer as float32"

    @property
    def agreement(self) -> float:
        """The share of images with the reference's answer."""
        return self.top1_agreement

    @property
    def score(self) -> float | None:
        """The candidate's accuracy, where labels were given."""
        return self.top1

    @property
    def reference_score(self) -> float | None:
        """The reference's accuracy, where labels were given."""
        return self.reference_top1

    @property
    def drop(self) -> float:
        """The loss of accuracy; without labels the share of images with another answer."""
        if self.top1 is None or self.reference_top1 is None:
            return 1 - self.top1_agreement
        return self.reference_top1 - self.top1

    def as_dict(self) -> dict:
        """Return the fields as plain data, for the manifest."""
        return asdict(self)

    def lines(self) -> list[str]:
        """Return the comparison as lines of text."""
        lines = [
            *_difference_lines(self),
            f"same answer         {self.top1_agreement:.1%} of {self.images} images"
            f" (among the first five: {self.top5_agreement:.1%}; tied: {self.ties:.1%})",
        ]
        if self.top1 is not None:
            lines.append(
                f"accuracy            top-1 {self.reference_top1:.1%} -> {self.top1:.1%} ({change_in_points(self)}), "
                f"top-5 {self.reference_top5:.1%} -> {self.top5:.1%}"
            )
        return lines


@dataclass(frozen=True)
class ScoreComparison:
    """A candidate detector's or segmenter's outputs and answers beside the reference's, on the same images.

    images: how many. largest_difference: max |candidate - reference| over all outputs; relative_difference: the
        greatest of each output's, divided by its max |reference|; snr_db: the lowest of each output's, infinite when
        they are equal.
    measure: what the scores are, "mAP at IoU 0.5" or "mIoU". agreement: the candidate's score with the reference's
        answers as the truth; of a detector, with the answers that the reference is sure of. NaN where the reference is
        sure of nothing: then the answers do not show whether the files agree.
    constant: as in ``Comparison``.
    reference_score, score: where the images are annotated; reference_classes, classes: of each class, by its name.
        interval: the 95 % interval of the change of the score, see ``tasks.intervals``.
    """

    images: int
    largest_difference: float
    relative_difference: float
    snr_db: float
    measure: str
    agreement: float
    constant: tuple[int, ...] = ()
    reference_score: float | None = None
    score: float | None = None
    interval: intervals.Interval | None = None
    reference_classes: dict[str, float] = field(default_factory=dict)
    classes: dict[str, float] = field(default_factory=dict)

    agreement_measure = "agreement with float32"

    @property
    def drop(self) -> float:
        """The loss of the score; without annotations 1 - agreement."""
        if self.score is None or self.reference_score is None:
            return 1 - self.agreement
        return self.reference_score - self.score

    def as_dict(self) -> dict:
        """Return the fields as plain data, for the manifest."""
        return asdict(self)

    def lines(self) -> list[str]:
        """Return the comparison as lines of text."""
        lines = [
            *_difference_lines(self),
            f"agreement           {self.agreement:.1%} {self.measure} with float32's answers on {self.images} images"
            if not np.isnan(self.agreement)
            else f"agreement           not known: float32 is sure of nothing on {self.images} images",
        ]
        if self.score is not None:
            before, after = percent(self.reference_score), percent(self.score)
            lines.append(f"accuracy            {self.measure} {before} -> {after} ({change_in_points(self)})")
        return lines


def change_in_points(comparison) -> str:
    """Describe the change of a score, in percentage points, with its interval."""
    text = f"{100 * (comparison.score - comparison.reference_score):+.1f} points"
    if comparison.interval is None:
        return text
    low, high = (100 * end for end in comparison.interval)
    return f"{text}, 95 % interval {low:+.1f} to {high:+.1f}"


def _difference_lines(comparison) -> list[str]:
    return [
        f"largest difference  {comparison.largest_difference:.3g} "
        f"({comparison.relative_difference:.2g} of the largest output)",
        f"signal to noise     {comparison.snr_db:.1f} dB",
    ]


def compare(reference: np.ndarray, candidate: np.ndarray, labels=None) -> Comparison:
    """Compare two (images, classes) arrays of outputs; ``labels`` holds the right class of each image.

    Outputs of any other shape are flattened; the agreement then means little, the differences mean all.

    Raises:
        RequestError: the shapes differ, there are no images, or an output is NaN or infinite.
    """
    if len(reference) == 0:
        raise RequestError("There are no images to verify with.")
    if reference.shape != candidate.shape:
        raise RequestError(f"The model's output is {reference.shape[1:]}, the file's is {candidate.shape[1:]}.")
    reference = reference.reshape(len(reference), -1).astype(np.float64)
    candidate = candidate.reshape(len(candidate), -1).astype(np.float64)
    for outputs, whose in ((reference, "model"), (candidate, "file")):
        if not np.isfinite(outputs).all():
            broken = int((~np.isfinite(outputs)).any(-1).sum())
            raise RequestError(f"The {whose} gives NaN or infinite values on {broken} of {len(outputs)} images.")
    reference_answers, candidate_answers = first_answers(reference), first_answers(candidate)
    difference = np.abs(candidate - reference)
    five = first_five(candidate)
    accuracies = {}
    if labels is not None:
        labels = np.asarray(labels)
        before, after = reference_answers == labels, candidate_answers == labels
        lost, won = int((before & ~after).sum()), int((~before & after).sum())
        accuracies = {
            "interval": intervals.of_shares(lost, won, len(labels)),
            "reference_top1": float(before.mean()),
            "reference_top5": float((first_five(reference) == labels[:, None]).any(-1).mean()),
            "top1": float(after.mean()),
            "top5": float((five == labels[:, None]).any(-1).mean()),
        }
    return Comparison(
        images=len(reference),
        largest_difference=float(difference.max()),
        relative_difference=float(difference.max() / max(np.abs(reference).max(), 1e-12)),
        snr_db=signal_to_noise(float((reference**2).sum()), float((difference**2).sum())),
        top1_agreement=float((candidate_answers == reference_answers).mean()),
        top5_agreement=float((five == reference_answers[:, None]).any(-1).mean()) if five.shape[1] > 1 else 1.0,
        ties=float(((candidate == candidate.max(-1, keepdims=True)).sum(-1) > 1).mean()),
        constant=(0,) if len(candidate) > 1 and not np.ptp(candidate, axis=0).any() else (),
        **accuracies,
    )


class Differences:
    """Adds up how far a file's outputs are from another's, over all images."""

    def __init__(self):
        self._largest, self._greatest, self._signal, self._noise = (np.zeros(0) for _ in range(4))
        self._images, self._first, self._varies = 0, (), np.zeros(0, bool)

    def add(self, reference: Sequence[np.ndarray], candidate: Sequence[np.ndarray]) -> None:
        """Count the outputs of both files for one image.

        Raises:
            RequestError: the shapes differ, or values are NaN or infinite.
        """
        if not len(self._largest):
            self._largest, self._greatest, self._signal, self._noise = (np.zeros(len(reference)) for _ in range(4))
            self._first, self._varies = tuple(map(np.copy, candidate)), np.zeros(len(reference), bool)
        self._images += 1
        for place, (expected, output) in enumerate(zip(reference, candidate, strict=True)):
            if expected.shape != output.shape:
                raise RequestError(f"The model's output is {expected.shape}, the file's is {output.shape}.")
            for values, whose in ((expected, "model"), (output, "file")):
                if not np.isfinite(values).all():
                    raise RequestError(f"The {whose} gives NaN or infinite values.")
            difference = output.astype(np.float64) - expected
            self._largest[place] = max(self._largest[place], np.abs(difference).max())
            self._greatest[place] = max(self._greatest[place], np.abs(expected).max())
            self._signal[place] += float((expected.astype(np.float64) ** 2).sum())
            self._noise[place] += float((difference**2).sum())
            self._varies[place] |= not np.array_equal(output, self._first[place])

    @property
    def constant(self) -> tuple[int, ...]:
        """The places of the candidate's outputs that had the same values on every image, of several."""
        return tuple(np.flatnonzero(~self._varies).tolist()) if self._images > 1 else ()

    def result(self) -> dict[str, float]:
        """Return largest_difference, relative_difference and snr_db, as in ``ScoreComparison``."""
        return {
            "largest_difference": float(self._largest.max()),
            "relative_difference": float((self._largest / np.maximum(self._greatest, 1e-30)).max()),
            "snr_db": min(map(signal_to_noise, self._signal.tolist(), self._noise.tolist())),
        }


class ClassifierTally:
    """Compares two classifiers, image by image.

    outputs: of both, the first output for each image, as one array (images, ...) each.
    """

    def __init__(self, subject: Subject):
        self._pairs: list[tuple[np.ndarray, np.ndarray]] = []
        self._labels: list[int] = []

    def add(self, reference: Sequence[np.ndarray], candidate: Sequence[np.ndarray], size, truth) -> None:
        """Count both files' outputs for one image.

        size: height and width of the image in pixels. truth: the class index, or None.
        """
        self._pairs.append((reference[0], candidate[0]))
        if truth is not None:
            self._labels.append(truth)

    @property
    def outputs(self) -> tuple[np.ndarray, np.ndarray]:
        reference, candidate = map(np.array, zip(*self._pairs, strict=True))
        return reference, candidate

    def result(self) -> Comparison:
        """Compare the outputs of all images.

        Raises:
            RequestError: there were no images, the shapes differ, or an output is NaN or infinite.
        """
        if not self._pairs:
            raise RequestError("There are no images to verify with.")
        return compare(*self.outputs, self._labels or None)


class ScoreTally:
    """Compares two detectors or segmenters, image by image."""

    def __init__(self, subject: Subject):
        self._subject, self._differences, self._images, self._annotated = subject, Differences(), 0, False
        self._agreement, self._reference, self._candidate = (subject.meter() for _ in range(3))

    def add(self, reference: Sequence[np.ndarray], candidate: Sequence[np.ndarray], size, truth) -> None:
        """Count both files' outputs for one image.

        size: height and width of the image in pixels. truth: boxes, or the class of each pixel, or None.
        """
        self._differences.add(reference, candidate)
        before, after = (self._subject.answer(outputs, *size) for outputs in (reference, candidate))
        self._agreement.add(after, self._subject.task.as_truth(before))
        self._images += 1
        if truth is not None:
            self._annotated = True
            self._reference.add(before, truth)
            self._candidate.add(after, truth)

    def result(self) -> ScoreComparison:
        """Compare the outputs and answers of all images.

        Raises:
            RequestError: there were no images.
        """
        if not self._images:
            raise RequestError("There are no images to verify with.")
        task, scores = self._subject.task, {}
        agreement = self._agreement.scores()[task.key]
        if self._annotated:
            before, after = self._reference.scores(), self._candidate.scores()
            scores = {"reference_score": before[task.key], "reference_classes": before["per_class"]}
            scores |= {"score": after[task.key], "classes": after["per_class"]}
            scores["interval"] = self._candidate.interval(self._reference)
        return ScoreComparison(
            images=self._images, measure=task.measure, agreement=agreement, constant=self._differences.constant,
            **self._differences.result(), **scores,
        )  # fmt: skip
