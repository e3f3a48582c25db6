"""Classification: one class for an image."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mobilenets_tf.data import sources
from mobilenets_tf.data.annotated import photographs_of
from mobilenets_tf.data.images import ImageSet, find_images
from mobilenets_tf.data.preprocessing import Preprocessing
from mobilenets_tf.data.sources import Source
from mobilenets_tf.errors import RequestError
from mobilenets_tf.progress import silent
from mobilenets_tf.tasks import intervals
from mobilenets_tf.tasks.outputs import End, OutputKind, answer_place, decided, names_of
from mobilenets_tf.tasks.regression import Regression
from mobilenets_tf.tasks.task import Task, class_name, refuse_not_finite

FIRST = 5  # top-5 is measured of more classes than these; of fewer, every answer would be right


def first_answers(scores: np.ndarray) -> np.ndarray:
    """Return the class that each row of (images, classes) scores names."""
    return scores.argmax(-1)


def first_five(scores: np.ndarray) -> np.ndarray:
    """Return the five classes with the highest values of each row of (images, classes) scores, the highest first."""
    # Stable, so that classes that tie come in the order of their index, as argmax has them.
    return np.argsort(-scores, axis=-1, kind="stable")[:, :FIRST]


class Classification(Task):
    """One class for an image. See ``task.Task``."""

    name, measure, key, scales = "classify", "top-1", "top1", False
    forms: tuple[str, ...] = ()

    def check_installed(self) -> None:
        """Do nothing: classification needs only the dependencies of this package."""

    def find(self, spec, class_names=(), *, void=255, classes=None, progress=silent) -> ImageSet:
        images = find_images(spec, class_names)
        if images.labels is None:
            raise RequestError(f"{spec} has no labels: give a CSV with file and class_index, or a sub-folder a class.")
        return images

    def training_source(
        self, spec, class_names=(), *, classes=None, void=255, label_offset=None, progress=silent
    ) -> Source:
        return sources.find(spec, tuple(class_names), label_offset=label_offset, progress=progress)

    def check_annotated(self, name: str) -> None:
        """Do nothing: annotated images can be scored."""

    def photographs(self, spec: str) -> ImageSet:
        return photographs_of(spec)

    def framed(self, preprocessing: Preprocessing) -> Preprocessing:
        return preprocessing

    def kinds(self, ends: Sequence[End], known: bool = False, classes: int | None = None) -> tuple[OutputKind, ...]:
        return decided(ends, known, classes)

    def settled(self, ends: Sequence[End], kinds: Sequence[OutputKind]) -> Task:
        return self if answer_place(ends, kinds) is not None else Regression()

    def unscored(self, ends: Sequence[End], kinds: Sequence[OutputKind]) -> tuple[int, ...]:
        answer = answer_place(ends, kinds)
        return tuple(place for place, kind in enumerate(kinds) if place != answer or not kind.classes)

    def accepts(self, shapes: Sequence[tuple[int, ...]]) -> str | None:
        return None if any(len(shape) == 1 for shape in shapes) else "a classifier has one of (1, classes)"

    def grids(self, model) -> tuple[tuple[int, int], ...]:
        return ()

    def decoder(self, name, ends, kinds, form=None, grids=()) -> "ClassificationDecoder":
        place = answer_place(ends, kinds)
        if place is None:
            raise RequestError(
                f"{name} has no output that names a class: its outputs are {', '.join(names_of(kinds))}."
            )
        return ClassificationDecoder(name, place, kinds[place], max(2, ends[place].elements))

    def meter(self, class_names: Sequence[str], void: int = 255) -> "ClassificationMeter":
        return ClassificationMeter()

    def as_truth(self, answer: np.ndarray) -> int:
        return int(first_answers(answer[None])[0])

    def agree(self, expected: np.ndarray, answer: np.ndarray, score_threshold: float = 0.0) -> bool:
        return self.as_truth(expected) == self.as_truth(answer)

    def shown(self, answer: np.ndarray, threshold: float) -> np.ndarray:
        return answer

    def described(self, answer: np.ndarray, labels: Sequence[str], height: int, width: int, top: int) -> list[dict]:
        best = np.argsort(-answer, kind="stable")[:top]
        return [{"class": int(i), "name": class_name(labels, i), "score": float(answer[i])} for i in best]

    def draw(self, image, answer: np.ndarray, labels: Sequence[str], top: int = 5):
        from mobilenets_tf.tasks import pictures

        rows = self.described(answer, labels, image.height, image.width, top)
        return pictures.with_classes(image, [(row["name"], row["score"]) for row in rows])

    def headline(self, scores: dict) -> str:
        return f"top-1 {scores['top1']:.1%}" + (f", top-5 {scores['top5']:.1%}" if "top5" in scores else "")


@dataclass(frozen=True)
class ClassificationDecoder:
    """One output as scores, float (classes,). See ``task.Decoder``.

    place, kind: of the output that names the class; of a yes or no the scores are the probabilities of both.
    """

    name: str
    place: int
    kind: OutputKind
    classes: int | None

    def __call__(self, outputs: Sequence[np.ndarray], height: int, width: int) -> np.ndarray:
        refuse_not_finite(self.name, outputs)
        return self.kind.scores(outputs[self.place].reshape(1, -1))[0]


class ClassificationMeter:
    """Counts how often the right class is the first answer, and of more than five classes among the first five. See
    ``task.Meter``."""

    def __init__(self):
        self._right: list[bool] = []  # of each image: whether the first answer is
        self._five = self._classes = 0

    def add(self, answer: np.ndarray, truth: int) -> None:
        outputs = answer.reshape(1, -1).astype(np.float64)
        self._classes = outputs.shape[1]
        self._right.append(bool(first_answers(outputs)[0] == truth))
        self._five += int((first_five(outputs) == truth).any())

    def lost(self, reference: "ClassificationMeter | None" = None) -> float:
        # Counts are subtracted, not shares: rounding must not decide whether a bound is kept.
        images = len(self._right)
        before = images if reference is None else sum(reference._right)
        return (before - sum(self._right)) / images if images else float("nan")

    def interval(self, reference: "ClassificationMeter") -> intervals.Interval | None:
        pairs = list(zip(reference._right, self._right, strict=True))
        return intervals.of_shares(pairs.count((True, False)), pairs.count((False, True)), len(pairs))

    def scores(self) -> dict:
        images = len(self._right)
        first, five = (hits / images if images else float("nan") for hits in (sum(self._right), self._five))
        return {"images": images, "top1": first} | ({"top5": five} if self._classes > FIRST else {})
