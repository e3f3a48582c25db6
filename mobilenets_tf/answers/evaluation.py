"""The verb ``evaluate``: score a model's answers on annotated images."""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mobilenets_tf.answers.predictor import opened, scaled
from mobilenets_tf.answers.reading import Reading, reading_of
from mobilenets_tf.data import images
from mobilenets_tf.data.images import ImageSet
from mobilenets_tf.data.preprocessing import Preprocessing
from mobilenets_tf.errors import RequestError
from mobilenets_tf.manifest import manifest_of
from mobilenets_tf.modelsource import AnyModel, ModelSource
from mobilenets_tf.progress import Progress, silent, track
from mobilenets_tf.public_api.types import check_fields
from mobilenets_tf.tasks import task_of
from mobilenets_tf.tasks.task import class_name
from mobilenets_tf.worker import Worker

_IMAGENET = 1000
_SHIFT_GAIN = 0.1  # of top-1, by which counting from the background has to be better


@dataclass(frozen=True)
class EvaluateRequest:
    """Everything that decides the result; plain data.

    source: the model: a registry name, the path of a ``.tflite``, ``.keras`` or full-model ``.h5`` file, a
        ``keras.Model`` or a ``ModelSource``.
    data: annotated images. To classify: a CSV with the columns file and class_index, or a folder with a sub-folder a
        class; to detect: a folder with images/ and annotations/ (VOC's XML), or COCO's JSON; to segment: a folder with
        images/ and masks/ (PNG of class numbers).
    task: "classify", "detect" or "segment", for a file without a manifest.
    void: of masks, the value of pixels of no class; None: as in the training, or 255.
    scales, flip: of a segmenter in Keras: judge the mean of its answers at these shares of its input size, and for the
        mirrored photograph too.
    count, seed: use ``count`` of the images, chosen with ``seed``; None: all.
    """

    source: AnyModel
    data: str
    task: str | None = None
    void: int | None = None
    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    count: int | None = None
    seed: int = 0

    def __post_init__(self):
        object.__setattr__(self, "source", ModelSource.of(self.source))
        object.__setattr__(self, "scales", tuple(self.scales))
        check_fields(self)


@dataclass(frozen=True)
class Evaluation:
    """The scores of a model.

    task: what the scores are of. scores: ``images``, how many; for a classifier ``top1`` and ``top5``; for a detector
    ``map50`` and ``map``, COCO's average precision at an IoU of 0.5 and over 0.5 to 0.95; for a segmenter ``miou`` and
    ``pixel_accuracy``; ``per_class`` for both. Shares of 1; NaN where nothing could be measured.
    preprocessing: how photographs became the input.
    """

    task: str
    scores: dict[str, Any]
    preprocessing: Preprocessing

    def headline(self) -> str:
        """Return the scores in one line."""
        return f"{task_of(self.task).headline(self.scores)} of {self.scores['images']} images"


def evaluate(request: EvaluateRequest, progress: Progress = silent) -> Evaluation:
    """Judge a model or a ``.tflite`` file on annotated images. The model runs in a child process.

    Args:
        progress: called with (label, done, total) as work goes on.

    Raises:
        RequestError: the request is wrong; raised before any work is done, where that can be known.
    """
    reading = reading_of(request.source, request.task)
    _check_scales(request, reading)
    annotated = _find(request, reading, progress).sample(request.count, request.seed)
    images.check(annotated)
    request.source.fetch_weights(progress)
    with Worker(preload=request.source.preload) as worker:
        return worker.call(_evaluate, request, reading, annotated, progress=progress)


def _check_scales(request: EvaluateRequest, reading: Reading) -> None:
    """Refuse scales and flip for a model that cannot use them.

    Raises:
        RequestError: the model is no segmenter in Keras, is a file of one size, or a scale is out of range.
    """
    source, scales = request.source, request.scales
    if scales == (1.0,) and not request.flip:
        return
    if not _scales(reading) or source.is_tflite:
        raise RequestError(f"--scales and --flip (scales=, flip=) are for segmenters in Keras; {source.model} is none.")
    if scales != (1.0,) and source.is_file:
        raise RequestError(
            f"{source.model} has one size. For others name its network and give the file as weights: "
            f"mobilenets-tf evaluate deeplabv3_mobilenet_v2 --weights {source.model} --scales 0.75 1 1.25 ..."
        )
    if not all(0.1 <= scale <= 4 for scale in scales):
        raise RequestError(f"scales={scales}: expected shares from 0.1 to 4.")


def _scales(reading: Reading) -> bool:
    """Tell whether answers at several sizes can be averaged."""
    return reading.task is not None and task_of(reading.task).scales


def _find(request: EvaluateRequest, reading: Reading, progress: Progress) -> ImageSet:
    task, void = task_of(reading.task or "classify"), request.void
    if void is None and request.source.content is None:
        void = manifest_of(Path(request.source.model)).get("options", {}).get("void")
    try:
        return task.find(request.data, reading.labels, void=255 if void is None else void, progress=progress)
    except RequestError as error:
        if reading.task or "has no labels" not in str(error):
            raise
        raise RequestError(f"{error} If the file detects or segments, say so with --task (task=).") from None


def _evaluate(request: EvaluateRequest, reading: Reading, annotated, progress: Progress) -> Evaluation:
    """Evaluate in the worker process."""
    source = request.source
    if request.flip or request.scales != (1.0,):
        predictor = scaled(source, reading, request.scales, request.flip)
    else:
        predictor = opened(source, reading)
    task, names = predictor.task, _class_names(annotated)
    if names is not None and predictor.classes not in (None, len(names)):
        raise RequestError(
            f"The model tells {predictor.classes} classes apart, the annotations {len(names)} "
            f"({', '.join(names[:3]) or 'without names'}). Name the model's with --labels (labels=), one a line."
        )
    images.check_classes(annotated, predictor.classes)
    meter = task.meter(names or (), getattr(annotated, "void", 255))
    # ImageNet has 1000 classes; TensorFlow's older networks have the background before them.
    shifted = task.meter(()) if _may_begin_with_background(annotated, predictor.classes) else None
    alpha = predictor.preprocessing.alpha
    photographs = (images.decode(path, alpha=alpha) for path in track(annotated.paths, "evaluating", progress))
    for index, answer in enumerate(predictor(photographs)):
        meter.add(answer, annotated.truth(index))
        if shifted:
            shifted.add(answer, annotated.truth(index) + 1)
    if shifted and shifted.lost(meter) < -_SHIFT_GAIN:
        warnings.warn(
            f"{source.model} has {predictor.classes} outputs, and the annotations have the classes 0 to "
            f"{max(annotated.labels)}. With class_index + 1 the result is {task.headline(shifted.scores())}: output 0 "
            "seems to be the background. Add 1 to each class_index.",
            stacklevel=2,
        )
    return Evaluation(task.name, meter.scores(), predictor.preprocessing)


def _may_begin_with_background(annotated, classes: int | None) -> bool:
    """Tell whether a classifier has one output more than ImageNet has classes, and the annotations do not use the last
    one."""
    labels = getattr(annotated, "labels", None)
    return classes == _IMAGENET + 1 and labels is not None and max(labels) < _IMAGENET


def _class_names(annotated) -> list[str] | None:
    """Return the names of the annotations' classes; None where the annotations do not give the number of classes."""
    names = getattr(annotated, "class_names", None)
    if names is None:
        return None
    seen = getattr(annotated, "seen", None)
    return [class_name(names, index) for index in range(len(names) if seen is None else seen.shape[1])]
