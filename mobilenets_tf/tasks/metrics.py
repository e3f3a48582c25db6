"""Scores of boxes and masks: average precision as COCO counts it, and intersection over union."""

import contextlib
import importlib.util
import io
from collections.abc import Sequence

import numpy as np

from mobilenets_tf.data.boxes import Boxes, Detections
from mobilenets_tf.errors import RequestError


def check_installed() -> None:
    """Check that the package that ``average_precision`` needs is installed.

    Raises:
        RequestError: pycocotools is not installed; the message has the command.
    """
    if importlib.util.find_spec("pycocotools") is None:
        raise RequestError("Average precision needs pycocotools:  pip install pycocotools")


def average_precision(detections: Sequence[Detections], truths: Sequence[Boxes], class_names: Sequence[str]) -> dict:
    """Compute COCO's average precision (pycocotools), with at most 100 detections of each class and image.

    Ignored truths are COCO's crowds: a detection on a crowd is neither right nor wrong.

    Args:
        detections, truths: one entry for each image, in the same order.
        class_names: a name for each class index.

    Returns:
        ``map50`` and ``map`` (mean over IoU 0.5, 0.55 ... 0.95), both means over the classes; ``per_class``, by name at
        IoU 0.5; ``images``, how many. A class without truths has NaN and is not in the means.

    Raises:
        RequestError: pycocotools is not installed.
    """
    judged = matched(detections, truths, class_names)
    with contextlib.redirect_stdout(io.StringIO()):
        judged.accumulate()
    # (IoU, recall, class, area, most detections) -> (IoU, class); -1 where a class has no truths.
    precision = judged.eval["precision"][:, :, :, 0, -1].mean(axis=1)
    precision = np.where(precision < 0, np.nan, precision)
    return {
        "map50": mean_of_known(precision[0]),
        "map": mean_of_known(precision),
        "per_class": dict(zip(class_names, precision[0].tolist(), strict=True)),
        "images": len(truths),
    }


def matched(detections: Sequence[Detections], truths: Sequence[Boxes], class_names: Sequence[str]):
    """Match detections with truths; return pycocotools' ``COCOeval`` after its ``evaluate``.

    The arguments are those of ``average_precision``.

    Raises:
        RequestError: pycocotools is not installed.
    """
    check_installed()
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    def indexed(records):
        """Return the boxes of all images as a COCO index. IoU is the same for shares of the sides as for pixels."""
        coco = COCO()
        annotations: list[dict] = []
        for image, (corners, classes, more) in enumerate(records):
            ymin, xmin, ymax, xmax = corners.astype(np.float64).T
            boxes = np.stack([xmin, ymin, xmax - xmin, ymax - ymin], axis=1)
            for box, index, extra in zip(boxes, classes, more, strict=True):
                # COCOeval's matching takes the id 0 for no match.
                here = {"id": len(annotations) + 1, "image_id": image, "category_id": int(index)}
                annotations.append(here | {"bbox": box.tolist(), "area": box[2] * box[3], "iscrowd": 0} | extra)
        coco.dataset = {
            "images": [{"id": image} for image in range(len(truths))],
            "categories": [{"id": index} for index in range(len(class_names))],
            "annotations": annotations,
        }
        coco.createIndex()
        return coco

    true = ((each.corners, each.classes, [{"iscrowd": int(flag)} for flag in each.ignored]) for each in truths)
    predicted = ((each.boxes, each.classes, [{"score": float(score)} for score in each.scores]) for each in detections)
    with contextlib.redirect_stdout(io.StringIO()):
        judged = COCOeval(indexed(true), indexed(predicted), "bbox")
        judged.evaluate()
    return judged


