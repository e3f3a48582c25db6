"""Compare the outputs and answers of two files on the same images."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from mobilenets_tf.errors import RequestError
from mobilenets_tf.export.proof.subject import Subject
from mobilenets_tf.tasks import intervals
from mobilenets_tf.tasks.classification import FIRST, first_answers, first_five
from mobilenets_tf.tasks.fidelity import OutputFidelity, tallies_of
from mobilenets_tf.tasks.outputs import BINARY, CLASSES, End, OutputKind, answer_place, kind_of
from mobilenets_tf.tasks.task import percent


@dataclass(frozen=True)
class Comparison:
    """A candidate's outputs beside the reference's, on the same images, for a classifier or any model of one's own.

    images: how many. largest_difference, relative_difference, snr_db: of the worst output, see ``OutputFidelity``.
    outputs: each output. answer: the place of the output that names the class of an image. None where none does, and
        then there are no shares of answers, ties and accuracies.
    top1_agreement: share of images with the same answer; top5_agreement: share whose reference answer is among the
        candidate's first five, of more than five classes.
    ties: share of images where the candidate's highest value is shared by several classes.
    constant: the places of the candidate's outputs that have the same values on every image, of several.
    reference_top1, reference_top5, top1, top5: accuracies, where labels were given; top5 of more than five classes.
        interval: the 95 % interval of the change of top-1, see ``tasks.intervals``.
    """

    images: int
    largest_difference: float
    relative_difference: float
    snr_db: float
    top1_agreement: float | None = None
    top5_agreement: float | None = None
    ties: float | None = None
    constant: tuple[int, ...] = ()
    outputs: tuple[OutputFidelity, ...] = ()
    answer: int | None = None
    reference_top1: float | None = None
    reference_top5: float | None = None
    top1: float | None = None
    top5: float | None = None
    interval: intervals.Interval | None = None

    @property
    def measure(self) -> str:
        """What the score is called; of a model without classes, what the agreement is of its worst output."""
        return self._worst.measure if self.top1_agreement is None else "top-1"

    @property
    def agreement(self) -> float:
        """The share of images with the reference's answer; of several outputs the lowest agreement."""
        return min(self._agreements())

    @property
    def agreement_measure(self) -> str:
        """What the agreement is called."""
        if self._single_answer:
            return "same answer as float32"
        return f"agreement with float32 ({self._worst.measure}{' of the worst output' * (len(self.outputs) > 1)})"

    @property
    def score(self) -> float | None:
        """The candidate's accuracy, where labels were given."""
        return self.top1

    @property
    def reference_score(self) -> float | None:
        """The reference's accuracy, where labels were given."""
        return self.reference_top1

    @property
    def chance(self) -> float | None:
        """The accuracy of answers by chance; None where no output names classes."""
        return None if self.answer is None else 1 / max(2, self.outputs[self.answer].element_count)

    def summary(self) -> str:
        """Return how the answers compare, in a few words."""
        if self._single_answer:
            return f"same answer as float32 on {self.top1_agreement:.1%} of {self.images} images"
        return f"{self._worst.measure} {self.agreement:.1%} on {self.images} images (output {self._worst.name!r})"

    @property
    def score_drop(self) -> float | None:
        """The loss of accuracy, where labels were given."""
        return None if self.top1 is None or self.reference_top1 is None else self.reference_top1 - self.top1

    @property
    def drop(self) -> float:
        """The loss of accuracy, without labels the share of images with another answer; or the disagreement of another
        output, where that is larger."""
        others = self._agreements(answer=self.score_drop is None)
        return max([1 - agreement for agreement in others] + ([] if self.score_drop is None else [self.score_drop]))

    @property
    def _single_answer(self) -> bool:
        return self.top1_agreement is not None and len(self.outputs) <= 1

    @property
    def _worst(self) -> OutputFidelity:
        return min(self.outputs, key=lambda output: output.agreement)

    def _agreements(self, answer: bool = True) -> Iterator[float]:
        """Yield the agreement of each output; that of the answer only if it is asked for."""
        if answer and self.top1_agreement is not None:
            yield self.top1_agreement
        for place, output in enumerate(self.outputs):
            if place != self.answer or not kind_of(output.kind).classes:
                yield output.agreement

    def as_dict(self) -> dict:
        """Return the fields as plain data for the manifest, and what to do about elements that differ in scale."""
        return (
            {"agreement": self.agreement}
            | asdict(self)
            | {"advice": [text for output in self.outputs if (text := output.advice())]}
        )

    def lines(self) -> list[str]:
        """Return the comparison as lines of text."""
        lines = _difference_lines(self) if self._single_answer else []
        if self.top1_agreement is not None:
            five = "" if self.top5_agreement is None else f"among the first five: {self.top5_agreement:.1%}; "
            lines.append(
                f"same answer         {self.top1_agreement:.1%} of {self.images} images ({five}tied: {self.ties:.1%})"
            )
        if self.top1 is not None:
            five = "" if self.top5 is None else f", top-5 {self.reference_top5:.1%} -> {self.top5:.1%}"
            change = f"{self.reference_top1:.1%} -> {self.top1:.1%} ({change_in_points(self)})"
            lines.append(f"accuracy            top-1 {change}{five}")
        if not self._single_answer:
            lines += [line for output in self.outputs for line in output.lines()]
            lines.append(f"agreement           {self.agreement:.1%} on {self.images} images ({self._worst.name})")
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
    outputs: each output of the network. constant: as in ``Comparison``.
    reference_score, score: where the images are annotated; reference_classes, classes: of each class, by its name.
        interval: the 95 % interval of the change of the score, see ``tasks.intervals``.
    """

    images: int
    largest_difference: float
    relative_difference: float
    snr_db: float
    measure: str
    agreement: float
    outputs: tuple[OutputFidelity, ...] = ()
    constant: tuple[int, ...] = ()
    reference_score: float | None = None
    score: float | None = None
    interval: intervals.Interval | None = None
    reference_classes: dict[str, float] = field(default_factory=dict)
    classes: dict[str, float] = field(default_factory=dict)

    agreement_measure = "agreement with float32"
    chance = None  # of boxes and masks there is no such score

    def summary(self) -> str:
        """Return how the answers compare, in a few words."""
        return f"{self.agreement:.1%} {self.measure} with float32's answers as the truth, on {self.images} images"

    @property
    def score_drop(self) -> float | None:
        """The loss of the score, where the images are annotated."""
        return None if self.score is None or self.reference_score is None else self.reference_score - self.score

    @property
    def drop(self) -> float:
        """The loss of the score; without annotations 1 - agreement."""
        return 1 - self.agreement if self.score_drop is None else self.score_drop

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


def points(reference_score: float, score: float, interval: Sequence[float] | None) -> str:
    """Describe the change of a score, in percentage points, with its interval."""
    text = f"{100 * (score - reference_score):+.1f} points"
    if interval is None:
        return text
    low, high = (100 * end for end in interval)
    return f"{text}, 95 % interval {low:+.1f} to {high:+.1f}"


def change_in_points(comparison) -> str:
    """Describe the change of the score of a comparison."""
    return points(comparison.reference_score, comparison.score, comparison.interval)


def _difference_lines(comparison) -> list[str]:
    return [
        f"largest difference  {comparison.largest_difference:.3g} "
        f"({comparison.relative_difference:.2g} of the largest output)",
        f"signal to noise     {comparison.snr_db:.1f} dB",
    ]


def compare(reference: np.ndarray, candidate: np.ndarray, labels=None, kind: OutputKind | None = None) -> Comparison:
    """Compare two arrays of outputs (images, classes); ``labels`` holds the right class of each image.

    Args:
        kind: what the outputs say, see ``tasks.outputs``; None: a score for each class, or a single one the probability
            of the second of two classes.

    Raises:
        RequestError: the shapes differ, there are no images, or an output is NaN or infinite.
    """
    if len(reference) == 0:
        raise RequestError("There are no images to verify with.")
    end = End("output", tuple(reference.shape[1:]))
    tally = OutputsTally([end], [kind or (CLASSES if end.elements > 1 else BINARY)])
    tally.add_batch([reference], [candidate], labels)
    return tally.result()


class OutputsTally:
    """Compares all outputs of two files, image by image; of the output that names classes, also the answers.

    ends, kinds: of the outputs, see ``tasks.outputs``.
    """

    def __init__(self, ends: Sequence[End], kinds: Sequence[OutputKind]):
        self._tallies, self._place = tallies_of(ends, kinds), answer_place(ends, kinds)
        self._kind = None if self._place is None else kinds[self._place]
        self._pairs: list[tuple[np.ndarray, np.ndarray]] = []
        self._labels: list[int] = []

    @classmethod
    def of(cls, subject: Subject) -> "OutputsTally":
        """Return an empty tally for the outputs of a subject."""
        return cls(subject.ends, subject.kinds)

    def add(self, reference: Sequence[np.ndarray], candidate: Sequence[np.ndarray], size, truth) -> None:
        """Count both files' outputs for one image.

        size: height and width of the image in pixels. truth: the class index, or None.

        Raises:
            RequestError: the shapes differ, or values are NaN or infinite.
        """
        batches = ([np.asarray(output)[None] for output in outputs] for outputs in (reference, candidate))
        self.add_batch(*batches, None if truth is None else [truth])

    def add_batch(self, reference: Sequence[np.ndarray], candidate: Sequence[np.ndarray], labels=None) -> None:
        """Count both files' outputs for several images, with a leading axis; as ``add``."""
        for tally, expected, output in zip(self._tallies, reference, candidate, strict=True):
            tally.add(expected, output)
        if self._kind is not None:
            pair = (np.asarray(outputs[self._place], np.float64) for outputs in (reference, candidate))
            before, after = map(self._kind.scores, pair)
            self._pairs += zip(before, after, strict=True)
        self._labels += [] if labels is None else list(labels)

    @property
    def answers(self) -> tuple[np.ndarray, np.ndarray] | None:
        """The scores of the classes of both files, (images, classes) each; None where no output names classes."""
        if not self._pairs:
            return None
        reference, candidate = map(np.array, zip(*self._pairs, strict=True))
        return reference, candidate

    def result(self) -> Comparison:
        """Compare the outputs of all images.

        Raises:
            RequestError: there were no images.
        """
        outputs = tuple(tally.result() for tally in self._tallies)
        return Comparison(
            images=self._tallies[0].images,
            **_of_outputs(outputs),
            outputs=outputs,
            answer=self._place,
            **self._answered(),
        )

    def _answered(self) -> dict[str, Any]:
        if (answers := self.answers) is None:
            return {}
        reference, candidate = answers
        before, after = first_answers(reference), first_answers(candidate)
        several = reference.shape[1] > FIRST
        figures: dict[str, Any] = {
            "top1_agreement": float((after == before).mean()),
            "top5_agreement": _share_among_five(candidate, before) if several else None,
            "ties": float(((candidate == candidate.max(-1, keepdims=True)).sum(-1) > 1).mean()),
        }
        if self._labels:
            labels = np.asarray(self._labels)
            right = before == labels, after == labels
            lost, won = int((right[0] & ~right[1]).sum()), int((~right[0] & right[1]).sum())
            figures["interval"] = intervals.of_shares(lost, won, len(labels))
            for name, scores, answer in (("reference_", reference, before), ("", candidate, after)):
                figures[f"{name}top1"] = float((answer == labels).mean())
                figures[f"{name}top5"] = _share_among_five(scores, labels) if several else None
        return figures


