"""What differs between the things that networks are trained for; and classification, the first of them."""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import keras
import numpy as np
import tensorflow as tf

from mobilenets_tf.data.preprocessing import Preprocessing
from mobilenets_tf.errors import RequestError
from mobilenets_tf.progress import Progress, silent
from mobilenets_tf.training.input import pipeline
from mobilenets_tf.training.input.augmentation import augmented
from mobilenets_tf.training.input.mixing import mixed
from mobilenets_tf.training.recipes import Augment, Recipe

_JUDGED = 8  # images at a time


class Task(Protocol):
    """A task: what is made of an annotated image, what the network should make of it, and how it is judged.

    accuracy, metric: keys of a curve's row: of training batches, and of validation. The weights with the best metric
        are the best ones.
    truth: of each array that an example has beside its pixels, (shape, type).
    """

    accuracy: str
    metric: str
    truth: Sequence[tuple[tuple[int, ...], type]]

    def problem(self, annotation) -> str | None:
        """What is wrong with an image's annotation, a sentence without its subject; None for nothing."""

    def example(self, image, annotation, size: int, strength: float, random: np.random.Generator) -> tuple:
        """A ``PIL.Image`` in RGB and what is known of it -> augmented pixels, uint8 (size, size, 3), and ``truth``."""

    def targets(self, pixels, *truth, seed) -> tuple:
        """A batch of examples -> (pixels, targets) for the step, in the graph of a tf.data pipeline.

        seed: int64 of shape (2,), the only source of chance.
        """

    def trained(self, model) -> keras.Model:
        """The part of the network whose outputs the loss reads: logits rather than probabilities.

        Raises:
            RequestError: its outputs are not those of the task.
        """

    def loss(self, pixels, targets, outputs) -> tf.Tensor:
        """The loss of each image, (n,). outputs: float32, a list where there are several."""

    def right(self, targets, outputs) -> tf.Tensor:
        """The share of each image's answers that is right, (n,)."""

    def judge(self, training, reader: pipeline.Reader, progress: Progress = silent) -> dict[str, float]:
        """The scores of a ``step.Training`` on all images of a reader, ``metric`` among them."""


@dataclass(frozen=True)
class Teacher:
    """A network whose answers are taught too (Hinton et al. 2015, arXiv 1503.02531; MobileOne, arXiv 2206.04040, table
    10).

    model: a classifier with the same classes; its input has the student's size, or is resized to its own.
    preprocessing: of its input.
    share: of the loss that is the teacher's, 0 to 1; the rest is the right class's.
    temperature: by which both networks' logits are divided for the teacher's part.
    """

    model: keras.Model
    preprocessing: Preprocessing
    share: float = 0.5
    temperature: float = 1.0