class ResampledPrecision:
    """The mean average precision at an IoU of 0.5 of images that are drawn with repetition, for ``intervals``.

    Args:
        judged: what ``matched`` returns.
    """

    def __init__(self, judged):
        images, areas = len(judged.params.imgIds), len(judged.params.areaRng)
        self._classes = []  # of each: truths in each image; of each detection, the best first: image, right, wrong
        for first in range(0, len(judged.evalImgs), areas * images):  # the first area holds all sizes
            seen = [(i, each) for i, each in enumerate(judged.evalImgs[first : first + images]) if each]
            truths = np.zeros(images)
            for i, each in seen:
                truths[i] = np.count_nonzero(np.asarray(each["gtIgnore"]) == 0)
            parts = [np.zeros((4, 0))] + [
                np.stack([
                    np.full(len(each["dtScores"]), i), np.array(each["dtScores"], np.float64),
                    each["dtMatches"][0] > 0, each["dtIgnore"][0],
                ]) for i, each in seen
            ]  # fmt: skip
            image, scores, found, ignored = np.concatenate(parts, axis=1)
            order = np.argsort(-scores, kind="mergesort")  # as COCOeval.accumulate
            found, ignored = found[order] > 0, ignored[order] > 0
            self._classes.append((truths, image[order].astype(int), found & ~ignored, ~found & ~ignored))
        self._recalls = judged.params.recThrs

    def __call__(self, weights: np.ndarray) -> np.ndarray:
        """Return the precision, (n,), where each image counts as often as its weight in (n, images) says."""
        of_classes = [self._of_class(weights, *each) for each in self._classes]
        return np.array([mean_of_known(values) for values in np.transpose(of_classes)])

    def _of_class(self, weights: np.ndarray, truths, image, right, wrong) -> np.ndarray:
        found, false = (np.cumsum(weights[:, image] * kind, axis=1) for kind in (right, wrong))
        total = weights @ truths
        values = np.full(len(weights), np.nan)
        for row in np.flatnonzero(total > 0):
            precision = found[row] / np.maximum(found[row] + false[row], 1e-12)
            best = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0.0)  # 0 beyond the highest recall
            values[row] = best[np.searchsorted(found[row] / total[row], self._recalls)].mean()
        return values


class Confusion:
    """Counts pixels by their true class and their predicted class; void pixels are left out.

    classes: how many. matrix: int64 (classes, classes), rows being the truth.
    """

    def __init__(self, classes: int, void: int = 255):
        self.classes, self.void = classes, void
        self.matrix = np.zeros((classes, classes), np.int64)

    def add(self, truth: np.ndarray, prediction: np.ndarray) -> None:
        """Count the pixels of one image. Both arrays hold class numbers (integers) and have the same shape.

        Raises:
            RequestError: the shapes differ, or a value is no class.
        """
        if truth.shape != prediction.shape:
            raise RequestError(f"The truth has the shape {truth.shape}, the prediction {prediction.shape}.")
        counted = truth != self.void
        truth, prediction = truth[counted].astype(np.int64), prediction[counted].astype(np.int64)
        for name, values in (("truth", truth), ("prediction", prediction)):
            strange = values[(values < 0) | (values >= self.classes)]
            if strange.size:
                raise RequestError(f"The {name} has the value {strange[0]}; classes are 0 to {self.classes - 1}.")
        pairs = np.bincount(truth * self.classes + prediction, minlength=self.classes**2)
        self.matrix += pairs.reshape(self.classes, self.classes)

    @property
    def counts(self) -> np.ndarray:
        """Pixels of each class, (3, classes): rightly predicted, in the truth, predicted."""
        return np.stack([np.diag(self.matrix), self.matrix.sum(axis=1), self.matrix.sum(axis=0)])

    @property
    def iou(self) -> np.ndarray:
        """Intersection over union of each class: the number of pixels that truth and prediction both give the class,
        divided by the number that at least one of the two gives the class. NaN for a class that neither has."""
        return intersection_over_union(self.counts)

    @property
    def miou(self) -> float:
        """The mean over the classes; NaN before the first pixel."""
        return mean_of_known(self.iou)

    @property
    def pixel_accuracy(self) -> float:
        """The share of pixels whose predicted class is the true class; NaN before the first pixel."""
        total = self.matrix.sum()
        return float(np.trace(self.matrix) / total) if total else float("nan")


def intersection_over_union(counts: np.ndarray) -> np.ndarray:
    """Return the intersection over union of each class, (..., classes), of ``Confusion.counts``, (..., 3, classes)."""
    right, true, predicted = np.moveaxis(counts, -2, 0)
    either = true + predicted - right
    return np.divide(right, either, out=np.full(right.shape, np.nan), where=either > 0)


def mean_of_known(values: np.ndarray) -> float:
    """Return the mean of the values that are not NaN; NaN if all are."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")
