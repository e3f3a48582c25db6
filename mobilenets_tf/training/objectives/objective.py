"""The objective of a training: the protocol of all objectives, and the functions that they share."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import keras
import numpy as np
import tensorflow as tf

from mobilenets_tf.data.preprocessing import Preprocessing
from mobilenets_tf.progress import Progress, silent
from mobilenets_tf.training.input import pipeline

_BATCH = 8  # images that are judged at a time


class Objective(Protocol):
    """The examples that are made of annotated images, the loss, and the scores.

    accuracy, metric: keys of a curve's row: of training batches, and of validation. The weights with the highest metric
        are the best ones.
    truth: (shape, type) of each array that an example has beside its pixels.
    """

    accuracy: str
    metric: str
    truth: Sequence[tuple[tuple[int | None, ...], type]]

    def problem(self, annotation: Any) -> str | None:
        """Say what is wrong with an image's annotation, in a sentence without its subject; None for nothing."""

    def example(self, image, annotation: Any, size: int, strength: float, random: np.random.Generator) -> tuple:
        """Make an example of a ``PIL.Image`` in RGB: augmented pixels, uint8 (size, size, 3), and ``truth``."""

    def targets(self, pixels: tf.Tensor, *truth: tf.Tensor, seed: tf.Tensor) -> tuple:
        """Make (pixels, targets) of a batch of examples, in the graph of a tf.data pipeline.

        seed: int64 of shape (2,), the only source of chance.
        """

    def trained(self, model: keras.Model) -> keras.Model:
        """Return the part of a network whose outputs the loss reads: logits rather than probabilities.

        Raises:
            RequestError: the outputs are not those of the task and its classes.
        """

    def loss(self, targets: Any, outputs: Any) -> tf.Tensor:
        """Return the loss of each image, (n,). outputs: float32 logits, a list where there are several."""

    def distillation(self, targets: Any, outputs: Any, teacher_outputs: Any, temperature: float) -> tf.Tensor:
        """Return how far each image's outputs are from a teacher's, (n,).

        Outputs are as in ``loss``; both networks' logits of classes are divided by the temperature.
        """

    def right(self, targets: Any, outputs: Any) -> tf.Tensor:
        """Return the share of each image's answers that is right, (n,)."""

    def judge(self, training: Any, reader: pipeline.Reader, progress: Progress = silent) -> dict[str, float]:
        """Return the scores of a ``step.Training`` on all images of a reader, ``metric`` among them."""


@dataclass(frozen=True)
class Teacher:
    """Another network, whose outputs are taught beside the annotations.

    Hinton et al. 2015, arXiv 1503.02531; MobileOne, arXiv 2206.04040, table 10.

    outputs: the teacher's outputs for a batch of training images, float32, as ``Objective.loss`` reads them.
    share: of the loss that is the teacher's, 0 to 1; the rest is the objective's own.
    temperature: by which both networks' logits are divided for the teacher's part.
    """

    outputs: Callable[[tf.Tensor], Any]
    share: float = 0.5
    temperature: float = 1.0

    @classmethod
    def of(
        cls,
        objective: Objective,
        model: keras.Model,
        preprocessing: Preprocessing,
        share: float = 0.5,
        temperature: float = 1.0,
    ) -> "Teacher":
        """Make a teacher of a Keras model. Images of another size than its input are resized to that.

        preprocessing: of the model's input.

        Raises:
            RequestError: the model's outputs are not those of the objective.
        """
        size, logits = model.input_shape[1], objective.trained(model)

        def outputs(pixels: tf.Tensor) -> Any:
            images = pipeline.normalised(pixels, preprocessing)
            if size not in (None, pixels.shape[1]):
                images = tf.image.resize(images, (size, size), antialias=True)
            return tf.nest.map_structure(lambda output: tf.cast(output, tf.float32), logits(images, training=False))

        return cls(outputs, share, temperature)


def training_loss(
    objective: Objective, teacher: Teacher | None, images: tf.Tensor, targets: Any, outputs: Any
) -> tf.Tensor:
    """Return the loss of each image, (n,): the objective's, mixed with the distance from the teacher by its share.

    images: as the teacher wants them; targets, outputs: as in ``Objective.loss``.
    """
    loss = objective.loss(targets, outputs)
    if teacher is None:
        return loss
    teacher_outputs = tf.nest.map_structure(tf.stop_gradient, teacher.outputs(images))
    distillation = objective.distillation(targets, outputs, teacher_outputs, teacher.temperature)
    # The square keeps the gradients' size whatever the temperature (Hinton et al., section 2).
    return (1 - teacher.share) * loss + teacher.share * teacher.temperature**2 * distillation


def logits_of_classes(outputs: tf.Tensor) -> tf.Tensor:
    """Return a logit for each class (..., classes): a single logit is that of the second of two classes beside 0, since
    the softmax of (0, z) is the sigmoid of z."""
    if outputs.shape[-1] != 1:
        return outputs
    return tf.concat([tf.zeros_like(outputs), outputs], -1)


def soft_cross_entropy(logits: tf.Tensor, teacher_logits: tf.Tensor, temperature: float) -> tf.Tensor:
    """Return the cross-entropy of a teacher's classes (..., classes) and a network's, both of logits divided by the
    temperature: (...)."""
    return tf.nn.softmax_cross_entropy_with_logits(tf.nn.softmax(teacher_logits / temperature), logits / temperature)


def network_outputs(
    training: Any, reader: pipeline.Reader, progress: Progress = silent
) -> Iterator[tuple[list[np.ndarray], Any]]:
    """Yield a ``step.Training``'s outputs for each image of a reader, without the batch axis, and the annotation.

    Images are prepared as the phone does; broken images that are to be skipped are left out. One replica computes.
    """
    with ThreadPoolExecutor(max_workers=os.cpu_count(), thread_name_prefix="images") as pool:
        for begin in range(0, len(reader), _BATCH):
            numbers = range(begin, min(begin + _BATCH, len(reader)))
            examples = [example for example in pool.map(reader.read, numbers) if example]
            pixels = list(pool.map(training.preprocessing.geometry, (image for image, _ in examples)))
            if pixels:
                outputs = training.answers(np.stack(pixels))
                for i, (_, annotation) in enumerate(examples):
                    yield [output[i] for output in outputs], annotation
            progress("validation", numbers[-1] + 1, len(reader))
