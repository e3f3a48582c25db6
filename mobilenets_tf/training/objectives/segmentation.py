"""The task of a segmenter: the class of every pixel."""

from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from mobilenets_tf.errors import RequestError
from mobilenets_tf.progress import Progress, silent
from mobilenets_tf.tasks.metrics import Confusion
from mobilenets_tf.tasks.segmentation import classes_at
from mobilenets_tf.training.input import pipeline
from mobilenets_tf.training.input.annotated_augmentation import with_mask
from mobilenets_tf.training.objectives.classification import judged
from mobilenets_tf.training.recipes import Recipe


class Segmentation:
    """A class for each pixel.

    Args:
        class_names: of the pixels.
        void: what pixels have that are none of these.
        recipe: its augmentation.
        resampling: of crops, where the recipe leaves that to the network's ``Preprocessing``.
    """

    accuracy, metric = "pixels", "val_miou"
    truth = (((None, None), np.uint8),)

    def __init__(self, class_names: Sequence[str], void: int, recipe: Recipe, resampling: str):
        self._names, self._void, self._augment = tuple(class_names), void, recipe.augment.at(resampling)

    def problem(self, annotation: np.ndarray) -> str | None:
        return None  # masks are checked where they are read

    def example(self, image, annotation: np.ndarray, size: int, strength: float, random: np.random.Generator) -> tuple:
        return with_mask(image, annotation, size, self._augment, random, self._void)

    def targets(self, pixels, masks, *, seed) -> tuple:
        return pixels, masks

    def trained(self, model) -> keras.Model:
        """The model: it ends in logits.

        Raises:
            RequestError: not a segmenter.
        """
        shapes = [tuple(output.shape) for output in model.outputs]
        if len(shapes) != 1 or len(shapes[0]) != 4 or shapes[0][-1] != len(self._names):
            raise RequestError(
                f"{model.name!r} has outputs of shape {shapes}; a segmenter of {len(self._names)} classes has one of "
                f"(None, height, width, {len(self._names)})."
            )
        return model

    def loss(self, pixels, targets, outputs) -> tf.Tensor:
        """Cross-entropy at the mask's size, over the pixels that are not void."""
        losses = keras.losses.sparse_categorical_crossentropy(
            targets, self._enlarged(outputs, targets), from_logits=True, ignore_class=self._void
        )
        return tf.math.divide_no_nan(tf.reduce_sum(losses, (1, 2)), tf.reduce_sum(self._known(targets), (1, 2)))

    def right(self, targets, outputs) -> tf.Tensor:
        """The share of pixels whose class has the highest logit."""
        found = tf.argmax(self._enlarged(outputs, targets), -1, tf.int32) == tf.cast(targets, tf.int32)
        right = tf.cast(found, tf.float32) * self._known(targets)
        return tf.math.divide_no_nan(tf.reduce_sum(right, (1, 2)), tf.reduce_sum(self._known(targets), (1, 2)))

    def _known(self, masks) -> tf.Tensor:
        return tf.cast(tf.cast(masks, tf.int32) != self._void, tf.float32)

    def _enlarged(self, logits, masks) -> tf.Tensor:
        return tf.image.resize(logits, tf.shape(masks)[1:3])

    def judge(self, training, reader: pipeline.Reader, progress: Progress = silent) -> dict[str, float]:
        """val_miou and val_pixels, at the masks' own size."""
        confusion = Confusion(len(self._names), self._void)
        for (logits,), truth in judged(training, reader, progress):
            confusion.add(truth, classes_at(logits, *truth.shape))
        return {"val_miou": confusion.miou, "val_pixels": confusion.pixel_accuracy}
