"""The loop of a training: steps, epochs, judging, checkpoints, going on from one. It imports no framework.

Networks are trained with it (``step.Training``), and quantisation-aware models fine-tuned
(``quantize/qat/fine_tuning.py``).
"""

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Protocol

from mobilenets_tf.errors import RequestError
from mobilenets_tf.progress import Progress, silent


class Trainable(Protocol):
    """A model in training.

    accuracy: the key of the share of right answers in a curve's row.
    """

    accuracy: str

    def step(self, batch) -> tuple[float, float, float]:
        """Train on a batch. Return the mean loss, how many images were answered right, and how many images there were.
        An image with many answers counts as the share of right answers."""

    def facts(self, step: int) -> dict:
        """Return the entries of a step for the curve's row; at least its learning rate as "rate"."""


@dataclass
class Course:
    """The progress of a training: the rows of its curves, and the part of a checkpoint that is no array.

    step: of the next batch. epochs: a row for each. loss, correct, seen: sums over the images of the epoch under way;
        ``seen`` is their number.
    """

    step: int = 0
    epochs: list[dict] = field(default_factory=list)
    loss: float = 0.0
    correct: float = 0.0
    seen: float = 0.0


def run(
    trained: Trainable,
    batches: Callable[[int], Iterable],
    course: Course,
    *,
    epochs: int,
    steps_per_epoch: int,
    judge: Callable[[], dict[str, float]] | None = None,
    save: Callable[[Course], None] | None = None,
    save_every: int | None = None,
    on_epoch: Callable[[dict], None] = lambda row: None,
    enough: Callable[[Course], bool] = lambda course: False,
    progress: Progress = silent,
) -> None:
    """Train from ``course`` to the end.

    Args:
        batches: gives the batches from a step on.
        judge: called after each epoch; gives scores for its row.
        save: called after each epoch, and every ``save_every`` steps.
        on_epoch: called with each epoch's row: epoch, step, loss, the accuracy on the training batches as they were
            augmented, the last step's facts, the scores of ``judge``, and seconds and images_per_second, which the rows
            of ``course`` do not have.
        enough: asked after each epoch whether to end early.
        progress: called with the epoch and its steps.

    Raises:
        RequestError: the loss became infinite or NaN.
    """
    iterator, started, images = None, time.monotonic(), 0.0
    while course.step < epochs * steps_per_epoch and not (_between(course, steps_per_epoch) and enough(course)):
        iterator = iterator or iter(batches(course.step))
        epoch, position = divmod(course.step, steps_per_epoch)
        label = f"epoch {epoch + 1}/{epochs}"
        if not images:
            progress(label, position, steps_per_epoch)
        batch, facts = next(iterator), trained.facts(course.step)
        loss, correct, count = trained.step(batch)
        if not math.isfinite(loss):
            raise RequestError(
                f"The loss became {loss} at step {course.step + 1} of {epochs * steps_per_epoch}, in epoch "
                f"{epoch + 1}, at a learning rate of {facts['rate']:.2g}. Train anew with a tenth of it "
                "(--learning-rate)."
            )
        course.loss += loss * count
        course.correct += correct
        course.seen += count
        course.step += 1
        images += count
        progress(label, position + 1, steps_per_epoch)
        if _between(course, steps_per_epoch):
            row = {
                "epoch": epoch + 1,
                "step": course.step,
                "loss": course.loss / course.seen,
                trained.accuracy: course.correct / course.seen,
                **facts,
            }
            seconds = time.monotonic() - started
            row |= judge() if judge else {}
            course.epochs.append(row)
            course.loss, course.correct, course.seen = 0.0, 0.0, 0.0
            on_epoch(row | {"seconds": seconds, "images_per_second": images / seconds})
            if save:
                save(course)
            started, images = time.monotonic(), 0.0
        elif save and save_every and course.step % save_every == 0:
            save(course)


def _between(course: Course, steps_per_epoch: int) -> bool:
    """Tell whether an epoch has just ended."""
    return course.step > 0 and course.step % steps_per_epoch == 0
