"""Regression: values that name no class, such as angles, or an embedding."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mobilenets_tf.data.annotated import photographs_of
from mobilenets_tf.data.images import ImageSet
from mobilenets_tf.data.preprocessing import Preprocessing
from mobilenets_tf.data.sources import Source
from mobilenets_tf.errors import RequestError
from mobilenets_tf.progress import silent
from mobilenets_tf.tasks.intervals import Interval
from mobilenets_tf.tasks.outputs import VALUES, End, OutputKind
from mobilenets_tf.tasks.task import Task, refuse_not_finite

_REASON = (
    "its outputs are values, not classes, and no annotations of values are read here. Without annotations every output "
    "is compared with the float model's. If an output holds the scores of classes, name the classes with --labels FILE."
)


class Regression(Task):
    """All outputs are values. No registered network has this task: the outputs of a user's own model show it. A score
    is not measured; ``export.proof`` compares each output. See ``task.Task``.
    """

    name, measure, key, scales = "regress", "R2", "r2", False
    forms: tuple[str, ...] = ()

    def check_installed(self) -> None:
        """Do nothing: regression needs only the dependencies of this package."""

    def find(self, spec, class_names=(), *, void=255, classes=None, progress=silent) -> ImageSet:
        raise RequestError(f"{spec} cannot score a regression: {_REASON}")

    def check_annotated(self, name: str) -> None:
        raise RequestError(f"{name} cannot be scored with annotated images: {_REASON}")

    def training_source(
        self, spec, class_names=(), *, classes=None, void=255, label_offset=None, progress=silent
    ) -> Source:
        raise RequestError(f"{spec} cannot train a regression: {_REASON}")

    def photographs(self, spec: str) -> ImageSet:
        return photographs_of(spec)

    def framed(self, preprocessing: Preprocessing) -> Preprocessing:
        return preprocessing

    def kinds(self, ends: Sequence[End], known: bool = False, classes: int | None = None) -> tuple[OutputKind, ...]:
        return tuple(VALUES if end.kind.classes else end.kind for end in ends)

    def settled(self, ends: Sequence[End], kinds: Sequence[OutputKind]) -> Task:
        return self

    def unscored(self, ends: Sequence[End], kinds: Sequence[OutputKind]) -> tuple[int, ...]:
        return tuple(range(len(kinds)))

    def accepts(self, shapes: Sequence[tuple[int, ...]]) -> str | None:
        return None

    def grids(self, model) -> tuple[tuple[int, int], ...]:
        return ()

    def decoder(self, name, ends, kinds, form=None, grids=()) -> "RegressionDecoder":
        return RegressionDecoder(name, tuple(end.name for end in ends))

    def meter(self, class_names: Sequence[str], void: int = 255) -> "RegressionMeter":
        return RegressionMeter()

    def as_truth(self, answer: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return answer

    def agree(
        self, expected: dict[str, np.ndarray], answer: dict[str, np.ndarray], score_threshold: float = 0.0
    ) -> bool:
        return all(np.allclose(expected[name], answer[name], rtol=1e-3) for name in expected)

    def shown(self, answer: dict[str, np.ndarray], threshold: float) -> dict[str, np.ndarray]:
        return answer

    def described(
        self, answer: dict[str, np.ndarray], labels: Sequence[str], height: int, width: int, top: int
    ) -> list[dict]:
        """Describe each output: its name, shape and values, and a short text with the first of the values."""
        return [
            {"name": name, "shape": list(values.shape), "values": values.tolist(), "text": _text(values)}
            for name, values in answer.items()
        ]

    def draw(self, image, answer: dict[str, np.ndarray], labels: Sequence[str], top: int = 5):
        from mobilenets_tf.tasks import pictures

        return pictures.with_texts(image, [(name, _text(values)) for name, values in answer.items()])

    def headline(self, scores: dict) -> str:
        return "no score"


@dataclass(frozen=True)
class RegressionDecoder:
    """The outputs by their names. See ``task.Decoder``."""

    name: str
    ends: tuple[str, ...]
    classes: int | None = None

    def __call__(self, outputs: Sequence[np.ndarray], height: int, width: int) -> dict[str, np.ndarray]:
        refuse_not_finite(self.name, outputs)
        return {name: np.asarray(output) for name, output in zip(self.ends, outputs, strict=True)}


class RegressionMeter:
    """Counts images: nothing can be scored. See ``task.Meter``."""

    def __init__(self):
        self._images = 0

    def add(self, answer: dict[str, np.ndarray], truth: dict[str, np.ndarray]) -> None:
        self._images += 1

    def lost(self, reference: "RegressionMeter | None" = None) -> float:
        return 0.0

    def interval(self, reference: "RegressionMeter") -> Interval | None:
        return None

    def scores(self) -> dict:
        return {"images": self._images, "r2": float("nan")}


def _text(values: np.ndarray) -> str:
    """Write the first values of an output."""
    few = values.reshape(-1)[:_SHOWN]
    return ", ".join(f"{value:.4g}" for value in few) + (", ..." if values.size > len(few) else "")


_SHOWN = 8
