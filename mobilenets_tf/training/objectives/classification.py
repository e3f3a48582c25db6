"""The objective of a classifier: one class an image."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from mobilenets_tf.errors import RequestError
from mobilenets_tf.progress import Progress, silent
from mobilenets_tf.training.input import pipeline
from mobilenets_tf.training.input.augmentation import augmented
from mobilenets_tf.training.input.mixing import mixed
from mobilenets_tf.training.objectives.objective import logits_of_classes, soft_cross_entropy
from mobilenets_tf.training.recipes import Augment, Recipe


class ClassificationObjective:
    """One class an image.

    Args:
        classes: how many; labels are below it.
        recipe: its augmentation and label smoothing.
        interpolation: of crops, where the recipe leaves that to the network's ``Preprocessing``.
    """

    accuracy, metric = "top1", "val_top1"
    truth = (((), np.int32),)

    def __init__(self, classes: int, recipe: Recipe, interpolation: str = "bilinear"):
        self._classes, self._smoothing = classes, recipe.label_smoothing
        self._augment: Augment = recipe.augment.at(interpolation)

    def problem(self, annotation: int) -> str | None:
        if 0 <= annotation < self._classes:
            return None
        return f"is of class {annotation}; there are {self._classes} classes, 0 the first."

    def example(self, image, annotation: int, size: int, strength: float, random: np.random.Generator) -> tuple:
        return augmented(image, size, self._augment, strength, random), annotation

    def targets(self, pixels: tf.Tensor, labels: tf.Tensor, *, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Make targets, float32 (n, classes), that sum to one. Mixing and erasing make the pixels float32."""
        targets = tf.one_hot(labels, self._classes)
        if self._augment.mixup or self._augment.cutmix or self._augment.erase:
            return mixed(tf.cast(pixels, tf.float32), targets, self._augment, seed)
        return pixels, targets

    def trained(self, model: keras.Model) -> keras.Model:
        """Return the classifier without its softmax.

        Raises:
            RequestError: the model has not one output of (N, classes), or (N, 1) for two classes, or ends in a sigmoid
                for each of several classes.
        """
        trained = logits(model)
        outputs = max(2, trained.outputs[0].shape[-1])
        if outputs != self._classes:
            raise RequestError(
                f"{model.name!r} has {outputs} outputs, and there are {self._classes} classes. A registered network "
                "gets a fresh classifier for other classes: name it, and pass the file as --weights (weights=)."
            )
        return trained

    def loss(self, targets: tf.Tensor, outputs: tf.Tensor) -> tf.Tensor:
        return keras.losses.categorical_crossentropy(
            targets, logits_of_classes(outputs), from_logits=True, label_smoothing=self._smoothing
        )

    def distillation(
        self, targets: tf.Tensor, outputs: tf.Tensor, teacher_outputs: tf.Tensor, temperature: float
    ) -> tf.Tensor:
        """Return the cross-entropy with the teacher's softmax (Hinton et al. 2015, arXiv 1503.02531, section 2)."""
        return soft_cross_entropy(logits_of_classes(outputs), logits_of_classes(teacher_outputs), temperature)

    def right(self, targets: tf.Tensor, outputs: tf.Tensor) -> tf.Tensor:
        return tf.cast(tf.argmax(logits_of_classes(outputs), -1) == tf.argmax(targets, -1), tf.float32)

    def judge(self, training: Any, reader: pipeline.Reader, progress: Progress = silent) -> dict[str, float]:
        """Return val_loss, val_top1 and val_top5. Replicas share the images."""
        distribution = training.distribution
        share = max(1, min(128, len(reader) // distribution.replicas))
        rounds = -(-len(reader) // (share * distribution.replicas))
        batches = distribution.spread(
            lambda: pipeline.judging_batches(reader, training.preprocessing, share, distribution)
        )
        return self.scores(training.sums(batches, progress, rounds))

    def sums(self, labels: tf.Tensor, outputs: tf.Tensor) -> tf.Tensor:
        """Add up a batch, (4,): the loss, how often the class was the first and among the first five, and the number of
        images. A class of -1 stands for no image."""
        real, outputs = labels >= 0, logits_of_classes(outputs)
        labels = tf.maximum(labels, 0)
        loss = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, outputs)
        hits = [tf.math.in_top_k(labels, outputs, k) for k in (1, min(5, outputs.shape[-1]))]
        values = [tf.where(real, tf.cast(value, tf.float32), 0.0) for value in (loss, *hits, real)]
        return tf.reduce_sum(tf.stack(values), -1)

    def scores(self, sums: np.ndarray) -> dict[str, float]:
        """Return val_loss, val_top1 and val_top5, from the ``sums`` of all batches."""
        return dict(zip(("val_loss", "val_top1", "val_top5"), (sums[:3] / max(1.0, sums[3])).tolist(), strict=True))


def logits(model: keras.Model) -> keras.Model:
    """Return a classifier without its softmax, or a classifier of two classes with one output without its sigmoid, as
    losses and half precision need it.

    Raises:
        RequestError: the model has not one output of (N, classes), or ends in a sigmoid for each of several classes.
    """
    if len(model.outputs) != 1 or len(model.outputs[0].shape) != 2:
        shapes = [tuple(tensor.shape) for tensor in model.outputs]
        raise RequestError(f"{model.name!r} has outputs of shape {shapes}; a classifier has one of (None, classes).")
    last, node, _ = model.outputs[0]._keras_history
    activation = getattr(last, "activation", None)
    single = model.outputs[0].shape[-1] == 1
    if isinstance(last, keras.layers.Softmax) or (
        isinstance(last, keras.layers.Activation)
        and (activation is keras.activations.softmax or (activation is keras.activations.sigmoid and single))
    ):
        return keras.Model(model.inputs[0], last._inbound_nodes[node].input_tensors[0])
    if activation is keras.activations.softmax:  # inside the last layer, so that only its logarithm can be had
        return keras.Model(model.inputs[0], keras.ops.log(keras.ops.maximum(model.outputs[0], 1e-7)))
    if activation is keras.activations.sigmoid and single:  # likewise
        share = keras.ops.clip(model.outputs[0], 1e-7, 1 - 1e-7)
        return keras.Model(model.inputs[0], keras.ops.log(share) - keras.ops.log(1 - share))
    if activation is keras.activations.sigmoid:
        raise RequestError(
            f"{model.name!r} ends in a sigmoid: labels here are one class an image, so end in a softmax."
        )
    return model
