"""The objective of a training: an ``Objective`` for each task."""

from collections.abc import Sequence

import keras

from mobilenets_tf.data.boxes import BoxedImages
from mobilenets_tf.data.sources import Source
from mobilenets_tf.training.objectives.classification import ClassificationObjective
from mobilenets_tf.training.objectives.detection import DetectionObjective, anchors_of
from mobilenets_tf.training.objectives.objective import Objective
from mobilenets_tf.training.objectives.segmentation import SegmentationObjective
from mobilenets_tf.training.recipes import Recipe


def objective_of(
    task: str,
    model: keras.Model,
    *,
    recipe: Recipe,
    interpolation: str,
    classes: int,
    class_names: Sequence[str] = (),
    void: int = 255,
    images: Sequence[Source] = (),
) -> Objective:
    """Make the objective that a network is trained for.

    Args:
        task: one of ``registry.TASKS``.
        model: the network; an SSD's anchors are known from its layers.
        recipe: its augmentation and label smoothing.
        interpolation: of crops, where the recipe leaves that to the network's ``Preprocessing``.
        classes: how many.
        class_names: a name a class; a classifier does without.
        void: of masks, the value of pixels that are of no class.
        images: all that are trained or judged with; their boxes are counted.

    Raises:
        RequestError: the detector is no SSD.
    """
    arguments = {"classes": classes, "class_names": class_names, "void": void, "images": images}
    return _OBJECTIVES[task](model, recipe=recipe, interpolation=interpolation, **arguments)


def _classification(model: keras.Model, *, recipe: Recipe, interpolation: str, classes: int, **_) -> Objective:
    return ClassificationObjective(classes, recipe, interpolation)


def _detection(
    model: keras.Model,
    *,
    recipe: Recipe,
    interpolation: str,
    class_names: Sequence[str],
    images: Sequence[BoxedImages],
    **_,
) -> Objective:
    most_boxes = max(len(boxes) for source in images for boxes in source.boxes)
    return DetectionObjective(anchors_of(model), class_names, recipe, interpolation, most_boxes)


def _segmentation(
    model: keras.Model, *, recipe: Recipe, interpolation: str, class_names: Sequence[str], void: int, **_
) -> Objective:
    return SegmentationObjective(class_names, void, recipe, interpolation)


_OBJECTIVES = {"classify": _classification, "detect": _detection, "segment": _segmentation}
