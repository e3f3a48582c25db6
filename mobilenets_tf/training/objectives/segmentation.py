"""The objective of a segmenter: the class of every pixel."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from mobilenets_tf.errors import RequestError
from mobilenets_tf.progress import Progress, silent
from mobilenets_tf.tasks.metrics import Confusion
from mobilenets_tf.tasks.segmentation import classes_at
from mobilenets_tf.training.input import pipeline
from mobilenets_tf.training.input.annotated_augmentation import with_mask
from mobilenets_tf.training.objectives.objective import network_outputs, soft_cross_entropy
from mobilenets_tf.training.recipes import Recipe


class SegmentationObjective:
    """A class for each pixel.

    Args:
        class_names: of the pixels.
        void: the value of pixels that are of no class.
        recipe: its augmentation.
        interpolation: of crops, where the recipe leaves that to the network's ``Preprocessing``.
    """

    accuracy, metric = "pixels", "val_miou"
    truth = (((None, None), np.uint8),)

    def __init__(self, class_names: Sequence[str], void: int, recipe: Recipe, interpolation: str):
        self._names, self._void, self._augment = tuple(class_names), void, recipe.augment.at(interpolation)

    def problem(self, annotation: np.ndarray) -> str | None:
        return None  # masks are checked where they are read

    def example(self, image, annotation: np.ndarray, size: int, strength: float, random: np.random.Generator) -> tuple:
        return with_mask(image, annotation, size, self._augment, random, self._void)

    def targets(self, pixels: tf.Tensor, masks: tf.Tensor, *, seed: Any) -> tuple[tf.Tensor, tf.Tensor]:
        return pixels, masks

    def trained(self, model: keras.Model) -> keras.Model:
        """Return the model itself, which ends in logits.

        Raises:
            RequestError: the model is not a segmenter of these classes.
        """
        shapes = [tuple(output.shape) for output in model.outputs]
        if len(shapes) != 1 or len(shapes[0]) != 4 or shapes[0][-1] != len(self._names):
            raise RequestError(
                f"{model.name!r} has outputs of shape {shapes}; a segmenter of {len(self._names)} classes has one of "
                f"(None, height, width, {len(self._names)})."
            )
        return model

    def loss(self, targets: tf.Tensor, outputs: tf.Tensor) -> tf.Tensor:
        """Return the cross-entropy at the mask's size, over the pixels that are not void."""
        losses = keras.losses.sparse_categorical_crossentropy(
            targets, self._enlarged(outputs, targets), from_logits=True, ignore_class=self._void
        )
        return self._mean(losses, targets)

    def distillation(
        self, targets: tf.Tensor, outputs: tf.Tensor, teacher_outputs: tf.Tensor, temperature: float
    ) -> tf.Tensor:
        """Return the cross-entropy with the teacher's softmax at the mask's size, over the pixels that are not void.

        Source: pixel-wise distillation of Liu et al. 2019 ("Structured Knowledge Distillation for Semantic
        Segmentation", arXiv 1903.04197, section 3.1), at the network's own size and over all pixels in the paper.
        """
        logits, teacher_logits = self._enlarged(outputs, targets), self._enlarged(teacher_outputs, targets)
        return self._mean(soft_cross_entropy(logits, teacher_logits, temperature) * self._known(targets), targets)

    def right(self, targets: tf.Tensor, outputs: tf.Tensor) -> tf.Tensor:
        """Return the share of pixels whose class has the highest logit."""
        classes = tf.argmax(self._enlarged(outputs, targets), -1, tf.int32)
        right = tf.cast(classes == tf.cast(targets, tf.int32), tf.float32)
        return self._mean(right * self._known(targets), targets)

    def _mean(self, values: tf.Tensor, masks: tf.Tensor) -> tf.Tensor:
        """Return the mean over the pixels that are not void; ``values`` are 0 in void pixels."""
        return tf.math.divide_no_nan(tf.reduce_sum(values, (1, 2)), tf.reduce_sum(self._known(masks), (1, 2)))

    def _known(self, masks: tf.Tensor) -> tf.Tensor:
        return tf.cast(tf.cast(masks, tf.int32) != self._void, tf.float32)

    def _enlarged(self, logits: tf.Tensor, masks: tf.Tensor) -> tf.Tensor:
        return tf.image.resize(logits, tf.shape(masks)[1:3])

    def judge(self, training: Any, reader: pipeline.Reader, progress: Progress = silent) -> dict[str, float]:
        """Return val_miou and val_pixels, at the masks' own size."""
        confusion = Confusion(len(self._names), self._void)
        for (logits,), truth in network_outputs(training, reader, progress):
            confusion.add(truth, classes_at(logits, *truth.shape))
        return {"val_miou": confusion.miou, "val_pixels": confusion.pixel_accuracy}
