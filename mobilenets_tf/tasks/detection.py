"""Detection: boxes around objects, with their classes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from mobilenets_tf.data.annotated import photographs_of
from mobilenets_tf.data.boxes import BoxedImages, Boxes, Detections, find_boxes
from mobilenets_tf.data.images import ImageSet
from mobilenets_tf.data.preprocessing import Preprocessing
from mobilenets_tf.data.sources import Source
from mobilenets_tf.errors import RequestError, unknown
from mobilenets_tf.progress import silent
from mobilenets_tf.tasks import intervals, metrics
from mobilenets_tf.tasks.outputs import CLASSES, VALUES, End, OutputKind
from mobilenets_tf.tasks.task import Task, class_name, percent, refuse_label_offset, refuse_not_finite

# A detection with a higher score than this in one file counts as a truth for another file.
_SURE = 0.5
# Scores and boxes (in shares of the image) of two files that differ by less are the same.
_SAME = 1e-4


class Detection(Task):
    """Boxes around objects, with their classes. See ``task.Task``.

    forms: "nms": the objects that are left by TFLite's own operator: boxes (k, 4), classes (k,), scores (k,) and how
        many objects there are. "decoded": all anchors' boxes (A, 4) as ymin, xmin, ymax, xmax in shares of the image,
        and scores (A, classes + 1), column 0 the background. "raw": the boxes encoded against anchors.
    """

    name, measure, key, scales = "detect", "mAP at IoU 0.5", "map50", False
    forms: tuple[str, ...] = ("nms", "decoded", "raw")

    def check_installed(self) -> None:
        metrics.check_installed()

    def find(self, spec, class_names=(), *, void=255, classes=None, progress=silent) -> BoxedImages:
        return find_boxes(spec, class_names, progress)

    def training_source(
        self, spec, class_names=(), *, classes=None, void=255, label_offset=None, progress=silent
    ) -> Source:
        refuse_label_offset(label_offset)
        self.check_installed()
        return find_boxes(spec, tuple(class_names), progress)

    def check_annotated(self, name: str) -> None:
        """Do nothing: annotated images can be scored."""

    def photographs(self, spec: str) -> ImageSet:
        return photographs_of(spec)

    def framed(self, preprocessing: Preprocessing) -> Preprocessing:
        return preprocessing.whole()  # objects at the border count too

    def kinds(self, ends: Sequence[End], known: bool = False, classes: int | None = None) -> tuple[OutputKind, ...]:
        # Boxes and scores; of each anchor one class or the background.
        return (VALUES, CLASSES) if len(ends) == 2 else (VALUES,) * len(ends)

    def settled(self, ends: Sequence[End], kinds: Sequence[OutputKind]) -> Task:
        return self

    def unscored(self, ends: Sequence[End], kinds: Sequence[OutputKind]) -> tuple[int, ...]:
        return ()

    def accepts(self, shapes: Sequence[tuple[int, ...]]) -> str | None:
        return None  # ``decoder`` looks closer

    def grids(self, model) -> tuple[tuple[int, int], ...]:
        from mobilenets_tf.networks.heads import ssd

        return ssd.grids(model)

    def decoder(self, name, ends, kinds, form=None, grids=()) -> "DetectionDecoder":
        shapes = [end.shape for end in ends]
        form = form or ("nms" if len(shapes) == 4 else "raw" if grids else None)
        outputs = f"{name} has outputs of shape {[(1, *shape) for shape in shapes]}"
        if form not in (None, *self.forms):
            raise RequestError(f"{name}.json: {unknown('form', form, self.forms)}")
        if form == "nms":
            if [len(shape) for shape in shapes] != [2, 1, 1, 0] or shapes[0][1] != 4:
                raise RequestError(
                    f"{outputs}; expected boxes (1, k, 4), classes (1, k), scores (1, k) and their number (1,)."
                )
            return DetectionDecoder(name, None, _suppressed, padded=True)
        pair = len(shapes) == 2 and all(len(shape) == 2 for shape in shapes)
        if not pair or shapes[0][1] != 4 or shapes[0][0] != shapes[1][0] or shapes[1][1] < 2:
            raise RequestError(
                f"{outputs}; a detector has boxes (1, A, 4) and scores (1, A, classes + 1), or TFLite's four outputs."
            )
        if form is None:
            raise RequestError(
                f"{outputs}, and nothing says whether its boxes are encoded, and against which anchors. The manifest "
                f"that was written with it does ({name}.json); a file with TFLite's four outputs needs none."
            )
        count, columns = shapes[1]
        return DetectionDecoder(name, columns - 1, _decode(outputs, form, grids, count, columns - 1))

    def meter(self, class_names: Sequence[str], void: int = 255) -> "DetectionMeter":
        return DetectionMeter(class_names)

    def as_truth(self, answer: Detections) -> Boxes:
        """Return the objects with a score above 0.5 as the truth."""
        sure = answer.above(_SURE)
        return Boxes(sure.boxes, sure.classes, np.zeros(len(sure), bool))

    def agree(self, expected: Detections, answer: Detections, score_threshold: float = 0.0) -> bool:
        from mobilenets_tf.tasks.postprocess import Postprocess

        # An object at a border may be in one answer only. Scores of two files differ in their last bits; and where a
        # list is full, several objects may share the score of its last place.
        full = [each for each in (expected, answer) if len(each) >= Postprocess.max_detections]
        border = max([score_threshold, Postprocess.score_threshold, *(each.scores.min() for each in full)]) + _SAME
        if (answer.scores < score_threshold - _SAME).any():
            return False
        one, other = (_sorted_rows(each.above(border)) for each in (expected, answer))
        return one.shape == other.shape and np.allclose(one, other, atol=_SAME)

    def shown(self, answer: Detections, threshold: float) -> Detections:
        order = np.argsort(-answer.scores, kind="stable")
        order = order[answer.scores[order] >= threshold]
        return Detections(answer.boxes[order], answer.classes[order], answer.scores[order])

    def described(self, answer: Detections, labels: Sequence[str], height: int, width: int, top: int) -> list[dict]:
        corners = (answer.boxes * ((height, width) * 2)).round(1).tolist()
        boxes = [dict(zip(("ymin", "xmin", "ymax", "xmax"), each, strict=True)) for each in corners]
        return [
            {"class": int(index), "name": class_name(labels, index), "score": float(score), "box": box}
            for index, score, box in zip(answer.classes, answer.scores, boxes, strict=True)
        ]

    def draw(self, image, answer: Detections, labels: Sequence[str], top: int = 5):
        from mobilenets_tf.tasks import pictures

        return pictures.with_boxes(image, answer, labels)

    def headline(self, scores: dict) -> str:
        return f"mAP {percent(scores['map50'])} at IoU 0.5, {percent(scores['map'])} over 0.5 to 0.95"


@dataclass(frozen=True)
class DetectionDecoder:
    """Turns the outputs into ``Detections``. See ``task.Decoder``.

    decode: turns the outputs into ``Detections``. padded: the outputs may hold any values behind the last object.
    """

    name: str
    classes: int | None
    decode: Callable[..., Detections]
    padded: bool = False

    def __call__(self, outputs: Sequence[np.ndarray], height: int, width: int) -> Detections:
        if not self.padded:
            refuse_not_finite(self.name, outputs)
        detections = self.decode(*outputs)
        refuse_not_finite(self.name, (detections.boxes, detections.scores))
        return detections


class DetectionMeter:
    """Measures the mean average precision at an IoU of 0.5. See ``task.Meter`` and ``metrics.average_precision``."""

    def __init__(self, class_names: Sequence[str]):
        self._names = tuple(class_names)
        self._answers: list[Detections] = []
        self._truths: list[Boxes] = []

    def add(self, answer: Detections, truth: Boxes) -> None:
        self._answers.append(answer)
        self._truths.append(truth)

    def lost(self, reference: "DetectionMeter | None" = None) -> float:
        return (1.0 if reference is None else reference.scores()["map50"]) - self.scores()["map50"]

    def interval(self, reference: "DetectionMeter") -> intervals.Interval | None:
        before, after = (
            metrics.ResampledPrecision(metrics.matched(meter._answers, meter._truths, meter._names))
            for meter in (reference, self)
        )
        return intervals.of_resamples(lambda weights: after(weights) - before(weights), len(self._truths))

    def scores(self) -> dict:
        scores = metrics.average_precision(self._answers, self._truths, self._names)
        return {key: scores[key] for key in ("images", "map50", "map", "per_class")}


def _decode(outputs: str, form: str, grids, count: int, classes: int) -> Callable[..., Detections]:
    """Return the function that turns boxes and scores into ``Detections``.

    Raises:
        RequestError: the number of anchors is not that of the outputs.
    """
    from mobilenets_tf.networks.heads.anchors import ssd_anchors
    from mobilenets_tf.tasks.postprocess import SCALES, Postprocess

    if form == "decoded":
        # Corners, encoded against an anchor that is the whole image with its centre in the upper left corner.
        postprocess = Postprocess(np.array([[0, 0, 1, 1]] * count, np.float32), classes)

        def encoded(corners: np.ndarray) -> np.ndarray:
            begin, end = corners[:, :2], corners[:, 2:]
            sides = np.log(np.maximum(end - begin, 1e-6))
            return (np.concatenate([(begin + end) / 2, sides], axis=1) * SCALES).astype(np.float32)

        return lambda boxes, scores: postprocess(encoded(boxes), scores)
    anchors = ssd_anchors(grids) if grids else np.zeros((0, 4), np.float32)
    if len(anchors) != count:
        known = f"the grids {list(grids)} have {len(anchors)} anchors" if grids else "it names no grids for anchors"
        raise RequestError(f"{outputs}; {known}. The manifest beside it is of another file.")
    return Postprocess(anchors, classes)


def _suppressed(boxes, classes, scores, number) -> Detections:
    objects = slice(max(0, int(np.nan_to_num(number))))
    return Detections(boxes[objects], classes[objects].round().astype(np.int32), scores[objects])


def _sorted_rows(detections: Detections) -> np.ndarray:
    rows = np.c_[detections.boxes, detections.classes, detections.scores]
    return rows[np.lexsort(rows.round(3).T)]