class Classification:
    """One class an image.

    Args:
        classes: labels are below it.
        recipe: its augmentation and label smoothing.
        resampling: of crops, where the recipe leaves that to the network's ``Preprocessing``.
    """

    accuracy, metric = "top1", "val_top1"
    truth = (((), np.int32),)

    def __init__(self, classes: int, recipe: Recipe, resampling: str = "bilinear", teacher: Teacher | None = None):
        self._classes, self._smoothing, self._teacher = classes, recipe.label_smoothing, teacher
        self._augment: Augment = recipe.augment.at(resampling)
        self._taught = teacher and logits(teacher.model)

    def problem(self, annotation: int) -> str | None:
        if 0 <= annotation < self._classes:
            return None
        return f"is of class {annotation}; there are {self._classes} classes, 0 the first."

    def example(self, image, annotation: int, size: int, strength: float, random: np.random.Generator) -> tuple:
        return augmented(image, size, self._augment, strength, random), annotation

    def targets(self, pixels, labels, *, seed) -> tuple:
        """float32 (n, classes) that sum to one; pixels are float32 where something is mixed into them."""
        targets = tf.one_hot(labels, self._classes)
        if self._augment.mixup or self._augment.cutmix or self._augment.erase:
            return mixed(tf.cast(pixels, tf.float32), targets, self._augment, seed)
        return pixels, targets

    def trained(self, model) -> keras.Model:
        return logits(model)

    def loss(self, pixels, targets, outputs) -> tf.Tensor:
        loss = keras.losses.categorical_crossentropy(
            targets, outputs, from_logits=True, label_smoothing=self._smoothing
        )
        if self._teacher is None:
            return loss
        teacher, size = self._teacher, self._teacher.model.input_shape[1]
        seen = pipeline.normalised(pixels, teacher.preprocessing)
        if size not in (None, pixels.shape[1]):
            seen = tf.image.resize(seen, (size, size), antialias=True)
        answers = tf.cast(self._taught(seen, training=False), tf.float32)
        taught = tf.nn.softmax_cross_entropy_with_logits(
            tf.stop_gradient(tf.nn.softmax(answers / teacher.temperature)), outputs / teacher.temperature
        )
        # The square keeps the gradients' size whatever the temperature (section 2 of the paper).
        return (1 - teacher.share) * loss + teacher.share * teacher.temperature**2 * taught

    def right(self, targets, outputs) -> tf.Tensor:
        return tf.cast(tf.argmax(outputs, -1) == tf.argmax(targets, -1), tf.float32)

    def judge(self, training, reader: pipeline.Reader, progress: Progress = silent) -> dict[str, float]:
        """Replicas share the images."""
        place = training.distribution
        share = max(1, min(128, len(reader) // place.replicas))
        rounds = -(-len(reader) // (share * place.replicas))
        batches = place.spread(lambda: pipeline.judging_batches(reader, training.preprocessing, share, place))
        return self.scores(training.sums(batches, progress, rounds))

    def sums(self, labels, outputs) -> tf.Tensor:
        """Loss, how often the class was the first and among the first five, and of how many; of a batch. A class of -1
        stands for no image."""
        real = labels >= 0
        labels = tf.maximum(labels, 0)
        loss = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, outputs)
        hits = [tf.math.in_top_k(labels, outputs, k) for k in (1, min(5, outputs.shape[-1]))]
        values = [tf.where(real, tf.cast(value, tf.float32), 0.0) for value in (loss, *hits, real)]
        return tf.reduce_sum(tf.stack(values), -1)

    def scores(self, sums: np.ndarray) -> dict[str, float]:
        """val_loss, val_top1, val_top5 of what ``sums`` gave in all."""
        return dict(zip(("val_loss", "val_top1", "val_top5"), (sums[:3] / max(1.0, sums[3])).tolist(), strict=True))


def judged(training, reader: pipeline.Reader, progress: Progress = silent) -> Iterator[tuple[list[np.ndarray], Any]]:
    """What a ``step.Training`` answers for each image of a reader, without the batch axis, and the image's annotation.

    Images are prepared as the phone does; those that are broken, and to be skipped, are left out. One replica answers.
    """
    with ThreadPoolExecutor(max_workers=os.cpu_count(), thread_name_prefix="images") as pool:
        for begin in range(0, len(reader), _JUDGED):
            numbers = range(begin, min(begin + _JUDGED, len(reader)))
            found = [pair for pair in pool.map(reader.read, numbers) if pair]
            pixels = list(pool.map(training.preprocessing.geometry, (image for image, _ in found)))
            if pixels:
                answers = training.answers(np.stack(pixels))
                yield from (([output[i] for output in answers], truth) for i, (_, truth) in enumerate(found))
            progress("validation", numbers[-1] + 1, len(reader))


def logits(model) -> keras.Model:
    """A classifier without its softmax: what losses and half precision want.

    Raises:
        RequestError: not one output of (N, classes), or it ends in a sigmoid.
    """
    if len(model.outputs) != 1 or len(model.outputs[0].shape) != 2:
        shapes = [tuple(tensor.shape) for tensor in model.outputs]
        raise RequestError(f"{model.name!r} has outputs of shape {shapes}; a classifier has one of (None, classes).")
    last, node, _ = model.outputs[0]._keras_history
    activation = getattr(last, "activation", None)
    if isinstance(last, keras.layers.Softmax) or (
        isinstance(last, keras.layers.Activation) and activation is keras.activations.softmax
    ):
        return keras.Model(model.inputs[0], last._inbound_nodes[node].input_tensors[0])
    if activation is keras.activations.softmax:  # inside the last layer, so that only its logarithm can be had
        return keras.Model(model.inputs[0], keras.ops.log(keras.ops.maximum(model.outputs[0], 1e-7)))
    if activation is keras.activations.sigmoid:
        raise RequestError(
            f"{model.name!r} ends in a sigmoid: labels here are one class an image, so end in a softmax."
        )
    return model