def _share_among_five(scores: np.ndarray, classes: np.ndarray) -> float:
    return float((first_five(scores) == np.asarray(classes)[:, None]).any(-1).mean())


def _of_outputs(outputs: Sequence[OutputFidelity]) -> dict[str, Any]:
    """Return largest_difference, relative_difference and snr_db of the worst output, and which outputs are constant."""
    return {
        "largest_difference": max(output.largest_difference for output in outputs),
        "relative_difference": max(output.relative_difference for output in outputs),
        "snr_db": min(output.snr_db for output in outputs),
        "constant": tuple(place for place, output in enumerate(outputs) if output.constant),
    }


class ScoreTally:
    """Compares two detectors or segmenters, image by image."""

    def __init__(self, subject: Subject):
        self._subject, self._images, self._annotated = subject, 0, False
        self._tallies = tallies_of(subject.ends, subject.kinds)
        self._agreement, self._reference, self._candidate = (subject.meter() for _ in range(3))

    def add(self, reference: Sequence[np.ndarray], candidate: Sequence[np.ndarray], size, truth) -> None:
        """Count both files' outputs for one image.

        size: height and width of the image in pixels. truth: boxes, or the class of each pixel, or None.

        Raises:
            RequestError: the shapes differ, or values are NaN or infinite.
        """
        for tally, expected, output in zip(self._tallies, reference, candidate, strict=True):
            tally.add(expected[None], output[None])
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
        outputs = tuple(tally.result() for tally in self._tallies)
        return ScoreComparison(
            images=self._images, measure=task.measure, agreement=agreement, outputs=outputs,
            **_of_outputs(outputs), **scores,
        )  # fmt: skip
