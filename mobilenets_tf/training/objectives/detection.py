"""The objective of an SSD: which anchors are objects of which class, and how far their boxes are from the anchors."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras.utils import bounding_boxes

from mobilenets_tf.data.boxes import Boxes
from mobilenets_tf.errors import RequestError
from mobilenets_tf.networks.heads.anchors import ssd_anchors
from mobilenets_tf.networks.heads.ssd import grids
from mobilenets_tf.progress import Progress, silent
from mobilenets_tf.tasks import metrics
from mobilenets_tf.tasks.postprocess import Postprocess
from mobilenets_tf.training.input import pipeline
from mobilenets_tf.training.input.annotated_augmentation import with_boxes
from mobilenets_tf.training.objectives.objective import network_outputs
from mobilenets_tf.training.recipes import Recipe

# An anchor is an object's from this intersection over union on, and background up to the first; between them it is
# neither (arXiv 1708.02002, section 4.1). An object that no anchor reaches takes the one that comes nearest.
_BACKGROUND_BELOW, _OBJECT_FROM = 0.4, 0.5
_VARIANCES = (0.1, 0.1, 0.2, 0.2)  # one over TFLite_Detection_PostProcess' scales 10, 10, 5, 5
_ALPHA, _GAMMA = 0.25, 2.0  # of the focal loss, arXiv 1708.02002, table 1
_IGNORED, _NOTHING = -1, 0  # of an anchor, or of a box where an image has none; classes count from 1 as in the scores


def anchors_of(model: keras.Model) -> np.ndarray:
    """Return the anchors of an SSD, as ``ssd_anchors`` does.

    Raises:
        RequestError: the model has no layers with the names of an SSD of this package, which show its feature maps.
    """
    maps = grids(model)
    if not maps:
        raise RequestError(
            f"{model.name!r} has no layers ssd_level1_boxes, ssd_level2_boxes, ..., from which the anchors of an SSD "
            "are known. Train a registered detector: mobilenets-tf list --task detect."
        )
    return ssd_anchors(maps)


class DetectionObjective:
    """Boxes and their classes.

    Args:
        anchors: the network's, as ``anchors_of`` gives them.
        class_names: of the objects.
        recipe: its augmentation.
        interpolation: of crops, where the recipe leaves that to the network's ``Preprocessing``.
        most_boxes: that an image may have.
    """

    accuracy, metric = "anchors", "val_map50"

    def __init__(
        self, anchors: np.ndarray, class_names: Sequence[str], recipe: Recipe, interpolation: str, most_boxes: int
    ):
        self._names, self._augment, self._most = (
            tuple(class_names),
            recipe.augment.at(interpolation),
            max(1, most_boxes),
        )
        self._anchors = anchors
        centres, sides = anchors[:, :2], anchors[:, 2:]
        self._corners = np.concatenate([centres - sides / 2, centres + sides / 2], -1)
        self.truth = (((self._most, 4), np.float32), ((self._most,), np.int32))

    def problem(self, annotation: Boxes) -> str | None:
        if len(annotation.classes) > self._most:
            return f"has {len(annotation.classes)} boxes; the others have {self._most} at the most."
        return None

    def example(self, image, annotation: Boxes, size: int, strength: float, random: np.random.Generator) -> tuple:
        """Make pixels, corners (most_boxes, 4) and classes (most_boxes,). Where an image has fewer boxes, its boxes are
        repeated, which changes no match; where it has none, there is background."""
        pixels, boxes = with_boxes(image, annotation, size, self._augment, random)
        corners, classes = boxes.corners, np.where(boxes.ignored, _IGNORED, boxes.classes + 1)
        if not len(classes):
            corners, classes = np.array([[0, 0, 1, 1]]), np.array([_NOTHING])
        places = np.arange(self._most) % len(classes)
        return pixels, corners[places], classes[places]

    def targets(self, pixels: tf.Tensor, corners: tf.Tensor, classes: tf.Tensor, *, seed: Any) -> tuple:
        """Make the targets: each anchor's encoded box (n, A, 4), and its class (n, A): 0 for background, -1 for neither
        background nor an object."""
        size = tf.cast(tf.shape(pixels)[1], tf.float32)
        anchors, boxes = self._corners * size, corners * size
        overlap = bounding_boxes.compute_iou(anchors, boxes, "yxyx")  # (n, A, most)
        nearest = tf.one_hot(tf.argmax(overlap, 1), len(anchors), axis=1)  # 1 for each box' nearest anchor
        overlap += 2 * nearest  # more than any other can have
        columns, best = tf.argmax(overlap, -1), tf.reduce_max(overlap, -1)
        encoded = bounding_boxes.encode_box_to_deltas(
            anchors, tf.gather(boxes, columns, batch_dims=1), "yxyx", "yxyx", "center_yxhw", _VARIANCES
        )
        classes = tf.gather(classes, columns, batch_dims=1)
        others = tf.where((best < _BACKGROUND_BELOW) | (classes == _NOTHING), _NOTHING, _IGNORED)
        return pixels, (encoded, tf.where(best >= _OBJECT_FROM, classes, others))

    def trained(self, model: keras.Model) -> keras.Model:
        """Return the model of boxes and logits, without the last sigmoid.

        Raises:
            RequestError: the model is not an SSD with these anchors and classes.
        """
        anchors, columns = len(self._anchors), 1 + len(self._names)
        shapes = [tuple(output.shape) for output in model.outputs]
        if [shape[1:] for shape in shapes] != [(anchors, 4), (anchors, columns)]:
            raise RequestError(
                f"{model.name!r} has outputs of shape {shapes}; a detector has boxes and scores, for {anchors} anchors "
                f"and {len(self._names)} classes (None, {anchors}, 4) and (None, {anchors}, {columns})."
            )
        if not np.array_equal(anchors_of(model), self._anchors):
            raise RequestError(f"{model.name!r} has as many anchors, {anchors}, but in other places.")
        boxes, scores = model.outputs
        last, node, _ = scores._keras_history
        if getattr(last, "activation", None) is keras.activations.sigmoid:
            scores = last._inbound_nodes[node].input_tensors[0]
        return keras.Model(model.inputs[0], [boxes, scores])

    def loss(self, targets: tuple, outputs: list) -> tf.Tensor:
        """Return focal loss of all anchors plus smooth L1 loss of the objects' boxes, divided by the number of objects.

        The scores' first column, background, takes no part, since TFLite's op skips it.
        """
        (encoded, classes), (boxes, scores) = targets, outputs
        objects = tf.cast(classes > 0, tf.float32)
        wanted = tf.one_hot(classes - 1, len(self._names))
        focal = len(self._names) * keras.losses.binary_focal_crossentropy(
            wanted, scores[..., 1:], apply_class_balancing=True, alpha=_ALPHA, gamma=_GAMMA, from_logits=True
        )
        focal = tf.where(classes == _IGNORED, 0.0, focal)
        distance = 4 * keras.losses.huber(encoded, boxes) * objects
        return tf.reduce_sum(focal + distance, -1) / tf.maximum(1.0, tf.reduce_sum(objects, -1))

    def distillation(self, targets: tuple, outputs: list, teacher_outputs: list, temperature: float) -> tf.Tensor:
        """Return the binary cross-entropy with the teacher's scores plus smooth L1 loss of the boxes. The weight of an
        anchor's box is the teacher's highest score there; the sum is divided by the sum of these weights, which is the
        teacher's number of objects.

        Classes and boxes of a detector are taught together in Chen et al. 2017 ("Learning Efficient Object Detection
        Models with Knowledge Distillation", NeurIPS); the weights, instead of their bound on the boxes' loss, are ours.
        A mean over all anchors instead would make gradients many times smaller than those of ``loss``.
        """
        (boxes, scores), (teacher_boxes, teacher_scores) = outputs, teacher_outputs
        soft = tf.sigmoid(teacher_scores[..., 1:] / temperature)
        entropy = tf.nn.sigmoid_cross_entropy_with_logits(soft, scores[..., 1:] / temperature)
        weights = tf.reduce_max(tf.sigmoid(teacher_scores[..., 1:]), -1)
        # Boxes have no temperature, and the square multiplies both parts afterwards.
        distance = weights * 4 * keras.losses.huber(teacher_boxes, boxes) / temperature**2
        return tf.reduce_sum(tf.reduce_sum(entropy, -1) + distance, -1) / tf.maximum(1.0, tf.reduce_sum(weights, -1))

    def right(self, targets: tuple, outputs: list) -> tf.Tensor:
        """Return the share of right classes among the anchors that are objects: the class has the highest score."""
        (_, classes), (_, scores) = targets, outputs
        objects = tf.cast(classes > 0, tf.float32)
        right = tf.cast(tf.argmax(scores[..., 1:], -1, tf.int32) == classes - 1, tf.float32)
        return tf.math.divide_no_nan(tf.reduce_sum(right * objects, -1), tf.reduce_sum(objects, -1))

    def judge(self, training: Any, reader: pipeline.Reader, progress: Progress = silent) -> dict[str, float]:
        """Return val_map50 and val_map, as ``metrics.average_precision`` computes them."""
        postprocess, detections, truths = Postprocess(self._anchors, len(self._names)), [], []
        for (boxes, logits), truth in network_outputs(training, reader, progress):
            scores = 1 / (1 + np.exp(np.minimum(-logits, 80)))  # beyond that the exponential is no float32 any more
            detections.append(postprocess(boxes, scores))
            truths.append(truth)
        precision = metrics.average_precision(detections, truths, self._names)
        return {"val_map50": precision["map50"], "val_map": precision["map"]}
